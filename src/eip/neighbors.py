"""Structures → graphs. Neighbor lists by vesin; a Verlet skin for dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import vesin
from ase import Atoms
from ase.geometry import complete_cell
from jaxtyping import Bool, Float, Int

from eip.graph import AtomGraph, batch_graphs


def find_edges(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Sequence[bool] | Bool[np.ndarray, "3"],
    cutoff: float,
) -> tuple[Int[np.ndarray, "edges"], Int[np.ndarray, "edges"], Int[np.ndarray, "edges 3"]]:
    """All pairs closer than the cutoff, periodic images and cells smaller than the cutoff included.

    Returns:
        centers, neighbors, shifts; sorted by centre. Vector = R_neighbor + shift·cell − R_center.

    Raises:
        ValueError: if a position or the cell is not finite, or a periodic direction has no
            lattice vector.
    """
    periodic = np.asarray(pbc, dtype=bool)
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise ValueError(f"positions of atoms {bad[:10].tolist()} are not finite")
    if len(positions) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
    box = np.zeros((3, 3))
    wrapped = np.asarray(positions, dtype=np.float64)
    wraps = np.zeros((len(positions), 3), dtype=np.int64)
    if periodic.any():
        if not np.isfinite(cell).all():
            raise ValueError(f"cell is not finite: {np.asarray(cell).tolist()}")
        # A direction that is not periodic may have no vector, a dummy one, or one that atoms
        # stick out of; none of that may matter, so it gets a vector that spans all atoms.
        box = np.where(periodic[:, None], cell, 0.0)
        if np.linalg.matrix_rank(box) < periodic.sum():
            raise ValueError(
                f"pbc is {periodic.tolist()} but the cell's periodic vectors are zero or linearly "
                f"dependent: {np.asarray(cell).tolist()}"
            )
        box = complete_cell(box)
        fractional = wrapped @ np.linalg.inv(box)
        # Atoms many cells away are brought home first: the images searched start from the cell.
        wraps = np.where(periodic, np.floor(fractional), 0).astype(np.int64)
        wrapped = wrapped - wraps @ box
        if not periodic.all():
            # complete_cell's vectors are orthogonal to the periodic ones and each other: beyond the
            # cutoff as well as the atoms, they leave no image within reach and may count as
            # periodic. (vesin is slow by orders of magnitude where just one direction is.)
            for axis in np.flatnonzero(~periodic):
                unit = box[axis] / np.linalg.norm(box[axis])
                along = wrapped @ unit
                closed = _close_gaps(along, 2 * cutoff)
                wrapped = wrapped + np.outer(closed - along, unit)
                box[axis] = unit * (closed.max() + 2 * cutoff + 1.0)
    centers, neighbors, shifts = vesin.NeighborList(
        cutoff=cutoff, full_list=True, sorted=True, n_threads=1
    ).compute(points=wrapped, box=box, periodic=bool(periodic.any()), quantities="ijS")
    centers, neighbors = centers.astype(np.int64), neighbors.astype(np.int64)
    shifts = shifts.astype(np.int64) + wraps[centers] - wraps[neighbors]
    return centers, neighbors, shifts


def _close_gaps(
    coordinates: Float[np.ndarray, "atoms"], widest: float
) -> Float[np.ndarray, "atoms"]:
    """From 0 upwards, gaps wider than ``widest`` cut down to it: no pair in reach is touched.

    An atom that flew off must not make the search visit the void (or overflow its count of cells).
    """
    order = np.argsort(coordinates)
    gaps = np.diff(coordinates[order], prepend=coordinates[order[:1]])
    closed = np.empty_like(coordinates)
    closed[order] = np.minimum(gaps, widest).cumsum()
    return closed


def build_graph(
    structures: Atoms | Sequence[Atoms],
    cutoff: float,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> AtomGraph:
    """One graph of one or more ASE structures; positions are taken as they are, in Å.

    Raises:
        ValueError: if there is no structure, one has no atoms, or one's geometry is not finite.
    """
    if isinstance(structures, Atoms):
        structures = [structures]
    graphs = []
    for index, atoms in enumerate(structures):
        if len(atoms) == 0:
            raise ValueError(f"structure {index} has no atoms")
        try:
            graphs.append(
                graph_from_arrays(
                    atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff, dtype
                )
            )
        except ValueError as error:
            raise ValueError(f"structure {index}: {error}") from error
    return batch_graphs(graphs).to(device=device)


def graph_from_arrays(
    numbers: Int[np.ndarray, "atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Sequence[bool] | Bool[np.ndarray, "3"],
    cutoff: float,
    dtype: torch.dtype = torch.float32,
) -> AtomGraph:
    """One graph of one structure. Lattice vectors of directions that are not periodic become 0."""
    centers, neighbors, shifts = find_edges(positions, cell, pbc, cutoff)
    periodic = np.array(pbc, dtype=bool)
    return AtomGraph(
        numbers=torch.as_tensor(np.asarray(numbers, dtype=np.int64)),
        positions=torch.tensor(positions, dtype=dtype),
        cell=torch.tensor(np.where(periodic[:, None], cell, 0.0)[None], dtype=dtype),
        pbc=torch.tensor(periodic[None]),
        frame=torch.zeros(len(numbers), dtype=torch.int64),
        centers=torch.from_numpy(centers),
        neighbors=torch.from_numpy(neighbors),
        shifts=torch.tensor(shifts, dtype=dtype),
    )


class VerletList:
    """A graph that follows one structure through dynamics and is rebuilt only when it must be.

    The list holds pairs up to cutoff + skin; it stays right until two atoms together have moved
    by the skin, so it is rebuilt when one has moved by half of it, or when cell, periodicity or
    species change. Edges beyond the cutoff weigh nothing in a potential.
    """

    def __init__(
        self,
        cutoff: float,
        skin: float = 0.5,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if skin < 0:
            raise ValueError(f"skin must be at least 0 Å, got {skin}")
        self.cutoff, self.skin, self.dtype, self.device = cutoff, skin, dtype, device
        self.rebuilds = 0
        self._graph: AtomGraph | None = None
        self._built_at = Atoms()

    def __call__(self, atoms: Atoms) -> AtomGraph:
        """The graph of the structure as it is now."""
        if self._graph is None or self._outdated(atoms):
            self._graph = build_graph(
                atoms, self.cutoff + self.skin, dtype=self.dtype, device=self.device
            )
            # Not atoms.copy(): constraints and arrays that dynamics adds are no business of ours.
            self._built_at = Atoms(
                numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
            )
            self.rebuilds += 1
        positions = torch.tensor(atoms.positions, dtype=self.dtype, device=self.device)
        return self._graph.with_positions(positions)

    def _outdated(self, atoms: Atoms) -> bool:
        built = self._built_at
        if len(atoms) != len(built) or not np.isfinite(atoms.positions).all():
            return True
        moved2 = ((atoms.positions - built.positions) ** 2).sum(axis=1).max()
        return bool(
            4 * moved2 >= self.skin**2
            or (atoms.numbers != built.numbers).any()
            or (atoms.cell.array != built.cell.array).any()
            or (atoms.pbc != built.pbc).any()
        )
