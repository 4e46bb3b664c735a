from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.neighborlist import neighbor_list

from eip.builders import pdms
from eip.builders.polymers import _LENGTHS
from eip.errors import InputError


def density(atoms: Atoms) -> float:
    return atoms.get_masses().sum() / (atoms.get_volume() * units._Nav * 1e-24)


def check(atoms: Atoms, chains: int, count: int, given: float) -> None:
    """Composition, density, who is bonded to whom by distances alone, and what is not bonded."""
    assert len(atoms) == chains * (10 * count + 3)
    formula = Atoms(f"(Si(CH3)2O){count}H2O").symbols.formula.count()
    assert atoms.symbols.formula.count() == {k: chains * n for k, n in formula.items()}
    assert density(atoms) == pytest.approx(given, rel=1e-3)
    symbols = np.array(atoms.get_chemical_symbols())
    i, j, d = neighbor_list("ijd", atoms, 2.3)
    names = np.array(["".join(sorted(pair)) for pair in zip(symbols[i], symbols[j], strict=True)])
    length = np.array([_LENGTHS.get(name, 0.0) for name in names])
    bonded = d < 1.15 * length
    assert (np.abs(d[bonded] / length[bonded] - 1.0) < 0.1).all()
    degree = np.bincount(i[bonded], minlength=len(atoms))
    expected = {"H": 1, "O": 2, "C": 4, "Si": 4}
    assert (degree == [expected[symbol] for symbol in symbols]).all()
    assert bonded.sum() == 2 * chains * (10 * count + 2)  # chains are trees: nothing has joined
    # H of one methyl group are 1.78 Å apart, and nothing else is that near.
    assert d[~bonded].min() > 1.6
    heavy = ~bonded & (symbols[i] != "H") & (symbols[j] != "H")
    assert not heavy.any()


def test_a_small_melt_is_what_was_asked_for():
    told = []
    atoms = pdms(2, 3, 0.9, anneal_ps=0.05, seed=1, tick=told.append)
    check(atoms, 2, 3, 0.9)
    assert told == sorted(told) and told[-1] == 1.0
    assert atoms.pbc.all() and atoms.calc is None
    # In the order of the chain, whole: no bond of the backbone is longer than a bond.
    chain = atoms[:33]
    backbone = [0] + [k for unit in range(3) for k in (1 + 4 * unit, 4 + 4 * unit)]
    assert "".join(chain.symbols[k] for k in backbone) == "OSiOSiOSiO"
    steps = np.linalg.norm(np.diff(chain.positions[backbone], axis=0), axis=1)
    assert steps.max() < 1.8


def test_the_smallest_is_one_unit_and_the_seed_decides():
    one, same, other = (pdms(1, 1, anneal_ps=0.0, seed=s) for s in (0, 0, 1))
    check(one, 1, 1, 0.97)
    assert np.array_equal(one.positions, same.positions)
    assert not np.allclose(one.positions, other.positions)


def test_too_dense_a_melt_is_refused_after_trying():
    with pytest.raises(InputError, match=r"cannot be kept apart.*lower the density"):
        pdms(2, 2, 2.0, anneal_ps=0.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 3), "chains expects a number from 1, got 0"),
        ((1, 0), "units expects a number from 1, got 0"),
        ((1, 3, 0.0), "density expects g/cm³, more than 0 and up to 2, got 0.0"),
        ((1, 3, 5.0), "up to 2, got 5.0"),
        ((1, 3, float("nan")), "density expects"),
    ],
)
def test_bad_numbers_are_refused_at_once(arguments, said):
    with pytest.raises(InputError, match=said):
        pdms(*arguments)
    with pytest.raises(InputError, match="anneal_ps expects ps from 0, got -1"):
        pdms(1, 1, anneal_ps=-1.0)


@pytest.mark.slow
def test_the_paper_s_759_atoms():
    atoms = pdms(3, 25, 0.97)
    assert len(atoms) == 759
    check(atoms, 3, 25, 0.97)
