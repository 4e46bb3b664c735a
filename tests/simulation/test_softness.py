"""A force over a stiffness: as large, without net force and torque, and along what gives way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from scipy.spatial.transform import Rotation

from eip.neighbors import build_graph
from eip.simulation.softness import softened

from .toy import cluster, crystal

CUTOFF = 5.0


def soft(atoms: Atoms, forces: np.ndarray, cutoff: float = CUTOFF) -> np.ndarray:
    return softened(torch.tensor(forces), build_graph(atoms, cutoff), cutoff).numpy()


def written_out(atoms: Atoms, forces: np.ndarray) -> np.ndarray:
    """The springs as a matrix, pair by pair."""
    n = len(atoms)
    stiffness = 0.02 * np.eye(3 * n)
    graph = build_graph(atoms, CUTOFF)
    for i, j, vector in zip(graph.centers, graph.neighbors, graph.edge_vectors(), strict=True):
        vector, length = vector.numpy(), float(vector.norm())
        radii = covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]
        spring = np.exp(-3.3 * max(0.0, length / radii - 1)) * (1 - (length / CUTOFF) ** 6) ** 2
        block = spring * np.outer(vector, vector) / length**2
        stiffness[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] += block
        stiffness[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] -= block
    found = np.linalg.solve(stiffness, forces.ravel()).reshape(n, 3)
    largest = np.linalg.norm(forces, axis=1).max()
    return found * largest / np.linalg.norm(found, axis=1).max()


@pytest.mark.parametrize(
    "atoms", [molecule("CH3CH2OH"), cluster(9), crystal(2)], ids=["molecule", "cluster", "crystal"]
)
def test_it_is_the_force_over_the_stiffness(atoms: Atoms) -> None:
    forces = np.random.default_rng(0).normal(size=(len(atoms), 3))
    largest = np.linalg.norm(forces, axis=1).max()
    found, want = soft(atoms, forces), written_out(atoms, forces)
    np.testing.assert_allclose(found, want, rtol=0, atol=5e-3 * largest)
    assert np.abs(want - forces).max() > 0.3 * largest


def internal(atoms: Atoms, forces: np.ndarray) -> np.ndarray:
    """Without net force and torque."""
    forces = forces - forces.mean(axis=0)
    arm = atoms.positions - atoms.positions.mean(axis=0)
    inertia = np.einsum("na,na,bc->bc", arm, arm, np.eye(3)) - arm.T @ arm
    return forces - np.cross(np.linalg.solve(inertia, np.cross(arm, forces).sum(axis=0)), arm)


def test_translations_rotations_and_the_size_stay() -> None:
    atoms = molecule("CH3CH2OH")
    arm = atoms.positions - atoms.positions.mean(axis=0)
    forces = internal(atoms, np.random.default_rng(1).normal(size=(9, 3)))
    found = soft(atoms, forces)
    assert np.abs(found.sum(axis=0)).max() < 1e-12
    assert np.abs(np.cross(arm, found).sum(axis=0)).max() < 1e-12
    norms = np.linalg.norm(forces, axis=1).max(), np.linalg.norm(found, axis=1).max()
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)


def test_it_turns_with_the_structure() -> None:
    atoms, turn = molecule("CH3CH2OH"), Rotation.from_euler("xyz", [0.4, 1.1, -0.7]).as_matrix()
    forces = np.random.default_rng(2).normal(size=(9, 3))
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T
    found = soft(turned, forces @ turn.T)
    np.testing.assert_allclose(found, soft(atoms, forces) @ turn.T, rtol=0, atol=1e-8)


def test_a_torsion_gives_way_and_a_bond_does_not() -> None:
    atoms = molecule("HCOOH")
    angle = [3, 0, 1, 2]
    moved = []
    for step in (-0.5, 0.5):
        twisted = atoms.copy()
        twisted.set_dihedral(*angle, atoms.get_dihedral(*angle) + step, indices=[3])
        moved.append(twisted.positions)
    torsion = internal(atoms, moved[1] - moved[0])
    torsion /= np.linalg.norm(torsion)
    bond = np.zeros((5, 3))
    bond[3] = atoms.positions[3] - atoms.positions[0]
    bond[0] = -bond[3]
    bond /= np.linalg.norm(bond)

    def share(forces: np.ndarray) -> float:
        return abs((forces * torsion).sum()) / abs((forces * bond).sum())

    # A push a tenth of which is along the torsion is mostly along it once softened.
    forces = 0.1 * torsion + bond
    assert share(forces) < 0.2
    assert share(soft(atoms, forces)) > 3.0


def test_of_a_batch_each_is_told_what_it_is_told_alone() -> None:
    structures = [cluster(7), molecule("H2O"), Atoms("Cu"), crystal(1)]
    rng = np.random.default_rng(3)
    forces = [rng.normal(size=(len(atoms), 3)) for atoms in structures]
    forces[1][:] = 0.0
    together = soft(structures, np.concatenate(forces))
    alone = np.concatenate([soft(a, f) for a, f in zip(structures, forces, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)
    assert not together[7:10].any()
    # A lone atom has no spring: its force stays.
    np.testing.assert_allclose(together[10], forces[2][0], rtol=1e-12)


def test_springs_fade_at_the_cutoff() -> None:
    atoms = Atoms("Cu3", [[0.0, 0, 0], [2.4, 0, 0], [2.4, CUTOFF, 0]])
    forces = np.array([[0.3, 0.1, 0], [0, -0.5, 0], [0, 0.4, 0]])
    found = []
    for beyond in (-1e-4, 1e-4):
        atoms.positions[2, 1] = CUTOFF + beyond
        found.append(soft(atoms, forces))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-6)
