"""Memory that is used again step after step."""

from __future__ import annotations

import ctypes
import functools
import mmap
import threading

import numpy as np
import torch
from torch import Tensor


class Workspace:
    """Lends memory, which comes back by itself when nothing needs it any more.

    Fresh memory would have its pages mapped and zeroed by the system at every step, which costs
    as much as a tenth of the step.
    """

    #: What is more, together, is freed: a large system takes long, and wants memory elsewhere.
    KEEP_BYTES = 2**28

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = threading.Lock()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """An array of so many numbers, of any content."""
        buffer = self._kept(count, dtype)
        if buffer is None:
            buffer = torch.empty(count, dtype=dtype)
            _advise_huge_pages(buffer)
        lent = buffer[:count].numpy().view(_Lent)
        lent.workspace, lent.buffer = self, buffer
        # Whoever holds the array's memory, autograd say, holds `lent`.
        return torch.from_numpy(lent)

    def _kept(self, count: int, dtype: torch.dtype) -> Tensor | None:
        with self._lock:
            fits = [b for b in self._free if b.dtype == dtype and count <= b.numel() <= 2 * count]
            if not fits:
                return None
            smallest = min(fits, key=Tensor.numel)
            self._free = [b for b in self._free if b is not smallest]
            return smallest

    def give_back(self, buffer: Tensor) -> None:
        with self._lock:
            kept: list[Tensor] = []
            for one in [buffer, *reversed(self._free)]:
                if sum(b.nbytes for b in kept) + one.nbytes <= self.KEEP_BYTES and len(kept) < 8:
                    kept.insert(0, one)
            self._free = kept


class _Lent(np.ndarray):
    """Part of a workspace's buffer."""

    workspace: Workspace
    buffer: Tensor

    def __del__(self) -> None:
        if "workspace" in self.__dict__:  # no view of a lent array
            self.workspace.give_back(self.buffer)


def _advise_huge_pages(array: Tensor) -> None:
    """Asks the system for large pages where there are any: mapping small ones takes longer than
    the sums that a large array is for."""
    size = 2**21
    start = -(-array.data_ptr() // size) * size
    length = (array.data_ptr() + array.nbytes - start) // size * size
    madvise = getattr(_c_library(), "madvise", None)
    if length > 0 and madvise is not None and hasattr(mmap, "MADV_HUGEPAGE"):
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
