"""The one form in which structures reach a potential: a batch of atoms with their edges."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eip.kernels import kernels_for
from eip.kernels.geometry import edge_vectors


@dataclass(frozen=True)
class AtomGraph:
    """One or more structures, joined into one graph without edges between them.

    Edges are directed and sorted by their centre: edge ``e`` points from atom ``centers[e]`` to
    the periodic image ``shifts[e]`` of atom ``neighbors[e]``. The list is full: with an edge
    comes its reverse, so each atom can gather what its neighbors hold.

    Attributes:
        numbers: atomic numbers.
        positions: Cartesian positions, Å, as the user gave them (not wrapped into the cell).
        cell: lattice vectors as rows, Å; zero for a structure without periodic directions.
        pbc: periodic directions.
        frame: which structure each atom belongs to, ascending.
        centers, neighbors: the two ends of each edge.
        shifts: integer multiples of the lattice vectors to add to the neighbor's position.
    """

    numbers: Int[Tensor, "atoms"]
    positions: Float[Tensor, "atoms 3"]
    cell: Float[Tensor, "frames 3 3"]
    pbc: Bool[Tensor, "frames 3"]
    frame: Int[Tensor, "atoms"]
    centers: Int[Tensor, "edges"]
    neighbors: Int[Tensor, "edges"]
    shifts: Float[Tensor, "edges 3"]

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
        return torch.bincount(self.frame, minlength=self.n_frames)

    def edge_vectors(self) -> Float[Tensor, "edges 3"]:
        """Vectors from centre to neighbor, Å; differentiable in positions and cell."""
        kernels = kernels_for(self.positions)
        if kernels is not None:
            return edge_vectors(
                *(kernels, self.positions, self.cell, self.frame),
                *(self.centers, self.neighbors, self.shifts),
            )
        vectors = self.positions[self.neighbors] - self.positions[self.centers]
        # A molecule's shifts are all zero; multiplying them out would cost as much as the rest.
        if bool(self.pbc.any()):
            cell_of_edge = self.cell[self.frame[self.centers]]
            vectors = vectors + torch.einsum("ea,eab->eb", self.shifts, cell_of_edge)
        return vectors

    def sum_by_frame(self, per_atom: Float[Tensor, "atoms *rest"]) -> Float[Tensor, "frames *rest"]:
        """Sum of a per-atom quantity over each structure."""
        out = per_atom.new_zeros(self.n_frames, *per_atom.shape[1:])
        return out.index_add(0, self.frame, per_atom)

    def mean_by_frame(
        self, per_atom: Float[Tensor, "atoms *rest"]
    ) -> Float[Tensor, "frames *rest"]:
        """Mean of a per-atom quantity over each structure."""
        count = self.atoms_per_frame.to(per_atom.dtype)
        return self.sum_by_frame(per_atom) / count.reshape(-1, *[1] * (per_atom.ndim - 1))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> AtomGraph:
        """The same graph elsewhere; ``dtype`` applies to the floating-point arrays alone."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = value.to(
                device=device, dtype=dtype if value.is_floating_point() else None
            )
        return AtomGraph(**moved)

    def with_positions(self, positions: Float[Tensor, "atoms 3"]) -> AtomGraph:
        """The same edges at other positions (a Verlet list, a strain, a finite difference)."""
        return replace(self, positions=positions)

    def with_edges(self, keep: Bool[Tensor, "edges"]) -> AtomGraph:
        """The same atoms with a subset of the edges."""
        return replace(
            self,
            centers=self.centers[keep],
            neighbors=self.neighbors[keep],
            shifts=self.shifts[keep],
        )


def batch_graphs(graphs: list[AtomGraph]) -> AtomGraph:
    """Joins graphs into one; the order of atoms and structures is kept.

    Raises:
        ValueError: if the list is empty.
    """
    if not graphs:
        raise ValueError("batch_graphs needs at least one graph, got an empty list")
    if len(graphs) == 1:
        return graphs[0]
    frame, centers, neighbors = [], [], []
    atom_offset = frame_offset = 0
    for graph in graphs:
        frame.append(graph.frame + frame_offset)
        centers.append(graph.centers + atom_offset)
        neighbors.append(graph.neighbors + atom_offset)
        atom_offset += graph.n_atoms
        frame_offset += graph.n_frames
    return AtomGraph(
        numbers=torch.cat([g.numbers for g in graphs]),
        positions=torch.cat([g.positions for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        frame=torch.cat(frame),
        centers=torch.cat(centers),
        neighbors=torch.cat(neighbors),
        shifts=torch.cat([g.shifts for g in graphs]),
    )
