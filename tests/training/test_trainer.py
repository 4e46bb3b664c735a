"""The training loop: exact resume, blame for bad labels, averaging, seeds."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eip.data import GraphDataset, open_frames
from eip.errors import InputError
from eip.training.checkpoints import read_checkpoint
from eip.training.loss import Loss
from eip.training.module import NonFiniteLoss, TrainingModule
from eip.training.trainer import train
from eip.uncertainty.evidential import EvidenceMethod
from eip.uncertainty.names import METHODS

from .small import ETHANOL, SETTINGS, WATER, make_potential, run, script_losses, sets, weights

HEADS = [n for n in METHODS.names() if isinstance(METHODS.get(n), EvidenceMethod)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    return open_frames(ETHANOL, cache_dir=tmp_path_factory.mktemp("frames"))


@pytest.mark.parametrize("head", HEADS)
def test_each_head_learns(store, tmp_path: Path, head: str) -> None:
    settings = SETTINGS.replace(epochs=8, learning_rate=1e-2)
    _, result = run(store, tmp_path, settings, head=head)
    maes = [row["val_force_mae"] for row in result.history]
    assert maes[-1] < 0.95 * maes[0]
    assert result.ending == "finished" and result.epochs == 8


def test_training_is_a_function_of_its_seeds(store, tmp_path: Path) -> None:
    one, other, third = (
        run(store, tmp_path / str(i), SETTINGS.replace(seed=seed))[0]
        for i, seed in enumerate((0, 0, 1))
    )
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    assert not torch.equal(weights(one), weights(third))


def test_training_leaves_the_callers_random_numbers_alone(store, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(store, tmp_path)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[2])))
import torch
torch.set_num_threads(1)
import small as t
import lightning.pytorch as pl
from eip.data import open_frames

class Killer(pl.Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 8:   # in the middle of the third epoch
            os.kill(os.getpid(), signal.SIGKILL)

import eip.training.trainer as trainer_module
made = trainer_module.pl.Trainer
trainer_module.pl.Trainer = lambda callbacks, **k: made(callbacks=[*callbacks, Killer()], **k)
t.run(open_frames(t.ETHANOL), Path(sys.argv[1]))
"""


def test_killed_and_resumed_equals_uninterrupted(store, tmp_path: Path) -> None:
    whole, whole_result = run(store, tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), str(Path(__file__).parent)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "killed/checkpoints/last.ckpt").exists()
    # Other initial weights: all that counts must come from the checkpoint.
    resumed, result = run(store, tmp_path / "killed", resume=True, seed=5)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert result.history == whole_result.history
    lines = [
        list(csv.reader((tmp_path / name / "train.csv").open())) for name in ("whole", "killed")
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 1 + SETTINGS.epochs


def test_epochs_of_batches_by_size_are_whole(tmp_path: Path, monkeypatch) -> None:
    store = open_frames([ETHANOL, WATER], cache_dir=tmp_path / "frames")
    order = np.random.default_rng(0).permutation(len(store))
    training, validation = (GraphDataset(store, i, cutoff=4.0) for i in (order[:30], order[30:36]))
    epochs: list[list[str]] = [[]]
    step, end = TrainingModule.training_step, TrainingModule.on_validation_epoch_end

    def counted_step(self, batch, index):
        epochs[-1].extend(batch.sources)
        return step(self, batch, index)

    def counted_end(self):
        epochs.append([])
        end(self)

    monkeypatch.setattr(TrainingModule, "training_step", counted_step)
    monkeypatch.setattr(TrainingModule, "on_validation_epoch_end", counted_end)
    settings = SETTINGS.replace(epochs=5, max_atoms=50)
    train(make_potential(store), training, validation, settings, tmp_path / "run", progress=False)
    assert epochs.pop() == [] and len(epochs) == settings.epochs
    assert all(sorted(seen) == sorted(epochs[0]) and len(set(seen)) == 30 for seen in epochs)


def test_resuming_a_finished_run_changes_nothing(store, tmp_path: Path) -> None:
    potential, _ = run(store, tmp_path)
    again, result = run(store, tmp_path, resume=True, seed=3)
    torch.testing.assert_close(weights(again), weights(potential), rtol=0, atol=0)
    assert result.epochs == SETTINGS.epochs


def test_checkpoints_open_without_unpickling_code(store, tmp_path: Path) -> None:
    run(store, tmp_path)
    for name in ("last", "best"):
        torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True)


def test_frames_of_a_non_finite_loss_are_named(store, tmp_path: Path) -> None:
    training, validation = sets(store)
    broken = GraphDataset.__getitem__

    class Broken(GraphDataset):
        def __getitem__(self, index: int):
            batch = broken(self, index)
            if index == 5:
                return replace(batch, forces=batch.forces * torch.nan)
            return batch

    training.__class__ = Broken
    with pytest.raises(NonFiniteLoss, match=r"loss is nan in epoch 1; .*ethanol_300K\.xyz#5"):
        train(make_potential(store), training, validation, SETTINGS, tmp_path, progress=False)


def test_early_stopping(store, tmp_path: Path) -> None:
    settings = SETTINGS.replace(
        epochs=30, patience=2, learning_rate=1e-30, minimum_learning_rate=0.0
    )
    _, result = run(store, tmp_path, settings)
    # At this rate no weight changes.
    assert result.ending == "early" and result.epochs < 30


@pytest.mark.parametrize(
    ("losses", "best"),
    [((3.0, 1.0, 2.0, 5.0), 2), ((1.0, 1.0, 2.0, 1.0), 1), ((4.0, 3.0, 2.0, 1.0), 4)],
)
def test_best_weights_are_kept_not_the_last(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], best: int
) -> None:
    script_losses(monkeypatch, losses)
    after = []
    ended = TrainingModule.on_train_epoch_end

    def kept(self: TrainingModule) -> None:
        ended(self)
        after.append(weights(self.potential).clone())

    monkeypatch.setattr(TrainingModule, "on_train_epoch_end", kept)
    # Without an average the weights of an epoch are those that were trained.
    potential, result = run(store, tmp_path, SETTINGS.replace(ema_decay=0.0))
    assert (result.best_epoch, result.best_loss) == (best, min(losses))
    assert [row["val_loss"] for row in result.history] == list(losses)
    torch.testing.assert_close(weights(potential), after[best - 1], rtol=0, atol=0)
    assert len({tuple(w[:50].tolist()) for w in after}) == len(losses)
    saved = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert saved["epoch"] == best - 1


def test_stress_is_learned_where_it_is_asked_for(tmp_path: Path) -> None:
    store = open_frames(WATER, cache_dir=tmp_path)
    potential = make_potential(store)
    training = GraphDataset(store, np.arange(6), cutoff=4.0)
    batch = training[0]

    def stress_error() -> float:
        predicted = potential(batch.graph, stress=True).stress
        return float((predicted - batch.stress).abs().mean())

    before = stress_error()
    settings = SETTINGS.replace(
        epochs=12, batch_size=2, learning_rate=2e-2, energy_weight=0.0,
        force_weight=1e-3, stress_weight=10.0,
    )  # fmt: skip
    train(potential, training, training, settings, tmp_path / "run", progress=False)
    assert stress_error() < 0.5 * before


def test_a_stress_that_is_asked_for_and_missing_is_not_passed_over(store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training needs stress, but frames .*ethanol_300K\.xyz#"):
        run(store, tmp_path, SETTINGS.replace(stress_weight=1.0))


def test_wrong_settings_are_refused(store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'ema_decay' should be less than 1, got 1.5"):
        run(store, tmp_path, SETTINGS.replace(ema_decay=1.5))


def test_the_best_epoch_may_be_that_of_the_forces(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss is told to be best in epoch 2; of the forces the last epoch is, or near it.
    script_losses(monkeypatch, (3.0, 1.0, 2.0, 5.0))
    settings = SETTINGS.replace(ema_decay=0.0)
    chosen = {}
    for selection, column in (("loss", "val_loss"), ("force_rmse", "val_force_rmse")):
        potential, result = run(store, tmp_path / selection, settings.replace(selection=selection))
        values = [row[column] for row in result.history]
        assert result.best_epoch == 1 + values.index(min(values))
        assert result.best_loss == result.history[result.best_epoch - 1]["val_loss"]
        saved = read_checkpoint(tmp_path / selection / "checkpoints/best.ckpt")
        assert saved["epoch"] == result.best_epoch - 1
        chosen[selection] = result.best_epoch, weights(potential)
    # Else nothing was shown.
    assert chosen["loss"][0] != chosen["force_rmse"][0]
    assert not torch.equal(chosen["loss"][1], chosen["force_rmse"][1])


def test_without_forces_the_loss_chooses_the_best_epoch(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_losses(monkeypatch, (3.0, 1.0, 2.0, 5.0))
    settings = SETTINGS.replace(force_weight=0.0, selection="force_rmse")
    _, result = run(store, tmp_path, settings)
    assert np.isnan([row["val_force_rmse"] for row in result.history]).all()
    assert result.best_epoch == 2


def test_the_energy_may_count_more_in_the_last_fifth(store, tmp_path: Path, monkeypatch) -> None:
    met = []
    call = Loss.__call__

    def spy(self: Loss, *arguments: object) -> object:
        met.append(self.energy_weight)
        return call(self, *arguments)

    monkeypatch.setattr(Loss, "__call__", spy)
    settings = SETTINGS.replace(epochs=5, energy_weight=0.01, final_energy_weight=2.0)
    run(store, tmp_path, settings)
    # Three steps of training and one of validation an epoch.
    assert met == [0.01] * 16 + [2.0] * 3 + [0.01]


def test_other_schedules_and_amsgrad_train(store, tmp_path: Path) -> None:
    settings = SETTINGS.replace(schedule="constant", amsgrad=True, decayed="matrices")
    _, result = run(store, tmp_path, settings)
    rates = [row["learning_rate"] for row in result.history]
    assert rates[1:] == [pytest.approx(settings.learning_rate)] * 3
    state = read_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert "max_exp_avg_sq" in state["optimizer_states"][0]["state"][0]
