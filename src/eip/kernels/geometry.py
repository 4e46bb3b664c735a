"""Vectors along the edges of a graph, and their gradients, by compiled kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.kernels.build import Library, pointer


def edge_vectors(
    lib: Library,
    positions: Float[Tensor, "atoms 3"],
    cell: Float[Tensor, "frames 3 3"],
    frame: Int[Tensor, "atoms"],
    centers: Int[Tensor, "edges"],
    neighbors: Int[Tensor, "edges"],
    shifts: Float[Tensor, "edges 3"],
    dtype: torch.dtype,
) -> Float[Tensor, "edges 3"]:
    """R_neighbor − R_center + shift · cell, Å; differentiable any number of times.

    The differences are taken in float64 and rounded to ``dtype`` afterwards.
    """
    edges = _Edges(
        *(lib, len(cell), frame.contiguous(), centers.contiguous()),
        *(neighbors.contiguous(), shifts.float().contiguous(), dtype),
    )
    return _EdgeVectors.apply(positions.double(), cell.double(), edges)


def first_edges(lib: Library, centers: Int[Tensor, "edges"], atoms: int) -> Int[Tensor, "_"]:
    """Where each atom's edges begin in a list sorted by centre, and where the last ends."""
    first = torch.empty(atoms + 1, dtype=torch.int64)
    centers = centers.contiguous()
    sizes = (ctypes.c_int64(atoms), ctypes.c_int64(len(centers)))
    lib.function("first_edges")(*sizes, pointer(centers), pointer(first))
    return first


@dataclass(frozen=True)
class _Edges:
    lib: Library
    frames: int
    frame: Tensor
    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    dtype: torch.dtype

    def vectors(self, x: Tensor, cell: Tensor) -> Tensor:
        x, cell = x.contiguous(), cell.contiguous()
        out = x.new_empty(len(self.shifts), 3, dtype=self.dtype)
        self.lib.function("edge_vectors", self.dtype)(
            ctypes.c_int64(len(out)),
            *map(pointer, (x, cell, self.frame, self.centers, self.neighbors, self.shifts, out)),
            ctypes.c_int64(torch.get_num_threads()),
        )
        return out

    def transposed(self, g: Tensor, with_cell: bool) -> tuple[Tensor, Tensor | None]:
        g = g.contiguous()
        g_x = g.new_zeros(len(self.frame), 3, dtype=torch.float64)
        g_cell = g.new_zeros(self.frames, 3, 3, dtype=torch.float64) if with_cell else None
        self.lib.function("edge_vectors_transposed", g.dtype)(
            ctypes.c_int64(len(g)),
            *map(pointer, (g, self.frame, self.centers, self.neighbors, self.shifts, g_x, g_cell)),
        )
        return g_x, g_cell


class _EdgeVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positions: Tensor, cell: Tensor, edges: _Edges) -> Tensor:
        ctx.edges = edges
        return edges.vectors(positions, cell)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None]:
        g_x, g_cell = _Transposed.apply(g, ctx.edges, ctx.needs_input_grad[1])
        return g_x, g_cell, None


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, edges: _Edges, with_cell: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.edges = edges
        return edges.transposed(g, with_cell)

    @staticmethod
    def backward(ctx: Any, x: Tensor, cell: Tensor | None) -> tuple[Tensor, None, None]:
        edges: _Edges = ctx.edges
        # The map is linear: the gradient of its transpose is the map itself.
        cell = x.new_zeros(edges.frames, 3, 3) if cell is None else cell
        return _EdgeVectors.apply(x, cell, edges), None, None
