"""Triton's kernels without a GPU: by its interpreter, or compiled for cards that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from eip.kernels import triton_path
from eip.kernels.triton import formulas, launch
from eip.kernels.triton.expressions import Number
from eip.kernels.triton.sources import atoms, edges


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[list[str]]]:
    """Within it, kernels run by the interpreter; which ones is told."""
    assert launch.works_on(torch.zeros(1)), launch.why_not("cpu")
    begin = launch._start

    @contextmanager
    def within() -> Iterator[list[str]]:
        started: list[str] = []

        def start(kernel: object, *arguments: object) -> None:
            started.append(kernel.fn.__name__)  # type: ignore[attr-defined]
            begin(kernel, *arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patched, triton_path():
            patched.setattr(launch, "_start", start)
            yield started

    return within


@pytest.fixture
def wrong_sign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Breaks a formula by its name: the sign of the last number is wrong, in kernels made of it
    too."""

    def spoil(name: str) -> None:
        right = getattr(formulas, name)

        def wrong(d: list[Number], w: list[Number], node: list[Number]) -> list[Number]:
            *others, last = right(d, w, node)
            return [*others, -last]

        monkeypatch.setattr(formulas, name, wrong)

    edges.sums.cache_clear()
    yield spoil
    edges.sums.cache_clear()


@pytest.fixture
def few_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gradients of weights in two parts: in the interpreter every program takes its time."""
    made = edges.table_gradient, atoms.weights_gradient
    for one in made:
        one.cache_clear()
    monkeypatch.setattr(edges, "TABLE_PARTS", 2)
    monkeypatch.setattr(atoms, "WEIGHT_PARTS", 2)
    yield
    for one in made:
        one.cache_clear()
