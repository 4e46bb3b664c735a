"""What a neighbor's scalars, vector and matrix become on their way along an edge.

An edge leaves what turns about it alone: of the pairs of components that it can couple, the ones
along it (a scalar, v·r̂, r̂ᵀt r̂) have nine, the ones once across (v, t r̂) four, the rest of t one.
These are all that are linear in the neighbor and symmetric, as in Passaro and Zitnick (2023); each
has a radial filter of its own.

The kernels are in kernels/coupling.h and coupling.cpp; edges' gradients are filed under their
reverse as in `eip.kernels.messages`. Filters are tables of B-splines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eip.kernels import edges as edge_list
from eip.kernels.build import Library, kernels_for
from eip.kernels.edges import cubic_weights, sum_over_neighbors
from eip.kernels.operators import (
    constants,
    implement_twice,
    implemented,
    twice_differentiable,
)
from eip.kernels.radial import polynomial_cutoff, sine_basis
from eip.kernels.tensors import applied, dot, outer
from eip.kernels.triton import coupling as by_triton
from eip.kernels.triton.launch import works_on

#: Filters of a layer whose neighbors have a vector and a matrix; of one where they have none yet.
PATHS, FIRST_PATHS = 14, 3

Sums = tuple[
    Float[Tensor, "atoms channels"],
    Float[Tensor, "3 atoms channels"],
    Float[Tensor, "5 atoms channels"],
]


def plain_coupling(
    said: Float[Tensor, "3 atoms channels"],
    v: Float[Tensor, "3 atoms channels"] | None,
    t: Float[Tensor, "5 atoms channels"] | None,
    filters: Float[Tensor, "edges paths channels"],
    direction: Float[Tensor, "edges 3"],
    centers: Tensor,
    neighbors: Tensor,
) -> Sums:
    """Sums over the neighbors of each atom.

    Args:
        said: scalars of each atom: for its neighbors' scalars, vectors and matrices.
        v, t: vector and matrix of each atom; None where they are zero.
        filters: W(r) of each edge, ``PATHS`` of them or ``FIRST_PATHS``.
        direction: unit vectors from centre to neighbor.
    """
    w = filters.unbind(1)
    a, b, c = said.index_select(1, neighbors).unbind()
    d = direction.T[:, :, None].expand(-1, -1, a.shape[1])
    if v is None or t is None:
        scalars, vectors, matrices = w[0] * a, w[1] * b * d, outer(w[2] * c * d, d)
    else:
        v, t = v.index_select(1, neighbors), t.index_select(1, neighbors)
        turned = applied(t, d)
        along, twice = dot(v, d), dot(turned, d)
        scalars = w[0] * a + w[1] * along + w[2] * twice
        vectors = (w[3] * b + w[4] * along + w[5] * twice) * d + w[6] * v + w[7] * turned
        across = (w[8] * c + w[9] * along + w[10] * twice) * d + w[11] * v + w[12] * turned
        matrices = outer(across, d) + w[13] * t
    sums = (
        sum_over_neighbors(per_edge, centers, said.shape[1])
        for per_edge in (scalars, vectors, matrices)
    )
    return tuple(sums)  # type: ignore[return-value]


#: Intervals of the splines over [0, cutoff] by radial function, and points of the fit in each.
INTERVALS_PER_FUNCTION = 16
_POINTS = 2


def intervals(radial_functions: int) -> int:
    """Intervals of the radial splines."""
    return INTERVALS_PER_FUNCTION * radial_functions


@constants
def spline_fit(
    cutoff: float, radial_functions: int, dtype: torch.dtype, device: torch.device
) -> tuple[
    Float[Tensor, "knots points"], Float[Tensor, "points radial"], Float[Tensor, "points 1"]
]:
    """Values at some distances → B-spline coefficients by least squares; basis and envelope there.

    The last three coefficients are zero: so value and two derivatives are, exactly, at the cutoff.
    """
    count = intervals(radial_functions)
    x = (np.arange(_POINTS * count) + 0.5) / _POINTS
    knot, t = x.astype(int), x % 1.0
    design = np.zeros((len(x), count + 3))
    for q, weight in enumerate(cubic_weights(torch.from_numpy(t))):
        design[np.arange(len(x)), knot + q] = weight.numpy()
    fit = np.zeros((count + 3, len(x)))
    fit[:count] = np.linalg.pinv(design[:, :count])
    distance = torch.from_numpy(x * cutoff / count)
    basis = sine_basis(distance, cutoff, radial_functions)
    envelope = polynomial_cutoff(distance, cutoff)[:, None]
    found = torch.from_numpy(fit), basis, envelope
    return tuple(one.to(device, dtype) for one in found)  # type: ignore[return-value]


def _plain(
    said: Tensor,
    v: Tensor | None,
    t: Tensor | None,
    table: Tensor,
    edge_vectors: Tensor,
    edges: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    cutoff: float,
) -> Sums:
    filters, direction = edge_list.filters_of(table, edge_vectors, cutoff)
    return plain_coupling(said, v, t, filters, direction, centers, neighbors)


def _values(
    lib: Library, x: tuple[Any, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, ...]:
    *nodes, table, _ = x
    _, atoms, channels = nodes[0].shape
    out = tuple(table.new_empty(*shape, atoms, channels) for shape in ((), (3,), (5,)))
    if dots is None:
        edge_list.call(lib, "couple", atoms, others[0], table, *nodes, table, *out)
    else:
        arrays = *_pairs(nodes, dots), table, dots[-1], *out
        edge_list.call(lib, "couple_tangent", atoms, others[0], table, *arrays)
    return out


def _gradient(
    lib: Library,
    g: tuple[Tensor, ...],
    x: tuple[Any, ...],
    others: tuple[Any, ...],
    in_table: bool,
    in_vectors: bool,
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor | None, ...]:
    *nodes, table, edge_vectors = x
    atoms, edges = nodes[0].shape[1], others[0]
    to = tuple(None if one is None else torch.empty_like(one) for one in nodes)
    to_table = to_vectors = None
    if in_table:
        dot = None if dots is None else dots[-1]
        to_table = edge_list.table_gradient(
            *(lib, "couple_table_gradient", atoms, edges, table),
            *(*g, *_pairs(nodes, dots or (None,) * 3), table, dot, *to),
        )
    if in_vectors or not in_table:
        to_vectors = torch.zeros_like(edge_vectors)
        arrays = *g, *nodes, table, *to, to_vectors
        edge_list.call(lib, "couple_gradient", atoms, edges, table, *arrays)
    return *to, to_table, to_vectors if in_vectors else None


def _pairs(nodes: Sequence[Tensor | None], dots: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [array for pair in zip(nodes, dots[: len(nodes)], strict=True) for array in pair]


#: `plain_coupling` with filters from a table, ``[chunks, knots, paths, chunk]``; ``edges`` is
#: `eip.kernels.edges.list_edges` of the edges' vectors (Å).
coupling = twice_differentiable(
    "coupling",
    inputs="Tensor said, Tensor? v, Tensor? t, Tensor table, Tensor edge_vectors",
    constants="Tensor edges, Tensor centers, Tensor neighbors, float cutoff",
    outputs=3,
    weights="table: the radial filter's",
    geometry="edge_vectors",
    values=_values,
    gradient=_gradient,
    plain=_plain,
    takes=lambda lib, x: x[3].shape[3] == lib.lanes(x[3].dtype),
    fake=lambda said, *_: tuple(said.new_empty(*n, *said.shape[1:]) for n in ((), (3,), (5,))),
)

implement_twice(
    *("coupling", "cuda", by_triton.values, by_triton.gradient),
    takes=lambda _, x: works_on(*reversed(x)) and len(x[3]) == 1,
)


def chunk_of(array: Tensor, channels: int) -> int | None:
    """Channels of a chunk of tables, for the kernel that works on arrays like this one; None where
    there is none, and filters need not be tables."""
    if implemented("coupling", array):
        return channels if works_on(array) else None
    lib = kernels_for(array)
    return lib.lanes(array.dtype) if lib and lib.takes(channels, array.dtype) else None
