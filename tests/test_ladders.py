"""The contract of an uncertainty: what passes it, and what is broken on purpose does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.potential import Potential, WrappedPotential
from eip.prediction import Prediction
from eip.testing import ContractViolation, check_ladders, check_uncertainty, climb, ladders
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import LatentDistancePotential, fit_latent_distance

CUTOFF = 4.5


def ethanol(seed: int) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=seed)
    return atoms


HOME = [ethanol(seed) for seed in range(100, 110)]


@pytest.fixture(scope="module")
def guarded() -> LatentDistancePotential:
    """With a raw σ that says nothing, so that the guard is all there is."""
    torch.manual_seed(0)
    inside = EvidentialPotential(
        elements=[1, 6, 8],
        element_energies={1: -13.6, 6: -1030.0, 8: -2040.0},
        force_scale=1.5,
        channels=16,
        interactions=2,
        cutoff=CUTOFF,
    )
    inside = inside.double().eval().requires_grad_(False)
    training = [build_graph(ethanol(seed), CUTOFF) for seed in range(40)]
    rng, held_out = np.random.default_rng(0), []
    for seed in range(40, 60):
        graph = build_graph(ethanol(seed), CUTOFF)
        forces = inside(graph).forces
        noise = 0.01 * forces.square().mean().sqrt() * torch.from_numpy(rng.normal(size=(9, 3)))
        held_out.append((graph, forces + noise))
    return fit_latent_distance(inside, training, held_out, exponents=False)


def violation(check: object, *arguments: object) -> str:
    with pytest.raises(ContractViolation) as caught:
        check(*arguments)  # type: ignore[operator]
    return str(caught.value)


def test_a_guarded_uncertainty_keeps_the_contract(guarded: LatentDistancePotential) -> None:
    check_uncertainty(guarded, HOME)


def test_every_ladder_of_a_molecule_is_there() -> None:
    names = [ladder.name for ladder in ladders(molecule("CH3CH2OH"), [1, 6, 8])]
    assert names == [
        *("H and H pushed together", "H and C pushed together", "H and O pushed together"),
        *("C and C pushed together", "C and O pushed together"),
        *("H pulled out", "H replaced by C", "H replaced by O"),
        *("C pulled out", "C replaced by H", "C replaced by O"),
        *("O pulled out", "O replaced by H", "O replaced by C"),
        *("pressed", "a molecule cut in two"),
    ]


def test_ladders_are_what_they_say() -> None:
    start = molecule("CH3CH2OH")
    found = {ladder.name: ladder for ladder in ladders(start)}
    pushed = found["H and O pushed together"]
    lengths = [rung.get_distance(*pushed.moved) for rung in pushed.rungs]
    np.testing.assert_allclose(lengths, np.linspace(1.0, 0.3, 8))
    still = [k for k in range(9) if k not in pushed.moved]
    np.testing.assert_array_equal(pushed.rungs[-1].positions[still], start.positions[still])

    pulled = found["O pulled out"]
    nearest = [np.delete(r.get_all_distances()[pulled.moved[0]], pulled.moved[0]).min()
               for r in pulled.rungs]  # fmt: skip
    assert nearest[-1] > 5.0 and (np.diff(nearest) > 0).all()

    cut = found["a molecule cut in two"]
    lengths = [rung.get_distance(*cut.moved) for rung in cut.rungs]
    assert (np.diff(lengths) > 0).all() and lengths[-1] - lengths[0] == pytest.approx(5.7)

    crystal = bulk("NaCl", "rocksalt", a=5.6).repeat(2)
    found = {ladder.name: ladder for ladder in ladders(crystal)}
    assert "a molecule cut in two" not in found
    volumes = [rung.get_volume() / crystal.get_volume() for rung in found["pressed"].rungs]
    np.testing.assert_allclose(volumes, [0.95, 0.9, 0.8, 0.7, 0.6])
    pushed = found["Na and Cl pushed together"]
    assert pushed.rungs[-1].get_distance(*pushed.moved, mic=True) == pytest.approx(0.3)
    assert [ladder.name for ladder in ladders(Atoms("H"))] == []


class Changed(WrappedPotential):
    """σ as it comes, but for a change of it."""

    def __init__(self, potential: Potential, change) -> None:
        super().__init__(potential)
        self.change = change

    def forward(self, graph: AtomGraph, **options) -> Prediction:  # type: ignore[override]
        said = self.potential(graph, **options)
        sigma = self.change(graph, said)
        return replace(said, force_uncertainty=sigma, uncertainty=graph.mean_by_frame(sigma))


def test_a_sigma_that_does_not_rise_is_named(guarded: LatentDistancePotential) -> None:
    said = violation(
        check_ladders, Changed(guarded, lambda g, p: torch.ones_like(p.force_uncertainty)), HOME
    )
    assert "H and H pushed together: σ ends at 1 times" in said
    assert "a molecule cut in two" in said


def test_a_sigma_that_falls_on_the_way_is_named(guarded: LatentDistancePotential) -> None:
    def falls(graph: AtomGraph, said: Prediction) -> torch.Tensor:
        """Sure of itself a little beyond the edge."""
        grade, sigma = said.extrapolation_grade, said.force_uncertainty
        return torch.where((grade > 1) & (grade < 6), 1e-4 * sigma, sigma)

    assert "of what it is at home" in violation(check_ladders, Changed(guarded, falls), HOME)


def test_other_breaches_are_found_too(guarded: LatentDistancePotential) -> None:
    def axis(graph: AtomGraph, said: Prediction) -> torch.Tensor:
        return said.force_uncertainty * (1 + 0.1 * graph.positions[:, 0].tanh())

    assert "rotation" in violation(check_uncertainty, Changed(guarded, axis), HOME)
    cut_off = Changed(guarded, lambda g, p: p.force_uncertainty.detach())
    assert "uncertainty_gradient" in violation(check_uncertainty, cut_off, HOME)
    negative = Changed(guarded, lambda g, p: -p.force_uncertainty)
    assert "negative" in violation(check_uncertainty, negative, HOME)


def test_a_sigma_that_is_no_number_fails_its_ladder(guarded: LatentDistancePotential) -> None:
    def none(graph: AtomGraph, said: Prediction) -> torch.Tensor:
        return said.force_uncertainty / (said.extrapolation_grade < 5)

    failures = [a.failure() for a in climb(Changed(guarded, none), HOME)]
    assert any(f is not None and f.endswith("σ is not finite") for f in failures)


def test_a_potential_without_sigma_is_refused() -> None:
    plain = EvidentialPotential(
        elements=[1], element_energies={1: 0.0}, force_scale=1.0, head="none", channels=16
    )
    said = violation(climb, plain.eval(), [molecule("H2")])
    assert "gives no uncertainty of forces" in said
