"""Source of the kernel that sums rows by an index."""

from __future__ import annotations

import functools
from typing import Any

from eip.kernels.triton.sources.text import COMPILED, program


@functools.cache
def sums() -> Any:
    """Sums of the rows of each kind, in the order of ``order``, in parts:
    ``[parts, kinds, F]``."""
    body = """
    part, kind = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    start = tl.load(first + kind)
    count = tl.load(first + kind + 1) - start
    begin = start + count * part // PARTS
    end = start + count * (part + 1) // PARTS
    added = tl.zeros([BE, BF], out.dtype.element_ty)
    for at in range(begin, end, BE):
        e = at + tl.arange(0, BE)[:, None]
        row = tl.load(order + e, mask=e < end, other=0) * F + c
        added += tl.load(rows + row, mask=(e < end) & wide, other=0.0)
    place = (part * kinds + kind).to(tl.int64) * F + c
    tl.store(out + place, tl.sum(added, axis=0, keep_dims=True), mask=wide)
"""
    sizes = ["kinds", *COMPILED, "PARTS: tl.constexpr"]
    return program("sums_by", ["first", "order", "rows", "out"], sizes, body)
