"""Kernels read packed copies of weights: these are never old, and a snapshot never changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from ase.build import molecule
from torch import Tensor, nn

from eip.kernels import reference_path
from eip.models.painn import PaiNN
from eip.neighbors import build_graph
from eip.potential import Potential, prepared
from eip.prediction import Prediction
from eip.simulation import Calculator
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import LatentDistancePotential, fit_latent_distance
from eip.uncertainty.registry import describe_potential

ETHANOL = molecule("CH3CH2OH")
ETHANOL.rattle(0.1, seed=3)
GRAPH = build_graph(ETHANOL, 4.0)


def make() -> LatentDistancePotential:
    torch.manual_seed(0)
    network = EvidentialPotential(
        elements=(1, 6, 8),
        element_energies={1: 0.0, 6: 0.0, 8: 0.0},
        force_scale=1.0,
        head="tensor",
        channels=16,
        interactions=2,
        radial_functions=6,
        cutoff=4.0,
    ).double()
    frames = [molecule("CH3CH2OH") for _ in range(6)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    graphs = [build_graph(atoms, 4.0) for atoms in frames]
    labels = [(g, torch.randn(g.n_atoms, 3).double()) for g in graphs]
    return fit_latent_distance(network.eval(), graphs, labels)


POTENTIAL = make()
NAMES = [
    *(name for name, _ in POTENTIAL.named_parameters()),
    *("means", "whitening"),
]


def figures(potential: Potential) -> list[Tensor]:
    """What depends on every weight: energy, forces, σ and covariance."""
    with torch.no_grad():
        said: Prediction = potential(GRAPH)
    found = [said.energy, said.forces, said.force_uncertainty, said.force_covariance]
    return [one for one in found if one is not None]


def same(one: list[Tensor], other: list[Tensor], tolerance: float = 3e-5) -> bool:
    return all(
        float((a - b).abs().max()) <= tolerance * float(b.abs().max().clamp(min=1e-3))
        for a, b in zip(one, other, strict=True)
    )


def through_data(weight: Tensor) -> None:
    weight.data.mul_(3.0)


def rows_swapped(weight: Tensor) -> None:
    weight.data.copy_(weight.data.flip(0).clone())


def in_place(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(3.0)


def storage_exchanged(weight: Tensor) -> None:
    weight.data = 3.0 * weight.data


@pytest.mark.parametrize("change", [through_data, rows_swapped, in_place, storage_exchanged])
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_weight_counts_from_the_next_prediction_on(
    name: str, change: Callable[[Tensor], None]
) -> None:
    potential = copy.deepcopy(POTENTIAL)
    figures(potential)
    change(dict([*potential.named_parameters(), *potential.named_buffers()])[name])
    found = figures(potential)
    with reference_path():
        expected = figures(potential)
    assert same(found, expected)


def test_so_does_a_submodule_that_was_replaced_and_a_state_that_was_loaded() -> None:
    potential = copy.deepcopy(POTENTIAL)
    before = figures(potential)
    network = potential.potential
    assert isinstance(network, EvidentialPotential)
    painn = network.energy_model.backbone
    assert isinstance(painn, PaiNN)
    painn.updates[0].mix = nn.Linear(16, 32, bias=False).double()
    replaced = figures(potential)
    with reference_path():
        assert same(replaced, figures(potential))
    assert not same(replaced, before)
    painn.updates[0].mix = nn.Linear(16, 32, bias=False).double()
    potential.load_state_dict(POTENTIAL.state_dict())
    assert same(figures(potential), before, 0.0)


def test_every_weight_makes_a_difference_to_these_figures() -> None:
    """Or the tests above would pass whatever the kernels read."""
    before = figures(POTENTIAL)
    for name in NAMES:
        if name.endswith(("embedding.weight", "means", "whitening")) or "bias" not in name:
            potential = copy.deepcopy(POTENTIAL)
            through_data(dict([*potential.named_parameters(), *potential.named_buffers()])[name])
            assert not same(figures(potential), before, 1e-9), name


def test_a_snapshot_says_the_same_and_nothing_changes_it() -> None:
    potential = copy.deepcopy(POTENTIAL)
    before = figures(potential)
    snapshot = prepared(potential)
    assert same(figures(snapshot), before, 0.0)
    for weight in potential.parameters():
        weight.data.mul_(1.5)
    assert not same(figures(potential), before)
    assert same(figures(snapshot), before, 0.0)
    # There is nothing by which it could be trained, loaded or written to.
    assert not list(snapshot.parameters()) and not snapshot.state_dict()
    assert (snapshot.cutoff, snapshot.elements) == (4.0, (1, 6, 8))
    with pytest.raises(TypeError):
        describe_potential(snapshot)
    with reference_path():
        assert same(figures(snapshot), before)


def test_a_snapshot_can_be_copied_pickled_and_cast() -> None:
    snapshot = prepared(POTENTIAL)
    before = figures(snapshot)
    for twin in (copy.deepcopy(snapshot), pickle.loads(pickle.dumps(snapshot))):
        assert same(figures(twin), before, 0.0)
    single = copy.deepcopy(snapshot).to(torch.float32)
    assert single.dtype == torch.float32 and snapshot.dtype == torch.float64
    assert same([one.double() for one in figures(single)], before, 1e-4)
    assert same(figures(snapshot), before, 0.0)


@pytest.mark.kernels
def test_a_snapshot_packs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    pack = PaiNN.pack
    monkeypatch.setattr(PaiNN, "pack", lambda *a: packed.append(1) or pack(*a))
    atoms = ETHANOL.copy()
    atoms.calc = Calculator(POTENTIAL)
    for _ in range(3):
        atoms.rattle(0.01)
        atoms.get_forces()
    assert len(packed) == 1
    POTENTIAL.predict([atoms] * 3, atoms_per_batch=9)
    assert len(packed) == 2


def test_what_has_nothing_to_prepare_is_given_back() -> None:
    network = EvidentialPotential(
        elements=(1,), element_energies={1: 0.0}, force_scale=1.0, channels=16
    )
    snapshot = prepared(network)
    assert prepared(snapshot) is snapshot
