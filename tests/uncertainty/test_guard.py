"""σ beyond the range of held-out atoms: unchanged within, smooth at the edge, by no fit removed."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels import reference_path
from eip.model_file import load_model, save_model
from eip.neighbors import build_graph
from eip.testing import check_precision, check_rotation, check_uncertainty_gradient
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.guard import STRENGTH, Guard, excess, fit_guard
from eip.uncertainty.latent_distance import (
    LatentDistancePotential,
    fit_latent_distance,
    guarded,
    neighborhood_mean,
)


def ethanol(size: float, seed: int) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(size, seed=seed)
    return atoms


def held_out_frames(inside: EvidentialPotential) -> list[tuple[AtomGraph, torch.Tensor]]:
    rng, found = np.random.default_rng(0), []
    for seed in range(40, 60):
        graph = build_graph(ethanol(0.05, seed), 4.5)
        noise = torch.from_numpy(rng.normal(size=(9, 3)))
        found.append((graph, inside(graph).forces + noise))
    return found


def fitted(exponents: bool = True) -> LatentDistancePotential:
    torch.manual_seed(0)
    inside = EvidentialPotential(
        elements=[1, 6, 8],
        element_energies={1: -13.6, 6: -1030.0, 8: -2040.0},
        force_scale=1.5,
        channels=16,
        interactions=2,
        cutoff=4.5,
    )
    inside = inside.double().eval().requires_grad_(False)
    training = [build_graph(ethanol(0.05, seed), 4.5) for seed in range(30)]
    return fit_latent_distance(inside, training, held_out_frames(inside), exponents=exponents)


@pytest.fixture(scope="module")
def potential() -> LatentDistancePotential:
    return fitted()


def without_guard(potential: LatentDistancePotential) -> LatentDistancePotential:
    """As a file of before there was a guard holds it."""
    described = {k: v for k, v in potential.settings().items() if k != "guard"}
    old = LatentDistancePotential.from_settings(described).to(potential.dtype)
    old.load_state_dict(potential.state_dict())
    return old.eval().requires_grad_(False)


# The law


def test_the_law_is_nothing_within_and_a_line_beyond() -> None:
    x = torch.tensor([0.0, 0.3, 1.0, 2.0, 101.0, 1e4], dtype=torch.float64)
    expected = [0.0, 0.0, 0.0, 1 / 1.01, 100.0, 9999.0]
    torch.testing.assert_close(excess(x), torch.tensor(expected).double(), rtol=1e-4, atol=0)


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=20))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_the_law_is_monotone(values: list[float]) -> None:
    grown = excess(torch.tensor(sorted(values), dtype=torch.float64))
    assert bool((grown.diff() >= 0).all())


def test_the_law_has_two_continuous_derivatives() -> None:
    x = torch.linspace(0.9, 1.6, 7001, dtype=torch.float64)
    step = float(x[1] - x[0])
    for derivative in (excess(x).diff() / step, excess(x).diff().diff() / step**2):
        # From one point to the next no further than a third derivative would have it.
        assert float(derivative.diff().abs().max()) < 3000 * step


@pytest.mark.parametrize("grade", [1e3, 1e9, 1e30])
def test_the_law_is_finite_where_the_distance_is(grade: float) -> None:
    far = torch.tensor([grade], dtype=torch.float32, requires_grad=True)
    (slope,) = torch.autograd.grad(excess(far).sum(), [far])
    assert bool(excess(far).isfinite().all()) and bool(slope.isfinite().all())


# Edges


def guard_of(elements: list[int], numbers: np.ndarray, distances: np.ndarray, **other) -> Guard:
    rng = np.random.default_rng(1)
    forces = rng.normal(size=(len(numbers), 3))
    given = {"sigma": np.ones(len(numbers)), "forces": forces, "errors": 0.1 * forces}
    return fit_guard(elements, numbers, distances, **{**given, **other})


def test_the_edge_is_a_percentile_or_the_largest() -> None:
    rng = np.random.default_rng(0)
    many = rng.uniform(size=(20_000, 2))
    guard = guard_of([1], np.full(20_000, 1), many)
    assert guard.edges[1] == pytest.approx((0.999, 0.999), abs=1e-3)
    few = many[:500]
    guard = guard_of([1], np.full(500, 1), few)
    assert guard.edges[1] == tuple(few.max(axis=0))


def test_a_rare_element_is_not_fenced_in_by_its_few_atoms() -> None:
    numbers = np.repeat([1, 8], [500, 3])
    distances = np.column_stack([np.linspace(0.1, 2.0, 503)] * 2)
    distances[500:] = 0.5
    guard = guard_of([1, 6, 8], numbers, distances)
    assert guard.edges[8] == guard.edges[6] == (distances.max(), distances.max())
    distances[500:] = 3.0
    assert guard_of([1, 8], numbers, distances).edges[8] == (3.0, 3.0)


def test_the_unit_is_the_size_of_forces_once_calibrated() -> None:
    rng = np.random.default_rng(0)
    numbers = np.repeat([1, 6], 2000)
    size = np.where(numbers == 1, 0.5, 2.0)
    forces, sigma = rng.normal(size=(4000, 3)) * size[:, None], rng.uniform(0.5, 2.0, 4000)
    errors = rng.normal(size=(4000, 3)) * 0.02 * sigma[:, None]
    forces[0], errors[0] = np.nan, np.nan
    guard = guard_of(
        *([1, 6], numbers, np.ones((4000, 2))), sigma=sigma, forces=forces, errors=errors
    )
    calibrated = [guard.unit[z] * 0.02 for z in (1, 6)]
    assert calibrated == pytest.approx([0.5, 2.0], rel=0.05)


def test_a_guard_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="force labels, got none"):
        guard_of([1], np.ones(3, dtype=int), np.ones((3, 2)), errors=np.full((3, 3), np.nan))


@pytest.mark.parametrize(
    "change",
    [{"strength": -1.0}, {"elements": {"1": {"d": 0.0, "D": 1.0, "unit": 1.0}}}, {"elements": 3},
     {"elements": {"1": {"d": 1.0}}}, {"n_atoms": None}],
)  # fmt: skip
def test_a_damaged_description_is_refused(change: dict) -> None:
    sound = Guard(STRENGTH, {1: (1.0, 2.0)}, {1: 0.1}, 50).to_dict()
    assert Guard.from_dict(json.loads(json.dumps(sound))).to_dict() == sound
    with pytest.raises(InputError, match="description of a guard"):
        Guard.from_dict({**sound, **change})


# The potential


def test_within_the_range_nothing_changes(potential: LatentDistancePotential) -> None:
    old = without_guard(potential)
    within = 0
    for seed in range(100, 110):
        graph = build_graph(ethanol(0.05, seed), 4.5)
        now, before = potential(graph), old(graph)
        inside = now.extrapolation_grade <= 1
        within += int(inside.sum())
        assert torch.equal(now.force_uncertainty[inside], before.force_uncertainty[inside])
        assert torch.equal(now.forces, before.forces) and torch.equal(now.energy, before.energy)
    assert within > 60


def test_beyond_the_range_no_fit_takes_the_growth_away(potential: LatentDistancePotential) -> None:
    assert potential.guard is not None
    graph = build_graph(ethanol(0.5, 1), 4.5)
    blind = copy.deepcopy(potential)
    blind.sigma_exponent, blind.distance_exponent, blind.neighborhood_exponent = 0.0, 0.0, 0.0
    said = blind(graph)
    grade = said.extrapolation_grade
    assert float(grade.min()) > 2.0
    unit = torch.tensor([potential.guard.unit[int(z)] for z in graph.numbers]).double()
    least = unit * torch.asinh(2.0 * STRENGTH * (grade - 1.0)) / 2.0
    assert bool((said.force_uncertainty > 0.99 * least).all())


def test_the_growth_is_a_line_until_it_is_as_large_as_forces_are() -> None:
    guard = Guard(STRENGTH, {1: (1.0, 2.0)}, {1: 0.1}, 50)
    reach = torch.tensor([[0.5, 1.0, 1.2, 101.0], [0.9, 0.2, 1.2, 0.5]], dtype=torch.float64)
    grown = guard.share(reach)
    assert grown[:2].tolist() == [0.0, 0.0]
    assert float(grown[2]) == pytest.approx(STRENGTH * 0.32, rel=0.05)
    assert float(grown[3]) == pytest.approx(np.log(4 * STRENGTH * 100.0) / 2, rel=1e-3)


@pytest.mark.parametrize("grade", [1e3, 1e9, 1e30])
def test_the_growth_is_finite_where_the_distance_is(grade: float) -> None:
    guard = Guard(STRENGTH, {1: (1.0, 2.0)}, {1: 0.1}, 50)
    far = torch.full((2, 40), grade, dtype=torch.float32, requires_grad=True)
    grown = guard.share(far)
    (slope,) = torch.autograd.grad(grown.sum(), [far])
    assert bool(grown.isfinite().all()) and bool(slope.isfinite().all())
    assert float(grown.detach().min()) > 1.0


def test_the_grade_is_the_larger_of_two_shares_of_an_edge(
    potential: LatentDistancePotential,
) -> None:
    graph = build_graph(ethanol(0.1, 1), 4.5)
    said = potential(graph)
    own = potential.squared_distance(said.features, graph.numbers)
    around = neighborhood_mean(own, graph, 4.5)
    edges = torch.tensor([potential.guard.edges[int(z)] for z in graph.numbers]).double()
    expected = (torch.stack([own, around], dim=1).sqrt() / edges).amax(dim=1)
    torch.testing.assert_close(said.extrapolation_grade, expected)


def structures() -> list[Atoms]:
    """At home, about the edge, beyond it, and far away."""
    crystal = Atoms("CO", [[0.1, 0, 0], [1.4, 1.3, 1.2]], cell=[2.9, 3.0, 3.1], pbc=True)
    return [ethanol(size, 7) for size in (0.05, 0.1, 0.3)] + [molecule("H2O"), crystal]


@pytest.mark.parametrize("exponents", [True, False])
def test_the_gradient_is_right_at_home_at_the_edge_and_beyond(exponents: bool) -> None:
    made = fitted(exponents)
    check_uncertainty_gradient(made, structures())
    with reference_path():
        check_uncertainty_gradient(made, structures())
    check_rotation(made, structures())
    check_precision(made, structures())


def test_kernels_and_plain_pytorch_agree(potential: LatentDistancePotential) -> None:
    graph = build_graph(structures(), 4.5)
    compiled = potential(graph)
    with reference_path():
        plain = potential(graph)
    for name in ("extrapolation_grade", "force_uncertainty", "force_covariance"):
        torch.testing.assert_close(
            getattr(compiled, name), getattr(plain, name), rtol=1e-5, atol=1e-6
        )


def test_a_file_of_before_there_was_a_guard_opens_and_can_be_given_one(
    potential: LatentDistancePotential, tmp_path
) -> None:
    save_model(without_guard(potential), tmp_path / "old.eip")
    old = load_model(tmp_path / "old.eip", device="cpu")
    graph = build_graph(ethanol(0.4, 2), 4.5)
    assert old.guard is None and old(graph).extrapolation_grade is None
    again = guarded(old, held_out_frames(old.potential))
    for z in (1, 6, 8):
        assert again.guard.edges[z] == pytest.approx(potential.guard.edges[z])
    torch.testing.assert_close(
        again(graph).force_uncertainty, potential(graph).force_uncertainty, rtol=1e-9, atol=0
    )
    with pytest.raises(InputError, match="at least 30 atoms together, got 18"):
        guarded(old, held_out_frames(old.potential)[:2])


class Counter(TorchDispatchMode):
    """Operations that PyTorch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_guard_and_grade_are_a_few_dozen_small_operations(
    potential: LatentDistancePotential,
) -> None:
    graph, counts = build_graph(ethanol(0.05, 1), 4.5), []
    for one in (potential, without_guard(potential)):
        with Counter() as counter:
            one(graph)
        counts.append(counter.count)
    assert counts[0] - counts[1] <= 35
