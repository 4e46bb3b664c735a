"""A whole network as one operator: features of each atom, and their gradient in the edges' vectors.

What prediction, dynamics and UDD need. The kernels work on packed copies of the weights, and their
gradient is in the edges' vectors alone; whatever else is differentiated, and second derivatives,
go through the network as it is written in terms of smaller operators.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
Places = list[dict[str, int | None]]


@dataclass(frozen=True)
class Run:
    """One call of a network's kernel: ``widths`` are those of what its gradient needs."""

    lib: Library
    name: str
    graph: Sequence[Tensor]
    packed: Tensor
    layers: int
    elements: int
    channels: int
    widths: Widths
    intervals: int
    constants: tuple[Any, ...]

    @property
    def channel(self) -> int:
        """Numbers in an array of one for each atom and channel."""
        return len(self.graph[1]) * self.channels

    def memory(self, numbers: int) -> Tensor:
        """So many for each atom and channel, of any content."""
        return WORKSPACE.take(numbers * self.channel, self.graph[0].dtype)

    def places(self, memory: Tensor, widths: Widths) -> Places:
        """Addresses of the arrays of each layer in one piece of memory; None where one is empty."""
        at, found = memory.data_ptr(), []
        for fields in widths:
            layer: dict[str, int | None] = {}
            for name, width in fields.items():
                layer[name] = at if width else None
                at += width * self.channel * memory.element_size()
            found.append(layer)
        return found

    def table(self, struct: str, layers: Places) -> ctypes.Array[ctypes.c_void_p]:
        """Addresses as an array of the C++ sources' structs, which alone say their order."""
        found = [a for layer in layers for a in in_order(self.lib, f"{self.name}_{struct}", layer)]
        return (ctypes.c_void_p * len(found))(*found)

    def call(self, ending: str, saved: Places, *arguments: Any) -> None:
        """The kernel of this network, with what all begin with."""
        edge_vectors, species, centers, neighbors = self.graph
        atoms = len(species)
        self.lib.call(
            f"{self.name}{ending}",
            edge_vectors.dtype,
            *(atoms, first_edges(self.lib, centers, atoms), neighbors.contiguous()),
            *(edge_vectors.contiguous(), self.constants[0], self.intervals, self.layers),
            *(self.channels, species.contiguous(), self.packed, self.table("saved", saved)),
            *(torch.get_num_threads(), *arguments),
        )


def network_operator(
    name: str,
    constants: str,
    *,
    layer: type[Any],
    written: Function,
    pack: Callable[..., Tensor | None],
    widths: Callable[[int, Any], Widths],
    intervals: Callable[[int], int],
    forward: Function,
    backward: Function,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Registers ``eip::{name}`` and its gradient; gives the function that calls it, of the same
    arguments as ``written``.

    They are edge_vectors, species, centers, neighbors, weights (embedding, then layer by layer),
    pack (of these weights; None: they are packed at this call) and constants; what comes back are
    scalars ``[atoms, channels]`` and vectors ``[atoms, 3, channels]``.

    Args:
        constants: as in a schema; cutoff and radial functions first.
        layer: weights of one, a named tuple.
        written: the network in terms of operators.
        pack: ``(weights, *constants) →`` a `block`; None where no kernel would read it.
        widths: ``(layers, bytes of an array of one for each atom and channel) →`` see `Widths`.
        intervals: of the radial splines, by radial functions.
        forward: ``(run, saved, scalars, vectors)``: fills these by a kernel.
        backward: ``(run, saved, vectors, keep, g_scalars, g_vectors or None, out)``: fills
            ``out``, which is zero; without ``keep`` it may write into ``saved``.
    """
    graph = "Tensor edge_vectors, Tensor species, Tensor centers, Tensor neighbors"
    head = f"{graph}, Tensor[] weights, Tensor? pack, {constants}"

    def widths_of(arguments: Sequence[Any]) -> Widths:
        edge_vectors, species, weights = arguments[0], arguments[1], arguments[4]
        channel = len(species) * weights[0].shape[1] * edge_vectors.element_size()
        return widths(len(weights) // len(layer._fields), channel)

    def run_of(lib: Library, arguments: tuple[Any, ...]) -> Run:
        *graph, weights, packed = arguments[:6]
        packed = pack(weights, *arguments[6:]) if packed is None else packed
        assert packed is not None
        found, (elements, channels) = widths_of(arguments), weights[0].shape
        sizes = len(found), elements, channels
        count = intervals(arguments[7])
        return Run(lib, name, graph, packed, *sizes, found, count, arguments[6:])

    def takes(lib: Library, *arguments: Any) -> bool:
        return lib.takes(arguments[4][0].shape[1], arguments[0].dtype)

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        atoms, channels = len(arguments[1]), arguments[4][0].shape[1]
        shapes = (atoms, channels), (atoms, 3, channels)
        saved = numbers(widths_of(arguments)) * atoms * channels
        return *(arguments[0].new_empty(shape) for shape in shapes), arguments[0].new_empty(saved)

    def kernel(lib: Library, *arguments: Any) -> tuple[Tensor, ...]:
        run = run_of(lib, arguments)
        saved, atoms = run.memory(numbers(run.widths)), len(arguments[1])
        scalars = arguments[0].new_empty(atoms, run.channels)
        vectors = arguments[0].new_empty(atoms, 3, run.channels)
        forward(run, saved, scalars, vectors)
        return scalars, vectors, saved

    def kernel_backward(lib: Library, *arguments: Any) -> Tensor:
        (g_scalars, g_vectors, vectors, saved, keep), rest = arguments[:5], arguments[5:]
        # An edge beyond the cutoff may be passed over.
        out = torch.zeros_like(rest[0], memory_format=torch.contiguous_format)
        g_vectors = None if g_vectors is None else g_vectors.contiguous()
        backward(run_of(lib, rest), saved, vectors, keep, g_scalars.contiguous(), g_vectors, out)
        return out

    def plain_backward(*arguments: Any) -> Tensor:
        g = [one for one in arguments[:2] if one is not None]
        edge_vectors, *ends, weights = arguments[5:10]
        # The values have no gradient in the weights, so that a part of one here would be wrong.
        fixed = [weight.detach() for weight in weights]

        def features(edge_vectors: Tensor) -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = written(edge_vectors, *ends, fixed, *arguments[10:])
            return found[: len(g)]

        found: Tensor = gradient_of(features, g, [edge_vectors])[0]
        return found

    gradient = operator(
        f"{name}_backward(Tensor g_scalars, Tensor? g_vectors, Tensor vectors, Tensor(a!) saved, "
        f"bool keep, {head}) -> Tensor",
        kernel=kernel_backward,
        plain=plain_backward,
        fake=lambda *arguments: torch.empty_like(arguments[5]),
        takes=lambda lib, *arguments: arguments[3].numel() > 0 and takes(lib, *arguments[5:]),
    )

    def setup_context(ctx: Any, arguments: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *graph, ctx.weights, ctx.pack = arguments[:6]
        _, vectors, saved = output
        ctx.constants = arguments[6:]
        ctx.save_for_backward(*graph, vectors, saved)
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)

    def backward_of(
        ctx: Any, g_scalars: Tensor | None, g_vectors: Tensor | None, _: None
    ) -> tuple[Any, ...]:
        *graph, vectors, saved = ctx.saved_tensors
        if g_scalars is None:
            g_scalars = vectors.new_zeros(vectors[:, 0].shape)
        found = gradient(
            *(g_scalars, g_vectors, vectors, saved, _graph_is_kept()),
            *(*graph, ctx.weights, ctx.pack, *ctx.constants),
        )
        return found, *[None] * (5 + len(ctx.constants))

    whole = operator(
        f"{name}({head}) -> (Tensor, Tensor, Tensor)",
        kernel=kernel,
        plain=lambda *arguments: (*written(*arguments), arguments[0].new_empty(0)),
        fake=fake,
        takes=takes,
        setup_context=setup_context,
        backward=backward_of,
    )

    def features(*arguments: Any) -> tuple[Tensor, Tensor]:
        *graph, weights, packed = arguments[:6]
        if packed is None:  # once for values and gradient
            with torch.no_grad():
                packed = pack(weights, *arguments[6:])
        scalars, vectors, _ = whole(*graph, weights, packed, *arguments[6:])
        return scalars, vectors

    return features


def _graph_is_kept() -> bool:
    """Whether the gradient being taken may be followed by another of the same graph."""
    try:
        return bool(torch._C._autograd._get_current_graph_task_keep_graph())
    except (AttributeError, RuntimeError):
        return True


def split(weights: Sequence[Tensor], layer: type[Any]) -> tuple[Tensor, list[Any]]:
    """The embedding, and the weights of each layer by name."""
    size = len(layer._fields)
    return weights[0], [layer(*weights[k : k + size]) for k in range(1, len(weights), size)]


class Named(NamedTuple):
    """Weights by their names in the C++ sources, in the order of no processor.

    Attributes:
        elements: arrays by element.
        maps: of each layer, linear maps, ``[out, in]``; None: there is none.
        arrays: of each layer, what is taken as it is.
        tables: of each layer, filters as B-splines, ``[knots, paths, channels]``.
    """

    elements: dict[str, Tensor]
    maps: list[dict[str, Tensor | None]]
    arrays: list[dict[str, Tensor | None]]
    tables: list[Tensor]


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


def numbers(widths: Widths) -> int:
    """By atom and channel."""
    return sum(sum(fields.values()) for fields in widths)
