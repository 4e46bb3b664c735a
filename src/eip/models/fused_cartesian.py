"""CartesianACE, its weights held as they are, by one compiled kernel (kernels/cartesian.cpp)."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels import packing
from eip.kernels.build import Library, pointer
from eip.kernels.geometry import first_edges
from eip.models.backbone import AtomFeatures
from eip.models.coupling import intervals
from eip.models.fused import Workspace, address_table, arrays

if TYPE_CHECKING:
    from eip.models.cartesian_ace import CartesianACE, Message, Update


@dataclass(frozen=True)
class Packed:
    """The weights of a CartesianACE in the order in which the kernel reads them."""

    channels: int
    layers: int
    intervals: int
    cutoff: float
    inverse_square: float
    embedding: Tensor
    said: Tensor
    pointers: Any
    keep: list[Tensor | None]


def pack_weights(network: CartesianACE, lib: Library) -> Packed:
    """Copies the weights of a CartesianACE: tables, transposes and panels."""
    embedding = network.embedding.weight.clone()
    first: Any = network.messages[0]
    keep: list[Tensor | None] = []

    def both(weight: Tensor) -> list[Tensor | None]:
        """A linear map's panels, and those of its transpose for the gradient."""
        return [packing.panels(lib, weight.T), packing.panels(lib, weight)]

    tables = network.tables(lib)
    layers: Any = zip(network.messages, network.updates, tables, strict=True)
    for message, update, table in layers:
        keep += [*_of_message(message, both), table, *_of_update(update, both)]
    return Packed(
        channels=network.channels,
        layers=len(network.messages),
        intervals=intervals(network.radial_functions),
        cutoff=network.cutoff,
        inverse_square=network.inverse_square,
        embedding=embedding,
        said=first.context(embedding).unflatten(1, (3, -1)).transpose(0, 1).contiguous(),
        pointers=address_table([None if t is None else t.data_ptr() for t in keep]),
        keep=keep,
    )


def _of_message(message: Message, both: Any) -> list[Tensor | None]:
    """In the order of Weights in cartesian.cpp, up to the table."""
    if message.first:
        return [None] * 6
    one: Any = message.context[0]
    two: Any = message.context[2]
    found = []
    for linear in (one, two):
        forward, back = both(linear.weight)
        found += [forward, linear.bias.clone(), back]
    return found


def _of_update(update: Update, both: Any) -> list[Tensor | None]:
    """In the order of Weights in cartesian.cpp, behind the table."""
    one: Any = update.gate[0]
    two: Any = update.gate[2]
    of_s, of_x = one.weight.chunk(2, dim=1)
    forward, back = both(two.weight)
    return [
        *both(update.mix_scalars.weight),
        *both(update.mix_vectors.weight),
        *both(update.mix_matrices.weight),
        update.weights.clone(),
        *(*both(of_s), *both(of_x), one.bias.clone()),
        *(forward, two.bias.clone(), back),
        *both(update.to_scalars.weight),
        *both(update.to_vectors.weight),
        *([None, None] if update.to_matrices is None else both(update.to_matrices.weight)),
    ]


def _saved_widths(layers: int) -> list[dict[str, int]]:
    """Of each layer, the numbers by atom and channel in each field of Saved (cartesian.cpp)."""
    of_neighbors = {"hidden": 1, "loud": 2, "node": 11, "v": 3, "m": 5}
    of_atom = {"mixed": 9, "pre": 1, "gates": 2}
    return [
        {**({key: 0 for key in of_neighbors} if layer == 0 else of_neighbors), **of_atom}
        for layer in range(layers)
    ]


class _Pass:
    """One forward pass: what its gradient needs."""

    def __init__(
        self,
        lib: Library,
        packed: Packed,
        workspace: Workspace,
        graph: AtomGraph,
        species: Int[Tensor, "atoms"],
        edge_vectors: Float[Tensor, "edges 3"],
    ) -> None:
        self.lib, self.packed, self.workspace = lib, packed, workspace
        self.vectors = edge_vectors.detach().contiguous()
        self.species, self.neighbors = species.contiguous(), graph.neighbors.contiguous()
        self.first = first_edges(lib, graph.centers, graph.n_atoms)
        self.dtype, self.atoms = edge_vectors.dtype, graph.n_atoms
        self.threads = torch.get_num_threads()
        widths = _saved_widths(packed.layers)
        self.buffer, self._addresses = arrays(
            workspace, self.dtype, self.atoms * packed.channels, widths
        )

    def _call(self, name: str, *arguments: Tensor | None) -> None:
        packed = self.packed
        self.lib.function(name, self.dtype)(
            ctypes.c_int64(self.atoms),
            *map(pointer, (self.first, self.neighbors, self.vectors)),
            ctypes.c_double(packed.cutoff),
            *(ctypes.c_int64(v) for v in (packed.intervals, packed.layers, packed.channels)),
            pointer(self.species),
            ctypes.c_int64(len(packed.embedding)),
            *map(pointer, (packed.embedding, packed.said)),
            packed.pointers,
            address_table(self._addresses),
            ctypes.c_int64(self.threads),
            ctypes.c_double(packed.inverse_square),
            *map(pointer, arguments),
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Scalars [atoms, F] and vectors [atoms, 3, F]."""
        scalars = self.vectors.new_empty(self.atoms, self.packed.channels)
        vectors = self.vectors.new_empty(self.atoms, 3, self.packed.channels)
        self._call("cartesian_forward", scalars, vectors)
        return scalars, vectors

    def backward(self, g_scalars: Tensor, g_vectors: Tensor | None) -> Float[Tensor, "edges 3"]:
        """Gradient with respect to the edges' vectors."""
        # An edge beyond the cutoff is passed over.
        out = torch.zeros_like(self.vectors)
        g_scalars = g_scalars.contiguous()
        g_vectors = None if g_vectors is None else g_vectors.contiguous()
        size = 9 * self.atoms * self.packed.channels
        room = self.workspace.take(2 * size, self.dtype)
        halves = room[:size], room[size:]
        self._call("cartesian_backward", g_scalars, g_vectors, *halves, out)
        self.workspace.give_back(room)
        return out

    def __del__(self) -> None:
        buffer = getattr(self, "buffer", None)
        if buffer is not None:
            self.workspace.give_back(buffer)


class FrozenCartesianACE(torch.autograd.Function):
    """Features of each atom, differentiable once, in the edges' vectors alone."""

    @staticmethod
    def forward(ctx: Any, edge_vectors: Tensor, run: _Pass) -> tuple[Tensor, Tensor]:
        ctx.run = run
        ctx.set_materialize_grads(False)
        return run.forward()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, g_scalars: Tensor | None, g_vectors: Tensor | None
    ) -> tuple[Tensor, None]:
        run: _Pass = ctx.run
        if g_scalars is None:
            g_scalars = run.vectors.new_zeros(run.atoms, run.packed.channels)
        return run.backward(g_scalars, g_vectors), None


_WORKSPACES: weakref.WeakKeyDictionary[CartesianACE, Workspace] = weakref.WeakKeyDictionary()


def frozen(
    network: CartesianACE,
    lib: Library,
    graph: AtomGraph,
    species: Int[Tensor, "atoms"],
    edge_vectors: Float[Tensor, "edges 3"],
) -> AtomFeatures:
    """Features of each atom by the compiled kernel."""
    workspace = _WORKSPACES.setdefault(network, Workspace())
    run = _Pass(lib, network.packed(lib), workspace, graph, species, edge_vectors)
    scalars, vectors = FrozenCartesianACE.apply(edge_vectors, run)
    return AtomFeatures(scalars, vectors)
