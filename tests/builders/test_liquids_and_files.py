from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.tip3p import angleHOH, rOH
from ase.io import read

from eip.builders import lifepo4, molecule, water, write_structure
from eip.errors import InputError


@pytest.mark.parametrize("melt_ps", [0.0, 0.05])
def test_water_is_whole_molecules_at_its_density(melt_ps):
    told: list[float] = []
    box = water(9, 0.9, melt_ps=melt_ps, seed=2, tick=told.append)
    assert box.get_chemical_symbols() == ["O", "H", "H"] * 9 and box.pbc.all()
    mass = box.get_masses().sum()
    assert mass / (box.get_volume() * units._Nav * 1e-24) == pytest.approx(0.9)
    for k in range(9):
        o, *two = box.positions[3 * k : 3 * k + 3]
        arms = np.array(two) - o
        assert np.linalg.norm(arms, axis=1) == pytest.approx(rOH, abs=1e-3)
        cosine = arms[0] @ arms[1] / rOH**2
        assert np.degrees(np.arccos(cosine)) == pytest.approx(angleHOH, abs=0.2)
    distances = box[::3].get_all_distances(mic=True)[np.triu_indices(9, 1)]
    assert distances.min() > 2.0
    assert told == sorted(told) and (not told or told[-1] == 1.0)


def test_the_seed_decides_where_water_is():
    one, same, other = (water(8, melt_ps=0.01, seed=s) for s in (0, 0, 1))
    assert np.array_equal(one.positions, same.positions)
    assert not np.allclose(one.positions, other.positions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"molecules": 1}, "from 2, got 1"),
        ({"molecules": 8, "density": 2.5}, "up to 2, got 2.5"),
        ({"molecules": 8, "melt_ps": -1.0}, "from 0, got -1"),
        ({"molecules": 8, "temperature": 0.0}, "temperature expects K, more than 0"),
    ],
)
def test_bad_numbers_of_water_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        water(**arguments)


def test_molecules_come_by_name():
    ethanol = molecule("CH3CH2OH")
    assert ethanol.get_chemical_formula() == "C2H6O" and not ethanol.pbc.any()
    assert set(ethanol.arrays) == {"numbers", "positions"}
    with pytest.raises(InputError, match=r"no molecule 'CH3CH2OHH'; did you mean 'CH3CH2OH'"):
        molecule("CH3CH2OHH")
    with pytest.raises(InputError, match="no molecule 'aspirin'; it has"):
        molecule("aspirin")


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.cif", "POSCAR", "a.traj", "a.json"])
def test_structures_are_written_by_the_file_s_name(tmp_path, name):
    atoms = lifepo4()
    (tmp_path / name).write_text("old")
    write_structure(tmp_path / name, atoms)
    back = read(tmp_path / name)
    assert sorted(back.numbers) == sorted(atoms.numbers) and back.pbc.all()
    assert back.cell.lengths() == pytest.approx(atoms.cell.lengths(), abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.nonsense", "knows no format"), ("a.log", "does not write it")],
)
def test_a_name_of_no_format_is_refused(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        write_structure(tmp_path / name, lifepo4())
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_cannot_hold_it_leaves_the_old_file(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text("old")
    with pytest.raises(InputError, match="does not take this structure"):
        write_structure(path, Atoms("H"))
    assert path.read_text() == "old"
