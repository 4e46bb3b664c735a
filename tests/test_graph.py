from __future__ import annotations

from contextlib import nullcontext
from dataclasses import FrozenInstanceError

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eip.graph import AtomGraph, batch_graphs
from eip.kernels import reference_path
from eip.kernels.geometry import _EDGES_WORTH_A_PRODUCT
from eip.neighbors import build_graph


@pytest.fixture
def graphs() -> list[AtomGraph]:
    structures = [molecule("H2O"), bulk("Si", cubic=False), Atoms("O")]
    return [build_graph(atoms, 3.0) for atoms in structures]


def test_a_batch_keeps_order_and_offsets(graphs: list[AtomGraph]) -> None:
    batch = batch_graphs(graphs)
    assert (batch.n_atoms, batch.n_frames) == (6, 3)
    assert batch.n_edges == sum(g.n_edges for g in graphs)
    assert batch.frame.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.atoms_per_frame.tolist() == [3, 2, 1]
    assert batch.numbers.tolist() == [8, 1, 1, 14, 14, 8]
    assert (batch.frame[batch.centers] == batch.frame[batch.neighbors]).all()
    assert (batch.centers.diff() >= 0).all()
    torch.testing.assert_close(
        batch.edge_vectors(), torch.cat([g.edge_vectors() for g in graphs]), rtol=0, atol=0
    )


def test_batches_can_be_batched(graphs: list[AtomGraph]) -> None:
    nested = batch_graphs([batch_graphs(graphs[:2]), graphs[2]])
    flat = batch_graphs(graphs)
    for name in AtomGraph.__dataclass_fields__.keys() - {"owned"}:
        assert torch.equal(getattr(nested, name), getattr(flat, name)), name


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one graph"):
        batch_graphs([])


def test_edge_vectors_reach_the_periodic_image() -> None:
    graph = build_graph(bulk("Cu", "fcc", a=3.6), 2.6)
    # The twelve neighbors of the one atom are its own images, at a/√2.
    assert graph.n_edges == 12
    lengths = graph.edge_vectors().norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 3.6 / 2**0.5))


def test_edge_vectors_are_differentiable_in_positions_and_cell() -> None:
    graph = build_graph(bulk("NaCl", "rocksalt", a=5.6), 3.0)
    cell = graph.cell.clone().requires_grad_()
    positions = graph.positions.clone().requires_grad_()
    moved = AtomGraph(
        **{
            **{name: getattr(graph, name) for name in AtomGraph.__dataclass_fields__},
            "cell": cell,
            "positions": positions,
        }
    )
    moved.edge_vectors().square().sum().backward()
    assert positions.grad is not None and cell.grad is not None
    assert cell.grad.abs().max() > 1.0


@pytest.mark.parametrize("cutoff", [2.6, 14.0])
@pytest.mark.parametrize("plain", [False, True])
def test_edge_vectors_of_a_batch_are_those_of_their_definition(cutoff: float, plain: bool) -> None:
    """Few edges a structure and many, kernels and plain PyTorch; with first derivatives."""
    structures = [bulk("NaCl", "rocksalt", a=5.6), molecule("H2O"), bulk("Cu", "fcc", a=3.6)]
    graph = batch_graphs([build_graph(atoms, cutoff) for atoms in structures])
    # So that one product for each structure is taken with the longer cutoff alone.
    assert (graph.n_edges >= 3 * _EDGES_WORTH_A_PRODUCT) == (cutoff == 14.0)
    positions, cell = graph.positions.requires_grad_(), graph.cell.requires_grad_()
    i, j = graph.centers, graph.neighbors
    offsets = torch.einsum("ea,eab->eb", graph.shifts.double(), cell[graph.frame[i]])
    expected = positions[j] - positions[i] + offsets
    with reference_path() if plain else nullcontext():
        found = graph.edge_vectors()
        weight = torch.randn(found.shape, dtype=torch.float64)
        gradients = torch.autograd.grad((found**2 * weight).sum(), [positions, cell])
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        gradients,
        torch.autograd.grad((expected**2 * weight).sum(), [positions, cell]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_sums_and_means_by_frame(graphs: list[AtomGraph]) -> None:
    batch = batch_graphs(graphs)
    values = torch.arange(12.0).reshape(6, 2)
    expected = torch.stack([values[:3].sum(0), values[3:5].sum(0), values[5]])
    torch.testing.assert_close(batch.sum_by_frame(values), expected)
    torch.testing.assert_close(
        batch.mean_by_frame(values), expected / torch.tensor([[3.0], [2.0], [1.0]])
    )
    assert batch.sum_by_frame(values[:, 0]).shape == (3,)
    assert batch.mean_by_frame(torch.ones(6, 3, 3)).shape == (3, 3, 3)
    one = graphs[0]
    torch.testing.assert_close(one.sum_by_frame(values[:3]), expected[:1])
    torch.testing.assert_close(one.mean_by_frame(values[:3, 0]), values[:3, 0].mean()[None])


@pytest.mark.parametrize("plain", [False, True])
def test_edge_vectors_are_rounded_after_the_difference_is_taken(
    graphs: list[AtomGraph], plain: bool
) -> None:
    """In float32, 10⁵ Å from the origin, a bond has lost a hundredth of its length."""
    graph = batch_graphs(graphs)
    away = graph.with_positions(graph.positions + torch.tensor([1e5, -2e5, 3e5]).double())
    with reference_path() if plain else nullcontext():
        here, there = (g.edge_vectors(torch.float32) for g in (graph, away))
    assert here.dtype == there.dtype == torch.float32
    torch.testing.assert_close(there, here, rtol=0, atol=3e-7)


def test_with_positions_leaves_the_rest(graphs: list[AtomGraph]) -> None:
    graph = graphs[1]
    moved = graph.with_positions(graph.positions + 1.0)
    torch.testing.assert_close(moved.edge_vectors(), graph.edge_vectors())
    assert moved.neighbors is graph.neighbors


def test_a_graph_is_frozen(graphs: list[AtomGraph]) -> None:
    with pytest.raises(FrozenInstanceError):
        graphs[0].positions = torch.zeros(3, 3)  # type: ignore[misc]
