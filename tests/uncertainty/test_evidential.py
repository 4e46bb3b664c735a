from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from eip.errors import InputError
from eip.kernels import operators, reference_path
from eip.kernels.features import FLOOR
from eip.models.backbone import AtomFeatures
from eip.neighbors import build_graph
from eip.uncertainty import distributions as dist
from eip.uncertainty.evidence import (
    ComponentEvidence,
    EnergyEvidence,
    Errors,
    Evidence,
    TensorEvidence,
    frobenius,
)
from eip.uncertainty.evidential import EvidenceMethod, EvidentialPotential, TensorHead
from eip.uncertainty.names import METHODS

HEADS = [n for n in METHODS.names() if isinstance(METHODS.get(n), EvidenceMethod)]

SCALE = 1.7
GRAPH = build_graph([molecule("H2O"), molecule("CH4")], 4.0)
N = 8


def potential(head: str = "tensor", dtype: torch.dtype = torch.float32) -> EvidentialPotential:
    torch.manual_seed(1)
    return EvidentialPotential(
        elements=(8, 1, 6),
        element_energies={1: -13.6, 6: -1037.0, 8: -2042.0},
        force_scale=SCALE,
        head=head,
        channels=12,
        interactions=2,
        radial_functions=6,
        cutoff=4.0,
    ).to(dtype)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double() + 0.1


# Moments (eq. 1, 5, 6, 7).


def test_moments_of_components_are_eq_1_5_and_6() -> None:
    nu, alpha, beta = numbers(N, 3), 1 + numbers(N, 3, seed=1), numbers(N, 3, seed=2)
    moments = ComponentEvidence(SCALE, nu, alpha, beta).moments()
    variance = SCALE**2 * beta / (nu * (alpha - 1))
    assert moments.force_covariance is not None and moments.force_uncertainty is not None
    torch.testing.assert_close(moments.force_covariance, torch.diag_embed(variance))
    # Eq. 6: σ² = sqrt(Σ_a U_aa²).
    torch.testing.assert_close(moments.force_uncertainty, variance.square().sum(1).sqrt().sqrt())
    noise = SCALE**2 * beta / (alpha - 1)
    torch.testing.assert_close(moments.force_aleatoric, noise.square().sum(1).sqrt().sqrt())
    assert moments.energy_uncertainty is None


def test_an_isotropic_tensor_is_the_isotropic_head() -> None:
    nu, alpha, beta = numbers(N), 1 + numbers(N, seed=1), numbers(N, seed=2)
    eye = torch.eye(3, dtype=torch.float64)
    tensor = TensorEvidence(SCALE, nu, alpha, beta[:, None, None] * eye).moments()
    three = [x[:, None].expand(-1, 3) for x in (nu, alpha, beta)]
    isotropic = ComponentEvidence(SCALE, *three).moments()
    for name in ("force_covariance", "force_uncertainty", "force_aleatoric"):
        torch.testing.assert_close(getattr(tensor, name), getattr(isotropic, name))


def test_the_frobenius_norm_completes_eq_6() -> None:
    diagonal = numbers(N, 3)
    turn, _ = torch.linalg.qr(numbers(3, 3, seed=4))
    matrix = turn @ torch.diag_embed(diagonal) @ turn.T
    torch.testing.assert_close(frobenius(matrix), diagonal.square().sum(1).sqrt())


def test_energy_evidence_is_that_of_the_structure() -> None:
    nu, alpha, beta = numbers(2), 1 + numbers(2, seed=1), numbers(2, seed=2)
    counts = torch.tensor([3.0, 5.0]).double()
    moments = EnergyEvidence(SCALE, counts, nu, alpha, beta).moments()
    torch.testing.assert_close(
        moments.energy_uncertainty, SCALE * counts * (beta / (nu * (alpha - 1))).sqrt()
    )
    assert moments.force_uncertainty is None


# Losses.


def loss(evidence: Evidence, errors: torch.Tensor, q: float | None, lam: float) -> torch.Tensor:
    return evidence.loss(Errors(errors.new_tensor([0.3, -0.2]), errors, q, lam))


def test_the_loss_of_components_is_the_mean_of_eq_8_and_9_over_the_scale() -> None:
    nu, alpha, beta = numbers(N, 3), 1 + numbers(N, 3, seed=1), numbers(N, 3, seed=2)
    errors = numbers(N, 3, seed=3) - 0.5
    r = errors / SCALE
    expected = (
        dist.nig_nll(r, nu, alpha, beta, 0.4) + 0.3 * dist.nig_regularizer(r, nu, alpha, beta, 0.4)
    ).sum() / (3 * N)
    found = loss(ComponentEvidence(SCALE, nu, alpha, beta), errors, 0.4, 0.3)
    torch.testing.assert_close(found, expected)


def test_the_loss_of_a_diagonal_tensor_is_near_that_of_its_components() -> None:
    """Not equal: directions share a ν and α. But equal in scale, per direction."""
    nu, alpha, beta = numbers(N), 20 + numbers(N, seed=1), numbers(N, seed=2)
    eye = torch.eye(3, dtype=torch.float64)
    errors = 0.1 * numbers(N, 3, seed=3)
    tensor = loss(TensorEvidence(SCALE, nu, alpha, beta[:, None, None] * eye), errors, 0.5, 0.0)
    three = [x[:, None].expand(-1, 3) for x in (nu, alpha, beta)]
    components = loss(ComponentEvidence(SCALE, *three), errors, 0.5, 0.0)
    assert tensor.item() == pytest.approx(components.item(), abs=0.05)


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_does_not_depend_on_the_unit_of_force(head: str) -> None:
    """eV or kcal/mol: errors and scale grow together, and the loss stays."""
    evidence = potential(head, torch.float64)(GRAPH, differentiable="everything").evidence
    assert isinstance(evidence, Evidence)
    errors, energies = numbers(N, 3) - 0.5, torch.tensor([0.3, -0.2]).double()
    before = evidence.loss(Errors(energies, errors, 0.5, 0.1))
    object.__setattr__(evidence, "scale", SCALE * 23.06)
    after = evidence.loss(Errors(23.06 * energies, 23.06 * errors, 0.5, 0.1))
    torch.testing.assert_close(before, after)


def test_a_plain_potential_is_trained_on_the_mean_absolute_error() -> None:
    evidence = potential("none")(GRAPH, differentiable="everything").evidence
    assert isinstance(evidence, Evidence)
    errors = numbers(N, 3) - 0.5
    torch.testing.assert_close(loss(evidence, errors, None, 1.0), errors.abs().mean() / SCALE)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_weight_gets_a_finite_gradient(head: str, dtype: torch.dtype) -> None:
    model = potential(head, dtype)
    graph = build_graph([molecule("H2O"), molecule("CH4"), Atoms("O")], 4.0)
    prediction = model(graph, differentiable="everything")
    assert isinstance(prediction.evidence, Evidence) and prediction.forces is not None
    errors = Errors(0.1 - prediction.energy, 0.2 - prediction.forces, 0.5, 0.1)
    total = prediction.evidence.loss(errors)
    (total + prediction.energy.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("head", ["tensor", "isotropic", "componentwise"])
@pytest.mark.parametrize("size", [-300.0, -30.0, 30.0, 300.0])
def test_a_head_that_ran_away_still_has_finite_numbers(head: str, size: float) -> None:
    """In float32, at the floors and far above them: softplus gives 1e-6 or hundreds."""
    model = potential(head)
    last = {
        "tensor": lambda h: h.coefficients[2],
        "isotropic": lambda h: h.parameters_of_atom[2],
        "componentwise": lambda h: h.parameters_of_component[2],
    }[head](model.head)
    torch.nn.init.constant_(last.bias, size)
    if head == "tensor":
        # One wide direction beside a b0 at its floor: float32 alone would lose B's definiteness.
        torch.nn.init.constant_(last.bias[3:], 300.0)
        with torch.no_grad():
            model.head.directions.weight.mul_(100.0)
    prediction = model(GRAPH, differentiable="everything")
    assert isinstance(prediction.evidence, Evidence) and prediction.forces is not None
    assert prediction.force_uncertainty is not None
    assert prediction.force_uncertainty.dtype == torch.float32
    for errors in (torch.zeros(N, 3), 50.0 - prediction.forces):
        value = prediction.evidence.loss(Errors(prediction.energy * 0, errors, 0.5, 0.1))
        assert bool(value.isfinite())
        gradients = torch.autograd.grad(value, list(model.head.parameters()), retain_graph=True)
        assert all(bool(g.isfinite().all()) for g in gradients)
    assert bool(prediction.force_uncertainty.isfinite().all())


# Heads.


def test_evidence_stays_above_its_floors() -> None:
    features = AtomFeatures(-1e3 * torch.ones(2, 12), torch.zeros(2, 3, 12))
    for name in ("tensor", "isotropic", "componentwise"):
        head = potential(name).head
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.fill_(-1.0)
            evidence = head(features, GRAPH)
        assert (evidence.nu >= FLOOR).all() and (evidence.alpha > 1.0).all()
        lowest = evidence.beta
        if name == "tensor":
            lowest = torch.linalg.eigvalsh(evidence.beta)
        assert (lowest >= FLOOR * 0.999).all()


def test_the_tensor_is_positive_definite_and_symmetric() -> None:
    prediction = potential("tensor", torch.float64).predict([molecule("C2H6"), molecule("CH3OH")])
    covariance = prediction.force_covariance
    assert covariance is not None
    torch.testing.assert_close(covariance, covariance.mT)
    assert torch.linalg.eigvalsh(covariance).min() > 0


# The potential.


@pytest.mark.parametrize("head", HEADS)
def test_a_prediction_holds_what_its_head_can_say(head: str) -> None:
    prediction = potential(head).predict([molecule("H2O"), molecule("CH4")])
    has_force_sigma = head in ("tensor", "isotropic", "componentwise", "mve")
    assert (prediction.force_uncertainty is not None) == has_force_sigma
    assert (prediction.uncertainty is not None) == has_force_sigma
    assert (prediction.energy_uncertainty is not None) == (head == "global")
    assert prediction.energy.dtype == torch.float64 and prediction.energy.shape == (2,)
    assert prediction.forces is not None and prediction.forces.shape == (8, 3)
    # Scalars and lengths of vectors.
    assert prediction.features is not None and prediction.features.shape == (8, 24)
    assert prediction.stress is None and prediction.evidence is None
    if has_force_sigma:
        assert prediction.force_uncertainty is not None and prediction.uncertainty is not None
        torch.testing.assert_close(
            prediction.uncertainty[1], prediction.force_uncertainty[3:].mean()
        )


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
def test_single_precision_forces_do_not_depend_on_where_the_structure_lies(
    plain: bool, periodic: bool
) -> None:
    """Positions rounded to float32 would change them by 26 meV/Å at 10⁴ Å."""
    model = potential("tensor")
    atoms = molecule("CH3CH2OH", cell=[6.0, 7.0, 8.0], pbc=periodic)
    away = atoms.copy()
    away.positions += [1e4, -2e4, 1.5e4]
    with reference_path() if plain else nullcontext():
        here, there = model.predict(atoms), model.predict(away)
    scale = float(here.forces.abs().max())
    torch.testing.assert_close(there.forces, here.forces, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(there.force_uncertainty, here.force_uncertainty, rtol=1e-5, atol=0)


def test_forces_come_in_any_gradient_mode() -> None:
    model = potential()
    expected = model(GRAPH).forces
    with torch.no_grad():
        assert torch.equal(model(GRAPH).forces, expected)
    model.requires_grad_(False)
    assert torch.equal(model(GRAPH).forces, expected)
    assert model(GRAPH, forces=False).forces is None
    assert not GRAPH.positions.requires_grad


def test_everything_can_be_differentiated_when_asked_for() -> None:
    model = potential("tensor", torch.float64)
    positions = GRAPH.positions.clone().requires_grad_()
    prediction = model(GRAPH.with_positions(positions), differentiable="everything")
    for value in (prediction.energy, prediction.forces, prediction.force_covariance):
        assert value is not None and value.requires_grad
        assert torch.autograd.grad(value.sum(), [positions], retain_graph=True)[0].isfinite().all()


def test_settings_travel_through_json() -> None:
    model = potential("isotropic")
    settings = json.loads(json.dumps(model.settings()))
    again = EvidentialPotential.from_settings(settings)
    assert again.settings() == model.settings()
    assert again.elements == model.elements == (1, 6, 8)
    assert again.cutoff == 4.0
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(GRAPH).forces, model(GRAPH).forces)


def test_elements_in_any_order_are_the_same_potential() -> None:
    settings = potential().settings()
    torch.manual_seed(1)
    shuffled = EvidentialPotential.from_settings({**settings, "elements": [6, 8, 1]})
    assert torch.equal(shuffled(GRAPH).energy, potential()(GRAPH).energy)


def test_a_misspelt_head_gets_a_proposal() -> None:
    with pytest.raises(InputError, match="unknown method 'tensr': did you mean 'tensor'"):
        potential("tensr")


def test_predict_takes_one_or_many_in_batches_of_any_size() -> None:
    model = potential("tensor", torch.float64)
    structures = [molecule(name) for name in ("H2O", "CH4", "H2", "C2H6", "CO2")]
    whole = model.predict(structures)
    for atoms_per_batch in (1, 4, 7, 1000):
        parts = model.predict(structures, atoms_per_batch=atoms_per_batch)
        torch.testing.assert_close(parts.energy, whole.energy)
        torch.testing.assert_close(parts.forces, whole.forces)
    torch.testing.assert_close(model.predict(structures[1]).energy, whole.energy[1:2])
    with pytest.raises(ValueError, match="at least one structure"):
        model.predict([])
    with pytest.raises(InputError, match="holds N, which"):
        model.predict(molecule("NH3"))


@pytest.mark.parametrize(("channels", "dtype"), [(16, torch.float64), (32, torch.float32)])
def test_the_compiled_head_says_what_the_plain_one_says(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = TensorHead(channels, 1.7).to(dtype)
    graph = build_graph([molecule("CH3CH2OH"), Atoms("H")] * 4, 4.0)
    features = AtomFeatures(
        3 * torch.randn(graph.n_atoms, channels, dtype=dtype),
        torch.randn(graph.n_atoms, 3, channels, dtype=dtype),
    )
    for _ in range(2):  # and again when the weights have changed
        with torch.no_grad():
            fast = head(features, graph)
            with reference_path():
                plain = head(features, graph)
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {}
        for name in ("nu", "alpha", "beta"):
            torch.testing.assert_close(getattr(fast, name), getattr(plain, name), **tolerance)
        assert fast.scale == plain.scale
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.3)


@pytest.mark.kernels
def test_a_loss_of_forces_is_not_differentiated_down_to_positions_nobody_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take second derivatives of the geometry: ten times as long, for nothing."""
    asked = []
    second = operators._directional
    monkeypatch.setattr(
        operators, "_directional", lambda *a, **k: asked.append("here") or second(*a, **k)
    )
    model = EvidentialPotential(
        elements=(1, 8), element_energies={1: 0.0, 8: 0.0}, force_scale=1.0, channels=16
    )
    graph = build_graph([molecule("H2O")], 5.0)
    for stress in (False, True):
        forces = model(graph, stress=stress, differentiable="everything").forces
        forces.square().sum().backward()
        assert not asked
    held = graph.with_positions(graph.positions.clone().requires_grad_())
    model(held, differentiable="everything").forces.square().sum().backward()
    assert asked and held.positions.grad is not None and held.positions.requires_grad


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_variance_weight_lets_large_errors_pull_on_the_forces(power: float) -> None:
    """β-NLL: an atom that is thought noisy counts by its σ, and σ itself is not pulled by that."""
    beta = torch.diag_embed(torch.tensor([[1e-4] * 3, [1.0] * 3], dtype=torch.float64))
    nu, alpha = torch.ones(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)

    def pull(power: float) -> tuple[float, float]:
        """Of the errors of a quiet and of a noisy atom, each half its σ."""
        sigma = (beta.square().sum((1, 2)).sqrt() / (alpha - 1)).sqrt()
        errors = (0.5 * sigma[:, None] * torch.ones(1, 3)).requires_grad_()
        evidence = TensorEvidence(1.0, nu, alpha, beta)
        evidence.loss(Errors(errors.new_zeros(1), errors, None, 0.0, power)).backward()
        quiet, noisy = errors.grad.norm(dim=1).tolist()
        return quiet, noisy

    quiet, noisy = pull(0.0)
    assert quiet / noisy == pytest.approx(100.0, rel=1e-6)  # as 1/σ: the large are not learned
    quiet, noisy = pull(power)
    assert quiet / noisy == pytest.approx(100.0 ** (1 - power), rel=1e-6)
