"""Every method keeps the contract, says what it means, and comes back from its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.model_file import load_model, save_model
from eip.models.zbl import screened_repulsion
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.simulation.bias import UDDParameters, UDDPotential
from eip.testing import check_potential
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Calibration
from eip.uncertainty.energy_error import EnergyErrorPotential
from eip.uncertainty.ensemble import EnsemblePotential, sample_covariance
from eip.uncertainty.evidence import Errors
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.methods import compared, fit_after_training, new_network
from eip.uncertainty.mixture import fit_mixture
from eip.uncertainty.names import METHODS
from eip.uncertainty.readout_ensemble import DROPPED, ReadoutEnsemblePotential, fit_llpr

CLOSEST = 1.85
NETWORK = {
    "elements": [1, 6, 8],
    "element_energies": {1: -13.6, 6: -1030.0, 8: -2040.0},
    "force_scale": 1.5,
    "channels": 16,
    "interactions": 2,
    "cutoff": 4.5,
}
#: Beyond what a molecule at rest has: some pairs of every structure are closer.
SHORT_RANGE = {"closest": {"H-H": CLOSEST, "H-C": 1.12, "C-O": 1.5}, "share": 0.75, "width": 0.3}
#: The componentwise head breaks rotation, by design; "global" and "none" say nothing of an atom.
WITH_SIGMA = compared()


def graph_of(name: str, size: float, seed: int) -> AtomGraph:
    atoms = molecule(name)
    atoms.rattle(size, seed=seed)
    return build_graph([atoms], 4.5)


def network(method: str, seed: int = 0, backbone: str = "painn", **more: object) -> Potential:
    torch.manual_seed(seed)
    other = {} if backbone == "painn" else {"mean_neighbors": 8.0, "feature_limit": 6.0}
    made = new_network(method, **NETWORK, backbone=backbone, **other, **more).double()
    if backbone == "painn":
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.5)
    return made.eval().requires_grad_(False)


def training_graphs() -> list[AtomGraph]:
    return [graph_of("CH3CH2OH", 0.05, seed) for seed in range(30)]


def finished(method: str, backbone: str = "painn", energies: bool = False) -> Potential:
    if method == "ensemble":
        return EnsemblePotential(
            [network("none", seed, backbone, short_range=SHORT_RANGE) for seed in range(3)]
        )
    inside = network(method, backbone=backbone, short_range=SHORT_RANGE)

    def held_out() -> list[tuple[AtomGraph, torch.Tensor]]:
        graphs = [graph_of("CH3CH2OH", 0.05, seed) for seed in range(50, 60)]
        rng = np.random.default_rng(0)
        return [
            (g, inside(g).forces + torch.from_numpy(rng.normal(size=(g.n_atoms, 3))))
            for g in graphs
        ]

    def with_energies() -> list[tuple[AtomGraph, torch.Tensor]]:
        noise = np.random.default_rng(1).normal(size=10) * energies
        graphs = [graph for graph, _ in held_out()] if energies else []
        return [(g, inside(g).energy + e) for g, e in zip(graphs, noise, strict=False)]

    return fit_after_training(method, inside, training_graphs, held_out, energies=with_energies)


@pytest.mark.parametrize("method", WITH_SIGMA)
def test_every_method_keeps_the_contract(method: str) -> None:
    potential = finished(method, energies=True)
    assert potential(graph_of("CH3CH2OH", 0.1, 1)).energy_uncertainty is not None
    check_potential(potential)


@pytest.mark.parametrize("method", ["none", "global"])
def test_a_method_without_the_last_layers_error_stays_without(method: str) -> None:
    assert not isinstance(finished(method, energies=True), EnergyErrorPotential)


@pytest.mark.parametrize("method", WITH_SIGMA)
def test_sigma_is_no_less_than_the_slope_of_a_repulsion_that_no_frame_shows(method: str) -> None:
    """Whatever a fit at home makes of it."""
    shrunk = Calibration(
        "scale", 1e-3, {}, (0.5,), (1.0,), n_frames=1, n_atoms=1,
        created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    inside = finished(method)
    together = molecule("CH3CH2OH")
    one, other = (together.symbols == "H").nonzero()[0][:2]
    for r in (0.9, 0.5, 0.3):
        together.set_distance(one, other, r, fix=0)
        z, distance = torch.ones(1), torch.tensor([r])
        slope = float(screened_repulsion(z, z, distance)[1])
        for potential in (inside, CalibratedPotential(inside, shrunk)):
            said = potential.predict(together)
            for atom in (one, other):
                assert said.force_uncertainty[atom] >= slope
                if said.extrapolation_grade is not None:
                    assert said.extrapolation_grade[atom] >= 0.999 * CLOSEST / r
            if said.force_covariance is not None:
                along = torch.from_numpy(together.get_distance(one, other, vector=True)) / r
                assert along @ said.force_covariance[one] @ along >= 0.999 * slope**2


@pytest.mark.parametrize("method", WITH_SIGMA)
def test_every_method_drives_udd(method: str) -> None:
    inside, graph = finished(method), graph_of("CH3CH2OH", 0.1, 3)
    sigma = float(inside(graph).uncertainty)
    said = UDDPotential(inside, UDDParameters(A=1.0, B=sigma, C=sigma, D=10.0))(graph)
    assert said.forces_bias is not None and bool(said.forces_bias.abs().max() > 0)


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
@pytest.mark.parametrize("method", [n for n in METHODS.names() if not METHODS.get(n).foreign])
def test_every_method_comes_back_from_its_file(method: str, backbone: str, tmp_path: Path) -> None:
    potential, graph = finished(method, backbone, energies=True), graph_of("CH3CH2OH", 0.1, 1)
    save_model(potential, tmp_path / "model.eip")
    again = load_model(tmp_path / "model.eip", device="cpu")
    fields = "energy", "forces", "force_uncertainty", "force_covariance", "energy_uncertainty"
    for name in fields:
        before, after = (getattr(p(graph), name) for p in (potential, again))
        assert (before is None) == (after is None)
        if before is not None:
            assert torch.equal(before, after), name


@pytest.mark.parametrize("method", ["gmm", "llpr", "tensor", "isotropic"])
def test_what_is_fitted_afterwards_leaves_energy_and_forces(method: str) -> None:
    trained = network(method, short_range=SHORT_RANGE)
    before, after = (p(graph_of("CH3OH", 0.1, 2)) for p in (trained, finished(method)))
    assert torch.equal(before.energy, after.energy)
    torch.testing.assert_close(before.forces, after.forces, rtol=1e-12, atol=1e-12)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'ensemble'"):
        new_network("ensembel", **NETWORK)


def test_a_comparison_leaves_out_what_has_no_sigma_of_its_own() -> None:
    assert set(METHODS.names()) - set(compared()) == {
        *("componentwise", "global", "none"),
        "attached",
    }


#: All that a stranger writes: the method here, and in pyproject.toml
#:     [project.entry-points."eip.methods"]
#:     radius = "radius:RADIUS"
RADIUS = '''
"""A Gaussian whose variance is one trained number for each atom and direction."""

import torch
from torch import nn

from eip.uncertainty.evidence import GaussianEvidence
from eip.uncertainty.evidential import EvidenceHead, evidence


class OneWidth(EvidenceHead):
    def __init__(self, channels, scale):
        super().__init__(channels, scale)
        self.width = nn.Parameter(torch.zeros(()))

    def forward(self, features, graph):
        identity = torch.eye(3).to(features.scalars)
        return GaussianEvidence(self.scale, self.width.exp() * identity.expand(graph.n_atoms, 3, 3))


RADIUS = evidence("radius", OneWidth, "one variance for all", latent_distance=True)
'''


@pytest.mark.once
def test_a_method_of_a_strangers_package_trains(package, demo_data: Path, tmp_path: Path) -> None:
    assert len(RADIUS.strip().splitlines()) < 40
    package("radius", RADIUS, **{"eip.methods": "radius = radius:RADIUS"})
    frames = demo_data / "ethanol_300K.xyz"
    done = package.run(
        "import sys, eip; from eip.config import parse_config;"
        "eip.train(parse_config({'run_dir': 'run',"
        " 'data': {'train': sys.argv[1], 'validation': 20},"
        " 'model': {'uncertainty': 'radius', 'channels': 8, 'interactions': 1, 'cutoff': 3.0},"
        " 'training': {'epochs': 1}}), progress=False);"
        "print(eip.load('run/model.eip').predict(eip.Calculator and __import__('ase.build')"
        ".build.molecule('CH3CH2OH')).force_uncertainty.shape)",
        frames,
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([9])" in done.stdout


# Ensembles


def test_an_ensemble_is_mean_and_sample_covariance() -> None:
    members = [network("none", seed) for seed in range(4)]
    graph = graph_of("CH3CH2OH", 0.1, 0)
    said = EnsemblePotential(members)(graph)
    forces = np.stack([m(graph).forces.numpy() for m in members])
    np.testing.assert_allclose(said.forces, forces.mean(0), rtol=1e-12)
    for atom in range(graph.n_atoms):
        np.testing.assert_allclose(
            said.force_covariance[atom], np.cov(forces[:, atom].T), rtol=1e-9, atol=1e-14
        )
    sigma = np.linalg.norm(said.force_covariance.numpy(), axis=(1, 2)) ** 0.5
    np.testing.assert_allclose(said.force_uncertainty, sigma, rtol=1e-6)


def test_an_ensemble_of_one_or_of_strangers_is_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        EnsemblePotential([network("none")])
    other = EvidentialPotential(head="none", **{**NETWORK, "cutoff": 4.0})
    with pytest.raises(InputError, match="same elements and cutoff"):
        EnsemblePotential([network("none"), other])


# Many last layers


def test_the_posterior_is_that_of_the_last_layer() -> None:
    """Many draws have the covariance J (Σ JᵀJ + ς²)⁻¹ Jᵀ, worked out by finite differences."""
    inside = network("none")
    training = training_graphs()[:5]
    # Many draws for their covariance, few for what becomes of them: each costs a gradient.
    drawn = fit_llpr(inside, training, members=4000).member_deviations().numpy()
    made = fit_llpr(inside, training, members=12)
    graph = graph_of("CH3CH2OH", 0.1, 7)
    hidden = inside.energy_model.readout[0].out_features

    def jacobian(of: AtomGraph) -> np.ndarray:
        columns = []
        last = inside.energy_model.readout[-1].weight
        base = inside(of).forces
        for unit in range(hidden):
            with torch.no_grad():
                last[0, unit] += 1.0
                columns.append((inside(of).forces - base).numpy().reshape(-1))
                last[0, unit] -= 1.0
        return np.stack(columns, axis=1)

    jacobians = np.concatenate([jacobian(g) for g in training])
    precision = jacobians.T @ jacobians
    precision += 1e-4 * np.diag(precision).mean() * np.eye(hidden)
    rows = jacobian(graph).reshape(graph.n_atoms, 3, hidden)
    exact = rows @ np.linalg.solve(precision, np.swapaxes(rows, 1, 2))
    said = rows @ np.cov(drawn.T) @ np.swapaxes(rows, 1, 2)
    scale = np.trace(said, axis1=1, axis2=2).sum() / np.trace(exact, axis1=1, axis2=2).sum()
    np.testing.assert_allclose(said, scale * exact, atol=0.1 * np.abs(said).max())
    share = np.trace(said, axis1=1, axis2=2) / np.trace(exact, axis1=1, axis2=2)
    np.testing.assert_allclose(share / scale, 1.0, rtol=0.1)
    # And the potential says just what its members come to: forces are linear in a last layer.
    few = rows @ np.cov(made.member_deviations().numpy().T) @ np.swapaxes(rows, 1, 2)
    np.testing.assert_allclose(
        made(graph).force_covariance.numpy(), few, rtol=1e-8, atol=1e-8 * few.max()
    )


def test_members_of_a_readout_ensemble_are_potentials() -> None:
    """Each member's force is that of a network with its last layer."""
    potential = network("shallow_ensemble")
    graph = graph_of("CH3CH2OH", 0.1, 0)
    said = potential(graph)
    last = potential.energy_model.readout[-1]
    forces = []
    for deviation in potential.member_deviations():
        with torch.no_grad():
            last.weight += deviation
            forces.append(potential(graph).forces)
            last.weight -= deviation
    forces = torch.stack(forces)
    torch.testing.assert_close(forces.mean(0), said.forces, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sample_covariance(forces), said.force_covariance)


def test_dropout_is_at_random_in_training_alone() -> None:
    potential = network("dropout")
    graph = graph_of("CH3CH2OH", 0.1, 0)
    assert torch.equal(potential(graph).force_uncertainty, potential(graph).force_uncertainty)
    potential.train()
    first, second = potential(graph), potential(graph)
    assert not torch.equal(first.energy, second.energy)
    assert first.force_uncertainty is None
    assert isinstance(potential, ReadoutEnsemblePotential)
    kept = (potential.masks + 1.0).unique()
    torch.testing.assert_close(kept, torch.tensor([0.0, 1.0 / (1.0 - DROPPED)]).double())


@pytest.mark.parametrize("method", ["shallow_ensemble", "mve"])
def test_the_likelihood_is_smallest_where_the_spread_is_the_error(method: str) -> None:
    potential = network(method)
    graph = graph_of("CH3CH2OH", 0.1, 0)
    said = potential(graph, differentiable="everything")
    variance = said.force_covariance.detach().diagonal(dim1=1, dim2=2).mean(1)
    direction = torch.randn(graph.n_atoms, 3, generator=torch.Generator().manual_seed(0)).double()
    errors = direction / direction.square().mean(1, keepdim=True).sqrt() * variance.sqrt()[:, None]

    def loss(factor: float) -> float:
        e = said.evidence
        scaled = type(e)(e.scale, e.covariance * factor)
        none = torch.zeros(1).double()
        return scaled.loss(Errors(none, errors, 0.5, 0.1)).item()

    assert loss(1.0) < min(loss(0.8), loss(1.25))


# Mixture


def test_the_mixture_is_scikit_learns() -> None:
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    potential = fit_mixture(network("none"), training_graphs(), 1.0)
    graph = graph_of("CH3CH2OH", 0.2, 9)
    said = potential(graph)
    index = {1: 0, 6: 1, 8: 2}
    leading = (said.features - potential.center) @ potential.directions
    for atom, number in enumerate(graph.numbers.tolist()):
        k = index[number]
        terms, bounds = [], []
        for c in range(potential.means.shape[1]):
            root = potential.precisions[k, c].numpy()
            covariance = np.linalg.inv(root @ root.T)
            normal = multivariate_normal(potential.means[k, c], covariance)
            # log weights hold the normalization too
            weight = float(potential.log_weights[k, c]) - np.log(np.diag(root)).sum()
            weight += 0.5 * len(root) * np.log(2 * np.pi)
            terms.append(weight + normal.logpdf(leading[atom]))
            bounds.append(float(potential.log_weights[k, c]))
        expected = logsumexp(bounds) - logsumexp(terms)
        assert float(said.force_uncertainty[atom]) == pytest.approx(expected, rel=1e-6)


def test_the_mixture_is_surprised_far_away() -> None:
    potential = fit_mixture(network("none"), training_graphs(), 1.0)
    near, far = (potential(graph_of("CH3CH2OH", size, 99)) for size in (0.05, 0.5))
    assert far.uncertainty > 3 * near.uncertainty
