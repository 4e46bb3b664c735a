"""Edges' vectors, forces from their gradients, and sums by an index, by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from eip.kernels import reference_path, triton_path
from eip.kernels.geometry import edge_vectors
from eip.kernels.indexing import sums, take
from eip.kernels.triton import edges, indexing

from .graphs import close, random_graph

pytestmark = pytest.mark.triton

Interpreted = Callable[[], AbstractContextManager[list[str]]]


def problem(frames: int, atoms: int, pairs: int) -> tuple[list[Tensor], list[Tensor]]:
    """Positions and cells; frame, centers, neighbors and shifts."""
    graphs = [random_graph(atoms, pairs, seed)[1:3] for seed in range(frames)]
    ends = [torch.cat([g[k] + n * atoms for n, g in enumerate(graphs)]) for k in range(2)]
    generator = torch.Generator().manual_seed(7)
    shifts = torch.randint(-2, 3, (len(ends[0]), 3), generator=generator).float()
    places = torch.randn(frames * atoms, 3, generator=generator, dtype=torch.float64)
    cells = 4 * torch.randn(frames, 3, 3, generator=generator, dtype=torch.float64)
    frame = torch.arange(frames).repeat_interleave(atoms)
    return [places.requires_grad_(), cells.requires_grad_()], [frame, *ends, shifts]


def derivatives(x: list[Tensor], graph: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Vectors; gradients, as forces and stress are; and those of a function of these."""
    vectors = edge_vectors(*x, *graph, dtype)
    value = vectors.sin().sum()
    # Without edges plain PyTorch looks at no cell.
    unused = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(value, x, create_graph=True, **unused)
    loss = value + sum(one.sin().sum() for one in first)
    second = torch.autograd.grad(loss, x, **unused)
    assert vectors.dtype == dtype and {one.dtype for one in first} == {torch.float64}
    return [vectors, *first, *second]


@pytest.mark.parametrize(
    ("frames", "atoms", "pairs"), [(1, 1, 0), (1, 1, 1), (1, 2, 150), (3, 4, 9), (2, 70, 40)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_and_their_way_back_are_those_of_plain_pytorch(
    interpreted: Interpreted, frames: int, atoms: int, pairs: int, dtype: torch.dtype
) -> None:
    """No edges, one atom, 1 to 300 neighbors, several structures, more atoms than a program has."""
    x, graph = problem(frames, atoms, pairs)
    with interpreted() as started:
        found = derivatives(x, graph, dtype)
    with reference_path():
        expected = derivatives(x, graph, torch.float64)
    close(found, expected, 1e-11 if dtype == torch.float64 else 1e-4)
    assert {"edge_vectors", "edge_vectors_back_cell"} <= set(started)


def test_forces_alone_are_the_same_and_the_same_twice(interpreted: Interpreted) -> None:
    """As dynamics takes them: without the cell's gradient."""
    x, graph = problem(1, 5, 30)
    x[1] = x[1].detach()

    def forces() -> Tensor:
        vectors = edge_vectors(*x, *graph, torch.float32)
        return torch.autograd.grad(vectors.sin().sum(), x[0])[0]

    with interpreted() as started:
        one, two = forces(), forces()
    assert torch.equal(one, two) and {"edge_vectors_back"} == set(started) - {"edge_vectors"}
    with reference_path():
        torch.testing.assert_close(one, forces(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "count"), [((), 3), ((2, 3), 5), ((70,), 1), ((), 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_by_an_index_are_those_of_plain_pytorch(
    interpreted: Interpreted,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    count: int,
    dtype: torch.dtype,
) -> None:
    """Few kinds in parts, many kinds, one; and of the gradient of what was taken."""
    monkeypatch.setattr(indexing, "_PARTS", 3)
    monkeypatch.setattr(indexing, "_FEW", 4)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, *shape, generator=generator, dtype=torch.float64).to(dtype)
    index = torch.randint(0, count, (40,), generator=generator)
    rows.requires_grad_()

    def both(rows: Tensor) -> list[Tensor]:
        added = sums(rows, index, count)
        value = (added.sin() * take(added, index.flip(0)).square().sum()).sum()
        (first,) = torch.autograd.grad(value, rows, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), rows)
        return [added, first, second]

    with interpreted() as started:
        found = both(rows)
    with reference_path():
        expected = both(rows.detach().double().requires_grad_())
    close(found, expected, 1e-12 if dtype == torch.float64 else 1e-4)
    assert bool(started) == (count > 1)


def test_an_order_is_kept_until_its_index_changes() -> None:
    index = torch.tensor([1, 0, 2, 0])
    starts, order = edges.in_order_of(index, 3)
    assert order.tolist() == [1, 3, 0, 2] and starts.tolist() == [0, 2, 3, 4]
    assert edges.in_order_of(index, 3)[1] is order
    index[0] = 0
    assert edges.in_order_of(index, 3)[1].tolist() == [0, 1, 3, 2]
    assert len(edges.in_order_of(index, 5)[0]) == 6
    with torch.inference_mode():
        assert edges.in_order_of(torch.tensor([1, 0]), 2)[1].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["edge_vectors", "edge_vectors_backward", "sums_by", "take"])
def test_what_pytorch_asks_of_an_operator(interpreted: Interpreted, name: str) -> None:
    x, graph = problem(2, 3, 4)
    g = torch.randn(len(graph[-1]), 3, requires_grad=True)
    rows = torch.randn(6, 2, requires_grad=True)
    arguments = {
        "edge_vectors": (*x, *graph, torch.float32),
        "edge_vectors_backward": (g, *graph, 2, True),
        "sums_by": (rows, graph[0], 2),
        "take": (rows, graph[0]),
    }[name]
    with interpreted():
        torch.library.opcheck(
            getattr(torch.ops.eip, name).default,
            arguments,
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


def test_energies_of_a_batch_are_summed_by_the_kernel(interpreted: Interpreted) -> None:
    from ase.build import molecule

    from eip.neighbors import build_graph

    graph = build_graph([molecule("H2O"), molecule("CO")], 3.0)
    per_atom = torch.arange(1.0, 6.0, dtype=torch.float64)
    with triton_path(), interpreted() as started:
        assert graph.sum_by_frame(per_atom).tolist() == [6.0, 9.0]
    assert started == ["sums_by"]
