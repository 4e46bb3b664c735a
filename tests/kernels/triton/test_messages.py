"""PaiNN's message by Triton's kernels, run by its interpreter, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from ase.build import molecule
from torch import Tensor

from eip.kernels import messages, reference_path
from eip.kernels.edges import list_edges
from eip.kernels.messages import message
from eip.models.painn import PaiNN
from eip.neighbors import build_graph

from .graphs import Graph, close, random_graph

pytestmark = pytest.mark.triton

CUTOFF, INTERVALS = 4.0, 3

Interpreted = Callable[[], AbstractContextManager[list[str]]]


def arrays(graph: Graph, channels: int, dtype: torch.dtype) -> list[Tensor]:
    """s, v, φ, table and displacement by atom."""
    generator = torch.Generator().manual_seed(1)
    atoms = graph[3]
    shapes = [(atoms, channels), (atoms, 3, channels), (atoms, 3 * channels)]
    shapes.append((1, INTERVALS + 3, 3, channels))
    made = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    made.append(torch.zeros(atoms, 3, dtype=dtype))
    return [one.requires_grad_() for one in made]


def heard(graph: Graph, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    *nodes, table, moved = inputs
    vectors, centers, neighbors, atoms = graph
    vectors = vectors.to(table.dtype) + moved[neighbors] - moved[centers]
    edges = list_edges(vectors, centers, neighbors, atoms, CUTOFF, INTERVALS)
    found: tuple[Tensor, Tensor] = message(
        *(*nodes, table, vectors, edges, centers, neighbors, CUTOFF)
    )
    return found


def derivatives(graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    """What is heard, and first and second derivatives of a function of it, as a loss of forces."""
    s, v = heard(graph, inputs)
    value = s.sin().sum() + (v * v.cos()).sum()
    found = [s, v, *torch.autograd.grad(value, inputs, retain_graph=True)]
    forces = torch.autograd.grad(value, [inputs[4], *inputs[:3]], create_graph=True)
    loss = value + sum(force.square().sum() + force.sin().sum() for force in forces)
    assert isinstance(loss, Tensor)
    return [*found, *torch.autograd.grad(loss, inputs[:4])]


def plain(graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    with reference_path():
        return derivatives(graph, [one.detach().double().requires_grad_() for one in inputs])


@pytest.mark.parametrize(
    ("atoms", "pairs", "channels"),
    [(3, 0, 32), (1, 0, 32), (1, 1, 32), (1, 150, 32), (4, 9, 64), (3, 4, 128), (3, 4, 24)],
)
def test_values_and_derivatives_are_those_of_plain_pytorch(
    interpreted: Interpreted, few_parts: None, atoms: int, pairs: int, channels: int
) -> None:
    """No edges, one atom, one without neighbors, 1 to 300 neighbors; widths that fill no block."""
    graph = random_graph(atoms, pairs)
    inputs = arrays(graph, channels, torch.float64)
    with interpreted() as started:
        found = derivatives(graph, inputs)
    close(found, plain(graph, inputs), 1e-10)
    assert set(started) >= {
        *("sums_painn", "sums_painn_tangent", "gradients_painn_edges", "gradients_painn_tangent"),
        *("table_gradient_painn", "table_gradient_painn_tangent"),
    }


def test_single_precision_is_that_within_its_rounding_and_the_same_twice(
    interpreted: Interpreted, few_parts: None
) -> None:
    graph = random_graph(3, 6)
    inputs = arrays(graph, 32, torch.float32)
    with interpreted():
        found, again = derivatives(graph, inputs), derivatives(graph, inputs)
    assert {one.dtype for one in found} == {torch.float32}
    close(found, plain(graph, inputs), 2e-5)
    assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))


def test_a_kernel_that_is_wrong_is_noticed(
    interpreted: Interpreted, wrong_sign: Callable[[str], None]
) -> None:
    wrong_sign("pass_on")
    graph = random_graph(2, 3)
    inputs = arrays(graph, 32, torch.float64)
    with interpreted():
        found = [one.detach() for one in heard(graph, inputs)]
    with reference_path():
        expected = [one.detach() for one in heard(graph, inputs)]
    close(found[:1], expected[:1], 1e-12)
    with pytest.raises(AssertionError):
        close(found[1:], expected[1:], 1e-3)


@pytest.mark.parametrize("ending", ["", "_backward", "_double_backward"])
def test_what_pytorch_asks_of_an_operator(
    interpreted: Interpreted, few_parts: None, ending: str
) -> None:
    """Schema, shapes without content, autograd's registration."""
    graph = random_graph(2, 3)
    vectors, centers, neighbors, atoms = graph
    s, v, said, table, _ = (one.detach() for one in arrays(graph, 32, torch.float64))
    x = s, v, said, table, vectors
    g = torch.randn_like(s), torch.randn_like(v)
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
        operator = getattr(torch.ops.eip, f"painn_message{ending}").default
        checks = "test_schema", "test_autograd_registration", "test_faketensor"
        torch.library.opcheck(operator, arguments, test_utils=checks)
    assert started


def test_the_network_is_that_of_plain_pytorch_but_for_its_splines(
    interpreted: Interpreted, few_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training takes it: energy, stress, and the gradient of a loss of both."""
    # Each interval is programs of its own, which the interpreter takes its time for.
    monkeypatch.setattr(messages, "INTERVALS_PER_FUNCTION", 10)
    messages.spline_coefficients.cache_clear()
    torch.manual_seed(0)
    network = PaiNN(2, 16, 2, 1, 3.0).double()
    graph = build_graph([molecule("OH"), molecule("H2O")], network.cutoff + 0.4)
    species = (graph.numbers > 1).long()

    def losses() -> list[Tensor]:
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        vectors = graph.edge_vectors()
        features = network(graph, species, vectors + vectors @ strain)
        energy = features.scalars.sin().sum() + features.vectors.square().sum()
        (stress,) = torch.autograd.grad(energy, strain, create_graph=True)
        loss = energy.square() + stress.square().sum()
        return [energy, stress, *torch.autograd.grad(loss, list(network.parameters()))]

    with interpreted() as started:
        found = losses()
    assert {"sums_painn", "gradients_painn_edges", "table_gradient_painn_tangent"} <= set(started)
    with reference_path():
        expected = losses()
    for one, two in zip(found, expected, strict=True):
        # As much as so coarse splines are off.
        assert (one - two).norm() <= 3e-3 * two.norm() + 1e-9
    messages.spline_coefficients.cache_clear()
