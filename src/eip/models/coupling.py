"""What a neighbor's scalars, vector and matrix become on their way along an edge.

An edge leaves what turns about it alone: of the pairs of components that it can couple, the ones
along it (a scalar, v·r̂, r̂ᵀt r̂) have nine, the ones once across (v, t r̂) four, the rest of t one.
These are all that are linear in the neighbor and symmetric, as in Passaro and Zitnick (2023); each
has a radial filter of its own.

`Coupling` does it by compiled kernels, `_Gradient` is its gradient as an operation of its own, so
that forces can be part of a loss (kernels/coupling.cpp); both as in `eip.models.message_passing`,
edges that are filed under their reverse included. Filters are tables of B-splines.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eip.models.message_passing import EdgeList, wanted
from eip.models.radial import polynomial_cutoff, sine_basis
from eip.models.tensors import applied, dot, outer

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
    atoms = said.shape[1]

    def sums(per_edge: Tensor) -> Tensor:
        zeros = per_edge.new_zeros(*per_edge.shape[:-2], atoms, per_edge.shape[-1])
        return zeros.index_add(per_edge.ndim - 2, centers, per_edge)

    return sums(scalars), sums(vectors), sums(matrices)


#: Intervals of the splines over [0, cutoff] by radial function, and points of the fit in each.
INTERVALS_PER_FUNCTION = 16
_POINTS = 2


def intervals(radial_functions: int) -> int:
    """Intervals of the radial splines."""
    return INTERVALS_PER_FUNCTION * radial_functions


@functools.lru_cache(maxsize=8)
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


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the four B-splines that reach into an interval, at a place t in [0, 1) of it."""
    s = 1.0 - t
    middle = (t * t * (3.0 * t - 6.0) + 4.0) / 6.0, (s * s * (3.0 * s - 6.0) + 4.0) / 6.0
    return s**3 / 6.0, *middle, t**3 / 6.0


def coupling(
    said: Float[Tensor, "3 atoms channels"],
    v: Float[Tensor, "3 atoms channels"] | None,
    t: Float[Tensor, "5 atoms channels"] | None,
    table: Float[Tensor, "chunks knots paths chunk"],
    edge_vectors: Float[Tensor, "edges 3"],
    edges: EdgeList,
) -> Sums:
    """The sums of `plain_coupling` by compiled kernels, with filters from a table.

    Args:
        said, v, t: see there.
        table: B-spline coefficients of the filters.
        edge_vectors: Å; ``edges`` was made of their values.
    """
    # Here, not inside: what is saved there must be what came in, or second derivatives miss it.
    v, t = (None if x is None else x.contiguous() for x in (v, t))
    return Coupling.apply(said.contiguous(), table.contiguous(), edge_vectors, v, t, edges)


class Coupling(torch.autograd.Function):
    """See `coupling`; all arrays are contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        said: Tensor,
        table: Tensor,
        edge_vectors: Tensor,
        # Behind the others: what is no tensor is not counted in what `wanted` looks at.
        v: Tensor | None,
        t: Tensor | None,
        edges: EdgeList,
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, atoms, channels = said.shape
        out = tuple(said.new_empty(*shape, atoms, channels) for shape in ((), (3,), (5,)))
        edges.call("couple", table, said, v, t, table, *out)
        ctx.save_for_backward(said, v, t, table, edge_vectors)
        ctx.edges = edges
        return out  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, g_s: Tensor, g_v: Tensor, g_t: Tensor) -> tuple[Tensor | None, ...]:
        said, v, t, table, edge_vectors = ctx.saved_tensors
        return *_Gradient.apply(
            *(g_s, g_v, g_t, said, table, edge_vectors, v, t, ctx.edges),
            *(wanted(ctx, 1), wanted(ctx, 2)),
        ), None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g_s: Tensor,
        g_v: Tensor,
        g_t: Tensor,
        said: Tensor,
        table: Tensor,
        edge_vectors: Tensor,
        v: Tensor | None,
        t: Tensor | None,
        edges: EdgeList,
        table_wanted: bool,
        vectors_wanted: bool,
    ) -> tuple[Tensor | None, ...]:
        g_s, g_v, g_t = g_s.contiguous(), g_v.contiguous(), g_t.contiguous()
        nodes = said, v, t
        to = tuple(None if x is None else torch.empty_like(x) for x in nodes)
        g_table = g_vectors = None
        if table_wanted:
            g_table = _table_gradient(edges, (g_s, g_v, g_t), nodes, table, None, to)
        if vectors_wanted or not table_wanted:
            g_vectors = torch.zeros_like(edge_vectors)
            edges.call("couple_gradient", table, g_s, g_v, g_t, *nodes, table, *to, g_vectors)
        ctx.save_for_backward(g_s, g_v, g_t, said, v, t, table, edge_vectors)
        ctx.edges = edges
        ctx.set_materialize_grads(False)
        to_said, to_v, to_t = to
        return to_said, g_table, g_vectors if vectors_wanted else None, to_v, to_t

    @staticmethod
    def backward(
        ctx: Any,
        said_dot: Tensor | None,
        table_dot: Tensor | None,
        dot: Tensor | None,
        v_dot: Tensor | None,
        t_dot: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        if table_dot is not None:
            raise NotImplementedError(
                "the gradient of a gradient in the radial filter's weights is not there; run it "
                "under eip.kernels.reference_path()"
            )
        g_s, g_v, g_t, said, v, t, table, edge_vectors = ctx.saved_tensors
        edges: EdgeList = ctx.edges
        nodes = said, v, t
        dots = tuple(
            None
            if value is None
            else (torch.zeros_like(value) if given is None else given.contiguous())
            for value, given in zip(nodes, (said_dot, v_dot, t_dot), strict=True)
        )
        dot = torch.zeros_like(edge_vectors) if dot is None else dot.contiguous()
        vectors = None
        if wanted(ctx, 5):
            vectors = _curvature((g_s, g_v, g_t), nodes, dots, table, edge_vectors, dot, edges)
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "third derivatives are not there; run them under eip.kernels.reference_path()"
            )
        to_g = tuple(torch.empty_like(g) for g in (g_s, g_v, g_t))
        pairs = [array for pair in zip(nodes, dots, strict=True) for array in pair]
        edges.call("couple_tangent", table, *pairs, table, dot, *to_g)
        to = tuple(None if x is None else torch.empty_like(x) for x in nodes)
        to_table = _table_gradient(edges, (g_s, g_v, g_t), nodes, table, (dots, dot), to)
        to_said, to_v, to_t = to
        return *to_g, to_said, to_table, vectors, to_v, to_t, None, None, None


def _table_gradient(
    edges: EdgeList,
    g: tuple[Tensor, ...],
    nodes: tuple[Tensor | None, ...],
    table: Tensor,
    dots: tuple[tuple[Tensor | None, ...], Tensor] | None,
    to: tuple[Tensor | None, ...],
) -> Tensor:
    """Writes the gradients in what atoms say, returns the one in the table; with ``dots``, of the
    tangent."""
    node_dots, dot = ((None,) * 3, None) if dots is None else dots
    pairs = [array for pair in zip(nodes, node_dots, strict=True) for array in pair]
    to_table = table.new_empty(edges.groups, *table.shape)
    arrays = *g, *pairs, table, dot, *to, to_table
    edges.call("couple_table_gradient", table, *arrays, groups=edges.groups)
    return to_table.sum(0) if edges.groups > 1 else to_table[0]


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


def spline_coupling(
    said: Tensor,
    v: Tensor | None,
    t: Tensor | None,
    table: Tensor,
    edge_vectors: Tensor,
    edges: EdgeList,
) -> Sums:
    """What `Coupling` does, in plain PyTorch."""
    distance = edge_vectors.square().sum(dim=1).sqrt()
    rows = table.permute(1, 2, 0, 3)
    filters = spline_values(rows.flatten(1), distance, edges.cutoff)
    return plain_coupling(
        *(said, v, t, filters.unflatten(1, (rows.shape[1], -1)), edge_vectors / distance[:, None]),
        *(edges.centers, edges.neighbors),
    )


def _curvature(
    g: tuple[Tensor, ...],
    nodes: tuple[Tensor | None, ...],
    dots: tuple[Tensor | None, ...],
    table: Tensor,
    edge_vectors: Tensor,
    dot: Tensor,
    edges: EdgeList,
) -> Tensor:
    """Derivative in the edges' vectors of the gradient, for Hessians: in plain PyTorch, slow."""
    with torch.enable_grad():
        vectors = edge_vectors.detach().requires_grad_()
        leaves = [None if x is None else x.detach().requires_grad_() for x in nodes]
        said, v, t = leaves
        assert said is not None
        sums = spline_coupling(said, v, t, table.detach(), vectors, edges)
        value = sum((one.detach() * two).sum() for one, two in zip(g, sums, strict=True))
        assert isinstance(value, Tensor)
        inputs = [*(x for x in leaves if x is not None), vectors]
        directions = [*(x for x in dots if x is not None), dot]
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        along = sum((a * b).sum() for a, b in zip(gradients, directions, strict=True))
        assert isinstance(along, Tensor)
        return torch.autograd.grad(along, vectors)[0]
