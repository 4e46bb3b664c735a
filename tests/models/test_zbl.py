"""The ZBL repulsion against a formula of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms

from eip.models.zbl import ZBL
from eip.neighbors import build_graph


def energy(numbers: tuple[int, int], r: float, cutoff: float = 5.0) -> torch.Tensor:
    atoms = Atoms(numbers=numbers, positions=[[0, 0, 0], [0, 0, r]])
    graph = build_graph(atoms, cutoff + 1.0)
    positions = graph.positions.requires_grad_()
    graph = graph.with_positions(positions)
    total = ZBL(cutoff)(graph, graph.edge_vectors()).sum()
    (gradient,) = torch.autograd.grad(total, [positions], create_graph=True)
    return torch.stack([total, gradient[1, 2]]).detach()


def by_hand(z1: int, z2: int, r: float, reach: float) -> float:
    """Ziegler, Biersack, Littmark 1985, in eV and Å, with numbers typed in once more."""
    length = 0.88534 * 0.529177 / (z1**0.23 + z2**0.23)
    x = r / length
    phi = (
        0.18175 * math.exp(-3.1998 * x)
        + 0.50986 * math.exp(-0.94229 * x)
        + 0.28022 * math.exp(-0.4029 * x)
        + 0.02817 * math.exp(-0.20162 * x)
    )
    t = r / reach
    return 14.399645 * z1 * z2 / r * phi * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)


@pytest.mark.parametrize(
    ("numbers", "r", "reach"),
    [
        ((1, 1), 0.3, 0.75 * (0.31 + 0.31)),
        ((1, 8), 0.5, 0.75 * (0.31 + 0.66)),
        ((14, 8), 1.0, 0.75 * (1.11 + 0.66)),
        ((14, 8), 0.05, 0.75 * (1.11 + 0.66)),
    ],
)
def test_the_value_is_the_formula(numbers: tuple[int, int], r: float, reach: float) -> None:
    assert energy(numbers, r)[0].item() == pytest.approx(by_hand(*numbers, r, reach), rel=1e-5)


def test_it_repels_and_ends_smoothly() -> None:
    reach = 0.75 * (0.31 + 0.66)
    distances = np.linspace(0.05, reach - 1e-3, 60)
    table = torch.stack([energy((1, 8), float(r)) for r in distances])
    assert (table[:, 0] > 0).all() and (table[:, 1] < 0).all()
    assert (table[:, 0].diff() < 0).all()
    for beyond in (reach, reach + 1e-9, 1.5, 4.0):
        assert energy((1, 8), beyond).abs().max() < 1e-12
    # Third-order contact: value, slope and curvature go to zero together.
    for h in (1e-2, 1e-3):
        value, slope = energy((1, 8), reach - h).tolist()
        assert abs(value) < 3e3 * h**3 and abs(slope) < 1e4 * h**2


@pytest.mark.parametrize("r", [0.1, 0.4, 0.6, 0.72])
def test_the_slope_is_that_of_central_differences(r: float) -> None:
    h = 1e-5
    slope = (energy((1, 8), r + h)[0] - energy((1, 8), r - h)[0]) / (2 * h)
    assert energy((1, 8), r)[1].item() == pytest.approx(slope.item(), rel=1e-5)


def test_it_ends_at_the_cutoff_where_radii_reach_farther() -> None:
    """Or a Verlet list, which holds longer pairs, would change the energy."""
    caesium = 55
    assert energy((caesium, caesium), 3.2, cutoff=3.0)[0] == 0.0
    assert energy((caesium, caesium), 2.9, cutoff=3.0)[0] > 0.0
    assert energy((caesium, caesium), 3.2, cutoff=5.0)[0] > 0.0


def test_each_atom_has_half_of_its_pair_and_images_count() -> None:
    atoms = Atoms("H", cell=np.eye(3) * 0.3, pbc=[True, False, False])
    graph = build_graph(atoms, 0.4)
    value = ZBL(5.0)(graph, graph.edge_vectors())
    assert value.shape == (1,)
    assert value.item() == pytest.approx(energy((1, 1), 0.3)[0].item())


def test_no_pairs_no_energy() -> None:
    graph = build_graph(Atoms("H"), 5.0)
    assert ZBL(5.0)(graph, graph.edge_vectors()).tolist() == [0.0]
