"""CartesianACE, its weights held as they are, by one compiled kernel (kernels/cartesian.cpp)."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.build import Library, pointer
from eip.kernels.geometry import first_edges
from eip.kernels.packing import Packable
from eip.models.backbone import AtomFeatures
from eip.models.fused import Workspace, address_table, arrays


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


_WORKSPACES: weakref.WeakKeyDictionary[nn.Module, Workspace] = weakref.WeakKeyDictionary()


def frozen(
    network: Packable[Packed],
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
