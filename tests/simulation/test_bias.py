"""UDD: the bias is the gradient of eq. 12, the limiter is eq. 14, and labels stay labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from eip.errors import InputError
from eip.neighbors import build_graph
from eip.simulation.bias import (
    LARGEST_OVER_D,
    UDDParameters,
    UDDPotential,
    bias_energy,
    bias_forces,
    limit_bias,
)
from eip.simulation.calculator import BiasedCalculator
from eip.simulation.proposal import _thermal_force, propose_udd
from eip.simulation.softness import softened

from .toy import ToyPotential, cluster, crystal

PARAMETERS = {"A": 2.0, "B": 0.05, "C": 0.1, "D": 1.5}


def predict(potential, structures, **kwargs):
    graph = build_graph(structures, potential.cutoff)
    return potential(graph, **kwargs)


def unlimited(udd, atoms):
    graph = build_graph(atoms, udd.cutoff)
    graph = graph.with_positions(graph.positions.requires_grad_())
    prediction = udd.potential(graph, differentiable="uncertainty")
    p = udd.parameters_udd
    energy = bias_energy(prediction.uncertainty, graph.atoms_per_frame, p.A, p.B, p.limiter)
    return graph, bias_forces(energy, graph.positions)


def written_out(forces, C, D, limiter):
    """Eq. 14 in plain loops."""
    norms = np.linalg.norm(forces, axis=1)
    out = np.zeros_like(forces)
    for i, force in enumerate(forces):
        for a in range(3):
            f = {"atom": norms[i], "component": force[a]}.get(limiter, norms.max())
            if limiter == "saturating":
                out[i, a] = force[a] * LARGEST_OVER_D * D / math.sqrt(f**2 + C**2)
                continue
            out[i, a] = force[a] * D / (math.sqrt(2 * math.pi) * C) * math.exp(-(f**2) / (2 * C**2))
    return out - out.mean(axis=0) if limiter == "atom" else out


@pytest.mark.parametrize("limiter", ["global", "saturating"])
@pytest.mark.parametrize("atoms", [cluster(7), crystal(1)], ids=["cluster", "crystal"])
def test_bias_is_minus_the_gradient_of_its_energy(atoms, limiter):
    udd = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, limiter=limiter))
    prediction = predict(udd, atoms)
    assert prediction.uncertainty.item() > 0.01
    assert prediction.energy_bias.item() < -0.01
    assert prediction.energy_bias.item() > -PARAMETERS["A"] or limiter == "saturating"
    _, forces = unlimited(udd, atoms)
    h, numeric = 1e-4, np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for a in range(3):
            energies = []
            for shift in (-2 * h, -h, h, 2 * h):
                moved = atoms.copy()
                moved.positions[i, a] += shift
                energies.append(predict(udd, moved).energy_bias.item())
            numeric[i, a] = np.dot(energies, [-1, 8, -8, 1]) / (12 * h)
    scale = np.abs(numeric).max()
    assert scale > 1e-2
    np.testing.assert_allclose(forces.numpy(), numeric, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("limiter", ["global", "atom", "component", "saturating"])
def test_limited_force_is_eq_14(limiter):
    udd = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, limiter=limiter))
    atoms = cluster(9, seed=3)
    _, forces = unlimited(udd, atoms)
    expected = written_out(forces.numpy(), PARAMETERS["C"], PARAMETERS["D"], limiter)
    np.testing.assert_allclose(predict(udd, atoms).forces_bias.numpy(), expected, atol=1e-13)


def test_eq_12_against_plain_numbers():
    sigma, n = torch.tensor([0.3, 1e-9], dtype=torch.float64), torch.tensor([4, 9])
    energy = bias_energy(sigma, n, A=5.0, B=0.2)
    assert energy[0].item() == pytest.approx(5.0 * (math.exp(-0.09 / (4 * 0.04)) - 1), rel=1e-14)
    assert energy[1].item() == pytest.approx(-5.0 * 1e-18 / (9 * 0.04), rel=1e-12)
    energy = bias_energy(sigma, n, 5.0, 0.2, "saturating")
    assert energy[0].item() == pytest.approx(-5.0 * math.log(1 + 0.09 / (4 * 0.04)), rel=1e-14)
    assert energy[1].item() == pytest.approx(-5.0 * 1e-18 / (9 * 0.04), rel=1e-12)


@pytest.mark.parametrize("limiter", ["global", "saturating"])
@given(scale=st.floats(1e-3, 50.0), D=st.floats(0.1, 10.0), C=st.floats(0.1, 10.0))
@settings(max_examples=50, deadline=None)
def test_no_limited_force_is_larger_than_promised(limiter, scale, C, D):
    rng = np.random.default_rng(1)
    graph = build_graph([cluster(5), cluster(6)], 3.0)
    forces = torch.tensor(scale * rng.standard_normal((11, 3)))
    limited = limit_bias(forces, graph, C, D, limiter)
    assert limited.norm(dim=1).max() <= LARGEST_OVER_D * D * (1 + 1e-12)


@pytest.mark.parametrize("limiter", ["global", "atom"])
def test_the_largest_force_comes_at_C(limiter):
    graph = build_graph(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]]), 3.0)
    C, D = 0.7, 1.3

    def largest(force):
        forces = torch.tensor([[0.0, 0, force], [0, 0, -force]], dtype=torch.float64)
        return limit_bias(forces, graph, C, D, limiter).norm(dim=1).max().item()

    assert largest(C) == pytest.approx(0.24197 * D, rel=1e-5)
    assert largest(C) == pytest.approx(UDDParameters(1.0, 1.0, C, D).max_bias_force, rel=1e-14)
    assert largest(0.99 * C) < largest(C) > largest(1.01 * C)


def test_max_bias_force_in_place_of_D():
    udd = UDDParameters.from_max_force(1.0, 1.0, 1.0, 0.5)
    assert udd.max_bias_force == pytest.approx(0.5)
    assert abs(udd.D - 0.5 / 0.2419707) < 1e-6


def rotated_difference(limiter):
    udd = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, limiter=limiter))
    atoms = cluster(7)
    turn = Rotation.from_euler("xyz", [0.4, 1.1, -0.7]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T
    before, after = predict(udd, atoms), predict(udd, turned)
    assert before.energy_bias.item() == pytest.approx(after.energy_bias.item(), abs=1e-12)
    rotated = before.forces_bias.numpy() @ turn.T
    return np.abs(after.forces_bias.numpy() - rotated).max() / np.abs(rotated).max()


def test_a_saturating_limiter_comes_to_the_largest_force_and_stays():
    graph = build_graph(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]]), 3.0)
    before = 0.0
    for force in (0.01, 0.1, 1.0, 10.0, 1e4):
        forces = torch.tensor([[0.0, 0, force], [0, 0, -force]], dtype=torch.float64)
        now = limit_bias(forces, graph, 0.5, 2.0, "saturating")[0, 2].item()
        assert now > before
        before = now
    assert before == pytest.approx(2.0 * LARGEST_OVER_D, rel=1e-6)


@pytest.mark.parametrize("limiter", ["global", "atom", "saturating"])
def test_bias_rotates_with_the_structure(limiter):
    assert rotated_difference(limiter) < 1e-10


def test_the_authors_limiter_breaks_rotation():
    assert rotated_difference("component") > 1e-2


def net(limiter):
    atoms = cluster(7)
    forces = predict(
        UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, limiter=limiter)), atoms
    ).forces_bias.numpy()
    torque = np.cross(atoms.positions, forces).sum(axis=0)
    scale = np.abs(forces).max()
    return np.abs(forces.sum(axis=0)).max() / scale, np.abs(torque).max() / scale


def test_net_force_and_torque():
    assert max(net("global")) < 1e-12
    assert net("atom")[0] < 1e-12
    assert net("component")[0] > 1e-3


@pytest.mark.parametrize("limiter", ["global", "atom", "component", "saturating"])
def test_batch_equals_singles(limiter):
    udd = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, limiter=limiter))
    structures = [cluster(5, seed=1), Atoms("Cu"), crystal(1), cluster(9, seed=2, spread=0.3)]
    together = predict(udd, structures, stress=False)
    singles = [predict(udd, atoms) for atoms in structures]
    for name in ("energy_bias", "forces_bias", "energy", "forces"):
        apart = torch.cat([getattr(single, name) for single in singles])
        torch.testing.assert_close(getattr(together, name), apart, rtol=1e-12, atol=1e-12)


def test_one_atom_feels_no_bias():
    prediction = predict(UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS)), Atoms("Cu"))
    assert prediction.forces_bias.abs().max() == 0
    assert torch.isfinite(prediction.energy_bias).all()


def test_labels_are_the_unbiased_ones_and_detached():
    toy = ToyPotential()
    plain = predict(toy, crystal(1), stress=True)
    biased = predict(UDDPotential(toy, UDDParameters(**PARAMETERS)), crystal(1), stress=True)
    for name in ("energy", "forces", "stress", "force_uncertainty", "uncertainty"):
        assert torch.equal(getattr(plain, name), getattr(biased, name))
    assert biased.forces_bias.abs().max() > 1e-3
    assert not any(
        getattr(biased, name).requires_grad for name in ("energy", "energy_bias", "forces_bias")
    )


def test_the_caller_can_differentiate_on():
    udd = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS))
    graph = build_graph(cluster(5), 4.0)
    graph = graph.with_positions(graph.positions.requires_grad_())
    prediction = udd(graph, differentiable="uncertainty")
    (gradient,) = torch.autograd.grad(prediction.energy.sum(), graph.positions)
    torch.testing.assert_close(-gradient, prediction.forces)
    with torch.no_grad():
        assert udd(graph).forces_bias.abs().max() > 0


def test_errors():
    with pytest.raises(InputError, match=r"UDD needs B > 0 eV/Å, got -1"):
        UDDParameters(1.0, -1.0, 1.0, 1.0)
    with pytest.raises(InputError, match=r"unknown limiter 'globl': did you mean 'global'\?"):
        UDDParameters(1.0, 1.0, 1.0, 1.0, "globl")
    blind = UDDPotential(ToyPotential(uncertain=False), UDDParameters(1.0, 1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="this one gives none"):
        predict(blind, cluster(3))


def test_proposal_does_what_it_says():
    toy = ToyPotential()
    frames = [cluster(7, seed=s) for s in range(7)]
    proposal = propose_udd(toy, frames, 300.0, width=3.0, fraction=0.3)
    p = proposal.parameters
    scale = max(proposal.force_rms, proposal.force_thermal)
    assert p.max_bias_force == pytest.approx(0.3 * scale, rel=1e-12)
    udd = UDDPotential(toy, p)
    largest = [unlimited(udd, atoms)[1].norm(dim=1).max().item() for atoms in frames]
    assert np.median(largest) == pytest.approx(p.max_bias_force, rel=1e-2)
    assert 1 / proposal.width**2 == pytest.approx(proposal.sigma**2 / (7 * p.B**2), rel=1e-9)
    felt = [predict(udd, atoms).forces_bias.norm(dim=1).max().item() for atoms in frames]
    assert 0.3 * p.max_bias_force < np.median(felt) <= p.max_bias_force
    text = proposal.explain()
    for figure in (f"B = {p.B:.4g}", f"A = {p.A:.4g}", f"C = {p.C:.4g}", f"D = {p.D:.4g}", "300 K"):
        assert figure in text


def test_proposal_knows_thermal_force_of_a_relaxed_structure():
    """An analytic case: two atoms on a spring k; <F·F> = 2 kT · trace(H)/2 over both atoms."""
    toy = ToyPotential(cutoff=40.0)
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])
    k = 2 * 0.4 * 1.6**2 * (1 - (2.4 / 40) ** 2) ** 3  # Morse curvature 2 D a², along z alone
    expected = math.sqrt(8.617e-5 * 300.0 * 2 * k / 2)
    # Hutchinson's signs: ± k on z for both atoms; v·Hv is 0 or 4k, mean 2k. Four probes: exact
    # only on average, so many are taken here.
    assert _thermal_force(toy, dimer, 300.0, probes=200) == pytest.approx(expected, rel=0.2)


def test_proposal_refuses_a_blind_potential():
    with pytest.raises(InputError, match="gives none"):
        propose_udd(ToyPotential(uncertain=False), cluster(4), 300.0)
    with pytest.raises(InputError, match=r"gradient over 1 structure.* is zero"):
        propose_udd(ToyPotential(), Atoms("Cu"), 300.0)
    with pytest.raises(InputError, match="temperature > 0, got 0"):
        propose_udd(ToyPotential(), cluster(4), 0.0)


class Graded(ToyPotential):
    """With an extrapolation grade: the distance of each atom from the first of its structure."""

    def forward(self, graph, **kwargs):
        prediction = super().forward(graph, **kwargs)
        first = torch.searchsorted(graph.frame, torch.arange(graph.n_frames))
        grade = torch.linalg.vector_norm(
            graph.positions - graph.positions[first][graph.frame], dim=1
        )
        return replace(prediction, extrapolation_grade=grade.detach())


def test_the_push_turns_round_at_the_grade_it_is_to_hover_at():
    structures = [cluster(7), cluster(8), cluster(9)]
    plain = predict(UDDPotential(Graded(), UDDParameters(**PARAMETERS)), structures)
    frame = build_graph(structures, 4.0).frame
    largest = torch.stack([plain.extrapolation_grade[frame == k].max() for k in range(3)])
    hover = float(largest.mean())
    turned = predict(UDDPotential(Graded(), UDDParameters(**PARAMETERS, hover=hover)), structures)
    share = ((hover - largest) / (hover - 1)).clamp(-1, 1)
    assert share.min() < 0 < share.max()
    torch.testing.assert_close(turned.forces_bias, plain.forces_bias * share[frame][:, None])
    torch.testing.assert_close(turned.forces, plain.forces)
    far = predict(UDDPotential(Graded(), UDDParameters(**PARAMETERS, hover=1.001)), structures)
    torch.testing.assert_close(far.forces_bias, -plain.forces_bias)
    home = predict(UDDPotential(Graded(), UDDParameters(**PARAMETERS, hover=1e9)), structures)
    torch.testing.assert_close(home.forces_bias, plain.forces_bias)


def test_a_run_feels_the_mean_of_the_bias_over_its_memory():
    potential, atoms = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS)), cluster(7)
    calculator = BiasedCalculator(potential, memory=3.0)
    mean = np.zeros((7, 3))
    for seed in range(5):
        atoms.rattle(0.05, seed=seed)
        now = predict(potential, atoms)
        mean = math.exp(-1 / 3) * mean + (1 - math.exp(-1 / 3)) * now.forces_bias.numpy()
        np.testing.assert_allclose(
            calculator.get_forces(atoms), now.forces.numpy() + mean, atol=1e-12
        )
        np.testing.assert_allclose(calculator.results["forces_bias"], mean, atol=1e-12)
        np.testing.assert_allclose(calculator.results["forces"], now.forces.numpy(), atol=1e-12)
    udd = UDDParameters(**PARAMETERS, memory=50.0)
    assert udd.as_dict()["memory"] == 50.0 and UDDParameters.from_dict(udd.as_dict()) == udd
    with pytest.raises(InputError, match="memory > 0 fs, got 0"):
        UDDParameters(**PARAMETERS, memory=0.0)


def test_a_soft_push_is_the_softened_one_before_its_limit():
    atoms = cluster(9)
    graph, forces = unlimited(UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS)), atoms)
    want = limit_bias(
        softened(forces, graph, 4.0), graph, PARAMETERS["C"], PARAMETERS["D"], "global"
    )
    soft = predict(UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, soft=True)), atoms)
    torch.testing.assert_close(soft.forces_bias, want)
    hard = predict(UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS)), atoms)
    assert not torch.allclose(soft.forces_bias, hard.forces_bias, rtol=0.1)
    torch.testing.assert_close(soft.forces, hard.forces)


def test_a_run_is_pushed_at_every_so_many_steps():
    plain, atoms = ToyPotential(), cluster(7)
    biased = UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS))
    calculator = BiasedCalculator(biased, interval=3, between=plain)
    for step in range(7):
        atoms.rattle(0.05, seed=step)
        calculator.pushes = step % 3 == 0
        now = predict(biased, atoms)
        push = 3 * now.forces_bias.numpy() if step % 3 == 0 else 0.0
        np.testing.assert_allclose(
            calculator.get_forces(atoms), now.forces.numpy() + push, atol=1e-12
        )
        np.testing.assert_allclose(calculator.push, push, atol=1e-12)
        np.testing.assert_allclose(calculator.results["forces"], now.forces.numpy(), atol=1e-12)
        assert ("forces_bias" in calculator.results) == (step % 3 == 0)
    assert plain.calls == 4


def test_how_a_push_is_meant_is_kept():
    udd = UDDParameters(**PARAMETERS)
    assert not {"soft", "interval", "hover", "memory"} & set(udd.as_dict())
    udd = UDDParameters(**PARAMETERS, soft=True, interval=4)
    assert UDDParameters.from_dict(udd.as_dict()) == udd
    assert UDDPotential(ToyPotential(), udd).parameters_udd == udd
    with pytest.raises(InputError, match="interval of 1 step or more, got 0"):
        UDDParameters(**PARAMETERS, interval=0)


def test_where_a_grade_bounds_the_push_nothing_else_does():
    potential, atoms = Graded(), cluster(9)
    p = propose_udd(potential, atoms, 300.0, hover=3.0, soft=True)
    assert (p.parameters.limiter, p.parameters.hover, p.parameters.soft) == (
        "saturating",
        3.0,
        True,
    )
    assert "0.3 of that" in p.explain() and "fades" not in p.explain()
    most, hover = p.parameters.max_bias_force, replace(p.parameters, hover=1e9)
    for squeezed in (1.0, 0.7, 0.4, 0.1):
        pressed = atoms.copy()
        pressed.positions *= squeezed
        said = predict(UDDPotential(potential, hover), pressed)
        assert 0.9 * most < said.forces_bias.norm(dim=1).max() < most
    assert said.uncertainty.item() > 30 * p.sigma
    back = predict(UDDPotential(potential, replace(hover, hover=1.001)), atoms)
    torch.testing.assert_close(
        back.forces_bias, -predict(UDDPotential(potential, hover), atoms).forces_bias
    )


def test_hovering_needs_a_grade_and_one_beyond_the_edge():
    with pytest.raises(InputError, match="gives none; eip calibrate"):
        predict(UDDPotential(ToyPotential(), UDDParameters(**PARAMETERS, hover=2.0)), cluster(7))
    with pytest.raises(InputError, match="above 1, the edge"):
        UDDParameters(**PARAMETERS, hover=1.0)
    udd = UDDParameters(**PARAMETERS)
    assert "hover" not in udd.as_dict() and UDDParameters.from_dict(udd.as_dict()) == udd
    udd = UDDParameters(**PARAMETERS, hover=3.0)
    assert UDDParameters.from_dict(udd.as_dict()) == udd
