"""Training where energies or forces are all that there is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import eip
from eip.config import load_config
from eip.errors import InputError
from eip.model_file import load_model

Frames = Callable[..., Path]

CONFIG = """
run_dir: {run}
data: {{train: {train}, validation: {validation}, test: {train}}}
model: {{channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.5, uncertainty: {method}}}
training: {{epochs: 2, device: cpu, energy_weight: {energy}, force_weight: {force}}}
"""


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    def make(*labels: str) -> Path:
        rng = np.random.default_rng(0)
        made: list[Atoms] = []
        for _ in range(16):
            atoms = molecule("CH3OH")
            atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
            values = {"energy": -600.0 + rng.normal(), "forces": rng.normal(size=(6, 3))}
            given = {label: values[label] for label in labels}
            atoms.calc = SinglePointCalculator(atoms, **given)
            made.append(atoms)
        path = tmp_path / "train.xyz"
        write(path, made)
        return path

    return make


def trained(
    train: Path,
    *,
    method: str = "none",
    energy: float = 1.0,
    force: float = 1.0,
    validation: int = 4,
) -> tuple[Path, list[str]]:
    run, said = train.parent / "run", []
    text = CONFIG.format(
        run=run, train=train, method=method, energy=energy, force=force, validation=validation
    )
    (train.parent / "config.yaml").write_text(text)
    config = load_config(train.parent / "config.yaml")
    eip.train(config, progress=False, log=lambda message: said.append(str(message)))
    return run, said


def test_on_energies_alone(frames: Frames) -> None:
    run, _ = trained(frames("energy"), force=0.0)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["force_mae"] is None and math.isfinite(metrics["energy_mae_per_atom"])
    assert (run / "report.html").is_file()
    prediction = load_model(run / "model.eip").predict(molecule("CH3OH"))
    assert abs(float(prediction.energy[0]) + 600.0) < 10.0
    assert prediction.forces is not None and prediction.forces.abs().max() > 0


def test_on_forces_alone(frames: Frames) -> None:
    run, said = trained(frames("forces"), method="tensor", energy=0.0)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["energy_mae_per_atom"] is None and math.isfinite(metrics["force_mae"])
    assert (run / "report.html").is_file()
    assert any("differences only" in line for line in said)
    potential = load_model(run / "model.eip")
    said_of = potential.predict(molecule("CH3OH"))
    assert said_of.force_uncertainty is not None and said_of.energy_uncertainty is None


def test_on_both_it_is_said_what_energies_leave_open(frames: Frames) -> None:
    run, said = trained(frames("energy", "forces"), method="isotropic", validation=10)
    text = "Energies of C, H and O cannot be told apart: all training frames have the composition"
    assert sum(line.startswith(text) for line in said) == 1
    assert any("error bar" in line and "other compositions" in line for line in said)
    assert load_model(run / "model.eip").predict(molecule("CH4")).energy_uncertainty > 100.0


@pytest.mark.parametrize(
    ("labels", "missing", "way"),
    [
        (("energy",), "forces", "training.force_weight: 0 and model.uncertainty: none"),
        (("forces",), "energy", "training.energy_weight: 0"),
    ],
)
def test_without_being_asked_for_it_is_refused_with_the_way_to_do_it(
    frames: Frames, labels: tuple[str, ...], missing: str, way: str
) -> None:
    with pytest.raises(InputError, match=rf"train\.xyz#0 has no {missing}") as refused:
        trained(frames(*labels), method="tensor")
    assert way in str(refused.value)


@pytest.mark.parametrize(
    ("energy", "force", "method", "message"),
    [
        (0.0, 0.0, "none", "both 0"),
        (1.0, 0.0, "tensor", "σ is learned from forces"),
        (0.0, 1.0, "global", "learned from energies"),
    ],
)
def test_what_cannot_be_learned_is_refused_at_once(
    frames: Frames, energy: float, force: float, method: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        trained(frames("energy", "forces"), method=method, energy=energy, force=force)


def test_a_model_is_evaluated_on_the_labels_that_there_are(frames: Frames, tmp_path: Path) -> None:
    run, _ = trained(frames("energy", "forces"), method="tensor")
    metrics = eip.evaluate(run / "model.eip", [frames("energy")], tmp_path / "e", progress=False)
    assert math.isfinite(metrics["energy_mae_per_atom"]) and math.isnan(metrics["force_mae"])
    with pytest.raises(InputError, match="has no energy"):
        eip.evaluate(run / "model.eip", [frames()], tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()
