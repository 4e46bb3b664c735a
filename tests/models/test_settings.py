"""Backbones by their settings: eIP's own, and one of a package that eIP knows nothing of."""

from __future__ import annotations

from pathlib import Path

import pytest

from eip.config import load_config, parse_config
from eip.errors import InputError
from eip.models.settings import CartesianACESettings, PaiNNSettings, backbone_settings


class Neighbors:
    def mean_neighbors(self) -> float:
        return 7.5


def model(**values: object) -> object:
    return parse_config({"data": {"train": "a.xyz"}, "model": values}).model.backbone


def test_a_name_is_settings_of_their_defaults() -> None:
    assert backbone_settings("painn") == PaiNNSettings()
    assert backbone_settings({"name": "cartesian_ace"}) == CartesianACESettings()
    assert PaiNNSettings().build(2).radial_functions == 20
    assert CartesianACESettings().build(2).radial_functions == 8


def test_a_backbone_says_itself_what_it_wants_of_the_frames() -> None:
    assert PaiNNSettings().informed(Neighbors()) == PaiNNSettings()
    assert CartesianACESettings().informed(Neighbors()).mean_neighbors == 7.5
    given = CartesianACESettings(mean_neighbors=3.0, channels=8)
    assert given.informed(Neighbors()) == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cartesian-ace", "unknown backbone 'cartesian-ace': did you mean 'cartesian_ace'"),
        (
            {"name": "painn", "mean_neighbors": 5.0},
            "the backbone painn has no mean_neighbors: expected one of name",
        ),
        ({"channels": 0}, "'channels' should be greater than or equal to 1, got 0"),
    ],
)
def test_what_is_wrong_is_named(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        backbone_settings(given)  # type: ignore[arg-type]


def test_the_spelling_of_before_is_the_same_settings() -> None:
    small = {"channels": 16, "interactions": 2, "cutoff": 4.0}
    assert model(**small) == model(backbone={"name": "cartesian_ace", **small})
    assert model(backbone="painn", radial_functions=None) == PaiNNSettings()
    ace = {"backbone": "cartesian_ace", "radial_functions": None, "channels": 32}
    assert model(**ace) == CartesianACESettings(channels=32)


def test_what_stands_beside_goes_before_what_stands_below() -> None:
    """So that --set model.channels=8 counts whatever is in the file."""
    below = {"name": "cartesian_ace", "channels": 64, "cutoff": 4.0}
    assert model(backbone=below, channels=8) == CartesianACESettings(channels=8, cutoff=4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  backbone: cartesian-ace", "line 3: 'model.backbone': did you mean 'cartesian_ace'?"),
        ("  backbone: {name: painn, mean_neighbors: 4}", "line 3: the backbone painn has no mean_"),
        (
            "  backbone: painn\n  feature_limit: 4",
            "line 3: the backbone painn has no feature_limit",
        ),
        ("  backbone:\n    channels: 0", "line 4: 'model.backbone.channels' should be greater"),
        ("  channels: 0", "line 3: 'model.backbone.channels' should be greater"),
        ("  r_max: 4", "line 3: unknown key 'model.r_max': did you mean 'model.backbone.cutoff'?"),
    ],
)
def test_errors_of_a_file_name_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{train: a.xyz}}\nmodel:\n{text}\n")
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert message in str(caught.value)


#: All that a stranger writes: the backbone here, and in pyproject.toml
#:     [project.entry-points."eip.backbones"]
#:     pairs = "pairs:Pairs"
PAIRS = '''
"""Each atom knows the distances of its neighbors, in Gaussians, and nothing of directions."""

import torch
from pydantic import Field
from torch import nn

from eip.models.backbone import AtomFeatures, Backbone
from eip.models.settings import BackboneSettings


class Pairs(BackboneSettings):
    """Gaussians of distances."""

    name: str = "pairs"
    width: int = Field(8, ge=2, description="Gaussians")

    def build(self, n_elements):
        return PairNetwork(n_elements, self.width, self.cutoff)


class PairNetwork(Backbone):
    def __init__(self, n_elements, width, cutoff):
        super().__init__()
        self.channels, self.cutoff = width, cutoff
        self.of_element = nn.Embedding(n_elements, width)
        self.register_buffer("centres", torch.linspace(0.0, cutoff, width))

    def forward(self, graph, species, edge_vectors):
        length = edge_vectors.square().sum(dim=1).sqrt()[:, None]
        fade = (1.0 - (length / self.cutoff).clamp(max=1.0) ** 2) ** 3
        said = fade * torch.exp(-((length - self.centres) ** 2)) * self.of_element(
            species[graph.neighbors]
        )
        own = self.of_element(species)
        scalars = own + torch.zeros_like(own).index_add(0, graph.centers, said)
        toward = (edge_vectors / length)[:, :, None] * said[:, None, :]
        return AtomFeatures(
            scalars, own.new_zeros(len(own), 3, self.channels).index_add(0, graph.centers, toward)
        )
'''


@pytest.mark.once
def test_a_backbone_of_a_strangers_package_trains(package, demo_data: Path, tmp_path: Path) -> None:
    assert len(PAIRS.strip().splitlines()) < 40
    package("pairs", PAIRS, **{"eip.backbones": "pairs = pairs:Pairs"})
    (tmp_path / "config.yaml").write_text(
        f"data: {{train: {demo_data / 'ethanol_300K.xyz'}, validation: 20}}\n"
        "model: {backbone: {name: pairs, width: 6, cutoff: 3.5}}\n"
        "training: {epochs: 1}\nrun_dir: run\n"
    )
    main = "from eip.cli import main; main()"
    wrong = package.run(main, "train", "config.yaml", "--set", "model.backbone.channels=4")
    assert "the backbone pairs has no channels: expected one of name, cutoff, width" in wrong.stderr
    done = package.run(main, "train", "config.yaml", "--no-progress")
    assert done.returncode == 0, done.stderr
    kept = package.run(
        "import eip; from eip.testing import check_potential;"
        "found = eip.load('run/model.eip'); print(found.cutoff); check_potential(found)"
    )
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.split() == ["3.5"]
