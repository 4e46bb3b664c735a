"""Edges of a structure looked for where its positions are, on a GPU, by vesin."""

from __future__ import annotations

import warnings

import torch
import vesin
from jaxtyping import Float, Int, Shaped
from torch import Tensor

#: Centers, neighbors, shifts.
Edges = tuple[Int[Tensor, "edges"], Int[Tensor, "edges"], Shaped[Tensor, "edges 3"]]


class NeighborWarning(RuntimeWarning):
    """Neighbor lists are built on the CPU where a GPU should."""


#: Why vesin cannot; one reason is enough.
_FAILURES: list[str] = []


def can_search_on(device: torch.device) -> bool:
    """Whether vesin can search on a device: a card of NVIDIA's, on which it has not failed yet."""
    return device.type == "cuda" and torch.version.hip is None and not _FAILURES


def search_on_device(
    positions: Float[Tensor, "atoms 3"], cell: Float[Tensor, "3 3"], cutoff: float
) -> Edges | None:
    """All pairs closer than the cutoff, of a structure that is periodic in all directions.

    Sorted by centre, then neighbor, then image: a card finds them in an order of chance.

    Args:
        positions, cell: Å, float64, on one device; the cell has a volume.

    Returns:
        centers, neighbors and shifts there; None, with one warning, if vesin fails.
    """
    # Atoms many cells away are brought home first: the images searched start from the cell.
    wraps = torch.floor(positions @ torch.linalg.inv(cell))
    try:
        pairs, images = vesin.NeighborList(cutoff=cutoff, full_list=True).compute(
            points=positions - wraps @ cell, box=cell, periodic=True, quantities="PS"
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # no compiler of CUDA's, or more pairs than it made room for
        _FAILURES.append(" ".join(str(error).split())[:300])
        warnings.warn(
            "neighbor lists are built on the CPU, several times slower, since vesin cannot on the "
            f"GPU: {_FAILURES[-1]}",
            NeighborWarning,
            stacklevel=2,
        )
        return None
    pairs, images = pairs.view(torch.int64), images.long()
    order = torch.arange(len(pairs), device=pairs.device)
    for key in (*images.unbind(1), pairs[:, 0] * len(positions) + pairs[:, 1]):
        order = order.index_select(0, torch.argsort(key.index_select(0, order), stable=True))
    centers, neighbors = pairs.index_select(0, order).unbind(1)
    shifts = images.index_select(0, order).double()
    shifts += wraps.index_select(0, centers) - wraps.index_select(0, neighbors)
    return centers.contiguous(), neighbors.contiguous(), shifts.float()
