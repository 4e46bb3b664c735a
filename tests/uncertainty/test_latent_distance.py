"""σ times latent distance: symmetries, exponents found again, far atoms, round trip."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase.build import molecule

from eip.errors import InputError
from eip.kernels import reference_path
from eip.model_file import load_model, save_model
from eip.neighbors import build_graph
from eip.testing import check_potential
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import (
    fit_latent_distance,
    neighborhood_mean,
)


def potential(head: str = "tensor") -> EvidentialPotential:
    torch.manual_seed(0)
    energies = {1: -13.6, 6: -1030.0, 8: -2040.0}
    made = EvidentialPotential(
        elements=[1, 6, 8], element_energies=energies, force_scale=1.5, head=head, channels=16
    )
    return made.double().eval().requires_grad_(False)


def rattled(name: str, size: float, seed: int):
    atoms = molecule(name)
    atoms.rattle(size, seed=seed)
    return build_graph([atoms], 5.0)


@pytest.fixture(scope="module")
def fitted():
    inside = potential()
    training = [rattled("CH3CH2OH", 0.05, seed) for seed in range(40)]
    held_out = []
    for seed in range(40, 60):
        graph = rattled("CH3CH2OH", 0.05, seed)
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(9, 3)))
        held_out.append((graph, inside(graph).forces + noise))
    return fit_latent_distance(inside, training, held_out)


def test_contracts_hold(fitted):
    check_potential(fitted)


def test_training_atoms_are_near_one_and_distorted_ones_far(fitted):
    near = [rattled("CH3CH2OH", 0.05, seed) for seed in range(100, 110)]
    far = [rattled("CH3CH2OH", 0.4, seed) for seed in range(100, 110)]
    other = [rattled("CO2", 0.05, seed) for seed in range(5)]
    means = []
    for graphs in (near, far, other):
        d = [fitted.squared_distance(fitted.potential(g).features, g.numbers) for g in graphs]
        means.append(float(torch.cat(d).mean().sqrt()))
    assert 0.5 < means[0] < 2.0
    assert means[1] > 2.0 * means[0]
    assert means[2] > 2.0 * means[0]


def test_energy_and_forces_are_untouched(fitted):
    graph = rattled("CH3CH2OH", 0.2, 1)
    assert torch.equal(fitted(graph).energy, fitted.potential(graph).energy)
    assert torch.equal(fitted(graph).forces, fitted.potential(graph).forces)


def test_covariance_follows_sigma(fitted):
    said = fitted(rattled("CH3CH2OH", 0.2, 1))
    size = torch.linalg.matrix_norm(said.force_covariance).sqrt()
    torch.testing.assert_close(size, said.force_uncertainty)


def test_a_strange_neighbor_is_noticed():
    """D of an atom is the weighted root mean square of d over itself and who is near."""
    graph = rattled("CH3CH2OH", 0.05, 0)
    d2 = torch.arange(1.0, 10.0).double()
    vectors = graph.edge_vectors()
    weight = (1 - (vectors.norm(dim=1) / 5.0) ** 2).clamp(min=0.0) ** 2
    for atom in range(9):
        mine = graph.centers == atom
        total = d2[atom] + (weight[mine] * d2[graph.neighbors[mine]]).sum()
        expected = total / (1.0 + weight[mine].sum())
        assert neighborhood_mean(d2, graph, 5.0)[atom] == pytest.approx(float(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_and_plain_pytorch_agree(fitted, dtype):
    other = copy.deepcopy(fitted).to(dtype)
    water = molecule("H2O", cell=[3.1, 3.3, 3.7], pbc=True)
    for atoms in ([molecule("CH3CH2OH"), molecule("CO2")], [water], [molecule("H2O")] * 40):
        graph = build_graph(atoms, 5.0)
        compiled = other(graph)
        with reference_path():
            plain = other(graph)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-6
        for name in ("features", "force_uncertainty", "force_covariance"):
            torch.testing.assert_close(
                getattr(compiled, name), getattr(plain, name), rtol=tolerance, atol=tolerance
            )


def test_kept_in_a_model_file(fitted, tmp_path):
    save_model(fitted, tmp_path / "model.eip")
    again = load_model(tmp_path / "model.eip", device="cpu")
    graph = rattled("CH3CH2OH", 0.3, 2)
    assert torch.equal(again(graph).force_uncertainty, fitted(graph).force_uncertainty)


def test_a_potential_without_sigma_is_refused():
    graph = rattled("CH4", 0.05, 0)
    with pytest.raises(InputError, match="features and an uncertainty"):
        fit_latent_distance(potential("none"), [graph], [(graph, torch.zeros(5, 3))])
