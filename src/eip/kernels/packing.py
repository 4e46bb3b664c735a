"""Weights in the order in which the kernels read them, in one array that says where each lies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from eip.kernels.build import Library
from eip.kernels.operators import operator

T = TypeVar("T")

#: Arrays begin on a cache line.
_LINE = 64


def _panels(lib: Library, matrix: Tensor) -> Tensor:
    matrix = matrix.contiguous()
    depth, columns = matrix.shape
    out = matrix.new_empty(depth * columns)
    lib.call("pack", matrix.dtype, matrix, depth, columns, columns, 1, out)
    return out


#: A matrix, ``[depth, columns]``, as the panels that simd.h's ``matmul`` takes on its right.
panels = operator(
    "panels(Tensor matrix) -> Tensor",
    kernel=_panels,
    plain=lambda matrix: matrix.flatten().clone(),
    fake=lambda matrix: matrix.new_empty(matrix.numel()),
)


def both_ways(name: str, weight: Float[Tensor, "out in"] | None) -> dict[str, Tensor | None]:
    """A linear map as panels, and its transpose for the gradient."""
    if weight is None:
        return {name: None, f"{name}_back": None}
    return {name: panels(weight.T), f"{name}_back": panels(weight)}


def in_order(lib: Library, struct: str, arrays: Mapping[str, T]) -> list[T]:
    """Arrays by name in the order of a struct of the C++ sources, which alone says it.

    Raises:
        KeyError: if they are not those of the struct.
    """
    fields = lib.fields(struct)
    if set(fields) != set(arrays):
        raise KeyError(f"{struct} has {', '.join(fields)}; got {', '.join(arrays)}")
    return [arrays[name] for name in fields]


def block(arrays: Sequence[Tensor | None]) -> UInt8[Tensor, "bytes"]:
    """Arrays behind each other: where each begins, in bytes (0: there is none), then they (see
    kernels/packed.h)."""
    offsets, at = [], _up(8 * len(arrays))
    for array in arrays:
        offsets.append(0 if array is None else at)
        at += 0 if array is None else _up(array.nbytes)
    parts = [torch.tensor(offsets), *(array for array in arrays if array is not None)]
    raw = [part.detach().contiguous().reshape(-1).view(torch.uint8) for part in parts]
    return torch.cat([nn.functional.pad(part, (0, _up(len(part)) - len(part))) for part in raw])


def _up(size: int) -> int:
    return -(-size // _LINE) * _LINE


def addresses(block: Tensor, count: int) -> list[int | None]:
    """Of the arrays in a `block`."""
    at = block.data_ptr()
    offsets = block[: 8 * count].view(torch.int64).tolist()
    return [at + offset if offset else None for offset in offsets]


class Packable(nn.Module):
    """A module whose kernels read its weights in an order of their own.

    Whether weights have changed cannot be seen (writing through ``.data`` leaves no trace, and
    averages of weights are written so), so they are packed anew for each call. A module that
    nobody can reach any more, inside a `eip.potential.PreparedPotential`, keeps what it packed.
    """

    _kept: tuple[list[Tensor], Tensor | None] | None = None

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """The arrays that its operator takes."""

    @abstractmethod
    def pack(self) -> Tensor | None:
        """A `block` of the weights as they are now; None where no kernel would read it."""

    def arrays(self) -> tuple[list[Tensor], Tensor | None]:
        """Weights, and what was packed of them; None: to be packed at this call."""
        return (self.weights(), None) if self._kept is None else self._kept

    def keep_packed(self) -> None:
        """Packs once and for all; whoever calls this sees to it that no weight changes any more."""
        with torch.no_grad():
            self._kept = self.weights(), self.pack()

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights may change.
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}
