"""PaiNN's message, for training too: the sum over neighbors and its gradients.

    s_i += Σ_j a_j ∘ Wa(r)        v_i += Σ_j b_j ∘ Wb(r) û + c_j ∘ Wc(r) ∘ v_j

(a, b, c)_j = φ_j is what atom j says, û points from i to j (eq. 7 and 8 of the PaiNN paper;
kernels/message.h and training.cpp). The kernels read φ by chunks of channels, see `chunk_order`.

The gradient of an edge's vector is filed under the reverse edge with its sign changed. Positions
and strain cannot tell, since reversing an edge reverses its vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.kernels import edges as edge_list
from eip.kernels.build import Library, kernels_for
from eip.kernels.operators import constants, implement_twice, implemented, twice_differentiable
from eip.kernels.radial import cosine_cutoff, sine_basis
from eip.kernels.triton import messages as by_triton
from eip.kernels.triton.launch import works_on

#: Intervals of the spline over [0, cutoff] by radial function. The fastest of them, sin(nπr/rc),
#: then has 80 intervals a period; forces come out within 5e-6 of their RMS.
INTERVALS_PER_FUNCTION = 40


def intervals(radial_functions: int) -> int:
    """Intervals of the radial splines."""
    return INTERVALS_PER_FUNCTION * radial_functions


@constants
def spline_coefficients(
    cutoff: float,
    radial_functions: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "knots functions"]:
    """Cubic B-spline coefficients of basis · envelope and of the envelope.

    Least squares on a grid much finer than the knots, over r in (0, cutoff].
    """
    from scipy.interpolate import make_lsq_spline

    count = intervals(radial_functions)
    step = cutoff / count
    knots = step * np.arange(-3, count + 4)
    r = torch.from_numpy(cutoff * (np.arange(8 * count) + 0.5) / (8 * count))
    envelope = cosine_cutoff(r, cutoff)
    functions = torch.cat(
        [sine_basis(r, cutoff, radial_functions) * envelope[:, None], envelope[:, None]], dim=1
    )
    found = make_lsq_spline(r.numpy(), functions.numpy(), knots, k=3).c
    return torch.from_numpy(found).to(device, dtype)


def chunk_order(channels: int, chunk: int) -> Int[Tensor, "three_channels"]:
    """The order of φ = (a, b, c) in the kernels: [chunks, 3, chunk] instead of [3, channels]."""
    return torch.arange(3 * channels).reshape(3, -1, chunk).transpose(0, 1).reshape(-1)


def plain_message(
    scalars: Float[Tensor, "atoms channels"],
    vectors: Float[Tensor, "atoms 3 channels"],
    said: Float[Tensor, "atoms three_channels"],
    filters: Float[Tensor, "edges three_channels"],
    direction: Float[Tensor, "edges 3"],
    centers: Int[Tensor, "edges"],
    neighbors: Int[Tensor, "edges"],
) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
    """The message in plain PyTorch, of filters along each edge.

    Args:
        said: φ of each atom, ``[3, channels]`` behind each other.
        filters: W(r) of each edge, likewise.
        direction: unit vectors from centre to neighbor.
    """
    passed = said[neighbors] * filters
    to_scalars, from_direction, from_vectors = passed.chunk(3, dim=1)
    to_vectors = from_direction[:, None, :] * direction[:, :, None]
    to_vectors = to_vectors + from_vectors[:, None, :] * vectors[neighbors]
    return scalars.index_add(0, centers, to_scalars), vectors.index_add(0, centers, to_vectors)


def _plain(
    scalars: Tensor,
    vectors: Tensor,
    said: Tensor,
    table: Tensor,
    edge_vectors: Tensor,
    edges: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    cutoff: float,
) -> tuple[Tensor, Tensor]:
    chunks, _, _, chunk = table.shape
    filters, direction = edge_list.filters_of(table, edge_vectors, cutoff)
    said = said.reshape(len(said), chunks, 3, chunk).transpose(1, 2).reshape(len(said), -1)
    return plain_message(scalars, vectors, said, filters.flatten(1), direction, centers, neighbors)


def _values(
    lib: Library, x: tuple[Tensor, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, Tensor]:
    scalars, vectors, said, table, _ = x
    atoms, edges = len(scalars), others[0]
    if dots is None:
        s_out, v_out = scalars.clone(), vectors.clone()
        edge_list.call(lib, "message", atoms, edges, table, said, vectors, table, s_out, v_out)
        return s_out, v_out
    s_dot, v_dot, said_dot, _, dot = dots
    s_out, v_out = torch.empty_like(scalars), torch.empty_like(vectors)
    edge_list.call(
        *(lib, "message_tangent", atoms, edges, table),
        *(said, said_dot, vectors, v_dot, table, dot, s_out, v_out),
    )
    return s_out.add_(s_dot), v_out.add_(v_dot)


def _gradient(
    lib: Library,
    g: tuple[Tensor, Tensor],
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    in_table: bool,
    in_vectors: bool,
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor | None, ...]:
    (g_s, g_v), (_, vectors, said, table, edge_vectors) = g, x
    atoms, edges = len(g_s), others[0]
    to_said, to_v = torch.empty_like(said), torch.empty_like(vectors)
    to_table = to_vectors = None
    if in_table:
        _, v_dot, said_dot, _, dot = (None,) * 5 if dots is None else dots
        to_table = edge_list.table_gradient(
            *(lib, "table_gradient", atoms, edges, table),
            *(g_s, g_v, said, said_dot, vectors, v_dot, table, dot, to_said, to_v),
        )
        if dots is not None:
            return None, to_v, to_said, to_table, None
        to_v += g_v
    if in_vectors or not in_table:
        to_v.copy_(g_v)
        to_vectors = torch.zeros_like(edge_vectors)
        edge_list.call(
            *(lib, "message_gradient", atoms, edges, table),
            *(g_s, g_v, said, vectors, table, to_said, to_v, to_vectors),
        )
    # What an operator gives back is none of what it was given.
    return g_s.clone(), to_v, to_said, to_table, to_vectors if in_vectors else None


#: The message with filters from a table, ``[chunks, knots, 3, chunk]``; φ in the order of chunks;
#: ``edges`` is `eip.kernels.edges.list_edges` of the edges' vectors (Å).
message = twice_differentiable(
    "painn_message",
    inputs="Tensor scalars, Tensor vectors, Tensor said, Tensor table, Tensor edge_vectors",
    constants="Tensor edges, Tensor centers, Tensor neighbors, float cutoff",
    outputs=2,
    weights="table: the radial filter's",
    geometry="edge_vectors",
    added="scalars",
    values=_values,
    gradient=_gradient,
    plain=_plain,
    takes=lambda lib, x: x[3].shape[3] == lib.chunk(int(x[3].shape[0] * x[3].shape[3]), x[3].dtype),
    fake=lambda scalars, vectors, *_: (torch.empty_like(scalars), torch.empty_like(vectors)),
)

implement_twice(
    *("painn_message", "cuda", by_triton.values, by_triton.gradient),
    takes=lambda _, x: works_on(*x) and len(x[3]) == 1,
)


def chunk_of(array: Tensor, channels: int) -> int | None:
    """Channels of a chunk of tables, for the kernel that works on arrays like this one; None where
    there is none, and filters need not be tables."""
    if implemented("painn_message", array):
        return channels if works_on(array) else None
    lib = kernels_for(array)
    return lib.chunk(channels, array.dtype) if lib and lib.takes(channels, array.dtype) else None
