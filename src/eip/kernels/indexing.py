"""Rows by an index, and their sums, each the other's gradient.

On a CPU and in plain PyTorch they are ``index_select`` and ``index_add``. On a GPU the latter adds
by atomic operations, in an order of chance; the kernel there takes the rows of an index together,
so that the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any

from torch import SymInt, Tensor

from eip.kernels.operators import implement, operator
from eip.kernels.triton import indexing as by_triton
from eip.kernels.triton.launch import works_on


def _plain_sums(rows: Tensor, index: Tensor, count: int | SymInt) -> Tensor:
    return rows.new_zeros(count, *rows.shape[1:]).index_add(0, index, rows)


def _fake_sums(rows: Tensor, index: Tensor, count: int | SymInt) -> Tensor:
    return rows.new_empty(count, *rows.shape[1:])


def _plain_take(rows: Tensor, index: Tensor) -> Tensor:
    return rows.index_select(0, index)


def _setup_sums(ctx: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(arguments[1])


def _backward_sums(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return take(g, *ctx.saved_tensors), None, None


def _setup_take(ctx: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
    rows, index = arguments
    ctx.save_for_backward(index)
    ctx.count = len(rows)


def _backward_take(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return sums(g, *ctx.saved_tensors, ctx.count), None


#: Sums of the rows of each index, ``[count, …]``; differentiable any number of times.
sums = operator(
    "sums_by(Tensor rows, Tensor index, SymInt count) -> Tensor",
    kernel=None,
    plain=_plain_sums,
    fake=_fake_sums,
    setup_context=_setup_sums,
    backward=_backward_sums,
)

#: ``rows[index]``.
take = operator(
    "take(Tensor rows, Tensor index) -> Tensor",
    kernel=None,
    plain=_plain_take,
    fake=lambda rows, index: rows.new_empty(len(index), *rows.shape[1:]),
    setup_context=_setup_take,
    backward=_backward_take,
)

implement("sums_by", "cuda", by_triton.sums, lambda rows, *_: works_on(rows))
# PyTorch's own gathers as well; here for the gradient's sake.
implement("take", "cuda", _plain_take, lambda rows, _: works_on(rows))
