"""`eip.kernels.indexing` by Triton's kernels."""

from __future__ import annotations

from torch import Tensor

from eip.kernels.triton.edges import in_order_of
from eip.kernels.triton.launch import Blocks, launch, rows_at_once
from eip.kernels.triton.sources import indexing as sources

#: In how many parts the rows of a kind are summed, where there are few kinds: each may be large.
_PARTS, _FEW = 32, 1024


def sums(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """See `eip.kernels.indexing.sums`."""
    if count == 1:  # PyTorch's own sum of all rows has no atomics
        return rows.sum(dim=0, keepdim=True)
    shape = rows.shape[1:]
    rows = rows.reshape(len(rows), -1).contiguous()
    columns = rows.shape[1]
    parts = _PARTS if count <= _FEW else 1
    out = rows.new_empty(parts, count, columns)
    arrays = *in_order_of(index, count), rows, out
    wide = _blocks(columns)
    launch(sources.sums(), parts * count, wide, *arrays, count, columns, PARTS=parts)
    found = out[0] if parts == 1 else out.sum(0)
    return found.reshape(count, *shape)


def _blocks(columns: int) -> Blocks:
    """As wide as there are columns, up to a power of two."""
    wide = min(64, 1 << (columns - 1).bit_length())
    return Blocks(wide, rows_at_once(wide), -(-columns // wide))
