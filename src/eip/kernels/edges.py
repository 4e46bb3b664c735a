"""Edges within the cutoff as the kernels read them, and radial filters as cubic B-splines.

A filter W(r) is linear in a few functions of r alone; each is given by its coefficients in uniform
cubic B-splines, so that the filter is a table of coefficients by channel, ``[chunks, knots, paths,
chunk]`` (a kernel takes a chunk of channels at a time), and W(r) four of its rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eip.kernels.build import Library
from eip.kernels.operators import implement, operator
from eip.kernels.triton import edges as by_triton
from eip.kernels.triton.launch import works_on

#: Atoms that sum one copy of a table's gradient; a fixed number, so that the order of summation
#: does not depend on how many threads there are.
ATOMS_PER_GROUP = 512
_MOST_GROUPS = 8


def groups(atoms: int) -> int:
    """Copies of a weight's gradient that are summed."""
    return min(_MOST_GROUPS, max(1, atoms // ATOMS_PER_GROUP))


def first_edges(lib: Library, centers: Tensor, atoms: int | torch.SymInt) -> Tensor:
    """Where each atom's edges begin in a list sorted by centre, and where the last ends."""
    first = centers.new_empty(atoms + 1)
    lib.call("first_edges", None, atoms, len(centers), centers.contiguous(), first)
    return first


def _list_edges(
    lib: Library,
    edge_vectors: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    atoms: int | torch.SymInt,
    cutoff: float,
    intervals: int,
) -> Tensor:
    out = _fake_list(edge_vectors, centers, neighbors, atoms, cutoff, intervals)
    vectors, neighbors = edge_vectors.contiguous(), neighbors.contiguous()
    lib.call(
        *("list_edges", vectors.dtype, atoms, first_edges(lib, centers, int(atoms)), neighbors),
        *(vectors, cutoff, intervals, out, out.data_ptr() + 8 * (atoms + 1)),
    )
    return out


def _fake_list(
    edge_vectors: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    atoms: int | torch.SymInt,
    cutoff: float,
    intervals: int,
) -> Tensor:
    # Of each atom where its edges begin, then `Edge` (edges.h): two integers, 12 numbers.
    size = 8 * (atoms + 1) + len(edge_vectors) * (16 + 12 * edge_vectors.element_size())
    return edge_vectors.new_empty(size, dtype=torch.uint8)


#: The edges within the cutoff with their spline weights, worked out once for all layers: what the
#: kernels want to have, opaque, and nothing that can be differentiated. Nothing in plain PyTorch.
list_edges = operator(
    "list_edges(Tensor edge_vectors, Tensor centers, Tensor neighbors, SymInt atoms, "
    "float cutoff, int intervals) -> Tensor",
    kernel=_list_edges,
    plain=lambda edge_vectors, *_: edge_vectors.new_empty(0, dtype=torch.uint8),
    fake=_fake_list,
    constant=True,
)

implement("list_edges", "cuda", by_triton.list_edges, lambda vectors, *_: works_on(vectors))


def call(
    lib: Library,
    name: str,
    atoms: int,
    edges: Tensor,
    table: Tensor,
    *arrays: Tensor | None,
    copies: int = 0,
) -> None:
    """A kernel that sums over the neighbors of each atom, with a table of filters."""
    chunks, knots, _, chunk = table.shape
    begin = edges.data_ptr()
    sizes = chunks * chunk, knots, torch.get_num_threads()
    lib.call(
        name,
        table.dtype,
        *(atoms, begin, begin + 8 * (atoms + 1), *sizes, *arrays),
        *([copies] if copies else []),
    )


def table_gradient(
    lib: Library, name: str, atoms: int, edges: Tensor, table: Tensor, *arrays: Tensor | None
) -> Tensor:
    """Of a table of filters: the sum of as many copies as atoms are summed in groups."""
    copies = groups(atoms)
    parts = table.new_empty(copies, *table.shape)
    call(lib, name, atoms, edges, table, *arrays, parts, copies=copies)
    return parts.sum(0) if copies > 1 else parts[0]


def by_chunks(table: Float[Tensor, "knots paths_channels"], paths: int, chunk: int) -> Tensor:
    """A table of filters in the order in which the kernels read it."""
    return table.reshape(len(table), paths, -1, chunk).permute(2, 0, 1, 3).contiguous()


def filters_of(
    table: Float[Tensor, "chunks knots paths chunk"],
    edge_vectors: Float[Tensor, "edges 3"],
    cutoff: float,
) -> tuple[Float[Tensor, "edges paths channels"], Float[Tensor, "edges 3"]]:
    """Values of a table's filters along each edge, and the edge's direction."""
    distance = edge_vectors.square().sum(dim=1).sqrt()
    rows = table.permute(1, 2, 0, 3)
    values = spline_values(rows.flatten(1), distance, cutoff)
    return values.unflatten(1, (rows.shape[1], -1)), edge_vectors / distance[:, None]


def spline_values(
    coefficients: Float[Tensor, "knots functions"],
    distance: Float[Tensor, "edges"],
    cutoff: float,
) -> Float[Tensor, "edges functions"]:
    """Of functions given by B-spline coefficients; zero from the cutoff on."""
    count = len(coefficients) - 3
    # Masked, not picked: on a GPU the host would have to wait for how many there are.
    inside = distance < cutoff
    x = torch.where(inside, distance, 0.0) * (count / cutoff)
    # Rounding may carry a distance just inside the cutoff to the interval behind it.
    knot = x.detach().long().clamp(max=count - 1)
    values = sum(
        (weight * inside)[:, None] * coefficients.index_select(0, knot + q)
        for q, weight in enumerate(cubic_weights(x - knot))
    )
    assert isinstance(values, Tensor)
    return values


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the four B-splines that reach into an interval, at a place t in [0, 1) of it."""
    s = 1.0 - t
    middle = (t * t * (3.0 * t - 6.0) + 4.0) / 6.0, (s * s * (3.0 * s - 6.0) + 4.0) / 6.0
    return s**3 / 6.0, *middle, t**3 / 6.0


def sum_over_neighbors(per_edge: Tensor, centers: Tensor, atoms: int | torch.SymInt) -> Tensor:
    """Sums of ``[…, edges, channels]`` by the edges' centres, ``[…, atoms, channels]``."""
    zeros = per_edge.new_zeros(*per_edge.shape[:-2], atoms, per_edge.shape[-1])
    return zeros.index_add(per_edge.ndim - 2, centers, per_edge)
