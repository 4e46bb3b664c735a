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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels.library import Library, pointer
from eip.models.backbone import AtomFeatures
from eip.models.radial import cosine_cutoff, sine_basis

if TYPE_CHECKING:
    from eip.models.painn import PaiNN

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
        return torch.empty(count, dtype=dtype)

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


def pack_weights(network: PaiNN, lib: Library) -> Packed:
    """Packs the weights of a PaiNN: tables, transposes and panels."""
    weight = network.embedding.weight
    dtype, channels = weight.dtype, network.channels
    chunk = lib.chunk(channels, dtype)
    coefficients = spline_coefficients(network.cutoff, network.radial_functions)
    # φ and tables are laid out by chunks of channels: [chunks, 3, chunk] for [3, channels].
    order = torch.arange(3 * channels).reshape(3, -1, chunk).transpose(0, 1).reshape(-1)
    pack = lib.function("pack", dtype)
    keep: list[Tensor] = []

    def panels(matrix: Tensor) -> Tensor:
        """[depth, columns] → the panels that `matmul` takes."""
        matrix = matrix.contiguous()
        depth, columns = matrix.shape
        out = torch.empty(depth * columns, dtype=dtype)
        pack(
            pointer(matrix),
            *(ctypes.c_int64(v) for v in (depth, columns, columns, 1)),
            pointer(out),
        )
        return out

    with torch.no_grad():
        first = network.messages[0].context
        phi0 = first(weight)[:, order].contiguous()
        for message, update in zip(network.messages, network.updates, strict=True):
            one, two = message.context[0], message.context[2]
            up_one, up_two = update.context[0], update.context[2]
            filters = torch.cat([message.filter.weight, message.filter.bias[:, None]], dim=1)
            table = (coefficients @ filters.double().T).to(dtype)
            table = table.reshape(len(table), 3, -1, chunk).permute(2, 0, 1, 3).contiguous()
            keep += [
                *(panels(one.weight.T), one.bias.clone(), panels(one.weight)),
                *(panels(two.weight[order].T), two.bias[order], panels(two.weight[order])),
                table,
                *(panels(update.mix.weight.T), panels(update.mix.weight)),
                *(panels(up_one.weight.T), up_one.bias.clone(), panels(up_one.weight)),
                *(panels(up_two.weight.T), up_two.bias.clone(), panels(up_two.weight)),
            ]
        embedding = weight.detach().clone()
    addresses = (ctypes.c_void_p * len(keep))(*(t.data_ptr() for t in keep))
    return Packed(
        channels=channels,
        layers=len(network.messages),
        intervals=intervals(network.radial_functions),
        cutoff=network.cutoff,
        embedding=embedding,
        phi0=phi0,
        pointers=addresses,
        keep=keep,
    )


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
        self.first = torch.zeros(graph.n_atoms + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(graph.centers, minlength=graph.n_atoms), 0, out=self.first[1:])
        self.dtype, self.atoms, self.threads = edge_vectors.dtype, graph.n_atoms, torch.get_num_threads()
        layers, width = packed.layers, self.atoms * packed.channels
        # Widths of Saved's fields in network.cpp, by layer.
        widths = [
            (0 if layer == 0 else 1, 0 if layer == 0 else 3, 6, 1, 2, 0 if layer == layers - 1 else 3)
            for layer in range(layers)
        ]
        self.buffer = workspace.take(sum(map(sum, widths)) * width, self.dtype)
        self.atom_vectors = edge_vectors.new_empty(self.atoms, 3, packed.channels)
        self.scalars = edge_vectors.new_empty(self.atoms, packed.channels)
        addresses, at = [], self.buffer.data_ptr()
        for fields in widths:
            for field in fields:
                addresses.append(at if field else None)
                at += field * width * self.buffer.element_size()
        addresses[-1] = self.atom_vectors.data_ptr()
        self.saved = (ctypes.c_void_p * len(addresses))(*addresses)

    def _arguments(self) -> tuple[Any, ...]:
        packed = self.packed
        return (
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
            self.saved,
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        self.lib.function("forward", self.dtype)(
            *self._arguments(), pointer(self.scalars), ctypes.c_int64(self.threads)
        )
        return self.scalars, self.atom_vectors

    def backward(self, g_scalars: Tensor, g_vectors: Tensor | None) -> Tensor:
        size = self.atoms * 4 * self.packed.channels
        room = self.workspace.take(2 * size, self.dtype)
        out = torch.empty_like(self.vectors)
        g_scalars = g_scalars.contiguous()
        g_vectors = None if g_vectors is None else g_vectors.contiguous()
        self.lib.function("backward", self.dtype)(
            *self._arguments(),
            pointer(g_scalars),
            pointer(g_vectors),
            pointer(room),
            ctypes.c_void_p(room.data_ptr() + size * room.element_size()),
            pointer(out),
            ctypes.c_int64(self.threads),
        )
        self.workspace.give_back(room)
        return out

    def __del__(self) -> None:
        self.workspace.give_back(self.buffer)


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
            g_scalars = torch.zeros_like(run.scalars)
        return run.backward(g_scalars, g_vectors), None


class _State:
    """What is kept between the steps of one PaiNN: its packed weights, and memory."""

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.packed: Packed | None = None
        self.version: tuple[int, ...] = ()


# Not in the module itself: addresses must not be copied or saved with it.
_STATES: weakref.WeakKeyDictionary[PaiNN, _State] = weakref.WeakKeyDictionary()


def frozen(
    network: PaiNN,
    lib: Library,
    graph: AtomGraph,
    species: Int[Tensor, "atoms"],
    edge_vectors: Float[Tensor, "edges 3"],
) -> AtomFeatures:
    """Features of each atom by the compiled kernels; weights are packed anew when they changed."""
    state = _STATES.setdefault(network, _State())
    version = tuple(
        part for p in network.parameters() for part in (p.data_ptr(), 0 if p.is_inference() else p._version)
    )
    if state.packed is None or version != state.version:
        state.packed, state.version = pack_weights(network, lib), version
    run = _Pass(lib, state.packed, state.workspace, graph, species, edge_vectors)
    scalars, vectors = FrozenPaiNN.apply(edge_vectors, run)  # type: ignore[no-untyped-call]
    return AtomFeatures(scalars, vectors)
