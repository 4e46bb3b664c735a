"""A whole network as one operator: features of each atom, and their gradient in the edges' vectors.

What prediction, dynamics and UDD need. The kernels work on packed copies of the weights, and their
gradient is in the edges' vectors alone; whatever else is differentiated, and second derivatives,
go through the network as it is written in terms of smaller operators.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eip.kernels.build import Library
from eip.kernels.edges import first_edges
from eip.kernels.memory import Workspace
from eip.kernels.operators import Function, gradient_of, operator
from eip.kernels.packing import block, in_order

WORKSPACE = Workspace()

#: Of each layer, the numbers by atom and channel in each array that the gradient needs.
Widths = list[dict[str, int]]


def network_operator(
    name: str,
    constants: str,
    *,
    written: Function,
    forward: Function,
    backward: Function,
    saved: Callable[..., int | torch.SymInt],
    takes: Function,
) -> Any:
    """Registers ``eip::{name}``: edge_vectors, species, centers, neighbors, weights, pack and
    constants → scalars ``[atoms, channels]``, vectors ``[atoms, 3, channels]``, and what the
    gradient needs (opaque).

    Args:
        constants: the other arguments, as in a schema.
        written: the network in terms of operators, with the same arguments.
        forward: ``(lib, *arguments) → scalars, vectors, saved`` by a kernel.
        backward: ``(lib, g_scalars, g_vectors or None, vectors, saved, keep, *arguments)`` → the
            gradient; without ``keep`` it may write into ``saved``.
        saved: ``arguments → numbers`` that ``forward`` leaves behind.
        takes: as in `operator`.
    """
    graph = "Tensor edge_vectors, Tensor species, Tensor centers, Tensor neighbors"
    head = f"{graph}, Tensor[] weights, Tensor? pack, {constants}"

    def plain_backward(
        g_scalars: Tensor,
        g_vectors: Tensor | None,
        vectors: Tensor,
        saved: Tensor,
        keep: bool,
        edge_vectors: Tensor,
        *others: Any,
    ) -> Tensor:
        *ends, weights, pack = others[:5]
        g = [one for one in (g_scalars, g_vectors) if one is not None]
        # The values have no gradient in the weights, so that a part of one here would be wrong.
        fixed = [weight.detach() for weight in weights]

        def features(edge_vectors: Tensor) -> tuple[Tensor, ...]:
            return written(edge_vectors, *ends, fixed, pack, *others[5:])[: len(g)]

        found: Tensor = gradient_of(features, g, [edge_vectors])[0]
        return found

    gradient = operator(
        f"{name}_backward(Tensor g_scalars, Tensor? g_vectors, Tensor vectors, Tensor(a!) saved, "
        f"bool keep, {head}) -> Tensor",
        kernel=backward,
        plain=plain_backward,
        fake=lambda *arguments: torch.empty_like(arguments[5]),
        takes=lambda lib, *arguments: arguments[3].numel() > 0 and takes(lib, *arguments[5:]),
    )

    def setup_context(ctx: Any, arguments: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *graph, ctx.weights, ctx.pack = arguments[:6]
        _, vectors, left = output
        ctx.constants = arguments[6:]
        ctx.save_for_backward(*graph, vectors, left)
        ctx.mark_non_differentiable(left)
        ctx.set_materialize_grads(False)

    def backward_of(
        ctx: Any, g_scalars: Tensor | None, g_vectors: Tensor | None, _: None
    ) -> tuple[Any, ...]:
        *graph, vectors, left = ctx.saved_tensors
        if g_scalars is None:
            g_scalars = vectors.new_zeros(vectors[:, 0].shape)
        found = gradient(
            *(g_scalars, g_vectors, vectors, left, _graph_is_kept()),
            *(*graph, ctx.weights, ctx.pack, *ctx.constants),
        )
        return found, *[None] * (5 + len(ctx.constants))

    def fake(edge_vectors: Tensor, species: Tensor, *others: Any) -> tuple[Tensor, ...]:
        atoms, channels = len(species), others[2][0].shape[1]
        return (
            edge_vectors.new_empty(atoms, channels),
            edge_vectors.new_empty(atoms, 3, channels),
            edge_vectors.new_empty(saved(edge_vectors, species, *others)),
        )

    return operator(
        f"{name}({head}) -> (Tensor, Tensor, Tensor)",
        kernel=forward,
        plain=lambda *arguments: (*written(*arguments), arguments[0].new_empty(0)),
        fake=fake,
        takes=takes,
        setup_context=setup_context,
        backward=backward_of,
    )


def packed_at_once(
    operator: Function,
    pack: Callable[..., Tensor | None],
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    """Scalars and vectors; weights that are not packed yet, once for values and gradient."""
    *graph, weights, packed = arguments[:6]
    if packed is None:
        with torch.no_grad():
            packed = pack(weights, *arguments[6:])
    scalars, vectors, _ = operator(*graph, weights, packed, *arguments[6:])
    return scalars, vectors


def _graph_is_kept() -> bool:
    """Whether the gradient being taken may be followed by another of the same graph."""
    try:
        return bool(torch._C._autograd._get_current_graph_task_keep_graph())
    except (AttributeError, RuntimeError):
        return True


def pack_network(
    lib: Library,
    name: str,
    elements: Mapping[str, Tensor],
    layers: Sequence[Mapping[str, Tensor | None]],
) -> Tensor:
    """Arrays by element and by layer, by their names in the C++ sources, in one `block`."""
    arrays: list[Tensor | None] = [*in_order(lib, f"{name}_elements", elements)]
    for layer in layers:
        arrays += in_order(lib, f"{name}_layer", layer)
    return block(arrays)


def arguments_of(
    lib: Library,
    graph: Sequence[Tensor],
    cutoff: float,
    intervals: int,
    layers: int,
    channels: int,
    pack: Tensor,
    saved: Any,
) -> list[Any]:
    """What the kernels of all networks begin with."""
    edge_vectors, species, centers, neighbors = graph
    atoms = len(species)
    return [
        *(atoms, first_edges(lib, centers, atoms), neighbors.contiguous()),
        *(edge_vectors.contiguous(), cutoff, intervals, layers, channels),
        *(species.contiguous(), pack, saved, torch.get_num_threads()),
    ]


def numbers(widths: Widths) -> int:
    """By atom and channel."""
    return sum(sum(fields.values()) for fields in widths)


def places(memory: Tensor, widths: Widths, channel: int) -> list[dict[str, int | None]]:
    """Addresses of the arrays of each layer in one piece of memory; None where one is empty.

    Args:
        channel: numbers in an array of one for each atom and channel.
    """
    at, found = memory.data_ptr(), []
    for fields in widths:
        layer: dict[str, int | None] = {}
        for name, width in fields.items():
            layer[name] = at if width else None
            at += width * channel * memory.element_size()
        found.append(layer)
    return found


def table_of(
    lib: Library, struct: str, layers: Sequence[dict[str, int | None]]
) -> ctypes.Array[ctypes.c_void_p]:
    """Addresses as an array of the C++ sources' structs, which alone say their order."""
    found = [address for layer in layers for address in in_order(lib, struct, layer)]
    return (ctypes.c_void_p * len(found))(*found)
