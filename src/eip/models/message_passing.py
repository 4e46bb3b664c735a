"""PaiNN's message by compiled kernels, for training: differentiable twice.

`Message` is the sum over neighbors, `_Gradient` its gradient as an operation of its own, so that
forces can be part of a loss; what they compute is written in kernels/training.cpp. φ and the table
are laid out by chunks of channels, see `eip.models.fused.chunk_order`.

The gradient of an edge's vector is filed under the reverse edge with its sign changed. Positions
and strain cannot tell, since reversing an edge reverses its vector.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels.build import Library, pointer
from eip.kernels.geometry import first_edges

#: Atoms that sum one copy of the table's gradient; a fixed number, so that the order of summation
#: does not depend on how many threads there are.
_ATOMS_PER_GROUP = 512
_MOST_GROUPS = 8


class EdgeList:
    """The edges within the cutoff with their spline weights, as the kernels read them."""

    def __init__(
        self,
        lib: Library,
        graph: AtomGraph,
        edge_vectors: Float[Tensor, "edges 3"],
        cutoff: float,
        intervals: int,
    ) -> None:
        self.lib, self.dtype, self.atoms = lib, edge_vectors.dtype, graph.n_atoms
        self.cutoff, self.intervals = cutoff, intervals
        self.centers, self.neighbors = graph.centers, graph.neighbors.contiguous()
        self.threads = torch.get_num_threads()
        #: Copies of a table's gradient that are summed.
        self.groups = min(_MOST_GROUPS, max(1, self.atoms // _ATOMS_PER_GROUP))
        first = first_edges(lib, graph.centers, graph.n_atoms)
        size = lib.function("edge_bytes", self.dtype, result=True)()
        self.begin = torch.empty_like(first)
        self.edges = torch.empty(graph.n_edges * size, dtype=torch.uint8)
        vectors = edge_vectors.detach().contiguous()
        lib.function("list_edges", self.dtype)(
            ctypes.c_int64(self.atoms),
            *map(pointer, (first, self.neighbors, vectors)),
            *(ctypes.c_double(cutoff), ctypes.c_int64(intervals)),
            *map(pointer, (self.begin, self.edges)),
        )

    def call(self, name: str, table: Tensor, *arrays: Tensor | None, groups: int = 0) -> None:
        chunks, knots, _, chunk = table.shape
        self.lib.function(name, self.dtype)(
            *(ctypes.c_int64(self.atoms), pointer(self.begin), pointer(self.edges)),
            *(ctypes.c_int64(value) for value in (chunks * chunk, knots, self.threads)),
            *map(pointer, arrays),
            *([ctypes.c_int64(groups)] if groups else []),
        )

    def table_gradient(
        self,
        g_s: Tensor,
        g_v: Tensor,
        phi: Tensor,
        v: Tensor,
        table: Tensor,
        dots: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients in φ, v and table; with ``dots`` = (φ̇, v̇, ḋ), those of the derivative."""
        phi_dot, v_dot, dot = (None, None, None) if dots is None else dots
        groups = self.groups
        to_phi, to_v = torch.empty_like(phi), torch.empty_like(v)
        to_table = table.new_empty(groups, *table.shape)
        self.call(
            *("table_gradient", table, g_s, g_v, phi, phi_dot, v, v_dot, table, dot),
            *(to_phi, to_v, to_table),
            groups=groups,
        )
        return to_phi, to_v, to_table.sum(0) if groups > 1 else to_table[0]


class Message(torch.autograd.Function):
    """s + Σ_j a ∘ Wa and v + Σ_j b ∘ Wb û + c ∘ Wc ∘ v_j (eq. 7 and 8 of the PaiNN paper).

    Args:
        s: [atoms, F].
        v: [atoms, 3, F].
        phi: (a, b, c) of each atom, [atoms, 3F] in the order of chunks.
        table: B-spline coefficients of the filter, [chunks, knots, 3, chunk].
        edge_vectors: [edges, 3], Å; ``edges`` was made of their values.
    """

    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        v: Tensor,
        phi: Tensor,
        table: Tensor,
        edge_vectors: Tensor,
        edges: EdgeList,
    ) -> tuple[Tensor, Tensor]:
        phi, table = phi.contiguous(), table.contiguous()
        v = v.contiguous()
        s_out = s.clone(memory_format=torch.contiguous_format)
        v_out = v.clone()
        edges.call("message", table, phi, v, table, s_out, v_out)
        ctx.save_for_backward(v, phi, table, edge_vectors)
        ctx.edges = edges
        return s_out, v_out

    @staticmethod
    def backward(ctx: Any, g_s: Tensor, g_v: Tensor) -> tuple[Tensor | None, ...]:
        v, phi, table, edge_vectors = ctx.saved_tensors
        g_v_in, g_phi, g_table, g_vectors = _Gradient.apply(
            *(g_s, g_v, phi, v, table, edge_vectors, ctx.edges),
            *(wanted(ctx, 3), wanted(ctx, 4)),
        )
        return g_s, g_v_in, g_phi, g_table, g_vectors, None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g_s: Tensor,
        g_v: Tensor,
        phi: Tensor,
        v: Tensor,
        table: Tensor,
        edge_vectors: Tensor,
        edges: EdgeList,
        table_wanted: bool,
        vectors_wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        g_s, g_v = g_s.contiguous(), g_v.contiguous()
        g_table = g_vectors = None
        if table_wanted:
            g_phi, g_v_in, g_table = edges.table_gradient(g_s, g_v, phi, v, table)
            g_v_in += g_v
        if vectors_wanted or not table_wanted:
            g_phi, g_v_in = torch.empty_like(phi), g_v.clone()
            g_vectors = torch.zeros_like(edge_vectors)
            edges.call(
                *("message_gradient", table, g_s, g_v, phi, v, table, g_phi, g_v_in, g_vectors)
            )
        ctx.save_for_backward(g_s, g_v, phi, v, table, edge_vectors)
        ctx.edges = edges
        ctx.set_materialize_grads(False)
        return g_v_in, g_phi, g_table, g_vectors if vectors_wanted else None

    @staticmethod
    def backward(
        ctx: Any,
        v_dot: Tensor | None,
        phi_dot: Tensor | None,
        table_dot: Tensor | None,
        dot: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        if table_dot is not None:
            raise NotImplementedError(
                "the gradient of a gradient in the radial filter's weights is not there; run it "
                "under eip.kernels.reference_path()"
            )
        g_s, g_v, phi, v, table, edge_vectors = ctx.saved_tensors
        edges: EdgeList = ctx.edges
        v_dot = torch.zeros_like(v) if v_dot is None else v_dot.contiguous()
        phi_dot = torch.zeros_like(phi) if phi_dot is None else phi_dot.contiguous()
        dot = torch.zeros_like(edge_vectors) if dot is None else dot.contiguous()
        vectors = None
        if wanted(ctx, 5):
            vectors = _curvature(g_s, g_v, phi, v, table, edge_vectors, edges, phi_dot, v_dot, dot)
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "third derivatives are not there; run them under eip.kernels.reference_path()"
            )
        to_s, to_v = torch.empty_like(g_s), torch.empty_like(g_v)
        edges.call("message_tangent", table, phi, phi_dot, v, v_dot, table, dot, to_s, to_v)
        to_v += v_dot
        to_phi, to_v_in, to_table = edges.table_gradient(
            g_s, g_v, phi, v, table, (phi_dot, v_dot, dot)
        )
        return to_s, to_v, to_phi, to_v_in, to_table, vectors, None, None, None


def wanted(ctx: Any, index: int) -> bool:
    """Whether the gradient being taken goes on to an input; ``needs_input_grad`` says only if
    one could. Forces want no gradient of weights, and training none of positions."""
    if not ctx.needs_input_grad[index]:
        return False
    node = ctx.next_functions[index][0]
    try:
        if not torch._C._will_engine_execute_node(node):
            return False
    except (AttributeError, RuntimeError):  # another torch, or a leaf that grad() was asked for
        pass
    return _reaches_a_leaf(node)


def _reaches_a_leaf(node: Any) -> bool:
    """Whether anything behind a node still requires a gradient: a potential releases the positions
    that it differentiated by for its own forces."""
    variable = getattr(node, "variable", None)
    if variable is not None:
        return bool(variable.requires_grad)
    behind = [function for function, _ in node.next_functions if function is not None]
    # What is no leaf and has nothing behind it was asked for itself.
    return not behind or any(_reaches_a_leaf(function) for function in behind)


def _curvature(
    g_s: Tensor,
    g_v: Tensor,
    phi: Tensor,
    v: Tensor,
    table: Tensor,
    edge_vectors: Tensor,
    edges: EdgeList,
    phi_dot: Tensor,
    v_dot: Tensor,
    dot: Tensor,
) -> Tensor:
    """Derivative in the edges' vectors of the gradient, for Hessians: in plain PyTorch, slow."""
    with torch.enable_grad():
        phi, v, vectors = (t.detach().requires_grad_() for t in (phi, v, edge_vectors))
        s_out, v_out = plain_message(phi, v, table.detach(), vectors, edges)
        value = (g_s.detach() * s_out).sum() + (g_v.detach() * v_out).sum()
        gradients = torch.autograd.grad(value, [phi, v, vectors], create_graph=True)
        along = sum((g * d).sum() for g, d in zip(gradients, (phi_dot, v_dot, dot), strict=True))
        assert isinstance(along, Tensor)
        return torch.autograd.grad(along, vectors)[0]


def plain_message(
    phi: Tensor, v: Tensor, table: Tensor, edge_vectors: Tensor, edges: EdgeList
) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
    """The sums over neighbors with the same splines, in plain PyTorch."""
    chunks, knots, _, chunk = table.shape
    distance = edge_vectors.square().sum(dim=1).sqrt()
    inside = (distance < edges.cutoff).nonzero()[:, 0]
    distance, edge_vectors = distance[inside], edge_vectors[inside]
    centers, neighbors = edges.centers[inside], edges.neighbors[inside]
    x = distance * (edges.intervals / edges.cutoff)
    knot = x.detach().long().clamp(max=edges.intervals - 1)
    t = x - knot
    s = 1.0 - t
    weights = (
        torch.stack(
            [s**3, 3.0 * t**3 - 6.0 * t**2 + 4.0, 3.0 * s**3 - 6.0 * s**2 + 4.0, t**3], dim=1
        )
        / 6.0
    )
    # [knots, 3, F]
    rows = table.permute(1, 2, 0, 3).reshape(knots, 3, chunks * chunk)
    window = knot[:, None] + torch.arange(4)
    filters = torch.einsum("eq,eqpf->epf", weights, rows[window])
    said = phi.reshape(len(phi), chunks, 3, chunk).transpose(1, 2).reshape(len(phi), 3, -1)
    passed = said[neighbors] * filters
    unit = edge_vectors / distance[:, None]
    vectors = passed[:, 1, None] * unit[:, :, None] + passed[:, 2, None] * v[neighbors]
    return (
        torch.zeros_like(phi[:, : chunks * chunk]).index_add(0, centers, passed[:, 0]),
        torch.zeros_like(v).index_add(0, centers, vectors),
    )
