"""Triton's kernels without a GPU: by its interpreter, or compiled for cards that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from eip.kernels import triton_path
from eip.kernels.triton import launch
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
