from __future__ import annotations

import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from eip.builders import lifepo4
from eip.errors import InputError

#: Pnma (62), International Tables A; the other four follow by inversion.
PNMA = (
    lambda x, y, z: (x, y, z),
    lambda x, y, z: (0.5 - x, -y, 0.5 + z),
    lambda x, y, z: (-x, 0.5 + y, -z),
    lambda x, y, z: (0.5 + x, 0.5 - y, 0.5 - z),
)


@pytest.mark.parametrize("supercell", [(1, 1, 1), (1, 2, 3)])
def test_lifepo4_has_the_symmetry_of_pnma_in_every_cell(supercell):
    atoms = lifepo4(supercell)
    assert len(atoms) == 28 * np.prod(supercell) and atoms.pbc.all()
    cells = np.array(supercell)
    one = atoms.get_scaled_positions() * cells
    for operation in PNMA:
        for sign in (1, -1):
            moved = sign * np.stack(operation(*one.T), axis=1)
            away = (moved[:, None] - one[None] + cells / 2) % cells - cells / 2
            found = np.linalg.norm(away @ np.diag(atoms.cell.lengths() / cells), axis=2)
            image = found.argmin(axis=1)
            assert found.min(axis=1).max() < 1e-6
            assert sorted(image) == list(range(len(atoms)))
            assert (atoms.numbers[image] == atoms.numbers).all()


def test_lifepo4_has_the_paper_s_168_atoms_and_the_distances_of_olivine():
    atoms = lifepo4((1, 2, 3))
    assert len(atoms) == 168
    assert atoms.get_chemical_formula() == "Fe24Li24O96P24"
    i, j, d = neighbor_list("ijd", atoms, 2.7)
    symbols = np.array(atoms.get_chemical_symbols())
    for center, count, low, high in (("P", 4, 1.5, 1.6), ("Fe", 6, 2.0, 2.3), ("Li", 6, 2.0, 2.3)):
        at = (symbols[i] == center) & (symbols[j] == "O")
        assert (np.bincount(i[at], minlength=len(atoms))[symbols == center] == count).all()
        assert low < d[at].min() and d[at].max() < high
    assert d.min() > 1.5


def test_vacancies_are_lithium_and_the_seed_chooses_which():
    one, same, other = (lifepo4((1, 1, 2), vacancies=3, seed=s) for s in (0, 0, 1))
    assert one.get_chemical_formula() == "Fe8Li5O32P8"
    assert np.array_equal(one.positions, same.positions)
    assert not np.array_equal(one.positions, other.positions)
    assert "Li" not in lifepo4(vacancies=4).symbols


@pytest.mark.parametrize("supercell", [(0, 1, 1), (1, 1), (1, -2, 3)])
def test_a_supercell_is_three_positive_numbers(supercell):
    with pytest.raises(InputError, match="three numbers from 1"):
        lifepo4(supercell)


@pytest.mark.parametrize("vacancies", [-1, 5])
def test_there_are_only_so_many_lithium_atoms(vacancies):
    with pytest.raises(InputError, match=f"0 to 4.*got {vacancies}"):
        lifepo4(vacancies=vacancies)
