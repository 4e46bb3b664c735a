"""The one form in which structures reach a potential: a batch of atoms with their edges."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eip.errors import InputError
from eip.kernels.geometry import edge_vectors
from eip.kernels.indexing import sums


@dataclass(frozen=True)
class AtomGraph:
    """One or more structures, joined into one graph without edges between them.

    Edges are directed and sorted by their centre: edge ``e`` points from atom ``centers[e]`` to
    the periodic image ``shifts[e]`` of atom ``neighbors[e]``. The list is full: with an edge
    comes its reverse, so each atom can gather what its neighbors hold.

    Attributes:
        numbers: atomic numbers.
        positions: Cartesian positions, Å, float64, as the user gave them (not wrapped into the
            cell).
        cell: lattice vectors as rows, Å, float64. Those of directions that are not periodic are
            zero, or, after `in_cell`, give a volume that a stress is divided by and nothing else.
        pbc: periodic directions.
        frame: which structure each atom belongs to, ascending.
        centers, neighbors: the two ends of each edge.
        shifts: integer multiples of the lattice vectors to add to the neighbor's position, float32.
        owned: the atoms that a sum or mean over a structure counts; None: all. Others are the
            ghosts of an engine that divides space: neighbors, whose energies another process has.

    The geometry is float64 whatever a network computes in: it is the differences of positions that
    are rounded, not the positions (see `edge_vectors`). In float32 a molecule 1,000 Å from the
    origin would have other forces, by meV/Å.
    """

    numbers: Int[Tensor, "atoms"]
    positions: Float[Tensor, "atoms 3"]
    cell: Float[Tensor, "frames 3 3"]
    pbc: Bool[Tensor, "frames 3"]
    frame: Int[Tensor, "atoms"]
    centers: Int[Tensor, "edges"]
    neighbors: Int[Tensor, "edges"]
    shifts: Float[Tensor, "edges 3"]
    owned: Bool[Tensor, "atoms"] | None = None

    @property
    def n_atoms(self) -> int:
        return self.numbers.shape[0]

    @property
    def n_frames(self) -> int:
        return self.cell.shape[0]

    @property
    def n_edges(self) -> int:
        return self.centers.shape[0]

    @property
    def atoms_per_frame(self) -> Int[Tensor, "frames"]:
        frame = self.frame if self.owned is None else self.frame[self.owned]
        return torch.bincount(frame, minlength=self.n_frames)

    def edge_vectors(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "edges 3"]:
        """Vectors from centre to neighbor, Å; differentiable in positions and cell.

        Args:
            dtype: what they are rounded to.
        """
        vectors: Tensor = edge_vectors(
            *(self.positions, self.cell, self.frame),
            *(self.centers, self.neighbors, self.shifts, dtype),
        )
        return vectors

    def sum_by_frame(self, per_atom: Float[Tensor, "atoms *rest"]) -> Float[Tensor, "frames *rest"]:
        """Sum of a per-atom quantity over each structure."""
        if self.owned is not None:
            owned = self.owned.reshape(-1, *[1] * (per_atom.ndim - 1))
            per_atom = torch.where(owned, per_atom, 0.0)
        if self.n_frames == 1:
            return per_atom.sum(dim=0, keepdim=True)
        found: Tensor = sums(per_atom, self.frame, self.n_frames)
        return found

    def mean_by_frame(
        self, per_atom: Float[Tensor, "atoms *rest"]
    ) -> Float[Tensor, "frames *rest"]:
        """Mean of a per-atom quantity over each structure."""
        if self.n_frames == 1 and self.owned is None:
            return per_atom.mean(dim=0, keepdim=True)
        count = self.atoms_per_frame.to(per_atom.dtype)
        return self.sum_by_frame(per_atom) / count.reshape(-1, *[1] * (per_atom.ndim - 1))

    def largest_by_frame(self, per_atom: Float[Tensor, "atoms"]) -> Float[Tensor, "frames"]:
        """Largest of a per-atom quantity that is not negative, of each structure."""
        return per_atom.new_zeros(self.n_frames).scatter_reduce(0, self.frame, per_atom, "amax")

    def demand_on(self, device: torch.device) -> None:
        """That all arrays are on a device: a kernel takes addresses for its own device's.

        Raises:
            InputError: if one is not.
        """
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None and array.device != device:
                raise InputError(
                    f"the graph's {field.name} are on '{array.device}', but the potential is on "
                    f"'{device}'; graph.to('{device}') moves all of a graph"
                )

    def to(self, device: torch.device | str | None) -> AtomGraph:
        """The same graph elsewhere; where it is, for None."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: array.to(device=device) for name, array in arrays.items() if array is not None
        }
        return replace(self, **moved)

    def with_positions(self, positions: Float[Tensor, "atoms 3"]) -> AtomGraph:
        """The same edges at other positions (a Verlet list, a strain, a finite difference)."""
        return replace(self, positions=positions)

    def in_cell(self, cell: Float[Tensor, "frames 3 3"]) -> AtomGraph:
        """The same graph in cells whose vectors of directions that are not periodic are these.

        No edge crosses them. The volume that they span with the others is what the stress of a
        slab or a wire is divided by, which else is NaN.
        """
        whole = torch.where(self.pbc[:, :, None], self.cell, cell.to(self.cell))
        return replace(self, cell=whole)


def batch_graphs(graphs: list[AtomGraph]) -> AtomGraph:
    """Joins graphs into one; the order of atoms and structures is kept.

    Raises:
        ValueError: if the list is empty.
    """
    if not graphs:
        raise ValueError("batch_graphs needs at least one graph, got an empty list")
    if len(graphs) == 1:
        return graphs[0]
    atoms = torch.tensor([g.n_atoms for g in graphs])
    frames = torch.tensor([g.n_frames for g in graphs])
    edges = torch.tensor([g.n_edges for g in graphs])
    device = graphs[0].positions.device
    # One repetition for all graphs, not an addition for each: a batch may hold thousands.
    frame_offset = _before(frames).repeat_interleave(atoms).to(device)
    atom_offset = _before(atoms).repeat_interleave(edges).to(device)
    return AtomGraph(
        numbers=torch.cat([g.numbers for g in graphs]),
        positions=torch.cat([g.positions for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        frame=torch.cat([g.frame for g in graphs]) + frame_offset,
        centers=torch.cat([g.centers for g in graphs]) + atom_offset,
        neighbors=torch.cat([g.neighbors for g in graphs]) + atom_offset,
        shifts=torch.cat([g.shifts for g in graphs]),
        owned=(
            None if all(g.owned is None for g in graphs) else torch.cat([_owned(g) for g in graphs])
        ),
    )


def _owned(graph: AtomGraph) -> Bool[Tensor, "atoms"]:
    return torch.ones_like(graph.numbers, dtype=torch.bool) if graph.owned is None else graph.owned


def _before(counts: Int[Tensor, "graphs"]) -> Int[Tensor, "graphs"]:
    """How many there are in all earlier graphs."""
    return counts.cumsum(0) - counts
