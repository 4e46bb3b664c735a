"""Every operator keeps what `torch.library` asks of it, and can be traced and exported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels import (
    coupling,
    edges,
    features,
    geometry,
    indexing,
    messages,
    operators,
    packing,
    products,
    reference_path,
)
from eip.kernels.build import library
from eip.models.cartesian_ace import CartesianACE
from eip.models.painn import PaiNN
from eip.neighbors import build_graph

CUTOFF, CHANNELS, RADIAL = 4.0, 16, 6
INTERVALS = 9


def graph() -> AtomGraph:
    methanol = molecule("CH3OH")
    methanol.rattle(0.05, seed=1)
    chain = Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]], cell=[2.1, 9, 9], pbc=[True, False, False])
    return build_graph([methanol, Atoms("H"), chain], CUTOFF)


GRAPH = graph()
SPECIES = (GRAPH.numbers > 1).long()
ENDS = GRAPH.centers, GRAPH.neighbors
PERIODIC = GRAPH.frame, *ENDS, GRAPH.shifts


def array(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def vectors(grad: bool = False) -> Tensor:
    return GRAPH.edge_vectors().clone().requires_grad_(grad)


def chunk() -> int:
    lib = library()
    return CHANNELS if lib is None else lib.chunk(CHANNELS, torch.float64)


def lanes() -> int:
    lib = library()
    return CHANNELS if lib is None else lib.lanes(torch.float64)


def listed() -> Tensor:
    return edges.list_edges(vectors(), *ENDS, GRAPH.n_atoms, CUTOFF, INTERVALS)


def said_by(grad: bool = False) -> list[Tensor]:
    """Scalars, vectors, φ, table and edges' vectors of PaiNN's message."""
    n, width = GRAPH.n_atoms, chunk()
    shapes = (n, CHANNELS), (n, 3, CHANNELS), (n, 3 * CHANNELS)
    table = CHANNELS // width, INTERVALS + 3, 3, width
    made = [array(*shape, seed=k, grad=grad) for k, shape in enumerate((*shapes, table))]
    return [*made, vectors(grad)]


def coupled(first: bool, grad: bool = False) -> list[Tensor | None]:
    n, width = GRAPH.n_atoms, lanes()
    nodes = [array(k, n, CHANNELS, seed=k, grad=grad) for k in (3, 3, 5)]
    paths = coupling.FIRST_PATHS if first else coupling.PATHS
    table = array(CHANNELS // width, INTERVALS + 3, paths, width, grad=grad)
    return [nodes[0], *((None, None) if first else nodes[1:]), table, vectors(grad)]


def multiplied(grad: bool = False) -> list[Tensor]:
    shapes = (GRAPH.n_atoms, CHANNELS), (3, GRAPH.n_atoms, CHANNELS), (5, GRAPH.n_atoms, CHANNELS)
    weights = 2, products.PRODUCTS, CHANNELS
    return [array(*s, seed=k, grad=grad) for k, s in enumerate((*shapes, weights))]


def network(kind: type[PaiNN] | type[CartesianACE]) -> PaiNN | CartesianACE:
    torch.manual_seed(0)
    return kind(2, CHANNELS, 2, RADIAL, CUTOFF).double().requires_grad_(False)


def of_network(kind: type[PaiNN] | type[CartesianACE]) -> tuple[object, ...]:
    constants = (5.0, 0.0) if kind is CartesianACE else ()
    return SPECIES, *ENDS, network(kind).weights(), None, CUTOFF, RADIAL, *constants


def head_weights() -> list[Tensor]:
    shapes = [(CHANNELS, CHANNELS), (4, CHANNELS), (CHANNELS, 2 * CHANNELS), (CHANNELS,)]
    shapes += [(7, CHANNELS), (7,)]
    return [array(*shape, seed=k) for k, shape in enumerate(shapes)]


def cases() -> dict[str, tuple[object, tuple[object, ...]]]:
    n, ops = GRAPH.n_atoms, torch.ops.eip
    g_message = [array(n, CHANNELS, seed=8, grad=True), array(n, 3, CHANNELS, seed=9, grad=True)]
    g_sums = [array(*s, n, CHANNELS, seed=8, grad=True) for s in ((), (3,), (5,))]
    dots = [None if one is None else one.detach().clone() for one in said_by()]
    dots[3] = None
    found: dict[str, tuple[object, tuple[object, ...]]] = {
        "edge_vectors": (
            geometry.edge_vectors,
            (
                GRAPH.positions.clone().requires_grad_(),
                GRAPH.cell.clone().requires_grad_(),
                *(*PERIODIC, torch.float32),
            ),
        ),
        "edge_vectors_backward": (
            geometry.edge_vectors_backward,
            (array(GRAPH.n_edges, 3, grad=True), *PERIODIC, GRAPH.n_frames, True),
        ),
        "sums_by": (indexing.sums, (array(n, 2, grad=True), GRAPH.frame, 3)),
        "take": (indexing.take, (array(n, 2, grad=True), GRAPH.neighbors)),
        "closer_than": (
            geometry.closer_than,
            (vectors(), SPECIES, *ENDS, 1.2 * torch.ones(2, 2, dtype=torch.float64)),
        ),
        "list_edges": (edges.list_edges, (vectors(), *ENDS, n, CUTOFF, INTERVALS)),
        "panels": (packing.panels, (array(CHANNELS, 3 * CHANNELS),)),
        "invariants": (features.invariants, (array(n, CHANNELS), array(n, 3, CHANNELS))),
        "tensor_head": (
            features.tensor_head,
            (array(n, CHANNELS), array(n, 3, CHANNELS), head_weights(), None),
        ),
        "squared_distance": (
            features.squared_distance,
            (array(n, CHANNELS), SPECIES, array(2, CHANNELS), array(2, CHANNELS, CHANNELS), None),
        ),
        "neighborhood_mean": (
            features.neighborhood_mean,
            (array(n), GRAPH.positions, GRAPH.cell, *PERIODIC, CUTOFF),
        ),
        "painn_message": (messages.message, (*said_by(True), listed(), *ENDS, CUTOFF)),
        "painn_message_backward": (
            ops.painn_message_backward.default,
            (*g_message, *said_by(True), listed(), *ENDS, CUTOFF, False, True),
        ),
        "painn_message_double_backward": (
            ops.painn_message_double_backward.default,
            (*[g.detach() for g in g_message], *said_by(), listed(), *ENDS, CUTOFF, *dots),
        ),
        "cartesian_products": (products.products, (*multiplied(True), SPECIES, 0.1)),
        "cartesian_products_backward": (
            ops.cartesian_products_backward.default,
            (*g_sums, *multiplied(True), SPECIES, 0.1, False, False),
        ),
        "cartesian_products_double_backward": (
            ops.cartesian_products_double_backward.default,
            (*[g.detach() for g in g_sums], *multiplied(), SPECIES, 0.1, *multiplied()[:3], None),
        ),
        "painn": (torch.ops.eip.painn.default, (vectors(True), *of_network(PaiNN))),
        "cartesian_ace": (
            torch.ops.eip.cartesian_ace.default,
            (vectors(True), *of_network(CartesianACE)),
        ),
    }
    for first in (True, False):
        x = coupled(first)
        along = [None if one is None else one.clone() for one in x]
        along[3] = None
        rest = listed(), *ENDS, CUTOFF
        g = [one.detach() for one in g_sums]
        ending = "_first" if first else ""
        found |= {
            f"coupling{ending}": (coupling.coupling, (*coupled(first, True), *rest)),
            f"coupling_backward{ending}": (
                ops.coupling_backward.default,
                (*g_sums, *coupled(first, True), *rest, False, True),
            ),
            f"coupling_double_backward{ending}": (
                ops.coupling_double_backward.default,
                (*g, *x, *rest, *along),
            ),
        }
    for name, kind in (("painn", PaiNN), ("cartesian_ace", CartesianACE)):
        run = getattr(torch.ops.eip, name).default
        of = of_network(kind)
        with torch.no_grad():
            scalars, to_vectors, saved = run(vectors(), *of)
        found[f"{name}_backward"] = (
            getattr(torch.ops.eip, f"{name}_backward").default,
            (torch.ones_like(scalars), None, to_vectors, saved, True, vectors(), *of),
        )
    return found


CASES = cases()

#: The gradient of a whole network writes into what its values left behind, which is memory and no
#: value: it is exported and has shapes, but its derivative is not traced.
WHOLE = {"painn", "painn_backward", "cartesian_ace", "cartesian_ace_backward"}


@pytest.mark.once
@pytest.mark.kernels
@pytest.mark.parametrize("name", CASES)
def test_what_pytorch_asks_of_an_operator(name: str) -> None:
    """Schema, autograd's registration, shapes without content, and tracing with derivatives."""
    operator, arguments = CASES[name]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    if name not in WHOLE:
        checks = *checks, "test_aot_dispatch_dynamic"
    torch.library.opcheck(operator, arguments, test_utils=checks)


@pytest.mark.parametrize("name", CASES)
def test_plain_pytorch_keeps_to_the_same_schema(name: str) -> None:
    operator, arguments = CASES[name]
    with reference_path():
        torch.library.opcheck(operator, arguments, test_utils="test_schema")


def test_every_operator_is_among_these() -> None:
    registered = {
        name.removeprefix("eip::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("eip::")
    }
    assert registered == {name.removesuffix("_first") for name in CASES}


class Exported(torch.nn.Module):
    """A network as a function of arrays."""

    def __init__(self, inside: PaiNN | CartesianACE, frozen: bool) -> None:
        super().__init__()
        self.inside, self.frozen = inside, frozen

    def forward(
        self, vectors: Tensor, species: Tensor, centers: Tensor, neighbors: Tensor
    ) -> tuple[Tensor, Tensor]:
        moved = replace(GRAPH, centers=centers, neighbors=neighbors)
        run = self.inside.fixed if self.frozen else self.inside
        features = run(moved, species, vectors)
        return features.scalars, features.vectors


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("kind", "frozen", "names"),
    [
        (PaiNN, True, {"painn"}),
        (PaiNN, False, {"list_edges", "painn_message"}),
        (CartesianACE, True, {"cartesian_ace"}),
        (CartesianACE, False, {"list_edges", "coupling", "cartesian_products"}),
    ],
)
def test_a_network_is_exported_in_terms_of_operators(
    kind: type[PaiNN] | type[CartesianACE], frozen: bool, names: set[str]
) -> None:
    module = Exported(network(kind), frozen)
    arguments = vectors(), SPECIES, *ENDS
    exported = torch.export.export(module, arguments)
    targets = {str(node.target) for node in exported.graph.nodes}
    assert {f"eip.{name}.default" for name in names} <= targets
    for found, expected in zip(exported.module()(*arguments), module(*arguments), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.kernels
def test_a_kernel_for_another_device_is_found_by_callers_as_they_are() -> None:
    scalars = torch.empty(3, 4, device="meta")
    asked = []

    def kernel(scalars: Tensor, vectors: Tensor) -> Tensor:
        asked.append(scalars.device.type)
        return scalars.new_empty(7)

    operators._OTHER_DEVICES["invariants", "meta"] = operators.OtherKernel(kernel, lambda *_: True)
    try:
        with torch.no_grad():
            chosen = features.invariants(scalars, torch.empty(3, 3, 4, device="meta"))
        with reference_path():
            plain = features.invariants(scalars, torch.empty(3, 3, 4, device="meta"))
    finally:
        del operators._OTHER_DEVICES["invariants", "meta"]
    assert asked == ["meta"] and chosen.shape == (7,) and plain.shape == (3, 8)
