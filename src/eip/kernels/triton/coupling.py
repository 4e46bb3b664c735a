"""`eip.kernels.coupling` by Triton's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eip.kernels.triton import sources
from eip.kernels.triton.edges import Listed, by_kind, read
from eip.kernels.triton.launch import blocks, launch


def values(
    lib: None, x: tuple[Any, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    *nodes, table, edge_vectors = x
    _, atoms, channels = nodes[0].shape
    listed = read(others[0], atoms, len(edge_vectors), table.dtype)
    out = tuple(table.new_empty(*shape, atoms, channels) for shape in ((), (3,), (5,)))
    arrays = *listed, table, *_there(nodes), *_along(nodes, dots), *out
    kernel = sources.sums(table.shape[2], dots is not None)
    launch(kernel, atoms, blocks(channels), *arrays, atoms, len(edge_vectors), channels)
    return out


def gradient(
    lib: None,
    g: tuple[Tensor, ...],
    x: tuple[Any, ...],
    others: tuple[Any, ...],
    in_table: bool,
    in_vectors: bool,
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor | None, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    *nodes, table, edge_vectors = x
    _, atoms, channels = nodes[0].shape
    listed = read(others[0], atoms, len(edge_vectors), table.dtype)
    to = tuple(None if one is None else torch.empty_like(one) for one in nodes)
    wide = blocks(channels)
    # A block of channels has a part of an edge's gradient; an edge beyond the cutoff has none.
    parts = edge_vectors.new_zeros(wide.count, *edge_vectors.shape) if in_vectors else None
    arrays = *listed, table, *g, *_there(nodes), *_along(nodes, dots), *_there([*to, parts])
    kernel = sources.gradients(table.shape[2], in_vectors, dots is not None)
    launch(kernel, atoms, wide, *arrays, atoms, len(edge_vectors), channels)
    to_vectors = None if parts is None else parts.sum(0)
    to_table = _to_table(listed, g, nodes, table, others[1], dots) if in_table else None
    return *to, to_table, to_vectors


def _to_table(
    listed: Listed,
    g: Sequence[Tensor],
    nodes: Sequence[Tensor | None],
    table: Tensor,
    centers: Tensor,
    dots: tuple[Any, ...] | None,
) -> Tensor:
    """The intervals' own sums, then each row's of the four intervals that it reaches into."""
    _, knots, paths, channels = table.shape
    atoms, count, intervals = len(listed.first) - 1, len(centers), knots - 3
    within = torch.arange(count, device=table.device) < listed.first[-1]
    first, order = by_kind(torch.where(within, listed.knot, intervals), intervals)
    out = table.new_empty(sources.TABLE_PARTS, intervals, 4, paths, channels)
    arrays = *(first, order, listed.slot, centers.contiguous(), listed.neighbor, listed.numbers), *g
    arrays = *arrays, *_there(nodes), *_along(nodes, dots), out
    kernel, programs = sources.table_gradient(paths, dots is not None), len(out) * intervals
    launch(kernel, programs, blocks(channels), *arrays, atoms, count, intervals, channels)
    to_table, rows = torch.zeros_like(table), out.sum(0)
    for q in range(4):
        to_table[0, q : q + intervals] += rows[:, q]
    return to_table


def _there(arrays: Sequence[Tensor | None]) -> list[Tensor]:
    return [one for one in arrays if one is not None]


def _along(nodes: Sequence[Tensor | None], dots: tuple[Any, ...] | None) -> list[Tensor]:
    """The nodes' rates of change, and the edges'; none without ``dots``."""
    return [] if dots is None else [*_there(dots[: len(nodes)]), dots[-1]]
