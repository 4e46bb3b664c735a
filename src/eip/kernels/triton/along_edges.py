"""Sums over each atom's neighbors by Triton's kernels, for whatever goes along an edge.

Arrays of atoms are those of a `Message`, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eip.kernels.triton.edges import Listed, by_kind
from eip.kernels.triton.launch import blocks, launch
from eip.kernels.triton.sources import edges as sources
from eip.kernels.triton.sources.edges import Message

#: What atoms say; and how fast it and the edges' vectors change, if at all.
Said = Sequence[Tensor]
Rates = Sequence[Tensor]


def sums(
    message: Message, listed: Listed, table: Tensor, said: Said, rates: Rates, out: Sequence[Tensor]
) -> None:
    """Fills ``out`` with what atoms hear, or with ``rates`` by how fast it changes."""
    kernel = sources.sums(message, bool(rates))
    _launch(kernel, listed, table, *said, *rates, *out)


def gradients(
    message: Message,
    listed: Listed,
    table: Tensor,
    g: Sequence[Tensor],
    said: Said,
    rates: Rates,
    out: Sequence[Tensor],
    in_vectors: bool,
) -> Tensor | None:
    """Fills ``out`` with the gradient in what atoms say, or with its rate of change; gives that in
    the edges' vectors where it is asked for."""
    parts = None
    if in_vectors:
        # A block of channels has a part of an edge's gradient; an edge beyond the cutoff has none.
        count = blocks(table.shape[3]).count
        parts = table.new_zeros(count, len(listed.slot), 3)
    kernel = sources.gradients(message, in_vectors, bool(rates))
    _launch(kernel, listed, table, *g, *said, *rates, *out, *([] if parts is None else [parts]))
    return None if parts is None else parts.sum(0)


def _launch(kernel: object, listed: Listed, table: Tensor, *arrays: Tensor) -> None:
    sizes = len(listed.first) - 1, len(listed.slot), table.shape[3]
    launch(kernel, sizes[0], blocks(sizes[2]), *listed, table, *arrays, *sizes)


def table_gradient(
    message: Message,
    listed: Listed,
    table: Tensor,
    g: Sequence[Tensor],
    said: Said,
    rates: Rates,
    centers: Tensor,
) -> Tensor:
    """That in the table, or its rate of change: the intervals' own sums, then each row's of the
    four intervals that it reaches into."""
    _, knots, paths, channels = table.shape
    atoms, count, intervals = len(listed.first) - 1, len(centers), knots - 3
    within = torch.arange(count, device=table.device) < listed.first[-1]
    first, order = by_kind(torch.where(within, listed.knot, intervals), intervals)
    out = table.new_empty(sources.TABLE_PARTS, intervals, 4, paths, channels)
    arrays = first, order, listed.slot, centers.contiguous(), listed.neighbor, listed.numbers
    kernel, programs = sources.table_gradient(message, bool(rates)), len(out) * intervals
    sizes = atoms, count, intervals, channels
    launch(kernel, programs, blocks(channels), *arrays, *g, *said, *rates, out, *sizes)
    to_table, rows = torch.zeros_like(table), out.sum(0)
    for q in range(4):
        to_table[0, q : q + intervals] += rows[:, q]
    return to_table
