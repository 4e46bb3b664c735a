"""How many epochs an effort is, and how many frames a step."""

from __future__ import annotations

import numpy as np
import pytest

from eip.data import GraphDataset, open_frames
from eip.training.settings import EFFORTS, TrainingSettings
from eip.training.trainer import planned
from tests.training.small import ETHANOL, WATER


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_is_about_a_number_of_steps(effort: str) -> None:
    settings = TrainingSettings(effort=effort)
    assert settings.epochs_of(90) * 90 == pytest.approx(EFFORTS[effort], rel=0.01)
    # More frames than steps are still gone through once, and a handful not thousands of times.
    assert settings.epochs_of(10**6) == 1
    assert settings.epochs_of(1) == EFFORTS[effort] / 10


def test_given_epochs_go_before_the_effort() -> None:
    assert TrainingSettings(effort="best", epochs=7).epochs_of(90) == 7


@pytest.mark.parametrize(
    ("atoms", "frames"), [(3.0, 5), (50.0, 5), (60.0, 4), (192.0, 1), (5000.0, 1)]
)
def test_large_frames_are_fewer_in_a_step(atoms: float, frames: int) -> None:
    assert TrainingSettings().frames_of_a_step(atoms) == frames
    assert TrainingSettings(batch_size=64).frames_of_a_step(atoms) == 64


def test_each_device_has_a_frame() -> None:
    assert TrainingSettings().frames_of_a_step(192.0, devices=4) == 4


def test_a_plan_is_of_the_frames(tmp_path) -> None:
    for path, frames in ((ETHANOL, 5), (WATER, 5)):
        store = open_frames(path, cache_dir=tmp_path)
        dataset = GraphDataset(store, np.arange(40), cutoff=4.0)
        plan = planned(TrainingSettings(effort="quick", device="cpu"), dataset)
        assert (plan.batch_size, plan.epochs) == (frames, round(5000 / max(10, 40 / frames)))
        assert planned(plan, dataset) == plan
    by_size = planned(TrainingSettings(max_atoms=90, device="cpu"), dataset)
    assert by_size.batch_size is None and by_size.epochs is not None
