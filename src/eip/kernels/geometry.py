"""Vectors along the edges of a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eip.kernels.build import Library
from eip.kernels.operators import contiguous, implement, operator
from eip.kernels.triton import geometry as by_triton
from eip.kernels.triton.launch import works_on

#: Edges of a structure from which on a matrix product of its own pays, on a CPU.
_EDGES_WORTH_A_PRODUCT = 500


def _vectors(lib: Library, positions: Tensor, cell: Tensor, *graph: Any) -> Tensor:
    *indices, shifts, dtype = graph
    out = positions.new_empty(len(shifts), 3, dtype=dtype)
    arrays = contiguous((positions.double(), cell.double(), *indices, shifts.float()))
    lib.call("edge_vectors", dtype, len(out), *arrays, out, torch.get_num_threads())
    return out


def _plain_vectors(positions: Tensor, cell: Tensor, *graph: Any) -> Tensor:
    frame, centers, neighbors, shifts, dtype = graph
    # index_select, because indexing by [] has a backward pass that costs several times more.
    vectors = positions.index_select(0, neighbors) - positions.index_select(0, centers)
    # A molecule's shifts are all zero; multiplying them out would cost as much as the rest. Only
    # a CPU is asked: a GPU's host would have to wait for everything it has yet to do.
    if positions.device.type != "cpu" or bool(shifts.any()):
        vectors = vectors + _image_offsets(cell, frame, centers, shifts)
    return vectors.to(dtype)


def _image_offsets(cell: Tensor, frame: Tensor, centers: Tensor, shifts: Tensor) -> Tensor:
    """shift · cell of each edge, Å."""
    shifts = shifts.to(cell.dtype)
    if len(cell) == 1:
        return shifts @ cell[0]
    frame = frame.index_select(0, centers)
    if shifts.device.type != "cpu" or len(shifts) < _EDGES_WORTH_A_PRODUCT * len(cell):
        return (shifts[:, None, :] @ cell.index_select(0, frame))[:, 0]
    # A structure's edges lie together: one product for each, several times faster than one
    # small product for each edge.
    sizes = torch.bincount(frame, minlength=len(cell)).tolist()
    pairs = zip(shifts.split(sizes), cell.unbind(), strict=True)
    return torch.cat([shift @ cell for shift, cell in pairs])


def _transposed(lib: Library, g: Tensor, *graph: Any) -> tuple[Tensor, Tensor | None]:
    *indices, shifts, frames, with_cell = graph
    g_x = g.new_zeros(len(indices[0]), 3, dtype=torch.float64)
    g_cell = g.new_zeros(frames, 3, 3, dtype=torch.float64) if with_cell else None
    arrays = contiguous((g, *indices, shifts.float()))
    lib.call("edge_vectors_transposed", g.dtype, len(g), *arrays, g_x, g_cell)
    return g_x, g_cell


def _plain_transposed(g: Tensor, *graph: Any) -> tuple[Tensor, Tensor | None]:
    frame, centers, neighbors, shifts, frames, with_cell = graph
    g = g.double()
    g_x = g.new_zeros(len(frame), 3).index_add(0, neighbors, g).index_add(0, centers, -g)
    if not with_cell:
        return g_x, None
    of_edges = shifts.double()[:, :, None] * g[:, None, :]
    frame = frame.index_select(0, centers)
    return g_x, g.new_zeros(frames, 3, 3).index_add(0, frame, of_edges)


def _fake_transposed(g: Tensor, *graph: Any) -> tuple[Tensor, Tensor | None]:
    frame, *_, frames, with_cell = graph
    g_x = g.new_empty(len(frame), 3, dtype=torch.float64)
    return g_x, g.new_empty(frames, 3, 3, dtype=torch.float64) if with_cell else None


# The map is linear: the gradient is its transpose, whose gradient is the map itself.


def _setup_transposed(ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
    g, *graph, ctx.frames, _ = arguments
    ctx.save_for_backward(*graph)
    ctx.dtype = g.dtype
    ctx.set_materialize_grads(False)


def _backward_transposed(ctx: Any, x: Tensor | None, cell: Tensor | None) -> tuple[Any, ...]:
    frame, *edges = ctx.saved_tensors
    x = edges[-1].new_zeros(len(frame), 3, dtype=torch.float64) if x is None else x
    cell = x.new_zeros(ctx.frames, 3, 3) if cell is None else cell
    return edge_vectors(x, cell, frame, *edges, ctx.dtype), *[None] * 6


edge_vectors_backward = operator(
    "edge_vectors_backward(Tensor g, Tensor frame, Tensor centers, Tensor neighbors, "
    "Tensor shifts, SymInt frames, bool with_cell) -> (Tensor, Tensor)",
    kernel=_transposed,
    plain=_plain_transposed,
    fake=_fake_transposed,
    setup_context=_setup_transposed,
    backward=_backward_transposed,
)

implement("edge_vectors_backward", "cuda", by_triton.transposed, lambda g, *_: works_on(g))


def _setup(ctx: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
    positions, cell, *graph, _ = arguments
    ctx.save_for_backward(*graph)
    ctx.frames, ctx.dtypes = len(cell), (positions.dtype, cell.dtype)


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    g_x, g_cell = edge_vectors_backward(
        *(g, *ctx.saved_tensors, ctx.frames, ctx.needs_input_grad[1])
    )
    of_positions, of_cell = ctx.dtypes
    return g_x.to(of_positions), None if g_cell is None else g_cell.to(of_cell), *[None] * 5


#: R_neighbor − R_center + shift · cell of each edge, Å; differentiable any number of times. The
#: differences are taken in the positions' precision and rounded to ``dtype`` afterwards.
edge_vectors = operator(
    "edge_vectors(Tensor positions, Tensor cell, Tensor frame, Tensor centers, Tensor neighbors, "
    "Tensor shifts, ScalarType dtype) -> Tensor",
    kernel=_vectors,
    plain=_plain_vectors,
    fake=lambda positions, *graph: positions.new_empty(len(graph[-2]), 3, dtype=graph[-1]),
    takes=lambda lib, *arguments: lib.handles(arguments[-1]),
    setup_context=_setup,
    backward=_backward,
)

implement(
    *("edge_vectors", "cuda", by_triton.vectors),
    lambda positions, *graph: works_on(positions) and graph[-1] in (torch.float32, torch.float64),
)


def _closer(
    lib: Library,
    edge_vectors: Tensor,
    species: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    limits: Tensor,
) -> Tensor:
    out = edge_vectors.new_empty(len(edge_vectors), dtype=torch.bool)
    arrays = contiguous((edge_vectors, species, centers, neighbors, limits))
    lib.call("closer_than", edge_vectors.dtype, len(out), len(limits), *arrays, out)
    return out


def _plain_closer(
    edge_vectors: Tensor, species: Tensor, centers: Tensor, neighbors: Tensor, limits: Tensor
) -> Tensor:
    kinds = species.index_select(0, centers), species.index_select(0, neighbors)
    return edge_vectors.square().sum(dim=1) < limits[kinds].square()


#: Which edges are shorter than the limit of their two elements, ``[elements, elements]``.
closer_than = operator(
    "closer_than(Tensor edge_vectors, Tensor species, Tensor centers, Tensor neighbors, "
    "Tensor limits) -> Tensor",
    kernel=_closer,
    plain=_plain_closer,
    fake=lambda edge_vectors, *_: edge_vectors.new_empty(len(edge_vectors), dtype=torch.bool),
    takes=lambda lib, edge_vectors, *_: lib.handles(edge_vectors.dtype),
    constant=True,
)
