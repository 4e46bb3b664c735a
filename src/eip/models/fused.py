"""PaiNN by compiled kernels: the same function as `eip.models.painn`, many times faster.

The radial filter W(r) of a layer is linear in a few functions of r alone: the radial basis times
the envelope, and the envelope. `spline_coefficients` gives each of them as a cubic B-spline, once
and for all; coefficients · weights is then the layer's table, and W(r) four of its rows.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.build import Library, advise_huge_pages, pointer
from eip.kernels.geometry import first_edges
from eip.kernels.packing import Packable
from eip.models.backbone import AtomFeatures
from eip.models.radial import cosine_cutoff, sine_basis

#: Intervals of the spline over [0, cutoff] by radial function. The fastest of them, sin(nπr/rc),
#: then has 80 intervals a period; forces come out within 5e-6 of their RMS.
INTERVALS_PER_FUNCTION = 40


def intervals(radial_functions: int) -> int:
    """Intervals of the radial splines."""
    return INTERVALS_PER_FUNCTION * radial_functions


@functools.lru_cache(maxsize=8)
def spline_coefficients(cutoff: float, radial_functions: int) -> Float[Tensor, "knots functions"]:
    """Cubic B-spline coefficients of basis · envelope and of the envelope, float64.

    Least squares on a grid much finer than the knots, over r in (0, cutoff].
    """
    from scipy.interpolate import make_lsq_spline

    count = intervals(radial_functions)
    step = cutoff / count
    knots = step * np.arange(-3, count + 4)
    r = torch.from_numpy(cutoff * (np.arange(8 * count) + 0.5) / (8 * count))
    envelope = cosine_cutoff(r, cutoff)
    functions = torch.cat(
        [sine_basis(r, cutoff, radial_functions) * envelope[:, None], envelope[:, None]], dim=1
    )
    return torch.from_numpy(make_lsq_spline(r.numpy(), functions.numpy(), knots, k=3).c)


#: Beyond this (3,000 atoms at F = 128) what the gradient can work out again is not kept: 12 kB an
#: atom instead of 21, for a tenth more time.
LEAN_BYTES = 2**26


class Workspace:
    """Memory of one forward pass, given back for the next when nothing needs it any more.

    Fresh memory would have its pages mapped and zeroed by the system at every step, which costs
    as much as a tenth of the step.
    """

    #: Larger ones are freed: a large system's steps are long, and its memory is wanted elsewhere.
    KEEP_BYTES = 2**28

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = threading.Lock()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        with self._lock:
            fits = [b for b in self._free if b.dtype == dtype and count <= b.numel() <= 2 * count]
            if fits:
                smallest = min(fits, key=Tensor.numel)
                self._free = [b for b in self._free if b is not smallest]
                return smallest
        buffer = torch.empty(count, dtype=dtype)
        advise_huge_pages(buffer)
        return buffer

    def give_back(self, buffer: Tensor) -> None:
        if buffer.nbytes <= self.KEEP_BYTES:
            with self._lock:
                self._free = [*self._free[-3:], buffer]


@dataclass(frozen=True)
class Packed:
    """A PaiNN's weights in the order in which the kernels read them."""

    channels: int
    layers: int
    intervals: int
    cutoff: float
    embedding: Tensor
    phi0: Tensor
    pointers: Any
    keep: list[Tensor]


def chunk_order(channels: int, chunk: int) -> Int[Tensor, "three_channels"]:
    """The order of φ = (a, b, c) in the kernels: [chunks, 3, chunk] instead of [3, channels]."""
    return torch.arange(3 * channels).reshape(3, -1, chunk).transpose(0, 1).reshape(-1)


def by_chunks(
    table: Float[Tensor, "knots three_channels"], chunk: int
) -> Float[Tensor, "chunks knots 3 chunk"]:
    """A table of filters in the order in which the kernels read it."""
    return table.reshape(len(table), 3, -1, chunk).permute(2, 0, 1, 3).contiguous()


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
        self.species = species.contiguous()
        self.neighbors = graph.neighbors.contiguous()
        self.first = first_edges(lib, graph.centers, graph.n_atoms)
        self.dtype, self.atoms = edge_vectors.dtype, graph.n_atoms
        self.threads = torch.get_num_threads()
        self.spent = False
        channel = self.atoms * packed.channels  # numbers in an array of one for each channel
        widths = _saved_widths(packed.layers)
        total = channel * sum(sum(fields.values()) for fields in widths)
        lean = total * edge_vectors.element_size() > LEAN_BYTES
        kept = {"phi", "right", "scales"} if lean else set()
        self.buffer, self._addresses = arrays(workspace, self.dtype, channel, widths, without=kept)
        self._last_vectors: Tensor | None = None
        self._lean = lean

    def _call(self, name: str, addresses: list[int | None], *arguments: Any) -> None:
        packed = self.packed
        self.lib.function(name, self.dtype)(
            ctypes.c_int64(self.atoms),
            pointer(self.first),
            pointer(self.neighbors),
            pointer(self.vectors),
            ctypes.c_double(packed.cutoff),
            *(ctypes.c_int64(v) for v in (packed.intervals, packed.layers, packed.channels)),
            pointer(self.species),
            pointer(packed.embedding),
            pointer(packed.phi0),
            packed.pointers,
            address_table(addresses),
            *arguments,
            ctypes.c_int64(self.threads),
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Scalars [atoms, F] and vectors [atoms, 3, F]."""
        scalars = self.vectors.new_empty(self.atoms, self.packed.channels)
        vectors = self.vectors.new_empty(self.atoms, 3, self.packed.channels)
        self._addresses[-1] = vectors.data_ptr()
        # An output would hold this object by its node, and a cycle keep the memory in use.
        self._last_vectors = vectors.detach() if self._lean else None
        addresses = list(self._addresses)
        phi = None
        if self._lean and self.packed.layers > 1:
            # Two layers' φ are in use at a time: read and written. One lies where the last layer's
            # `left` will be, whose own φ lies apart from it.
            phi = self.workspace.take(3 * self.atoms * self.packed.channels, self.dtype)
            last = self.packed.layers - 1
            places = (phi.data_ptr(), addresses[_place(last, "left")])
            for layer in range(1, last + 1):
                addresses[_place(layer, "phi")] = places[(last - layer) % 2]
        self._call("forward", addresses, pointer(scalars))
        if phi is not None:
            self.workspace.give_back(phi)
        return scalars, vectors

    def backward(
        self, g_scalars: Tensor, g_vectors: Tensor | None, keep: bool
    ) -> Float[Tensor, "edges 3"]:
        """Gradient with respect to the edges' vectors; without ``keep``, the last one."""
        if self.spent:
            raise RuntimeError(
                "a second gradient of the same features was asked for; the first was taken "
                "without retain_graph=True, and what it was made of is gone"
            )
        out = torch.empty_like(self.vectors)
        g_scalars = g_scalars.contiguous()
        g_vectors = None if g_vectors is None else g_vectors.contiguous()
        channel, room = self.atoms * self.packed.channels, None
        if keep:
            # Two pairs in turn: a layer reads one and writes the other.
            room, pairs = arrays(
                *(self.workspace, self.dtype, channel),
                [{"s": 1, "v": 3}, {"s": 1, "v": 3}],
            )
            gradient = [
                p for layer in range(self.packed.layers) for p in pairs[2 * (layer % 2) :][:2]
            ]
        else:
            self.spent = True
            gradient = [
                self._addresses[_place(layer, field)]
                for layer in range(self.packed.layers)
                for field in ("pre", "left")
            ]
        self._call(
            *("backward", self._addresses, pointer(g_scalars), pointer(g_vectors)),
            *(address_table(gradient), pointer(out)),
        )
        if room is not None:
            self.workspace.give_back(room)
        return out

    def __del__(self) -> None:
        buffer = getattr(self, "buffer", None)
        if buffer is not None:
            self.workspace.give_back(buffer)


#: The fields of Saved in network.cpp.
_FIELDS = ("hidden", "phi", "left", "right", "pre", "scales", "vectors")


def _place(layer: int, field: str) -> int:
    return layer * len(_FIELDS) + _FIELDS.index(field)


def _saved_widths(layers: int) -> list[dict[str, int]]:
    """Of each layer, the numbers by atom and channel in each field of Saved (network.cpp)."""
    return [
        {
            "hidden": 0 if layer == 0 else 1,
            "phi": 0 if layer == 0 else 3,
            "left": 3,
            "right": 3,
            "pre": 1,
            "scales": 2,
            # The last layer's are handed out.
            "vectors": 0 if layer == layers - 1 else 3,
        }
        for layer in range(layers)
    ]


def arrays(
    workspace: Workspace,
    dtype: torch.dtype,
    channel: int,
    widths: list[dict[str, int]],
    without: set[str] | frozenset[str] = frozenset(),
) -> tuple[Tensor, list[int | None]]:
    """One buffer for all arrays, and the address of each; None where there is none."""
    sizes = [
        0 if name in without else width * channel
        for fields in widths
        for name, width in fields.items()
    ]
    buffer = workspace.take(sum(sizes), dtype)
    addresses: list[int | None] = []
    at = buffer.data_ptr()
    for size in sizes:
        addresses.append(at if size else None)
        at += size * buffer.element_size()
    return buffer, addresses


def address_table(addresses: list[int | None]) -> Any:
    return (ctypes.c_void_p * len(addresses))(*addresses)


class FrozenPaiNN(torch.autograd.Function):
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
        return run.backward(g_scalars, g_vectors, _graph_is_kept()), None


def _graph_is_kept() -> bool:
    """Whether the gradient being taken may be followed by another of the same graph."""
    try:
        return bool(torch._C._autograd._get_current_graph_task_keep_graph())
    except AttributeError:
        return True


_WORKSPACES: weakref.WeakKeyDictionary[nn.Module, Workspace] = weakref.WeakKeyDictionary()


def frozen(
    network: Packable[Packed],
    lib: Library,
    graph: AtomGraph,
    species: Int[Tensor, "atoms"],
    edge_vectors: Float[Tensor, "edges 3"],
) -> AtomFeatures:
    """Features of each atom by the compiled kernels."""
    workspace = _WORKSPACES.setdefault(network, Workspace())
    run = _Pass(lib, network.packed(lib), workspace, graph, species, edge_vectors)
    scalars, vectors = FrozenPaiNN.apply(edge_vectors, run)
    return AtomFeatures(scalars, vectors)
