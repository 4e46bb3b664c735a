"""`eip.kernels.coupling` by Triton's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eip.kernels.triton import along_edges
from eip.kernels.triton.edges import read
from eip.kernels.triton.sources.edges import COUPLING


def values(
    lib: None, x: tuple[Any, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    *nodes, table, edge_vectors = x
    _, atoms, channels = nodes[0].shape
    listed = read(others[0], atoms, len(edge_vectors), table.dtype)
    out = tuple(table.new_empty(*shape, atoms, channels) for shape in ((), (3,), (5,)))
    message = COUPLING[table.shape[2]]
    along_edges.sums(message, listed, table, _there(nodes), _rates(nodes, dots), out)
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
    message = COUPLING[table.shape[2]]
    listed = read(others[0], nodes[0].shape[1], len(edge_vectors), table.dtype)
    said, rates = _there(nodes), _rates(nodes, dots)
    to = tuple(None if one is None else torch.empty_like(one) for one in nodes)
    to_vectors = along_edges.gradients(
        message, listed, table, g, said, rates, _there(to), in_vectors
    )
    to_table = None
    if in_table:
        to_table = along_edges.table_gradient(message, listed, table, g, said, rates, others[1])
    return *to, to_table, to_vectors


def _there(arrays: Sequence[Tensor | None]) -> list[Tensor]:
    return [one for one in arrays if one is not None]


def _rates(nodes: Sequence[Tensor | None], dots: tuple[Any, ...] | None) -> list[Tensor]:
    """The nodes' rates of change, and the edges'; none without ``dots``."""
    return [] if dots is None else [*_there(dots[: len(nodes)]), dots[-1]]
