"""PaiNN (Schütt, Unke and Gastegger 2021) as a function of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from eip.kernels import edges as edge_list
from eip.kernels import messages, networks
from eip.kernels.build import kernels_for
from eip.kernels.features import norm, two_layers
from eip.kernels.packing import both_ways
from eip.kernels.radial import cosine_cutoff, sine_basis

#: Beyond this (3,000 atoms at F = 128) what the gradient can work out again is not kept: 12 kB an
#: atom instead of 21, for a tenth more time.
LEAN_BYTES = 2**26


class Layer(NamedTuple):
    """Weights of a layer, ``[out, in]`` each, and biases."""

    context1: Tensor
    context1_bias: Tensor
    context2: Tensor
    context2_bias: Tensor
    filter: Tensor
    filter_bias: Tensor
    mix: Tensor
    update1: Tensor
    update1_bias: Tensor
    update2: Tensor
    update2_bias: Tensor

    def context(self, scalars: Tensor) -> Tensor:
        """φ, what atoms say to their neighbors, ``[3, channels]`` behind each other."""
        return two_layers(scalars, *self[:4])

    def filters(self) -> Tensor:
        """Of the radial functions and of the envelope in each filter."""
        return torch.cat([self.filter, self.filter_bias[:, None]], dim=1)


def network(
    edge_vectors: Tensor,
    species: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    weights: Sequence[Tensor],
    pack: Tensor | None,
    cutoff: float,
    radial_functions: int,
) -> tuple[Tensor, Tensor]:
    """Scalars ``[atoms, channels]`` and vectors ``[atoms, 3, channels]``, differentiable twice.

    Vectors meet nothing but products with scalars and linear maps over channels without bias: any
    bias, or nonlinearity on a component, would single out the coordinate axes.

    Args:
        edge_vectors: Å, ``[edges, 3]``, sorted by ``centers``.
        species: of each atom, counted from 0.
        weights: embedding, then `Layer` by layer.
        pack: not read, see `features`.
        cutoff: Å.
    """
    elements, layers = networks.split(weights, Layer)
    graph = species.shape[0], centers, neighbors
    message = _messages(edge_vectors, elements, graph, cutoff, radial_functions)
    scalars = embedding(species, elements)
    vectors = scalars.new_zeros(scalars.shape[0], 3, scalars.shape[1])
    for layer in layers:
        scalars, vectors = message(layer, scalars, vectors)
        scalars, vectors = _update(layer, scalars, vectors)
    return scalars, vectors


def _messages(
    edge_vectors: Tensor,
    elements: Tensor,
    graph: tuple[int, Tensor, Tensor],
    cutoff: float,
    radial_functions: int,
) -> Callable[[Layer, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What takes a layer, scalars and vectors to these with what the neighbors say (eq. 7, 8).

    Kernels read the filters from splines; without kernels, they are the functions themselves.
    """
    atoms, centers, neighbors = graph
    channels, dtype = int(elements.shape[1]), edge_vectors.dtype
    chunk = messages.chunk_of(edge_vectors, channels)
    if chunk is not None:
        count = messages.intervals(radial_functions)
        edges = edge_list.list_edges(edge_vectors, centers, neighbors, atoms, cutoff, count)
        coefficients = messages.spline_coefficients(
            cutoff, radial_functions, dtype, edge_vectors.device
        )
        # One chunk is in order as it is.
        order = slice(None) if chunk == channels else messages.chunk_order(channels, chunk)

        def by_splines(layer: Layer, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
            reordered = layer.context2[order], layer.context2_bias[order]
            said = two_layers(scalars, layer.context1, layer.context1_bias, *reordered)
            table = edge_list.by_chunks(coefficients @ layer.filters().T, 3, chunk)
            found: tuple[Tensor, Tensor] = messages.message(
                *(scalars, vectors.contiguous(), said, table),
                *(edge_vectors, edges, centers, neighbors, cutoff),
            )
            return found

        return by_splines

    distance = edge_vectors.square().sum(dim=1).sqrt()
    direction = edge_vectors / distance[:, None]
    envelope = cosine_cutoff(distance, cutoff)
    # The envelope multiplies the basis here and the filter's bias in the message, so that the
    # filters of all layers come from one array.
    basis = sine_basis(distance, cutoff, radial_functions) * envelope[:, None]

    def by_functions(layer: Layer, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        said = layer.context(scalars)
        filters = basis @ layer.filter.T + envelope[:, None] * layer.filter_bias
        return messages.plain_message(
            scalars, vectors, said, filters, direction, centers, neighbors
        )

    return by_functions


def _update(layer: Layer, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """What an atom makes of what it heard (eq. 9 and 10 of the PaiNN paper)."""
    left, right = linear(vectors, layer.mix).chunk(2, dim=2)
    both = torch.cat([scalars, norm(right)], dim=1)
    context = two_layers(both, *layer[-4:])
    to_scalars, scale_product, scale_vectors = context.chunk(3, dim=1)
    product = (left * right).sum(dim=1)
    return (
        scalars + to_scalars + scale_product * product,
        vectors + scale_vectors[:, None, :] * left,
    )


# By one kernel ----------------------------------------------------------------------------------


def named(weights: Sequence[Tensor], cutoff: float, radial_functions: int) -> networks.Named:
    """What a kernel reads of the weights, whoever's it is; φ is ``[3, channels]``."""
    elements, layers = networks.split(weights, Layer)
    coefficients = messages.spline_coefficients(cutoff, radial_functions)
    maps: list[dict[str, Tensor | None]] = []
    arrays: list[dict[str, Tensor | None]] = []
    tables = []
    for layer in layers:
        left, right = layer.mix.chunk(2)
        maps.append(
            {
                **{"context1": layer.context1, "context2": layer.context2},
                **{"left": left, "right": right},
                **{"update1": layer.update1, "update2": layer.update2},
            }
        )
        arrays.append(
            {
                **{"context1_bias": layer.context1_bias, "context2_bias": layer.context2_bias},
                **{"update1_bias": layer.update1_bias, "update2_bias": layer.update2_bias},
            }
        )
        table = (coefficients @ layer.filters().double().T).to(elements.dtype)
        tables.append(table.unflatten(1, (3, -1)))
    by_element = {"embedding": elements, "phi0": layers[0].context(elements)}
    return networks.Named(by_element, maps, arrays, tables)


def pack(weights: Sequence[Tensor], cutoff: float, radial_functions: int) -> Tensor | None:
    """What `features` reads of the weights; None where no kernel would."""
    channels, dtype = weights[0].shape[1], weights[0].dtype
    lib = kernels_for(weights[0])
    if lib is None or not lib.takes(channels, dtype):
        return None
    chunk = lib.chunk(channels, dtype)
    order = messages.chunk_order(channels, chunk)
    found = named(weights, cutoff, radial_functions)
    packed = []
    for maps, arrays, table in zip(found.maps, found.arrays, found.tables, strict=True):
        maps = {n: w[order] if n == "context2" and w is not None else w for n, w in maps.items()}
        bias = arrays["context2_bias"]
        assert bias is not None
        layer = {**arrays, "context2_bias": bias[order]}
        layer["table"] = edge_list.by_chunks(table.flatten(1), 3, chunk)
        for name, weight in maps.items():
            layer |= both_ways(name, weight)
        packed.append(layer)
    elements = {**found.elements, "phi0": found.elements["phi0"][:, order]}
    return networks.pack_network(lib, "painn", elements, packed)


def _widths(layers: int, channel_bytes: Any) -> networks.Widths:
    def of(lean: bool) -> networks.Widths:
        return [
            {
                "hidden": 0 if layer == 0 else 1,
                "phi": 0 if layer == 0 or lean else 3,
                "left": 3,
                "right": 0 if lean else 3,
                "pre": 1,
                "scales": 0 if lean else 2,
                # The last layer's are handed out.
                "vectors": 0 if layer == layers - 1 else 3,
            }
            for layer in range(layers)
        ]

    return of(lean=networks.numbers(of(lean=False)) * channel_bytes > LEAN_BYTES)


def _forward(run: networks.Run, saved: Tensor, scalars: Tensor, vectors: Tensor) -> None:
    arrays, last = run.places(saved, run.widths), run.layers - 1
    arrays[last]["vectors"] = vectors.data_ptr()
    phi = None
    if last and arrays[last]["phi"] is None:
        # Two layers' φ are in use at a time: read and written. One lies where the last layer's
        # `left` will be, whose own φ lies apart from it.
        phi = run.memory(3)
        for layer in range(1, last + 1):
            apart = (last - layer) % 2 == 0
            arrays[layer]["phi"] = phi.data_ptr() if apart else arrays[last]["left"]
    run.call("", arrays, scalars)


def _backward(
    run: networks.Run,
    saved: Tensor,
    vectors: Tensor,
    keep: bool,
    g_scalars: Tensor,
    g_vectors: Tensor | None,
    out: Tensor,
) -> None:
    arrays = run.places(saved, run.widths)
    arrays[-1]["vectors"] = vectors.data_ptr()
    if keep:
        # Two pairs in turn: a layer reads one and writes the other.
        room = run.memory(8)
        pairs = run.places(room, [{"s": 1, "v": 3}] * 2)
        gradient = [pairs[layer % 2] for layer in range(run.layers)]
    else:
        gradient = [{"s": layer["pre"], "v": layer["left"]} for layer in arrays]
    run.call("_backward", arrays, g_scalars, g_vectors, run.table("gradient", gradient), out)


#: `network`, for whoever differentiates it in the edges' vectors alone: one kernel forward, one
#: back. ``pack`` is of these weights; None: they are packed at this call.
features = networks.network_operator(
    "painn",
    "float cutoff, int radial_functions",
    layer=Layer,
    written=network,
    pack=pack,
    widths=_widths,
    intervals=messages.intervals,
    forward=_forward,
    backward=_backward,
)
