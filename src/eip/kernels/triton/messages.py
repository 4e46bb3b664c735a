"""`eip.kernels.messages` by Triton's kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eip.kernels.triton import along_edges
from eip.kernels.triton.edges import read
from eip.kernels.triton.sources.edges import PAINN


def values(
    lib: None, x: tuple[Tensor, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    scalars, vectors, said, table, edge_vectors = x
    listed = read(others[0], len(scalars), len(edge_vectors), table.dtype)
    out = torch.empty_like(scalars), torch.empty_like(vectors)
    along_edges.sums(PAINN, listed, table, (said, vectors), _rates(dots), out)
    own = (scalars, vectors) if dots is None else dots[:2]
    return tuple(sums.add_(one) for sums, one in zip(out, own, strict=True))


def gradient(
    lib: None,
    g: tuple[Tensor, ...],
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    in_table: bool,
    in_vectors: bool,
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor | None, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    (g_s, g_v), (_, vectors, said, table, edge_vectors) = g, x
    listed = read(others[0], len(g_s), len(edge_vectors), table.dtype)
    to_said, to_v = torch.empty_like(said), torch.empty_like(vectors)
    message = PAINN, listed, table, g, (said, vectors), _rates(dots)
    to_vectors = along_edges.gradients(*message, (to_said, to_v), in_vectors)
    to_table = along_edges.table_gradient(*message, others[1]) if in_table else None
    if dots is not None:
        return None, to_v, to_said, to_table, None
    # What an operator gives back is none of what it was given.
    return g_s.clone(), to_v.add_(g_v), to_said, to_table, to_vectors


def _rates(dots: tuple[Any, ...] | None) -> tuple[Tensor, ...]:
    if dots is None:
        return ()
    _, v_dot, said_dot, _, dot = dots
    return said_dot, v_dot, dot
