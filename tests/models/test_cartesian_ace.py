"""The network of vectors and matrices: laws, smoothness, both of its paths, its seam."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels import reference_path
from eip.models.backbone import AtomFeatures
from eip.models.cartesian_ace import CartesianACE
from eip.models.settings import backbone_settings
from eip.neighbors import build_graph
from eip.testing import check_backbone

CUTOFF = 4.0


def network(channels: int = 16, **options: float | None) -> CartesianACE:
    torch.manual_seed(0)
    return CartesianACE(2, channels, **{"cutoff": CUTOFF, "mean_neighbors": 60.0, **options})


def features(backbone: CartesianACE, graph: AtomGraph) -> AtomFeatures:
    species = (graph.numbers > 1).long()
    return backbone(graph, species, graph.edge_vectors(backbone.embedding.weight.dtype))


def methanol() -> Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("channels", [8, 6])
@pytest.mark.parametrize("interactions", [1, 2, 3])
def test_it_keeps_the_laws_of_a_backbone(channels: int, interactions: int) -> None:
    """Six channels are none that the kernels can take."""
    check_backbone(network(channels, interactions=interactions), elements=(1, 8))


def gradients(backbone: CartesianACE, graph: AtomGraph) -> list[Tensor]:
    """Features, and of a loss that holds forces, gradients in the weights."""
    positions = graph.positions.clone().requires_grad_()
    found = features(backbone, replace(graph, positions=positions))
    energy = found.scalars.sin().sum() + found.vectors.square().sum()
    (force,) = torch.autograd.grad(energy, positions, create_graph=True)
    backbone.zero_grad()
    (energy + force.square().sum()).backward(inputs=list(backbone.parameters()))
    weights = [w.grad.clone() for w in backbone.parameters() if w.grad is not None]
    return [found.scalars.detach(), found.vectors.detach(), force.detach(), *weights]


@pytest.mark.parametrize("limit", [None, 2.0])
def test_it_trains_as_it_would_in_plain_pytorch(limit: float | None) -> None:
    chain = Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]], cell=[2.1, 9, 9], pbc=[True, False, False])
    crystal = bulk("C")
    crystal.rattle(0.05, seed=0)
    graph = build_graph([methanol(), Atoms("H"), chain, crystal], CUTOFF)
    backbone = network(feature_limit=limit).double()
    found = gradients(backbone, graph)
    with reference_path():
        expected = gradients(backbone, graph)
    for one, two in zip(found, expected, strict=True):
        assert (one - two).norm() <= 1e-10 * two.norm()


def test_single_precision_trains_within_its_rounding() -> None:
    graph = build_graph([methanol(), Atoms("H")], CUTOFF)
    backbone = network(32)
    found = gradients(backbone, graph)
    exact = gradients(backbone.double(), graph)
    for one, two in zip(found, exact, strict=True):
        assert (one - two).norm() < 1e-3 * two.norm() + 1e-9


def test_every_weight_learns() -> None:
    found = gradients(network(8).double(), build_graph(methanol(), CUTOFF))
    names = [name for name, _ in network(8).named_parameters()]
    assert len(found) == 3 + len(names)
    for name, gradient in zip(names, found[3:], strict=True):
        assert gradient.abs().max() > 0.0, name


def slope_and_curvature(backbone: CartesianACE, length: float) -> tuple[float, float, float]:
    """Of a sum of a pair's scalars as a function of its length."""
    x = torch.tensor(length, dtype=torch.float64, requires_grad=True)
    graph = build_graph(Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]), CUTOFF)
    positions = torch.stack([torch.zeros(3, dtype=torch.float64), x * graph.positions[1]])
    energy = features(backbone, replace(graph, positions=positions)).scalars.sum()
    (slope,) = torch.autograd.grad(energy, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    return float(energy.detach()), float(slope.detach()), float(curvature)


@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_two_derivatives_are_continuous_at_the_cutoff(path: str) -> None:
    backbone = network(8).double()

    def scan() -> np.ndarray:
        lengths = CUTOFF - np.array([1.0, 3e-2, 3e-3, 3e-4, -1e-3])
        return np.array([slope_and_curvature(backbone, length) for length in lengths])

    if path == "plain":
        with reference_path():
            values = scan()
    else:
        values = scan()
    far, *near, outside = np.abs(values - [values[-1, 0], 0, 0])
    assert far.min() > 1e-4
    assert not outside[1:].any()
    # As (rc − r)³ and its derivatives.
    for power, column in zip((3, 2, 1), np.array(near).T, strict=True):
        assert column[2] < 2 * column[1] * 0.1**power < 4 * column[0] * 0.01**power


def test_an_isolated_atom_has_no_vector_and_a_finite_gradient_in_every_weight() -> None:
    backbone = network(8)
    out = features(backbone, build_graph(Atoms("H"), CUTOFF))
    assert out.vectors.abs().max() == 0.0
    (out.scalars.square().sum() + out.vectors.square().sum()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def frozen(backbone: CartesianACE, graph: AtomGraph) -> AtomFeatures:
    species = (graph.numbers > 1).long()
    vectors = graph.edge_vectors(backbone.embedding.weight.dtype)
    return backbone.fixed(graph, species, vectors)


@pytest.mark.parametrize(
    ("interactions", "skin", "limit"), [(1, 0.7, None), (2, 0, 3.0), (3, 0, None)]
)
def test_the_frozen_kernel_is_the_network_and_its_gradient(
    interactions: int, skin: float, limit: float | None
) -> None:
    crystal = bulk("C", cubic=True) * (2, 2, 1)
    crystal.rattle(0.05, seed=0)
    # More atoms than a block has.
    graph = build_graph([methanol(), Atoms("H"), crystal], CUTOFF + skin)
    backbone = network(16, interactions=interactions, feature_limit=limit).double()
    backbone.requires_grad_(False)
    found, expected = [], []
    for forward, out in ((frozen, found), (features, expected)):
        positions = graph.positions.clone().requires_grad_()
        one = forward(backbone, replace(graph, positions=positions))
        both = one.scalars.sin().sum() + (one.vectors * one.vectors.cos()).sum()
        for value in (both, one.scalars.sin().sum(), one.vectors.sin().sum()):
            out += torch.autograd.grad(value, positions, retain_graph=True)
        out += [one.scalars.detach(), one.vectors.detach()]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-11 * float(two.abs().max()))


def test_the_frozen_kernel_in_single_precision() -> None:
    graph = build_graph([methanol(), Atoms("H")], CUTOFF)
    backbone = network(32).requires_grad_(False)
    slopes = []
    for one in (backbone, copy.deepcopy(backbone).double()):
        positions = graph.positions.clone().requires_grad_()
        energy = frozen(one, replace(graph, positions=positions)).scalars.sum()
        slopes += torch.autograd.grad(energy, positions)
    assert (slopes[0] - slopes[1]).norm() < 1e-4 * slopes[1].norm()


def test_a_frozen_pass_sees_weights_that_were_written_to() -> None:
    backbone = network(16).requires_grad_(False)
    graph = build_graph(methanol(), CUTOFF)
    before = frozen(backbone, graph).scalars
    torch.testing.assert_close(before, features(backbone, graph).scalars)
    backbone.messages[1].filter.weight.data.mul_(1.5)
    assert (frozen(backbone, graph).scalars - before).abs().max() > 1e-3


def test_frozen_passes_do_not_share_memory_that_is_in_use() -> None:
    backbone = network(16).requires_grad_(False)
    graph = build_graph(methanol(), CUTOFF)
    positions = graph.positions.clone().requires_grad_()
    moved = replace(graph, positions=positions)
    one = frozen(backbone, moved)
    (expected,) = torch.autograd.grad(one.scalars.sum(), positions, retain_graph=True)
    other = frozen(backbone, replace(graph, positions=graph.positions * 1.05))
    (found,) = torch.autograd.grad(one.scalars.sum(), positions)
    assert torch.equal(found, expected) and not torch.equal(one.scalars, other.scalars)


def test_angles_and_torsions_are_seen_by_a_single_layer() -> None:
    """Products of three factors tell apart what has the same lengths and angles at an atom."""
    directions = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], dtype=float)
    seesaw = directions.copy()
    seesaw[3] = [0, 0, 1]
    backbone = network(8, interactions=1).double()
    of_center = [
        features(backbone, build_graph(Atoms("OH4", [[0, 0, 0], *one]), 1.2)).scalars[0]
        for one in (directions, seesaw)
    ]
    assert (of_center[0] - of_center[1]).abs().max() > 1e-4


def test_the_seam() -> None:
    backbone = backbone_settings({"name": "cartesian_ace", "channels": 12}).build(2)
    assert isinstance(backbone, CartesianACE) and backbone.radial_functions == 8
    assert backbone.channels == 12
    with pytest.raises(ValueError, match="mean_neighbors must be positive, got 0"):
        CartesianACE(2, mean_neighbors=0.0)
    with pytest.raises(ValueError, match="feature_limit must be positive, got -1"):
        CartesianACE(2, feature_limit=-1.0)
