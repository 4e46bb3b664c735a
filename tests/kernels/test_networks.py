"""PaiNN as one operator: it may differ from the plain one by its splined filters alone."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels import KernelWarning, Library, messages, painn, reference_path
from eip.kernels.networks import WORKSPACE
from eip.models.painn import PaiNN
from eip.neighbors import build_graph

pytestmark = pytest.mark.kernels

ELEMENTS = (1, 6, 8)


def network(
    channels: int = 16, interactions: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0
) -> PaiNN:
    torch.manual_seed(seed)
    return PaiNN(len(ELEMENTS), channels, interactions, cutoff=4.0).to(dtype)


def structures() -> list[Atoms]:
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.05, seed=1)
    crystal = bulk("C", cubic=True) * (2, 1, 1)
    crystal.rattle(0.1, seed=2)
    # A cell much smaller than the cutoff: an atom is its own neighbor many times over.
    chain = Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]], cell=[2.1, 9, 9], pbc=[True, False, False])
    return [ethanol, Atoms("H"), crystal, chain]


def graph_of(atoms: Atoms | list[Atoms], cutoff: float = 4.0) -> AtomGraph:
    return build_graph(atoms, cutoff)


def species_of(graph: AtomGraph) -> Tensor:
    return torch.tensor([ELEMENTS.index(int(z)) for z in graph.numbers])


def outcome(
    painn: PaiNN, graph: AtomGraph, *, vectors: bool = True, retain: bool = False
) -> list[Tensor]:
    """Features, and the gradients of a random function of them in positions and cell."""
    positions = graph.positions.clone().requires_grad_()
    cell = graph.cell.clone().requires_grad_()
    moved = AtomGraph(**{**graph.__dict__, "positions": positions, "cell": cell})
    features = painn.fixed(
        moved, species_of(graph), moved.edge_vectors(painn.embedding.weight.dtype)
    )
    generator = torch.Generator().manual_seed(7)
    loss = 0.0
    for part in (features.scalars, features.vectors)[: 2 if vectors else 1]:
        loss = loss + (part * torch.randn(part.shape, generator=generator).to(part)).sum()
    gradients = torch.autograd.grad(loss, [positions, cell], retain_graph=retain)
    if retain:
        again = torch.autograd.grad(loss, [positions, cell])
        for one, two in zip(gradients, again, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)
    return [features.scalars.detach(), features.vectors.detach(), *gradients]


def largest_error(painn: PaiNN, graph: AtomGraph, **options: bool) -> float:
    """Over all outputs, relative to the RMS of each."""
    with reference_path():
        expected = outcome(painn, graph, **options)
    found = outcome(painn, graph, **options)
    return max(
        float((a - b).abs().max() / b.square().mean().sqrt().clamp(min=1e-3))
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("channels", [8, 16, 24, 48])
@pytest.mark.parametrize("interactions", [1, 2, 3])
def test_features_and_gradients_are_those_of_the_reference(
    channels: int, interactions: int
) -> None:
    painn = network(channels, interactions)
    graph = graph_of(structures())
    assert largest_error(painn, graph) < 3e-5
    assert largest_error(painn, graph, vectors=False) < 3e-5


def test_what_is_left_is_the_error_of_the_spline_and_vanishes_with_its_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = graph_of(structures())
    coarse = largest_error(network(), graph)
    monkeypatch.setattr(messages, "INTERVALS_PER_FUNCTION", 4 * messages.INTERVALS_PER_FUNCTION)
    messages.spline_coefficients.cache_clear()
    fine = largest_error(network(), graph)
    messages.spline_coefficients.cache_clear()
    # The slope of a cubic spline errs by its interval cubed: 64 times less.
    assert fine < coarse / 40
    assert fine < 1e-6


def test_single_precision_is_as_good_as_single_precision_can_be() -> None:
    painn = network(32)
    graph = graph_of(structures())
    with reference_path():
        exact = outcome(painn, graph)
    found = outcome(painn.float(), graph)
    for one, two in zip(found, exact, strict=True):
        error = (one.double() - two).square().mean().sqrt()
        assert error < 1e-5 * two.square().mean().sqrt()


def test_edges_beyond_the_cutoff_change_nothing() -> None:
    painn = network()
    near, far = (graph_of(structures(), cutoff) for cutoff in (4.0, 4.6))
    assert far.n_edges > near.n_edges
    for one, two in zip(outcome(painn, near), outcome(painn, far), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_does_not_change_a_bit(threads: None) -> None:
    painn = network(32, dtype=torch.float32)
    crystal = bulk("C", cubic=True) * (3, 3, 2)
    crystal.rattle(0.1, seed=2)
    graph = graph_of([crystal, *structures()])
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(outcome(painn, graph))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.equal(one, two)


def test_what_was_not_kept_is_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = network()
    graph = graph_of(structures())
    rich = outcome(backbone, graph)
    monkeypatch.setattr(painn, "LEAN_BYTES", 0)
    for retain in (False, True):
        for one, two in zip(outcome(backbone, graph, retain=retain), rich, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_gradients_can_be_taken_twice_if_the_graph_is_kept_and_not_otherwise() -> None:
    painn = network()
    graph = graph_of(structures())
    outcome(painn, graph, retain=True)
    vectors = graph.edge_vectors(painn.embedding.weight.dtype).requires_grad_()
    total = painn.fixed(graph, species_of(graph), vectors).scalars.sum()
    torch.autograd.grad(total, vectors)
    with pytest.raises(RuntimeError, match="retain_graph"):
        torch.autograd.grad(total, vectors)


def test_a_second_derivative_is_that_of_the_network_as_it_is_written() -> None:
    painn = network()
    graph = graph_of(structures())
    found = []
    for frozen in (True, False):
        positions = graph.positions.clone().requires_grad_()
        moved = graph.with_positions(positions)
        run = painn.fixed if frozen else painn
        features = run(moved, species_of(graph), moved.edge_vectors())
        energy = features.scalars.square().sum() + features.vectors.square().sum()
        (force,) = torch.autograd.grad(energy, positions, create_graph=True)
        found += torch.autograd.grad(force.square().sum(), positions, retain_graph=True)
        if frozen:
            with pytest.raises(RuntimeError, match="not have been used"):
                torch.autograd.grad(force.square().sum(), list(painn.parameters()))
    torch.testing.assert_close(*found, rtol=0, atol=1e-9 * float(found[1].abs().max()))


def test_new_weights_are_noticed() -> None:
    painn, other = network(seed=0), network(seed=1)
    graph = graph_of(structures())
    before = outcome(painn, graph)
    painn.load_state_dict(other.state_dict())
    for one, two in zip(outcome(painn, graph), outcome(other, graph), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    with torch.no_grad():
        painn.messages[1].filter.weight.mul_(1.5)
    assert not torch.equal(outcome(painn, graph)[0], before[0])
    assert largest_error(painn, graph) < 3e-5


def test_a_network_that_has_run_can_be_copied_and_pickled() -> None:
    painn = network()
    graph = graph_of(structures())
    expected = outcome(painn, graph)
    for twin in (copy.deepcopy(painn), pickle.loads(pickle.dumps(painn))):
        for one, two in zip(outcome(twin, graph), expected, strict=True):
            assert torch.equal(one, two)


def test_a_subclass_runs_as_it_is_written() -> None:
    class Doubled(PaiNN):
        def forward(self, *arguments: object, **options: object) -> object:
            features = super().forward(*arguments, **options)
            return type(features)(2 * features.scalars, 2 * features.vectors)

    graph = graph_of(structures())
    torch.manual_seed(0)
    doubled = Doubled(len(ELEMENTS), 16, 3, cutoff=4.0).double()
    torch.testing.assert_close(outcome(doubled, graph)[0], 2 * outcome(network(), graph)[0])


def test_a_width_that_kernels_cannot_take_is_named_and_done_in_plain_pytorch() -> None:
    Library._takes.cache_clear()
    graph = graph_of(structures())
    with pytest.warns(KernelWarning, match=r"11 channels are no multiple of \d+"):
        assert largest_error(network(11), graph) < 1e-14


def test_memory_is_used_again_step_after_step() -> None:
    painn = network(32)
    crystal = bulk("C", cubic=True) * (2, 2, 2)
    graph = graph_of(crystal)
    outcome(painn, graph)
    gc.disable()
    try:
        before = {b.data_ptr() for b in WORKSPACE._free}
        for _ in range(3):
            outcome(painn, graph)
        assert {b.data_ptr() for b in WORKSPACE._free} == before
    finally:
        gc.enable()


def test_the_spline_follows_basis_and_envelope() -> None:
    from scipy.interpolate import BSpline

    from eip.kernels.radial import cosine_cutoff, sine_basis

    cutoff, count = 5.0, 20
    n = messages.intervals(count)
    knots = cutoff / n * np.arange(-3, n + 4)
    spline = BSpline(knots, messages.spline_coefficients(cutoff, count).numpy(), 3)
    r = torch.linspace(0.3, cutoff, 5001, dtype=torch.float64, requires_grad=True)
    envelope = cosine_cutoff(r, cutoff)
    exact = torch.cat([sine_basis(r, cutoff, count) * envelope[:, None], envelope[:, None]], dim=1)
    size = float(exact.detach().abs().max())
    assert np.abs(spline(r.detach().numpy()) - exact.detach().numpy()).max() < 1e-6 * size
    (slope,) = torch.autograd.grad(exact[:, count - 1].sum(), r)
    error = spline(r.detach().numpy(), 1)[:, count - 1] - slope.numpy()
    assert np.abs(error).max() < 2e-5 * float(slope.abs().max())
