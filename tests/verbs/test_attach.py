"""An error bar for a network of others: a toy one, its weights as a package would have them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn

import eip
from eip.backbones.frozen import FrozenBackbone
from eip.config import Config
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures
from eip.models.settings import BACKBONES, BackboneSettings
from eip.potential import layers
from eip.testing import check_potential
from eip.uncertainty.attached import AttachedPotential
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.latent_distance import LatentDistancePotential


class Stranger(BackboneSettings):
    """Pairs that repel, trained by nobody."""

    name: str = "stranger"
    cutoff: float = Field(4.0, gt=0)
    weights: str = "usual"

    own_weights: bool = False

    def build(self, n_elements: int) -> StrangersNetwork:
        made = StrangersNetwork(self.cutoff)
        return made.thawed() if self.own_weights else made

    def thawed(self, network: StrangersNetwork) -> Stranger:
        return self.replace(own_weights=True)


class StrangersNetwork(FrozenBackbone):
    channels = 16
    elements = (1, 6, 8)

    def __init__(self, cutoff: float) -> None:
        network = nn.Module()
        known = torch.Generator().manual_seed(0)
        network.strength = nn.Parameter(torch.rand(9, 16, generator=known))
        super().__init__(network)
        self.cutoff = cutoff

    def forward(self, graph: AtomGraph, species: Tensor, edge_vectors: Tensor) -> AtomFeatures:
        square = edge_vectors.square().sum(dim=1)[:, None] / self.cutoff**2
        if bool((square < 5e-3).any()):
            raise InputError("two atoms are too close for it")
        strength = self.network.strength[graph.numbers]
        said = (1.0 - square).clamp(min=0.0) ** 4 * strength[graph.neighbors]
        scalars = strength.index_add(0, graph.centers, said)
        return AtomFeatures(scalars, None, scalars.square().sum(dim=1))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_added", {"stranger": Stranger})


@pytest.fixture(scope="module")
def frames(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.xyz"
    ase.io.write(path, ase.io.read(demo_data / "ethanol_300K.xyz", index=":60"))
    return path


@pytest.fixture(scope="module")
def attached(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attached") / "my.eip"
    return eip.attach(Stranger(), frames, out, progress=False)


def test_what_is_written_predicts_as_the_network_does(attached: Path, frames: Path) -> None:
    potential = eip.load(attached)
    kinds = [type(layer) for layer in layers(potential)]
    assert kinds == [CalibratedPotential, LatentDistancePotential, AttachedPotential]
    atoms = ase.io.read(frames, index=":3")
    said = potential.predict(atoms)
    network = StrangersNetwork(4.0)
    graph = eip.build_graph(atoms, 4.0)
    positions = graph.positions.requires_grad_()
    energy = network(graph, graph.numbers, graph.edge_vectors(torch.float32)).energy
    forces = -torch.autograd.grad(energy.sum(), positions)[0]
    assert torch.allclose(said.forces, forces.float(), rtol=1e-4, atol=1e-5)
    assert bool((said.force_uncertainty > 0).all()) and said.extrapolation_grade is not None


def test_the_networks_weights_are_not_in_the_file(attached: Path) -> None:
    with safe_open(attached, framework="pt") as file:
        names = list(file.keys())
    assert names and all(
        "head." in name or name in ("means", "whitening")
        for name in (name.removeprefix("potential.") for name in names)
    )
    about = eip.info(attached)
    assert about["network"]["backbone"]["name"] == "stranger"
    assert about["training"]["frames"] == 45


def test_the_contract_of_potentials(attached: Path) -> None:
    check_potential(eip.load(attached, device="cpu"))


def test_it_knows_where_it_was_not(attached: Path, frames: Path) -> None:
    potential = eip.load(attached)
    atoms = ase.io.read(frames, index=0)
    far = atoms.copy()
    far.positions[0] = far.positions[1] + 0.45 * (far.positions[0] - far.positions[1])
    near, beyond = (potential.predict(a) for a in (atoms, far))
    assert beyond.uncertainty > near.uncertainty
    assert beyond.extrapolation_grade.max() > near.extrapolation_grade.max()


def test_the_verbs_take_it(
    attached: Path, frames: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    metrics = eip.evaluate(attached, frames, tmp_path / "evaluation", progress=False)
    assert np.isfinite(metrics["force_mae"]) and not np.isfinite(metrics["energy_mae_per_atom"])
    atoms = ase.io.read(frames, index=0)
    atoms.calc = eip.Calculator(attached)
    assert np.isfinite(atoms.get_forces()).all() and np.isfinite(atoms.calc.results["uncertainty"])
    code, _, errors = run(
        "md", attached, frames, "--steps", 3, "--udd", "--out", tmp_path / "md", "--no-progress"
    )
    assert code == 0, errors


def test_the_command(
    frames: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "by_command.eip"
    code, printed, errors = run("attach", "stranger", frames, "--out", out, "--no-progress")
    assert code == 0, errors
    assert f"Wrote {out}" in printed and "Calibrated on 15 frames" in printed
    code, _, errors = run("attach", "chgnett", frames, "--out", out)
    assert code == 2 and "did you mean 'chgnet'?" in errors


@pytest.mark.parametrize("which", ["all", "last"])
def test_fine_tuned_it_stands_on_its_own(
    which: str,
    attached: Path,
    frames: Path,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "tuned.eip"
    monkeypatch.setattr(sys.modules["eip.verbs.finetune"], "EPOCHS", 3)
    asked = ("attach", "stranger", frames, "--finetune", which, "--out", out, "--no-progress")
    code, printed, errors = run(*asked)
    assert code == 0, errors
    assert "fine-tuning" in printed and "rank correlation of σ and error" in printed
    before, after = (eip.info(path)["measured on validation frames"] for path in (attached, out))
    said = eip.info(out)["training"]["metrics_before"]
    # Of energies, too: they are moved to the frames' level of theory first.
    assert said["energy_mae_per_atom"] < 10.0
    assert {key: said[key] for key in before} == before
    assert set(eip.info(out)["added to the network's energies (eV)"]) == {"H", "C", "O"}
    assert after["force_mae"] < before["force_mae"]
    with safe_open(out, framework="pt") as file:
        assert any(name.endswith("backbone.own.strength") for name in file.keys())  # noqa: SIM118
    potential = eip.load(out, device="cpu")
    kinds = [type(layer) for layer in layers(potential)]
    assert kinds == [CalibratedPotential, LatentDistancePotential, AttachedPotential]
    measured = eip.evaluate(out, frames, tmp_path / "evaluation", progress=False)
    # Energies are of the frames' level of theory then, −468 eV an atom.
    assert measured["energy_mae_per_atom"] < 10.0


def test_energies_of_another_level_of_theory_are_said_and_shifted(
    attached: Path,
    frames: Path,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    out = tmp_path / "shifted.eip"
    asked = ("attach", "stranger", frames, "--out", out, "--no-progress")
    code, printed, errors = run(*asked)
    assert code == 0, errors
    words = " ".join(printed.split())
    assert "The energies of stranger are off by" in words and "--shift-energies" in words
    assert "added to the network's energies (eV)" not in eip.info(out)
    code, printed, errors = run(*asked, "--shift-energies")
    assert code == 0, errors
    words = " ".join(printed.split())
    assert "which is added to them" in words and "cannot be told apart" in words
    atoms = ase.io.read(frames, index=0)
    before, after = (eip.load(path).predict(atoms) for path in (attached, out))
    added = eip.info(out)["added to the network's energies (eV)"]
    expected = sum(added[symbol] for symbol in atoms.symbols)
    assert float(after.energy - before.energy) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(after.forces, before.forces)
    torch.testing.assert_close(after.force_uncertainty, before.force_uncertainty)
    measured = eip.evaluate(out, frames, tmp_path / "evaluation", progress=False)
    assert measured["energy_mae_per_atom"] < 10.0
    assert eip.info(out)["measured on validation frames"]["energy_mae_per_atom"] < 10.0


def test_energies_are_shifted_to_labels_alone(frames: Path, tmp_path: Path) -> None:
    bare = ase.io.read(frames, index=":")
    for atoms in bare:
        del atoms.calc.results["energy"]
    ase.io.write(tmp_path / "bare.xyz", bare)
    with pytest.raises(InputError, match="shift_energies needs an energy of each frame"):
        eip.attach(
            "stranger",
            tmp_path / "bare.xyz",
            tmp_path / "x.eip",
            shift_energies=True,
            progress=False,
        )


def test_training_goes_on_with_what_is_attached(
    attached: Path, frames: Path, tmp_path: Path
) -> None:
    config = Config(
        run_dir=tmp_path / "run",
        data={"train": [frames], "validation": 15},
        model={"start_from": attached},
        training={"epochs": 1, "learning_rate": 1e-30, "ema_decay": 0.0, "device": "cpu"},
    )
    said: list[str] = []
    made = eip.train(config, progress=False, log=lambda message: said.append(str(message)))
    assert "the layers of stranger" in "\n".join(said)
    assert "Training again without 23 frames (part 1 of 2)" in "\n".join(said)
    atoms = ase.io.read(frames, index=0)
    before, after = (eip.load(path).predict(atoms) for path in (attached, made.model))
    torch.testing.assert_close(after.forces, before.forces)
    # What is on disk of the trainings without a part of the frames is not done again.
    made.model.unlink()
    resumed = eip.train(config, resume=True, progress=False)
    torch.testing.assert_close(
        eip.load(resumed.model).predict(atoms).force_uncertainty, after.force_uncertainty
    )
    again = config.replace(run_dir=tmp_path / "again", model={"start_from": made.model})
    third = eip.load(eip.train(again, progress=False).model).predict(atoms)
    torch.testing.assert_close(third.forces, before.forces)
    torch.testing.assert_close(third.energy, after.energy, rtol=0, atol=0.1)
    for method, said_of in (
        ("mve", "is a model of eip attach and keeps its error bar"),
        ("attached", "name a model of eip attach as model.start_from"),
    ):
        start = attached if method == "mve" else None
        model = {"start_from": start, "uncertainty": method}
        with pytest.raises(InputError, match=said_of):
            eip.train(config.replace(run_dir=tmp_path / method, model=model), progress=False)


def test_active_learning_starts_from_it(
    attached: Path, frames: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    ase.io.write(tmp_path / "start.xyz", ase.io.read(frames, index=0))
    (tmp_path / "calc.py").write_text(
        "from ase.calculators.emt import EMT\n\ndef make():\n    return EMT()\n"
    )
    (tmp_path / "config.yaml").write_text(f"""
run_dir: run
model: {{start_from: {attached}}}
training: {{epochs: 1, learning_rate: 1.0e-4, device: cpu}}
learn:
  starts: start.xyz
  labeler: ase
  labeler_options: {{calculator: "{tmp_path / "calc.py"}:make"}}
  generations: 2
  initial: 10
  labels: 3
  length_ps: 0.005
  frame_interval: 2
  lower: 1.0e-6
  upper: 1.0e6
  executor: serial
""")
    code, _, errors = run("learn", tmp_path / "config.yaml", "--no-progress")
    assert code == 0, errors
    outcome = json.loads((tmp_path / "run/learning.json").read_text())
    assert outcome["labels"] == 13 and len(outcome["generations"]) == 2
    last = eip.load(tmp_path / "run" / outcome["model"], device="cpu")
    kinds = [type(layer) for layer in layers(last)]
    assert kinds == [CalibratedPotential, LatentDistancePotential, AttachedPotential]


def test_what_cannot_be_fine_tuned_is_said(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my.eip"
    with pytest.raises(InputError, match="finetune should be all or last, got 'some'"):
        eip.attach("stranger", frames, out, finetune="some", progress=False)
    monkeypatch.setattr(Stranger, "thawed", BackboneSettings.thawed)
    with pytest.raises(InputError, match="the backbone stranger cannot be fine-tuned"):
        eip.attach("stranger", frames, out, finetune="all", progress=False)
    assert not out.exists()


def test_what_cannot_be_done_is_said(frames: Path, tmp_path: Path) -> None:
    out, some = tmp_path / "my.eip", tmp_path / "some.xyz"
    found = ase.io.read(frames, index=":")
    ase.io.write(some, found[:49])
    with pytest.raises(InputError, match=r"49 labelled frames are too few .* expected 50 or more"):
        eip.attach("stranger", some, out, progress=False)
    with pytest.raises(InputError, match="painn is one that eIP trains"):
        eip.attach("painn", frames, out, progress=False)
    strange = found[0].copy()
    strange.calc = found[0].calc
    strange.numbers[2] = 7
    ase.io.write(some, [*found, strange])
    with pytest.raises(InputError, match="holds N, which the potential was not made for"):
        eip.attach("stranger", some, out, progress=False)
    assert not out.exists()


def test_a_structure_that_the_network_refuses_is_named(frames: Path, tmp_path: Path) -> None:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    pair = Atoms("H2", [[0, 0, 0], [0, 0, 0.25]])
    pair.calc = SinglePointCalculator(pair, energy=0.0, forces=np.zeros((2, 3)))
    some = tmp_path / "some.xyz"
    ase.io.write(some, [*ase.io.read(frames, index=":"), pair])
    with pytest.raises(InputError, match=r"some\.xyz#60: two atoms are too close for it"):
        eip.attach("stranger", some, tmp_path / "my.eip", progress=False)
