"""A network of others: no vectors or of another width, energies of its own, weights left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from eip.data import GraphDataset, open_frames
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.model_file import load_model, save_model
from eip.models.backbone import AtomFeatures, Backbone, begin_training
from eip.models.settings import BACKBONES, BackboneSettings
from eip.testing import check_backbone, check_potential
from eip.training.settings import TrainingSettings
from eip.training.trainer import train
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.methods import new_network
from eip.uncertainty.readout_ensemble import ReadoutEnsemblePotential


class Foreign(BackboneSettings):
    """Pairs with energies of their own."""

    name: str = "foreign"
    width: int = Field(6, ge=2, description="scalars")
    vectors: int = Field(0, ge=0, description="vectors")

    def build(self, n_elements: int) -> ForeignNetwork:
        return ForeignNetwork(n_elements, self)


class ForeignNetwork(Backbone):
    own_energy = True
    trainable = False

    def __init__(self, n_elements: int, settings: Foreign) -> None:
        super().__init__()
        self.channels, self.vector_channels = settings.width, settings.vectors
        self.cutoff = settings.cutoff
        self.strength = nn.Embedding(n_elements, settings.width)
        self.dropout = nn.Dropout(0.5)
        self.e0 = nn.Parameter(-10.0 * torch.arange(1, n_elements + 1))

    def forward(self, graph: AtomGraph, species: Tensor, edge_vectors: Tensor) -> AtomFeatures:
        square = edge_vectors.square().sum(dim=1)[:, None] / self.cutoff**2
        said = (1.0 - square).clamp(min=0.0) ** 3 * self.strength(species[graph.neighbors])
        own = self.dropout(self.strength(species))
        scalars = own.index_add(0, graph.centers, said)
        vectors = None
        if self.vector_channels:
            toward = edge_vectors[:, :, None] * said[:, None, : self.vector_channels]
            zero = own.new_zeros(len(own), 3, self.vector_channels)
            vectors = zero.index_add(0, graph.centers, toward)
        return AtomFeatures(scalars, vectors, self.e0[species] + scalars.tanh().sum(dim=1))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_added", {"foreign": Foreign})


def made(head: str, vectors: int, elements: tuple[int, ...] = (1, 6, 8)) -> EvidentialPotential:
    torch.manual_seed(0)
    potential = new_network(
        head,
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=1.0,
        backbone={"name": "foreign", "vectors": vectors, "cutoff": 4.0},
    )
    assert isinstance(potential, EvidentialPotential)
    return potential.eval()


@pytest.mark.parametrize("vectors", [0, 4])
def test_the_contract_of_backbones(vectors: int) -> None:
    check_backbone(Foreign(vectors=vectors, cutoff=4.0).build(2), (1, 8))


@pytest.mark.parametrize(
    ("head", "vectors"), [("none", 0), ("isotropic", 0), ("tensor", 4), ("mve", 3)]
)
def test_the_contract_of_potentials(head: str, vectors: int, tmp_path: Path) -> None:
    potential = made(head, vectors)
    check_potential(potential)
    save_model(potential, tmp_path / "model.eip")
    again = load_model(tmp_path / "model.eip", device="cpu")
    assert again.settings() == potential.settings()


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(InputError, match="'tensor' reads vectors of each atom, and the backbone"):
        made("tensor", 0)
    with pytest.raises(InputError, match="needs a readout, and the backbone foreign has energies"):
        ReadoutEnsemblePotential(
            origin="dropout",
            members=4,
            elements=(1,),
            element_energies={1: 0.0},
            force_scale=1.0,
            backbone="foreign",
        )


def test_a_head_is_trained_on_a_network_that_is_not(demo_data: Path, tmp_path: Path) -> None:
    store = open_frames([demo_data / "ethanol_300K.xyz"])
    potential = made("isotropic", 0, store.elements)
    before = {name: value.clone() for name, value in potential.state_dict().items()}
    sets = (GraphDataset(store, np.arange(start, start + 8), cutoff=4.0) for start in (0, 8))
    settings = TrainingSettings(epochs=2, batch_size=4, energy_weight=0.0, device="cpu")
    train(potential, *sets, settings, tmp_path, progress=False)
    after = potential.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("head.") for name in changed)


def test_what_is_not_trained_predicts_while_the_rest_is() -> None:
    potential = made("tensor", 4)
    begin_training(potential)
    model = potential.energy_model
    assert potential.training and not model.backbone.training
    assert not model.backbone.dropout.training
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert model.widening is not None and model.widening.weight.requires_grad
    assert all(p.requires_grad for p in potential.head.parameters())
