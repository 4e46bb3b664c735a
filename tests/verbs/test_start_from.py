"""Training that begins with the weights of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from typer.testing import CliRunner

import eip
from eip.cli.app import app
from eip.config import load_config
from eip.errors import InputError

CONFIG = """
run_dir: {run}
data: {{train: {train}, validation: 4}}
model:
  backbone: {{name: painn, channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.5}}
  latent_distance: false
training: {{epochs: 1, device: cpu, learning_rate: {rate}, ema_decay: 0.0}}
"""

#: Steps of this size change nothing.
NOTHING = "1.0e-30"


def frames(path: Path, name: str = "CH3OH", shift: float = 0.0) -> Path:
    rng = np.random.default_rng(0)
    made: list[Atoms] = []
    for _ in range(16):
        atoms = molecule(name)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        forces = rng.normal(size=atoms.positions.shape)
        atoms.calc = SinglePointCalculator(
            atoms, energy=-600.0 + shift + rng.normal(), forces=forces - forces.mean(axis=0)
        )
        made.append(atoms)
    write(path, made)
    return path


def trained(folder: Path, train: Path, *overrides: str, rate: str = "1e-2") -> tuple[Path, str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG.format(run=folder / "run", train=train, rate=rate))
    said: list[str] = []
    config = load_config(folder / "config.yaml", overrides)
    eip.train(config, progress=False, log=lambda message: said.append(str(message)))
    return folder / "run/model.eip", "\n".join(said)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    return trained(folder, frames(folder / "train.xyz"))[0]


def predicted(model: Path) -> eip.Prediction:
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=3)
    return eip.load(model).predict([atoms])


def test_weights_are_the_models_and_energies_those_of_the_frames(
    begun: Path, tmp_path: Path
) -> None:
    train = frames(tmp_path / "train.xyz", shift=50.0)
    model, said = trained(tmp_path, train, f"model.start_from={begun}", rate=NOTHING)
    assert f"Training begins with the weights of {begun}." in said
    before, after = predicted(begun), predicted(model)
    torch.testing.assert_close(after.forces, before.forces)
    # The level of theory differs by a constant, which is no work for the network.
    said_of = eip.load(model).predict(read(train, index=":"), forces=False)
    assert float(said_of.energy.mean()) == pytest.approx(-550.0, abs=1.0)


def test_training_goes_on_from_there(begun: Path, tmp_path: Path) -> None:
    train = frames(tmp_path / "train.xyz")
    model, _ = trained(tmp_path, train, f"model.start_from={begun}")
    assert not torch.equal(predicted(model).forces, predicted(begun).forces)


def test_another_method_takes_the_network_alone(begun: Path, tmp_path: Path) -> None:
    train = frames(tmp_path / "train.xyz")
    options = f"model.start_from={begun}", "model.uncertainty=mve"
    model, said = trained(tmp_path, train, *options, rate=NOTHING)
    assert "but for head" in said
    torch.testing.assert_close(predicted(model).forces, predicted(begun).forces)


def test_each_member_of_an_ensemble_begins_with_it(begun: Path, tmp_path: Path) -> None:
    train = frames(tmp_path / "train.xyz")
    options = f"model.start_from={begun}", "model.uncertainty=ensemble", "model.members=2"
    model, _ = trained(tmp_path, train, *options, rate=NOTHING)
    torch.testing.assert_close(predicted(model).forces, predicted(begun).forces)


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("CH3OH", "model.backbone.channels=16", "has the backbone"),
        ("CH3Cl", None, "the training frames hold Cl"),
    ],
)
def test_what_does_not_fit_is_refused(
    begun: Path, tmp_path: Path, name: str, option: str | None, said: str
) -> None:
    train = frames(tmp_path / "train.xyz", name)
    options = [f"model.start_from={begun}", *([option] if option else [])]
    with pytest.raises(InputError, match=said):
        trained(tmp_path, train, *options)


def test_another_model_under_the_name_is_not_gone_on_with(begun: Path, tmp_path: Path) -> None:
    train, named = frames(tmp_path / "train.xyz"), tmp_path / "start.eip"
    named.write_bytes(begun.read_bytes())
    text = CONFIG.format(run=tmp_path / "run", train=train, rate=NOTHING)
    (tmp_path / "config.yaml").write_text(text)
    config = load_config(tmp_path / "config.yaml", [f"model.start_from={named}"])
    eip.train(config, progress=False)
    other = eip.load(begun)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    eip.save(other, named)
    with pytest.raises(InputError, match=r"start\.eip \(model\.start_from\) has changed since"):
        eip.train(config, resume=True, progress=False)
    named.write_bytes(begun.read_bytes())
    assert eip.train(config, resume=True, progress=False).model is not None


def test_the_command_line_takes_it(begun: Path, tmp_path: Path) -> None:
    train = frames(tmp_path / "train.xyz")
    text = CONFIG.format(run=tmp_path / "run", train=train, rate=NOTHING)
    (tmp_path / "config.yaml").write_text(text)
    command = ["train", str(tmp_path / "config.yaml"), "--start-from", str(begun), "--no-progress"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    model = tmp_path / "run/model.eip"
    torch.testing.assert_close(predicted(model).forces, predicted(begun).forces)
    missing = [*command[:3], str(tmp_path / "none.eip"), "--set", f"run_dir={tmp_path / 'other'}"]
    result = CliRunner().invoke(app, missing)
    assert isinstance(result.exception, InputError) and "none.eip" in str(result.exception)
