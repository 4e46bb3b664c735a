"""Weights in the order in which the kernels read them."""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.kernels.build import Library, kernels_for, pointer

T = TypeVar("T")


def panels(lib: Library, matrix: Float[Tensor, "depth columns"]) -> Float[Tensor, "_"]:
    """A matrix as the panels that simd.h's ``matmul`` takes on its right."""
    matrix = matrix.contiguous()
    depth, columns = matrix.shape
    out = torch.empty(depth * columns, dtype=matrix.dtype)
    lib.function("pack", matrix.dtype)(
        pointer(matrix),
        *(ctypes.c_int64(value) for value in (depth, columns, columns, 1)),
        pointer(out),
    )
    return out


class Packable(nn.Module, Generic[T]):
    """A module whose kernels read its weights in an order of their own.

    Whether weights have changed cannot be seen (writing through ``.data`` leaves no trace, and
    averages of weights are written so), so they are packed anew for each call. A module that
    nobody can reach any more, inside a `eip.potential.PreparedPotential`, keeps what it packed.
    """

    channels: int
    _kept: T | None = None

    def kernels(self, array: Tensor) -> Library | None:
        """The kernels, if they can work on this array and take this width."""
        lib = kernels_for(array)
        return lib if lib is not None and lib.chunk(self.channels, array.dtype) > 0 else None

    @abstractmethod
    def pack(self, lib: Library) -> T:
        """A copy of the weights as they are now, as the kernels read them."""

    def packed(self, lib: Library) -> T:
        """What the kernels read at this call."""
        if self._kept is not None:
            return self._kept
        with torch.no_grad():
            return self.pack(lib)

    def keep_packed(self) -> None:
        """Packs once and for all; whoever calls this sees to it that no weight changes any more."""
        floating = (t for t in self.state_dict().values() if t.is_floating_point())
        lib = self.kernels(next(floating))
        with torch.no_grad():
            self._kept = None if lib is None else self.pack(lib)

    def __getstate__(self) -> dict[str, Any]:
        # Addresses mean nothing in a copy, whose weights may change.
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}
