"""The compiled coupling along edges against a plain one with the same splines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels import library, reference_path
from eip.kernels.coupling import FIRST_PATHS, PATHS, coupling, spline_fit
from eip.kernels.edges import list_edges, spline_values
from eip.kernels.radial import polynomial_cutoff, sine_basis
from eip.neighbors import build_graph

pytestmark = pytest.mark.kernels

CUTOFF, INTERVALS = 4.0, 9


def structures() -> list[Atoms]:
    methanol = molecule("CH3OH")
    methanol.rattle(0.05, seed=1)
    # A cell much smaller than the cutoff, and atoms without neighbors.
    chain = Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]], cell=[2.1, 9, 9], pbc=[True, False, False])
    return [methanol, Atoms("H"), chain]


def lanes() -> int:
    lib = library()
    assert lib is not None, "the tests need a C++ compiler"
    return lib.lanes(torch.float64)


def problem(channels: int, first: bool, skin: float = 0.0) -> tuple[AtomGraph, list[Tensor]]:
    """A graph; said, table, positions, cell and, but of a first layer, v and t."""
    graph = build_graph(structures(), CUTOFF + skin)
    generator = torch.Generator().manual_seed(0)
    atoms, paths = graph.n_atoms, FIRST_PATHS if first else PATHS
    shapes = [(3, atoms, channels), (channels // lanes(), INTERVALS + 3, paths, lanes())]
    shapes += [] if first else [(3, atoms, channels), (5, atoms, channels)]
    said, table, *rest = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    inputs = said, table, graph.positions, graph.cell, *rest
    # Strided, as a slice of something larger would be.
    strided = [t.transpose(0, 1).clone().transpose(0, 1) for t in inputs]
    return graph, [t.requires_grad_() for t in strided]


def sums(graph: AtomGraph, inputs: list[Tensor], plain: bool) -> tuple[Tensor, Tensor, Tensor]:
    said, table, positions, cell, *rest = inputs
    v, t = rest or (None, None)
    vectors = replace(graph, positions=positions, cell=cell).edge_vectors()
    ends = graph.centers, graph.neighbors
    edges = list_edges(vectors, *ends, graph.n_atoms, CUTOFF, INTERVALS)
    with reference_path() if plain else nullcontext():
        return coupling(said, v, t, table, vectors, edges, *ends, CUTOFF)


def nonlinear(graph: AtomGraph, inputs: list[Tensor], plain: bool) -> Tensor:
    s, v, t = sums(graph, inputs, plain)
    return s.sin().sum() + (v * v.cos()).sum() + (t.square() * t.sin()).sum()


@pytest.mark.parametrize("channels", [8, 24])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("skin", [0.0, 0.6])
def test_values_first_and_second_derivatives_are_those_of_the_plain_sum(
    channels: int, first: bool, skin: float
) -> None:
    graph, inputs = problem(channels, first, skin)
    found, expected = [], []
    for plain, out in ((False, found), (True, expected)):
        value = nonlinear(graph, inputs, plain)
        out += [value.detach(), *torch.autograd.grad(value, inputs, retain_graph=True)]
        # As a loss holds forces: a gradient in what is no weight, differentiated in everything.
        forces = torch.autograd.grad(value, [*inputs[2:], inputs[0]], create_graph=True)
        generator = torch.Generator().manual_seed(3)
        loss = value
        for force in forces:
            weight = torch.randn(force.shape, generator=generator, dtype=torch.float64)
            loss = loss + (weight * force).sum() + force.square().sum()
        out += torch.autograd.grad(loss, inputs)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12 * float(two.abs().max()) + 1e-14)


@pytest.mark.parametrize("first", [True, False])
def test_first_derivatives_are_differences_of_values(first: bool) -> None:
    graph, inputs = problem(8, first)

    def value(*arguments: Tensor) -> Tensor:
        return nonlinear(graph, list(arguments), False)

    assert torch.autograd.gradcheck(value, inputs)


def test_third_derivatives_are_refused_not_wrong() -> None:
    graph, inputs = problem(8, False)
    value = nonlinear(graph, inputs, False)
    (first,) = torch.autograd.grad(value, inputs[4], create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(first.square().sum(), inputs[4], create_graph=True)
    (in_weights,) = torch.autograd.grad(
        nonlinear(graph, inputs, False), inputs[1], create_graph=True
    )
    with pytest.raises(NotImplementedError, match="filter's weights"):
        in_weights.square().sum().backward()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_does_not_change_a_bit_of_the_kernels(threads: None) -> None:
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        graph, inputs = problem(16, False)
        value = nonlinear(graph, inputs, False)
        (force,) = torch.autograd.grad(value, inputs[2], create_graph=True)
        found.append(torch.autograd.grad(force.square().sum(), [*inputs[:2], *inputs[4:]]))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_many_atoms_sum_the_table_in_parts() -> None:
    crystal = bulk("C", cubic=True) * (6, 6, 4)
    crystal.rattle(0.05, seed=0)
    graph = build_graph(crystal, CUTOFF)
    channels, generator = lanes(), torch.Generator().manual_seed(0)
    said = torch.randn(3, graph.n_atoms, channels, generator=generator, dtype=torch.float64)
    table = torch.randn(1, INTERVALS + 3, FIRST_PATHS, channels, generator=generator).double()
    inputs = [said, table.requires_grad_(), graph.positions, graph.cell]
    assert graph.n_atoms > 2 * 512
    one, two = (
        torch.autograd.grad(nonlinear(graph, inputs, plain), table)[0] for plain in (False, True)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12 * float(two.abs().max()))


def test_splines_are_the_filters_and_end_smoothly() -> None:
    fit, basis, envelope = spline_fit(5.0, 8, torch.float64, torch.device("cpu"))
    coefficients = fit @ (basis * envelope)
    assert coefficients[-3:].abs().max() == 0.0
    r = torch.linspace(0.5, 5.0 - 1e-9, 4001, dtype=torch.float64)
    found = spline_values(coefficients, r, 5.0)
    exact = sine_basis(r, 5.0, 8) * polynomial_cutoff(r, 5.0)[:, None]
    error = (found - exact).abs().max() / exact.abs().max()
    assert error < 1e-5
