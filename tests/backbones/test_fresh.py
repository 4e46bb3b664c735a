"""Architectures of other packages, trained from nothing with our heads and our loop."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import ase.io
import pytest
import torch

import eip
from eip.backbones.settings import MACESettings, SevenNetSettings
from eip.config import Config
from eip.errors import InputError
from eip.models.settings import backbone_settings
from eip.testing import check_backbone
from eip.uncertainty.methods import new_network

MISSING = {
    name: pytest.mark.skipif(find_spec(module) is None, reason=f"{package} is not installed")
    for name, module, package in (("mace", "mace", "mace-torch"), ("sevenn", "sevenn", "sevenn"))
}
each = pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in MISSING.items()])


@each
def test_the_contract_of_backbones(name: str) -> None:
    torch.manual_seed(0)
    asked = {"name": name, "channels": 4, "cutoff": 3.5, "mean_neighbors": 8.0}
    network = backbone_settings(asked).build(2)
    assert network.vector_channels == 4 and network.trainable and not network.own_energy
    # Their Clebsch-Gordan coefficients are float32.
    check_backbone(network, (1, 8), tolerance=1e-6)


@each
def test_a_potential_is_trained_and_kept(name: str, demo_data: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames.xyz"
    found = ase.io.read(demo_data / "ethanol_300K.xyz", index=":24")
    ase.io.write(frames, found)
    config = Config(
        run_dir=tmp_path / "run",
        data={"train": [frames], "validation": 12},
        model={"backbone": {"name": name, "channels": 4, "cutoff": 3.0, "interactions": 2}},
        training={"epochs": 1, "device": "cpu"},
    )
    made = eip.train(config, progress=False)
    said = eip.load(made.model).predict(found[0])
    assert bool((said.force_uncertainty > 0).all()) and said.extrapolation_grade is not None
    about = eip.info(made.model)["network"]["backbone"]
    assert about["package_version"] and about["mean_neighbors"] > 1.0


@pytest.mark.skipif(find_spec("sevenn") is None, reason="sevenn is not installed")
def test_what_messages_are_divided_by_is_not_trained() -> None:
    settings = SevenNetSettings(channels=4, mean_neighbors=8.0)
    network = new_network(
        "tensor",
        elements=(1,),
        element_energies={1: 0.0},
        force_scale=1.0,
        backbone=settings,
    ).energy_model.backbone
    left = {id(p) for p in network.parameters()} - {id(p) for p in network.trained()}
    assert len(left) == settings.interactions


def test_sizes_are_of_fresh_networks() -> None:
    assert MACESettings().fresh and SevenNetSettings().fresh
    attached = SevenNetSettings().pretrained()
    assert not attached.fresh and "channels" not in attached.to_dict()
    with pytest.raises(InputError, match="channels is of a network that is trained from nothing"):
        SevenNetSettings(weights="7net-0", channels=8)
    with pytest.raises(InputError, match="cutoff is that of the weights, 5 Å, got 4"):
        SevenNetSettings(weights="7net-0", cutoff=4.0)
    # As model files of before have it.
    old = {"name": "mace", "cutoff": 6.0, "weights": "a.model", "energy_head": None}
    assert not backbone_settings({**old, "weights_sha256": "0" * 64}).fresh
