"""Edges within the cutoff as Triton's kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Listed(NamedTuple):
    """Of the edges within the cutoff, in the order of their centres; what lies behind the last of
    them is of no meaning. As many bytes as the C++ kernels' list."""

    first: Tensor
    #: Where in the list of all edges.
    slot: Tensor
    neighbor: Tensor
    #: First of the four rows of a table.
    knot: Tensor
    #: Twelve planes: unit vector (3), distance, weights of the four rows, their slopes (1/Å).
    numbers: Tensor


def list_edges(
    edge_vectors: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    atoms: int,
    cutoff: float,
    intervals: int,
) -> Tensor:
    """`Listed` in one piece of memory. In PyTorch, and the host never waits for how many there are.

    It is done once for all layers.
    """
    distance = edge_vectors.square().sum(dim=1).sqrt()
    near = distance < cutoff
    # A place behind all others takes those beyond the cutoff.
    count, behind = near.cumsum(0), len(near)
    place = torch.where(near, count - 1, behind)
    slot = torch.zeros(behind + 1, dtype=torch.int64, device=near.device)
    slot = slot.scatter_(0, place, torch.arange(behind, device=near.device))[:behind]
    first = torch.cat([count.new_zeros(1), count]).index_select(0, starts(centers, atoms))

    distance, direction = distance.index_select(0, slot), edge_vectors.index_select(0, slot)
    per_length = intervals / cutoff
    x = torch.where(distance < cutoff, distance, 0.0) * per_length
    # Rounding may carry a distance just inside the cutoff to the interval behind it.
    knot = x.long().clamp(max=intervals - 1)
    t = x - knot
    s = 1.0 - t
    numbers = torch.stack(
        [
            *(direction / distance[:, None]).unbind(1),
            distance,
            s**3 / 6.0,
            (t * t * (3.0 * t - 6.0) + 4.0) / 6.0,
            (s * s * (3.0 * s - 6.0) + 4.0) / 6.0,
            t**3 / 6.0,
            -0.5 * per_length * s * s,
            per_length * t * (1.5 * t - 2.0),
            per_length * s * (2.0 - 1.5 * s),
            0.5 * per_length * t * t,
        ]
    )
    parts = first, slot, neighbors.index_select(0, slot).int(), knot.int(), numbers
    return torch.cat([part.contiguous().view(torch.uint8).reshape(-1) for part in parts])


def read(edges: Tensor, atoms: int, count: int, dtype: torch.dtype) -> Listed:
    """Views of what `list_edges` gave for so many atoms and edges."""
    sizes = 8 * (atoms + 1), 8 * count, 4 * count, 4 * count
    first, slot, neighbor, knot, numbers = edges.split([*sizes, len(edges) - sum(sizes)])
    return Listed(
        first.view(torch.int64),
        slot.view(torch.int64),
        neighbor.view(torch.int32),
        knot.view(torch.int32),
        numbers.view(dtype).reshape(12, count),
    )


def starts(kinds: Tensor, count: int) -> Tensor:
    """Where each kind begins, and the last ends, among kinds that ascend."""
    return torch.searchsorted(kinds, torch.arange(count + 1, device=kinds.device))


def by_kind(kinds: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`starts` of what is in the order of its kinds, and that order, things of a kind in their own;
    kinds from ``count`` on come last and belong to none."""
    found, order = torch.sort(kinds, stable=True)
    return starts(found, count), order


class _Kept(NamedTuple):
    version: int
    kinds: int
    starts: Tensor
    order: Tensor


#: Of indices that are still somewhere: a list of neighbors serves for many steps.
_ORDERS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def in_order_of(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`by_kind`, worked out once for as long as an index is there and nobody writes to it."""
    if index.is_inference():  # such a one does not know whether it was written to
        return by_kind(index, count)
    kept = _ORDERS.get(index)
    if kept is None or (kept.version, kept.kinds) != (index._version, count):
        kept = _Kept(index._version, count, *by_kind(index, count))
        _ORDERS[index] = kept
    return kept.starts, kept.order
