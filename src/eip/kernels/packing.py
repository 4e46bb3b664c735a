"""Weights in the order in which the kernels read them, kept until the weights change."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.kernels.build import Library, pointer

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


class PackedWeights(Generic[T]):
    """What was made of a module's weights, made anew when they have changed.

    It is kept beside the module, not in it: addresses must not be copied or saved with it.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[float, ...], T]] = (
            weakref.WeakKeyDictionary()
        )
        # Walking the submodules of a small network takes as long as a layer of it. Their tables of
        # parameters stay the same objects when a parameter is exchanged.
        self._tables: weakref.WeakKeyDictionary[nn.Module, list[Mapping[str, Tensor | None]]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, module: nn.Module, make: Callable[[], T]) -> T:
        """The packed weights of a module, or what ``make`` makes of them now."""
        tables = self._tables.get(module)
        if tables is None:
            tables = self._tables[module] = [one._parameters for one in module.modules()]
        weights = [p for table in tables for p in table.values() if p is not None]
        version = (
            # Averaging of weights writes through .data, which versions do not tell.
            float(weights[0].detach().sum()),
            *(
                part
                for p in weights
                for part in (p.data_ptr(), 0 if p.is_inference() else p._version)
            ),
        )
        known = self._made.get(module)
        if known is None or known[0] != version:
            with torch.no_grad():
                known = version, make()
            self._made[module] = known
        return known[1]
