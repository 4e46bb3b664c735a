"""The compiled message against a plain one with the same splines, up to second derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels import Library, library, operators, reference_path
from eip.kernels import edges as edge_list
from eip.kernels.messages import message as painn_message
from eip.models.painn import PaiNN
from eip.neighbors import build_graph
from eip.testing import check_backbone

pytestmark = pytest.mark.kernels

CUTOFF, INTERVALS = 4.0, 9


def structures() -> list[Atoms]:
    methanol = molecule("CH3OH")
    methanol.rattle(0.05, seed=1)
    # A cell much smaller than the cutoff, and atoms without neighbors.
    chain = Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]], cell=[2.1, 9, 9], pbc=[True, False, False])
    return [methanol, Atoms("H"), chain]


def problem(channels: int, skin: float = 0.0) -> tuple[AtomGraph, list[Tensor]]:
    """A graph; s, v, φ, table, positions and cell."""
    graph = build_graph(structures(), CUTOFF + skin)
    lib = library()
    assert lib is not None, "the tests need a C++ compiler"
    chunk = lib.chunk(channels, torch.float64)
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (graph.n_atoms, channels),
        (graph.n_atoms, 3, channels),
        (graph.n_atoms, 3 * channels),
        (channels // chunk, INTERVALS + 3, 3, chunk),
    ]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return graph, [t.clone().requires_grad_() for t in (*made, graph.positions, graph.cell)]


def message(graph: AtomGraph, inputs: list[Tensor], plain: bool) -> tuple[Tensor, Tensor]:
    s, v, phi, table, positions, cell = inputs
    vectors = replace(graph, positions=positions, cell=cell).edge_vectors()
    ends = graph.centers, graph.neighbors
    edges = edge_list.list_edges(vectors, *ends, graph.n_atoms, CUTOFF, INTERVALS)
    with reference_path() if plain else nullcontext():
        return painn_message(s, v, phi, table, vectors, edges, *ends, CUTOFF)


def nonlinear(graph: AtomGraph, inputs: list[Tensor], plain: bool) -> Tensor:
    s_out, v_out = message(graph, inputs, plain)
    return s_out.sin().sum() + (v_out * v_out.cos()).sum()


@pytest.mark.parametrize("channels", [8, 16, 24])
@pytest.mark.parametrize("skin", [0.0, 0.6])
def test_values_first_and_second_derivatives_are_those_of_the_plain_sum(
    channels: int, skin: float
) -> None:
    graph, inputs = problem(channels, skin)
    found, expected = [], []
    for plain, out in ((False, found), (True, expected)):
        value = nonlinear(graph, inputs, plain)
        out += [value.detach(), *torch.autograd.grad(value, inputs, retain_graph=True)]
        # As a loss holds forces: a gradient in positions, cell and v, differentiated in everything.
        forces = torch.autograd.grad(value, [inputs[4], inputs[5], inputs[1]], create_graph=True)
        generator = torch.Generator().manual_seed(3)
        loss = value
        for force in forces:
            weight = torch.randn(force.shape, generator=generator, dtype=torch.float64)
            loss = loss + (weight * force).sum() + force.square().sum()
        out += torch.autograd.grad(loss, inputs)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12 * float(two.abs().max()) + 1e-14)


def test_first_derivatives_are_differences_of_values() -> None:
    graph, inputs = problem(8)

    def value(*arguments: Tensor) -> Tensor:
        return nonlinear(graph, list(arguments), False)

    assert torch.autograd.gradcheck(value, inputs)


def test_second_derivatives_are_differences_of_first() -> None:
    """In positions: what a Hessian, and with it a vibration, is made of."""
    graph, inputs = problem(8)

    def force(positions: Tensor) -> Tensor:
        value = nonlinear(graph, [*inputs[:4], positions, inputs[5]], False)
        return torch.autograd.grad(value, positions, create_graph=True)[0]

    positions = inputs[4].detach().requires_grad_()
    assert torch.autograd.gradcheck(force, (positions,))


def test_third_derivatives_are_refused_not_wrong() -> None:
    graph, inputs = problem(8)
    value = nonlinear(graph, inputs, False)
    (first,) = torch.autograd.grad(value, inputs[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(first.square().sum(), inputs[1], create_graph=True)
    (in_weights,) = torch.autograd.grad(
        nonlinear(graph, inputs, False), inputs[3], create_graph=True
    )
    with pytest.raises(NotImplementedError, match="filter's weights"):
        in_weights.square().sum().backward()


def gradients(painn: PaiNN, graph: AtomGraph, everything: bool = False) -> list[Tensor]:
    """Of a loss that holds forces, in the weights."""
    positions = graph.positions.clone().requires_grad_()
    moved = replace(graph, positions=positions)
    species = (graph.numbers > 1).long()
    features = painn(moved, species, moved.edge_vectors(painn.embedding.weight.dtype))
    energy = features.scalars.square().sum() + features.vectors.square().sum()
    (force,) = torch.autograd.grad(energy, positions, create_graph=True)
    weights = list(painn.parameters())
    (energy + force.square().sum()).backward(inputs=None if everything else weights)
    return [w.grad.clone() for w in weights if w.grad is not None]


def test_a_network_trains_as_it_would_in_plain_pytorch() -> None:
    torch.manual_seed(0)
    painn = PaiNN(2, 16, cutoff=CUTOFF).double()
    graph = build_graph([*structures(), bulk("C") * (2, 2, 2)], CUTOFF)
    found = gradients(painn, graph)
    painn.zero_grad()
    with reference_path():
        expected = gradients(painn, graph)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        # The splines of the filters are all that differs.
        assert (one - two).norm() <= 1e-5 * two.norm()
    painn.zero_grad()
    for one, two in zip(gradients(painn, graph, everything=True), found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_forces_take_no_gradient_of_weights_and_training_none_of_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = []
    call, second = edge_list.call, operators._directional

    def counting(lib: Library, name: str, *args: object, **kwargs: object) -> None:
        called.append(name)
        call(lib, name, *args, **kwargs)

    monkeypatch.setattr(edge_list, "call", counting)
    monkeypatch.setattr(
        operators, "_directional", lambda *a, **k: called.append("curvature") or second(*a, **k)
    )
    painn = PaiNN(2, 16, 1, cutoff=CUTOFF).double()
    graph = build_graph(structures(), CUTOFF)
    gradients(painn, graph)
    assert called == [
        *("message", "message_gradient"),  # energy and forces
        *("message_tangent", "table_gradient", "table_gradient"),  # loss
    ]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_does_not_change_a_bit_of_the_kernels(threads: None) -> None:
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        graph, inputs = problem(16)
        value = nonlinear(graph, inputs, False)
        (force,) = torch.autograd.grad(value, inputs[4], create_graph=True)
        found.append(torch.autograd.grad(force.square().sum(), inputs[:4]))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_many_atoms_sum_the_table_in_parts() -> None:
    torch.manual_seed(0)
    painn = PaiNN(1, 8, 1, cutoff=CUTOFF).double()
    crystal = bulk("C", cubic=True) * (6, 6, 4)
    crystal.rattle(0.05, seed=0)
    assert len(crystal) > 2 * edge_list.ATOMS_PER_GROUP
    graph = build_graph(crystal, CUTOFF)
    graph = replace(graph, numbers=torch.ones_like(graph.numbers))
    found = gradients(painn, graph)
    painn.zero_grad()
    with reference_path():
        expected = gradients(painn, graph)
    for one, two in zip(found, expected, strict=True):
        assert (one - two).norm() <= 1e-5 * two.norm()


def test_the_compiled_network_keeps_the_laws_of_a_backbone() -> None:
    torch.manual_seed(0)
    check_backbone(PaiNN(2, 16, 2, 8, 4.0), elements=(1, 8))


def test_single_precision_trains_within_its_rounding() -> None:
    torch.manual_seed(0)
    painn = PaiNN(2, 32, cutoff=CUTOFF)
    graph = build_graph(structures(), CUTOFF)
    found = torch.cat([g.flatten() for g in gradients(painn, graph)]).double().numpy()
    painn.zero_grad()
    exact = gradients(painn.double(), graph)
    expected = torch.cat([g.flatten() for g in exact]).numpy()
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
