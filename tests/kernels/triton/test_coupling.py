"""The coupling along edges by Triton's kernels, run by its interpreter, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from eip.kernels import reference_path, triton_path
from eip.kernels.coupling import FIRST_PATHS, PATHS, coupling
from eip.kernels.edges import list_edges

from .graphs import Graph, close, random_graph

pytestmark = pytest.mark.triton

CUTOFF, INTERVALS = 4.0, 3

Interpreted = Callable[[], AbstractContextManager[list[str]]]


def arrays(graph: Graph, channels: int, first: bool, dtype: torch.dtype) -> list[Tensor]:
    """said, table, displacement by atom and, but of a first layer, v and t."""
    generator = torch.Generator().manual_seed(1)
    atoms, paths = graph[3], FIRST_PATHS if first else PATHS
    shapes = [(3, atoms, channels), (1, INTERVALS + 3, paths, channels)]
    shapes += [] if first else [(3, atoms, channels), (5, atoms, channels)]
    made = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    made.insert(2, torch.zeros(atoms, 3, dtype=dtype))
    return [one.requires_grad_() for one in made]


def sums(graph: Graph, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    said, table, moved, *rest = inputs
    vectors, centers, neighbors, atoms = graph
    v, t = rest or (None, None)
    vectors = vectors.to(said.dtype) + moved[neighbors] - moved[centers]
    edges = list_edges(vectors, centers, neighbors, atoms, CUTOFF, INTERVALS)
    found: tuple[Tensor, ...] = coupling(
        *(said, v, t, table, vectors, edges, centers, neighbors, CUTOFF)
    )
    return found


def derivatives(graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    """Sums, and first and second derivatives of a function of them, as a loss of forces has."""
    s, v, t = sums(graph, inputs)
    value = s.sin().sum() + (v * v.cos()).sum() + (t.square() * t.sin()).sum()
    found = [s, v, t, *torch.autograd.grad(value, inputs, retain_graph=True)]
    forces = torch.autograd.grad(value, [*inputs[2:], inputs[0]], create_graph=True)
    loss = value + sum(force.square().sum() + force.sin().sum() for force in forces)
    assert isinstance(loss, Tensor)
    return [*found, *torch.autograd.grad(loss, [*inputs[:2], *inputs[3:]])]


def plain(graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    with reference_path():
        return derivatives(graph, [one.detach().double().requires_grad_() for one in inputs])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("atoms", "pairs", "channels"),
    [(3, 0, 32), (1, 0, 32), (1, 1, 32), (1, 150, 32), (4, 9, 64), (3, 4, 128), (3, 4, 24)],
)
def test_values_and_derivatives_are_those_of_plain_pytorch(
    interpreted: Interpreted,
    few_parts: None,
    atoms: int,
    pairs: int,
    channels: int,
    first: bool,
) -> None:
    """No edges, one atom, one without neighbors, 1 to 300 neighbors; widths that fill no block."""
    graph = random_graph(atoms, pairs)
    inputs = arrays(graph, channels, first, torch.float64)
    with interpreted() as started:
        found = derivatives(graph, inputs)
    close(found, plain(graph, inputs), 1e-10)
    paths = FIRST_PATHS if first else PATHS
    assert set(started) >= {
        *(f"sums_{paths}", f"sums_{paths}_tangent", f"gradients_{paths}_edges"),
        *(f"gradients_{paths}_tangent", f"table_gradient_{paths}"),
        f"table_gradient_{paths}_tangent",
    }


def test_single_precision_is_that_within_its_rounding(
    interpreted: Interpreted, few_parts: None
) -> None:
    graph = random_graph(3, 6)
    inputs = arrays(graph, 32, False, torch.float32)
    with interpreted():
        found = derivatives(graph, inputs)
    assert {one.dtype for one in found} == {torch.float32}
    close(found, plain(graph, inputs), 2e-5)


def test_the_same_input_gives_the_same_bits(interpreted: Interpreted, few_parts: None) -> None:
    graph = random_graph(3, 6)
    inputs = arrays(graph, 32, False, torch.float32)
    with interpreted():
        one, two = derivatives(graph, inputs), derivatives(graph, inputs)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_kernel_that_is_wrong_is_noticed(
    interpreted: Interpreted, wrong_sign: Callable[[str], None]
) -> None:
    wrong_sign("couple")
    graph = random_graph(2, 3)
    inputs = arrays(graph, 32, True, torch.float64)
    with interpreted():
        found = [one.detach() for one in sums(graph, inputs)]
    with reference_path():
        expected = [one.detach() for one in sums(graph, inputs)]
    close(found[:2], expected[:2], 1e-12)
    with pytest.raises(AssertionError):
        close(found[2:], expected[2:], 1e-3)


@pytest.mark.parametrize("ending", ["", "_backward", "_double_backward"])
def test_what_pytorch_asks_of_an_operator(
    interpreted: Interpreted, few_parts: None, ending: str
) -> None:
    """Schema, shapes without content, autograd's registration."""
    graph = random_graph(2, 3)
    vectors, centers, neighbors, atoms = graph
    said, table, _, v, t = (one.detach() for one in arrays(graph, 32, False, torch.float64))
    g = tuple(torch.randn(*k, atoms, 32, dtype=torch.float64) for k in ((), (3,), (5,)))
    x = said, v, t, table, vectors
    along = [one.clone() for one in x]
    along[3] = None  # type: ignore[call-overload]
    # With gradients, plain PyTorch does a second derivative: there is none of that.
    with interpreted() as started, torch.set_grad_enabled(ending != "_double_backward"):
        rest = list_edges(vectors, centers, neighbors, atoms, CUTOFF, INTERVALS), centers, neighbors
        arguments = {
            "": (*(one.clone().requires_grad_() for one in x), *rest, CUTOFF),
            "_backward": (*g, *x, *rest, CUTOFF, True, True),
            "_double_backward": (*g, *x, *rest, CUTOFF, *along),
        }[ending]
        operator = getattr(torch.ops.eip, f"coupling{ending}").default
        checks = "test_schema", "test_autograd_registration", "test_faketensor"
        torch.library.opcheck(operator, arguments, test_utils=checks)
    assert started


def test_edges_are_listed_as_plain_pytorch_has_them() -> None:
    """The list of edges: those within the cutoff, by centre, with the splines' weights."""
    from eip.kernels.triton.edges import read

    vectors, centers, neighbors, atoms = random_graph(4, 12)
    with triton_path():
        edges = list_edges(vectors, centers, neighbors, atoms, CUTOFF, INTERVALS)
    listed = read(edges, atoms, len(vectors), vectors.dtype)
    near = (vectors.norm(dim=1) < CUTOFF).nonzero()[:, 0]
    count = len(near)
    assert 0 < count < len(vectors) and int(listed.first[-1]) == count
    assert torch.equal(listed.slot[:count], near)
    assert torch.equal(listed.neighbor[:count].long(), neighbors[near])
    assert torch.equal(listed.first.diff(), torch.bincount(centers[near], minlength=atoms))
    # The splines of a function that is 1 everywhere have coefficients 1.
    torch.testing.assert_close(listed.numbers[4:8, :count].sum(0), torch.ones(count).double())
    torch.testing.assert_close(
        listed.numbers[8:, :count].sum(0), torch.zeros(count).double(), rtol=0, atol=1e-12
    )
