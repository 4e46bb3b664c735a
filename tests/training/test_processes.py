"""Several processes train one potential as one process does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from eip.config import load_config
from eip.data import GraphDataset, fit_element_energies, force_rms, open_frames
from eip.data.store import write_store
from eip.model_file import read_model_info
from eip.training.module import NonFiniteLoss
from eip.training.settings import TrainingSettings
from eip.training.trainer import seeded, train
from eip.uncertainty.evidential import EvidentialPotential
from eip.verbs.train import train as train_verb

DATA = Path(__file__).parents[2] / "examples/data"
ETHANOL, WATER = DATA / "ethanol_300K.xyz", DATA / "water_300K.xyz"
# Frames that two processes cannot share evenly: 13 by batches of 4, validation of 5.
SETTINGS = TrainingSettings(epochs=3, batch_size=4, ema_decay=0.9, warmup_epochs=0.5, device="cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    """Molecules of one size and water of another: means over atoms and frames differ."""
    folder = tmp_path_factory.mktemp("mixed")
    frames = []
    for path in (ETHANOL, WATER):
        frames += [f for f, _ in zip(open_frames(path, cache_dir=folder), range(9), strict=False)]
    order = np.random.default_rng(0).permutation(len(frames))
    return write_store((frames[i] for i in order), folder / "store")


def run(store, folder: Path, settings):
    with seeded(0):
        potential = EvidentialPotential(
            elements=store.elements,
            element_energies=fit_element_energies(store),
            force_scale=force_rms(store),
            head="tensor",
            channels=8,
            interactions=2,
            cutoff=4.0,
        )
    sets = (
        GraphDataset(store, np.arange(13), cutoff=4.0),
        GraphDataset(store, np.arange(13, 18), cutoff=4.0),
    )
    return potential, train(potential, *sets, settings, folder, progress=False)


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory: pytest.TempPathFactory):
    return run(store, tmp_path_factory.mktemp("alone"), SETTINGS)


def test_two_devices_train_as_one(store, alone, tmp_path: Path) -> None:
    potential, result = run(store, tmp_path, SETTINGS.replace(devices=2))
    expected, reference = alone
    assert result.ending == "finished" and len(result.history) == SETTINGS.epochs
    for row, other in zip(result.history, reference.history, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            assert row[key] == pytest.approx(other[key], rel=2e-3), key
    # Sums of float32 in another order: far below what a wrong weight of the shares would do.
    for one, other in zip(potential.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


def test_batches_by_atoms_on_two_devices(store, tmp_path: Path) -> None:
    _, result = run(store, tmp_path, SETTINGS.replace(devices=2, max_atoms=100))
    losses = [row["val_loss"] for row in result.history]
    assert result.ending == "finished" and losses[-1] < losses[0]


def test_a_bad_label_is_named_from_another_process(store, tmp_path: Path) -> None:
    frames = list(store)
    bad = [replace(f, forces=f.forces * 1e300) if i == 3 else f for i, f in enumerate(frames)]
    with pytest.raises(NonFiniteLoss, match=r"the step's frames were .*#"):
        run(write_store(bad, tmp_path / "bad"), tmp_path / "run", SETTINGS.replace(devices=2))


@pytest.mark.slow
def test_processes_of_a_launcher(tmp_path: Path) -> None:
    """As under Slurm: each process runs the command line, the first alone writes."""
    for name in ("together", "alone"):
        settings = {
            "run_dir": str(tmp_path / name),
            "data": {"train": [str(ETHANOL)], "validation": 7},
            "model": {"channels": 8, "interactions": 1, "cutoff": 3.0, "latent_distance": False},
            "training": {"epochs": 2, "batch_size": 8, "device": "cpu"},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                "--master-port", "29613", "-m"]  # fmt: skip
    done = subprocess.run(
        [*launcher, "eip", "train", str(tmp_path / "together.yaml"), "--no-progress"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    train_verb(load_config(tmp_path / "alone.yaml"), progress=False)
    one, other = (
        read_model_info(tmp_path / name / "model.eip")["info"]["metrics"]
        for name in ("together", "alone")
    )
    assert one["force_mae"] == pytest.approx(other["force_mae"], rel=1e-3)
    again = subprocess.run(
        [*launcher, "eip", "train", str(tmp_path / "together.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode != 0 and again.stderr.count("is not empty") == 1
