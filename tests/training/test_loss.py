from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eip.data.dataset import Batch
from eip.errors import InputError
from eip.neighbors import build_graph
from eip.prediction import Prediction
from eip.training.loss import Loss
from eip.uncertainty.evidence import Errors, Evidence
from eip.uncertainty.evidential import EvidenceMethod, EvidentialPotential
from eip.uncertainty.names import METHODS

HEADS = [n for n in METHODS.names() if isinstance(METHODS.get(n), EvidenceMethod)]

SCALE = 1.6


def potential(head: str = "tensor") -> EvidentialPotential:
    torch.manual_seed(0)
    return EvidentialPotential(
        elements=(1, 6, 8),
        element_energies={1: -13.6, 6: -1037.0, 8: -2042.0},
        force_scale=SCALE,
        head=head,
        channels=8,
        interactions=2,
        radial_functions=6,
        cutoff=3.5,
    ).double()


def batch(*structures: Atoms, stress: bool = False) -> Batch:
    graph = build_graph(list(structures), 3.5)
    g = torch.Generator().manual_seed(0)
    energy = torch.tensor([float(sum(a.numbers)) * -255.0 for a in structures]).double()
    return Batch(
        graph=graph,
        energy=energy,
        forces=torch.randn(graph.n_atoms, 3, generator=g, dtype=torch.float64),
        stress=torch.full((graph.n_frames, 3, 3), 0.01).double() if stress else None,
        sources=tuple(f"file.xyz#{i}" for i in range(len(structures))),
    )


def settings(**changes: float | bool | None) -> Loss:
    defaults = {
        "energy_weight": 0.1,
        "force_weight": 1.0,
        "stress_weight": 0.0,
        "quantile": 0.5,
        "regularization": 0.1,
    }
    return Loss(**{**defaults, **changes})  # type: ignore[arg-type]


def predict(model: EvidentialPotential, what: Batch, stress: bool = False) -> Prediction:
    return model(what.graph, stress=stress, differentiable="everything")


def test_the_terms_are_those_of_eq_10() -> None:
    what = batch(molecule("H2O"), molecule("CH4"))
    prediction = predict(potential(), what)
    terms = settings(energy_weight=0.3, force_weight=2.0)(prediction, what)
    assert what.energy is not None and what.forces is not None and prediction.forces is not None
    errors = (what.energy - prediction.energy).abs()
    per_atom = (errors[0] / 3 + errors[1] / 5) / 2
    torch.testing.assert_close(terms.energy, 0.3 * per_atom / SCALE)
    assert isinstance(prediction.evidence, Evidence)
    signed = what.energy - prediction.energy, what.forces - prediction.forces
    evidence = prediction.evidence.loss(Errors(*signed, 0.5, 0.1))
    torch.testing.assert_close(terms.evidence, 2.0 * evidence)
    assert terms.stress.item() == 0.0
    torch.testing.assert_close(terms.total, terms.energy + terms.evidence)


def test_the_energy_term_by_structure() -> None:
    what = batch(molecule("H2O"), molecule("CH4"))
    prediction = predict(potential(), what)
    terms = settings(energy_weight=1.0, energy_per_atom=False)(prediction, what)
    assert what.energy is not None
    expected = (what.energy - prediction.energy).abs().mean() / SCALE
    torch.testing.assert_close(terms.energy, expected)


@pytest.mark.parametrize("head", HEADS)
def test_a_perfect_prediction_has_the_smallest_energy_term_and_a_gradient(head: str) -> None:
    model = potential(head)
    what = batch(molecule("H2O"), Atoms("O"))
    prediction = predict(model, what)
    assert prediction.forces is not None
    perfect = replace(what, energy=prediction.energy.detach(), forces=prediction.forces.detach())
    terms = settings()(prediction, perfect)
    assert terms.energy.item() == 0.0
    terms.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("label", ["energy", "forces"])
def test_a_label_that_is_missing_is_named_with_its_frames(label: str) -> None:
    what = batch(molecule("H2O"), molecule("CH4"))
    prediction = predict(potential(), what)
    with pytest.raises(
        InputError, match=rf"training needs {label}, but frames file.xyz#0, file.xyz#1 have none"
    ):
        settings()(prediction, replace(what, **{label: None}))


# Stress.


def test_the_stress_term_is_the_virial_per_atom() -> None:
    crystal = bulk("C", "diamond", a=3.5)
    what = batch(crystal, stress=True)
    prediction = predict(potential(), what, stress=True)
    terms = settings(stress_weight=0.5)(prediction, what)
    assert prediction.stress is not None
    virial = (0.01 - prediction.stress).abs() * crystal.get_volume() / 2
    torch.testing.assert_close(terms.stress, 0.5 * virial.mean() / SCALE)


def test_a_stress_that_is_asked_for_and_missing_is_an_error() -> None:
    what = batch(bulk("C", "diamond", a=3.5))
    prediction = predict(potential(), what, stress=True)
    with pytest.raises(InputError, match="training needs stress"):
        settings(stress_weight=0.5)(prediction, what)


def test_molecules_beside_crystals_leave_the_stress_gradient_finite() -> None:
    model = potential()
    alone = batch(bulk("C", "diamond", a=3.5), stress=True)
    mixed = batch(molecule("H2O"), bulk("C", "diamond", a=3.5), stress=True)
    loss = settings(stress_weight=1.0)
    mixed_terms = loss(predict(model, mixed, stress=True), mixed)
    torch.testing.assert_close(
        mixed_terms.stress, loss(predict(model, alone, stress=True), alone).stress
    )
    mixed_terms.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_molecules_alone_have_no_stress_term() -> None:
    model = potential()
    what = batch(molecule("H2O"), stress=True)
    terms = settings(stress_weight=1.0)(predict(model, what, stress=True), what)
    assert terms.stress.item() == 0.0
    terms.total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_frames_without_a_stress_label_are_left_out() -> None:
    crystals = (bulk("C", "diamond", a=3.5), bulk("C", "diamond", a=3.4))
    what = batch(*crystals, stress=True)
    assert what.stress is not None
    what.stress[1] = torch.nan
    model = potential()
    terms = settings(stress_weight=1.0)(predict(model, what, stress=True), what)
    first = batch(crystals[0], stress=True)
    expected = settings(stress_weight=1.0)(predict(model, first, stress=True), first)
    torch.testing.assert_close(terms.stress, expected.stress)
    terms.stress.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
