"""A simple classical force that pulls a grown structure into a sane shape.

Harmonic bonds and cosines of angles, and the repulsive part of Lennard-Jones (WCA) between atoms
more than two bonds apart. There are no charges and no attraction: at a given density it is
repulsion that shapes a melt, and what this makes is a start for a better potential, not a melt in
equilibrium.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from jaxtyping import Float, Int

from eip.neighbors import find_edges

#: Pairs are looked for this much farther than they reach, Å, so that they last for some steps.
_SKIN = 1.0
#: Lennard-Jones: distance of the minimum (Å) and depth (kcal/mol); UFF, A. K. Rappé et al.,
#: J. Am. Chem. Soc. 114 (1992) 10024, table 1.
UFF = {"H": (2.886, 0.044), "C": (3.851, 0.105), "O": (3.500, 0.060), "Si": (4.295, 0.402)}
_KCAL = 0.0433641  # eV


@dataclass(frozen=True, eq=False)
class Topology:
    """What is bonded, and how long and wide it wants to be.

    Attributes:
        bonds, lengths, bond_constants: pairs of atoms, Å, eV/Å².
        angles, cosines, angle_constants: triples with the vertex in the middle, cos θ0, eV.
    """

    bonds: Int[np.ndarray, "bonds 2"]
    lengths: Float[np.ndarray, "bonds"]
    bond_constants: Float[np.ndarray, "bonds"]
    angles: Int[np.ndarray, "angles 3"]
    cosines: Float[np.ndarray, "angles"]
    angle_constants: Float[np.ndarray, "angles"]

    def near_pairs(self, n_atoms: int) -> Int[np.ndarray, "pairs"]:
        """Pairs one or two bonds apart, each both ways round, as i · n + j, sorted."""
        pairs = np.concatenate([self.bonds, self.angles[:, [0, 2]]])
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        return np.unique(pairs[:, 0] * n_atoms + pairs[:, 1])


class Mechanics(Calculator):
    """Bonds, angles and capped repulsion as an ASE calculator; eV, Å.

    Attributes:
        max_force: where the repulsion of a pair would push harder (eV/Å), it goes on as a straight
            line with this slope, so that even two atoms on one spot part (R. Auhl et al., J. Chem.
            Phys. 119 (2003) 12718, "slow push-off").
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]  # type: ignore[misc]

    def __init__(self, atoms: Atoms, topology: Topology, max_force: float) -> None:
        super().__init__()
        self.max_force = max_force
        self._topology = topology
        self._near = topology.near_pairs(len(atoms))
        elements = list(atoms.symbols.species())
        self._kinds = np.array([elements.index(symbol) for symbol in atoms.symbols])
        minimum, depth = np.array([UFF[element] for element in elements]).T
        # By pair of kinds; mixed geometrically, as UFF does.
        self._minimum = np.sqrt(np.outer(minimum, minimum))
        self._depth = np.sqrt(np.outer(depth, depth)) * _KCAL
        self._start = _distance_of_force(self._minimum, self._depth, max_force)
        self._cutoff = float(minimum.max())
        self._pairs: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._found_at = atoms.positions.copy()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        forces = np.zeros((len(self.atoms), 3))
        energy = (
            self._bonds(self.atoms.positions, forces)
            + self._angles(self.atoms.positions, forces)
            + self._repulsion(self.atoms, forces)
        )
        self.results = {"energy": energy, "forces": forces}

    def _bonds(
        self, positions: Float[np.ndarray, "atoms 3"], forces: Float[np.ndarray, "atoms 3"]
    ) -> float:
        t = self._topology
        i, j = t.bonds.T
        vectors = positions[j] - positions[i]
        distances = np.linalg.norm(vectors, axis=1)
        stretch = distances - t.lengths
        pull = (t.bond_constants * stretch / distances)[:, None] * vectors
        np.add.at(forces, i, pull)
        np.add.at(forces, j, -pull)
        return float(0.5 * (t.bond_constants * stretch**2).sum())

    def _angles(
        self, positions: Float[np.ndarray, "atoms 3"], forces: Float[np.ndarray, "atoms 3"]
    ) -> float:
        t = self._topology
        i, j, k = t.angles.T
        a, b = positions[i] - positions[j], positions[k] - positions[j]
        length_a = np.linalg.norm(a, axis=1, keepdims=True)
        length_b = np.linalg.norm(b, axis=1, keepdims=True)
        a, b = a / length_a, b / length_b
        cosines = (a * b).sum(axis=1)
        bend = cosines - t.cosines
        slope = (t.angle_constants * bend)[:, None]
        on_i = -slope * (b - cosines[:, None] * a) / length_a
        on_k = -slope * (a - cosines[:, None] * b) / length_b
        np.add.at(forces, i, on_i)
        np.add.at(forces, k, on_k)
        np.add.at(forces, j, -on_i - on_k)
        return float(0.5 * (t.angle_constants * bend**2).sum())

    def _repulsion(self, atoms: Atoms, forces: Float[np.ndarray, "atoms 3"]) -> float:
        i, j, offsets = self._within_reach(atoms)
        vectors = atoms.positions[j] - atoms.positions[i] + offsets
        kinds = self._kinds[i], self._kinds[j]
        minimum = self._minimum[kinds]
        distances = np.maximum(np.linalg.norm(vectors, axis=1), 1e-6)
        close = distances < minimum
        i, j, vectors, distances, minimum, depth, start = (
            array[close]
            for array in (i, j, vectors, distances, minimum, self._depth[kinds], self._start[kinds])
        )
        # Nearer than the distance at which the force is the cap, the energy is its tangent.
        start = np.maximum(distances, start)
        six = (minimum / start) ** 6
        push = 12.0 * depth * (six**2 - six) / start
        energy = depth * (six**2 - 2.0 * six + 1.0) + push * (start - distances)
        on_j = (push / distances)[:, None] * vectors
        np.add.at(forces, j, on_j)
        np.add.at(forces, i, -on_j)
        return float(energy.sum())

    def _within_reach(
        self, atoms: Atoms
    ) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"], Float[np.ndarray, "pairs 3"]]:
        moved = np.linalg.norm(atoms.positions - self._found_at, axis=1).max()
        if self._pairs is None or moved > 0.5 * _SKIN:
            self._pairs = far_pairs(atoms, self._near, self._cutoff + _SKIN)
            self._found_at = atoms.positions.copy()
        return self._pairs


def _distance_of_force(
    minimum: Float[np.ndarray, "kinds kinds"],
    depth: Float[np.ndarray, "kinds kinds"],
    force: float,
) -> Float[np.ndarray, "kinds kinds"]:
    """Where two atoms push each other with this force, by bisection below the minimum; Å."""
    low, high = np.full(minimum.shape, 0.2), np.ones(minimum.shape)
    for _ in range(50):
        middle = 0.5 * (low + high)
        harder = 12.0 * depth * (middle**-13 - middle**-7) / minimum > force
        low, high = np.where(harder, middle, low), np.where(harder, high, middle)
    return high * minimum


def far_pairs(
    atoms: Atoms, near: Int[np.ndarray, "near"], cutoff: float
) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"], Float[np.ndarray, "pairs 3"]]:
    """Pairs i, j within a cutoff, each once, without those of `Topology.near_pairs`.

    The third array is what the image of j is away from j, Å: vector = R_j + offset − R_i. Chains
    that leave the cell are whole, so the image of a bonded atom is none: pairs of ``near`` are left
    out in their own image alone.
    """
    i, j, shifts = find_edges(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    once = (i < j) | ((i == j) & (shifts @ np.array([1, 100, 10_000]) > 0))
    i, j, shifts = i[once], j[once], shifts[once]
    pairs = i * len(atoms) + j
    far = ~np.isin(pairs, near) | shifts.any(axis=1)
    return i[far], j[far], shifts[far] @ atoms.cell.array
