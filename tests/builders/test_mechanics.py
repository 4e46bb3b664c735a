from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.builders.mechanics import Mechanics, Topology
from eip.builders.polymers import _topology

#: H–O–Si–O–H and a C–H3 on its own; 9 Å.
SYMBOLS = ["H", "O", "Si", "O", "H", "C", "H", "H", "H"]
BONDS = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [5, 6], [5, 7], [5, 8]])


def anywhere(seed: int, side: float = 6.0) -> tuple[Atoms, Topology]:
    rng = np.random.default_rng(seed)
    atoms = Atoms(SYMBOLS, rng.uniform(0, side, (9, 3)), cell=[side] * 3, pbc=True)
    return atoms, _topology(atoms, BONDS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([0.1, 1.0, 10.0]))
def test_forces_are_the_slope_of_the_energy(seed, cap):
    atoms, topology = anywhere(seed)
    atoms.calc = Mechanics(atoms, topology, cap)
    forces = atoms.get_forces()
    assert np.abs(forces - calculate_numerical_forces(atoms, 1e-5)).max() < 1e-4 * (
        1 + np.abs(forces).max()
    )
    assert np.abs(forces.sum(axis=0)).max() < 1e-8


@pytest.mark.parametrize("cap", [0.05, 1.0, 100.0])
def test_no_pair_pushes_harder_than_the_cap(cap):
    two = Atoms("SiSi", [[0, 0, 0], [0, 0, 0]], cell=[20] * 3, pbc=True)
    none = np.zeros((0, 2), int)
    empty = np.zeros(0)
    topology = Topology(none, empty, empty, np.zeros((0, 3), int), empty, empty)
    pushes = []
    for distance in (0.01, 0.5, 2.0, 3.0, 4.0, 4.4):
        two.positions[1, 2] = distance
        two.calc = Mechanics(two, topology, cap)
        pushes.append(two.get_forces()[1, 2])
    assert max(pushes) <= cap * (1 + 1e-6)
    assert pushes[0] == pytest.approx(cap)
    assert pushes[-1] == 0.0  # beyond the minimum there is no attraction


def test_bonded_atoms_do_not_repel_each_other_but_their_images_do():
    atoms, topology = anywhere(0, side=50.0)
    calculator = Mechanics(atoms, topology, 1.0)
    near = {tuple(divmod(int(pair), 9)) for pair in calculator._near}
    assert {(0, 1), (1, 0), (0, 2), (1, 3), (6, 7)} <= near
    assert (0, 3) not in near
    lone = Atoms("C", cell=[3.0] * 3, pbc=True)
    empty = np.zeros(0)
    topology = Topology(np.zeros((0, 2), int), empty, empty, np.zeros((0, 3), int), empty, empty)
    lone.calc = Mechanics(lone, topology, 10.0)
    assert lone.get_potential_energy() > 0.0


def test_pairs_are_found_anew_when_atoms_have_moved():
    atoms, topology = anywhere(3, side=12.0)
    atoms.calc = Mechanics(atoms, topology, 5.0)
    atoms.get_potential_energy()
    rng = np.random.default_rng(1)
    for _ in range(5):
        atoms.positions += rng.normal(scale=0.3, size=atoms.positions.shape)
        fresh = atoms.copy()
        fresh.calc = Mechanics(fresh, topology, 5.0)
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy())
