"""The network of `eip.models.cartesian_ace` as a function of its weights.

Each layer sums what neighbors say, mixes channels, forms all products of up to three factors with
weights by element and channel, and adds them to what an atom has, gated by its scalars. A radial
filter is the cubic spline through what a network makes of the radial basis, by definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

from eip.kernels import edges as edge_list
from eip.kernels import networks
from eip.kernels.build import kernels_for
from eip.kernels.coupling import (
    Sums,
    chunk_of,
    coupling,
    intervals,
    plain_coupling,
    spline_fit,
)
from eip.kernels.features import two_layers
from eip.kernels.packing import both_ways
from eip.kernels.products import Triple, products


class Layer(NamedTuple):
    """Weights of a layer, ``[out, in]`` each, and biases."""

    context1: Tensor
    context1_bias: Tensor
    context2: Tensor
    context2_bias: Tensor
    radial1: Tensor
    radial1_bias: Tensor
    radial2: Tensor
    radial2_bias: Tensor
    filter: Tensor
    filter_bias: Tensor
    mix_scalars: Tensor
    mix_vectors: Tensor
    mix_matrices: Tensor
    products: Tensor
    gate1: Tensor
    gate1_bias: Tensor
    gate2: Tensor
    gate2_bias: Tensor
    to_scalars: Tensor
    to_vectors: Tensor
    #: Nobody reads the matrices of the last layer.
    to_matrices: Tensor | None = None


def network(
    edge_vectors: Tensor,
    species: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    weights: Sequence[Tensor],
    pack: Tensor | None,
    cutoff: float,
    radial_functions: int,
    mean_neighbors: float,
    inverse_square: float,
) -> tuple[Tensor, Tensor]:
    """Scalars ``[atoms, channels]`` and vectors ``[atoms, 3, channels]``, differentiable twice.

    Args:
        edge_vectors: Å, ``[edges, 3]``, sorted by ``centers``.
        species: of each atom, counted from 0.
        weights: embedding, then `Layer` by layer.
        pack: not read, see `features`.
        cutoff: Å.
        mean_neighbors: sums over neighbors are divided by its root.
        inverse_square: see `eip.kernels.products.bounded`.
    """
    elements, layers = networks.split(weights, Layer)
    graph = species.shape[0], centers, neighbors
    couple = _couplings(*(edge_vectors, elements, graph, cutoff, radial_functions, mean_neighbors))
    scalars = embedding(species, elements)
    vectors, matrices = scalars.new_zeros(3, *scalars.shape), scalars.new_zeros(5, *scalars.shape)
    for number, layer in enumerate(layers):
        said, v, t = _said(layer, scalars, vectors, matrices, first=number == 0)
        sums = couple(layer, said, v, t)
        scalars, vectors, matrices = (
            own + heard for own, heard in zip((scalars, vectors, matrices), sums, strict=True)
        )
        scalars, vectors, matrices = _update(
            layer, species, scalars, vectors, matrices, inverse_square
        )
    return scalars, vectors.transpose(0, 1)


def _said(
    layer: Layer, scalars: Tensor, vectors: Tensor, matrices: Tensor, first: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scalars for the three sums, ``[3, atoms, channels]``, vector and matrix."""
    context = two_layers(scalars, *layer[:4])
    context = context.unflatten(1, (-1, scalars.shape[1])).transpose(0, 1)
    if first:
        return context, None, None
    return context[:3], context[3] * vectors, context[4] * matrices


def _update(
    layer: Layer,
    species: Tensor,
    scalars: Tensor,
    vectors: Tensor,
    matrices: Tensor,
    inverse_square: float,
) -> Triple:
    """What an atom makes of what it heard: products, and a gate."""
    mixed = (
        linear(scalars, layer.mix_scalars),
        linear(vectors, layer.mix_vectors),
        linear(matrices, layer.mix_matrices),
    )
    # Here, not inside: what is saved there must be what came in, or second derivatives miss it.
    x, u, m = products(
        *(one.contiguous() for one in mixed), layer.products.contiguous(), species, inverse_square
    )
    both = torch.cat([scalars, x], dim=1)
    gates = two_layers(both, layer.gate1, layer.gate1_bias, layer.gate2, layer.gate2_bias)
    to_scalars, gate_u, gate_m = gates.chunk(3, dim=1)
    if layer.to_matrices is not None:
        matrices = matrices + linear(gate_m * m, layer.to_matrices)
    return (
        scalars + to_scalars + linear(x, layer.to_scalars),
        vectors + linear(gate_u * u, layer.to_vectors),
        matrices,
    )


def _couplings(
    edge_vectors: Tensor,
    elements: Tensor,
    graph: tuple[int, Tensor, Tensor],
    cutoff: float,
    radial_functions: int,
    mean_neighbors: float,
) -> Callable[[Layer, Tensor, Tensor | None, Tensor | None], Sums]:
    """What sums over the neighbors of each atom what they say in a layer."""
    atoms, centers, neighbors = graph
    chunk = chunk_of(edge_vectors, int(elements.shape[1]))
    if chunk is not None:
        count = intervals(radial_functions)
        edges = edge_list.list_edges(edge_vectors, centers, neighbors, atoms, cutoff, count)

        def by_kernel(layer: Layer, said: Tensor, v: Tensor | None, t: Tensor | None) -> Sums:
            table = _table(layer, chunk, cutoff, radial_functions, mean_neighbors)
            # Here, not inside, as above.
            v, t = (None if one is None else one.contiguous() for one in (v, t))
            found: Sums = coupling(
                *(said.contiguous(), v, t, table),
                *(edge_vectors, edges, centers, neighbors, cutoff),
            )
            return found

        return by_kernel

    distance = edge_vectors.square().sum(dim=1).sqrt()
    direction = edge_vectors / distance[:, None]

    def plain(layer: Layer, said: Tensor, v: Tensor | None, t: Tensor | None) -> Sums:
        coefficients = _coefficients(layer, cutoff, radial_functions, mean_neighbors)
        values = edge_list.spline_values(coefficients, distance, cutoff)
        filters = (values @ _filters(layer).T).unflatten(1, (_paths(layer), -1))
        return plain_coupling(said, v, t, filters, direction, centers, neighbors)

    return plain


def _paths(layer: Layer) -> int:
    return len(layer.filter) // layer.products.shape[2]


def _filters(layer: Layer) -> Tensor:
    """Of the radial functions in each filter."""
    return torch.cat([layer.filter, layer.filter_bias[:, None]], dim=1)


def _coefficients(
    layer: Layer, cutoff: float, radial_functions: int, mean_neighbors: float
) -> Tensor:
    """Of a layer's radial functions, as B-splines; divided by the root of n̄."""
    weight = layer.filter
    fit, basis, envelope = spline_fit(cutoff, radial_functions, weight.dtype, weight.device)
    hidden = silu(linear(basis, layer.radial1, layer.radial1_bias))
    hidden = silu(linear(hidden, layer.radial2, layer.radial2_bias))
    hidden = torch.cat([hidden, torch.ones_like(envelope)], dim=1)
    return (fit / math.sqrt(mean_neighbors)) @ (hidden * envelope)


def _table(
    layer: Layer, chunk: int, cutoff: float, radial_functions: int, mean_neighbors: float
) -> Tensor:
    """The filters of a layer, ``[chunks, knots, paths, chunk]``."""
    coefficients = _coefficients(layer, cutoff, radial_functions, mean_neighbors)
    return edge_list.by_chunks(coefficients @ _filters(layer).T, _paths(layer), chunk)


# By one kernel ----------------------------------------------------------------------------------


def named(
    weights: Sequence[Tensor], cutoff: float, radial_functions: int, mean_neighbors: float
) -> networks.Named:
    """What a kernel reads of the weights, whoever's it is."""
    elements, layers = networks.split(weights, Layer)
    maps: list[dict[str, Tensor | None]] = []
    arrays: list[dict[str, Tensor | None]] = []
    for number, layer in enumerate(layers):
        first = number == 0
        of_s, of_x = layer.gate1.chunk(2, dim=1)
        maps.append(
            {
                "context_one": None if first else layer.context1,
                "context_two": None if first else layer.context2,
                **{"mix_s": layer.mix_scalars, "mix_v": layer.mix_vectors},
                **{"mix_m": layer.mix_matrices, "gate_of_s": of_s, "gate_of_x": of_x},
                **{"gate_two": layer.gate2, "to_s": layer.to_scalars, "to_v": layer.to_vectors},
                "to_m": layer.to_matrices,
            }
        )
        arrays.append(
            {
                "context_one_bias": None if first else layer.context1_bias,
                "context_two_bias": None if first else layer.context2_bias,
                "products": layer.products,
                "gate_bias": layer.gate1_bias,
                "gate_two_bias": layer.gate2_bias,
            }
        )
    constants = cutoff, radial_functions, mean_neighbors
    tables = [
        (_coefficients(layer, *constants) @ _filters(layer).T).unflatten(1, (_paths(layer), -1))
        for layer in layers
    ]
    said, _, _ = _said(layers[0], elements, elements, elements, first=True)
    return networks.Named({"embedding": elements, "said": said}, maps, arrays, tables)


def pack(
    weights: Sequence[Tensor],
    cutoff: float,
    radial_functions: int,
    mean_neighbors: float,
    inverse_square: float,
) -> Tensor | None:
    """What `features` reads of the weights; None where no kernel would."""
    channels, dtype = weights[0].shape[1], weights[0].dtype
    lib = kernels_for(weights[0])
    if lib is None or not lib.takes(channels, dtype):
        return None
    found = named(weights, cutoff, radial_functions, mean_neighbors)
    packed = []
    for maps, arrays, table in zip(found.maps, found.arrays, found.tables, strict=True):
        rows = edge_list.by_chunks(table.flatten(1), table.shape[1], lib.lanes(dtype))
        layer = {**arrays, "table": rows}
        for name, weight in maps.items():
            layer |= both_ways(name, weight)
        packed.append(layer)
    return networks.pack_network(lib, "cartesian_ace", found.elements, packed)


def _widths(layers: int, channel_bytes: Any) -> networks.Widths:
    before = {"hidden": 1, "v": 3, "m": 5}
    first = dict.fromkeys(before, 0)
    return [{**(before if layer else first), "mixed": 9, "pre": 1} for layer in range(layers)]


def _forward(run: networks.Run, saved: Tensor, scalars: Tensor, vectors: Tensor) -> None:
    places, node = run.places(saved, run.widths), run.memory(11)
    run.call("", places, run.elements, run.constants[-1], node, run.channel, scalars, vectors)


def _backward(
    run: networks.Run,
    saved: Tensor,
    vectors: Tensor,
    keep: bool,
    g_scalars: Tensor,
    g_vectors: Tensor | None,
    out: Tensor,
) -> None:
    places, (one, other) = run.places(saved, run.widths), run.memory(18).chunk(2)
    arrays = None, run.channel, g_scalars, g_vectors, one, other, out
    run.call("_backward", places, run.elements, run.constants[-1], *arrays)


#: `network`, for whoever differentiates it in the edges' vectors alone: one kernel forward, one
#: back. ``pack`` is of these weights; None: they are packed at this call.
features = networks.network_operator(
    "cartesian_ace",
    "float cutoff, int radial_functions, float mean_neighbors, float inverse_square",
    layer=Layer,
    written=network,
    pack=pack,
    widths=_widths,
    intervals=intervals,
    forward=_forward,
    backward=_backward,
)
