"""The learning rate's course, and which weights decay."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from eip.data import open_frames
from eip.training.optimization import decay_groups, warmup_cosine

from .small import ETHANOL, make_potential


def test_learning_rate_rises_then_falls() -> None:
    factor = warmup_cosine(10, 100, 0.01)
    rates = [factor(step) for step in range(101)]
    assert rates[0] < 0.1 and max(rates) == factor(10) == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.01)


def test_decay_may_leave_biases_and_embeddings_alone(tmp_path: Path) -> None:
    potential = make_potential(open_frames(ETHANOL, cache_dir=tmp_path))
    names = {id(p): name for name, p in potential.named_parameters()}
    (everything,) = decay_groups(potential, 0.1, matrices=False)
    assert len(everything["params"]) == len(names) and everything["weight_decay"] == 0.1
    decaying, others = decay_groups(potential, 0.1, matrices=True)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    left_alone = {names[id(p)] for p in others["params"]}
    assert left_alone == {n for n in names.values() if n.endswith("bias") or "embedding" in n}
    assert len(decaying["params"]) + len(left_alone) == len(names)
