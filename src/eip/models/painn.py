"""PaiNN, the polarizable atom interaction network (Schütt, Unke and Gastegger 2021)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import Library, packing
from eip.kernels.packing import Packable
from eip.models import fused
from eip.models.backbone import AtomFeatures, Backbone, norm
from eip.models.message_passing import EdgeList
from eip.models.message_passing import Message as MessageSum
from eip.models.radial import cosine_cutoff, sine_basis


class PaiNN(Backbone, Packable[fused.Packed]):
    """Scalars and vectors of each atom, exactly invariant and equivariant.

    On a CPU compiled kernels do the work (`eip.models.fused`); on other devices, for a width that
    is no multiple of the processor's vectors, and without a compiler, what is written here.

    Vectors meet nothing but products with scalars and linear maps over channels without bias: any
    bias, or nonlinearity on a component, would single out the coordinate axes.

    Args:
        n_elements: how many different elements there are.
        channels: width F of scalars and vectors.
        interactions: message and update blocks.
        radial_functions: size of the radial basis.
        cutoff: Å.
    """

    def __init__(
        self,
        n_elements: int,
        channels: int = 128,
        interactions: int = 3,
        radial_functions: int = 20,
        cutoff: float = 5.0,
    ) -> None:
        super().__init__()
        self.channels, self.cutoff, self.radial_functions = channels, cutoff, radial_functions
        self.embedding = nn.Embedding(n_elements, channels)
        self.messages = nn.ModuleList(
            Message(channels, radial_functions) for _ in range(interactions)
        )
        self.updates = nn.ModuleList(Update(channels) for _ in range(interactions))

    def forward(
        self,
        graph: AtomGraph,
        species: Tensor,
        edge_vectors: Float[Tensor, "edges 3"],
        *,
        frozen: bool = False,
    ) -> AtomFeatures:
        kernels = self.kernels(edge_vectors)
        if kernels is None:
            return self._reference(graph, species, edge_vectors)
        if frozen:
            return fused.frozen(self, kernels, graph, species, edge_vectors)
        return self._compiled(kernels, graph, species, edge_vectors)

    def pack(self, lib: Library) -> fused.Packed:
        """Tables of filters, and matrices as panels, of both ways, in the order of network.cpp."""
        weight = self.embedding.weight
        dtype, channels = weight.dtype, self.channels
        chunk = lib.chunk(channels, dtype)
        coefficients = fused.spline_coefficients(self.cutoff, self.radial_functions)
        order = fused.chunk_order(channels, chunk)
        keep: list[Tensor] = []

        def panels(matrix: Tensor) -> Tensor:
            return packing.panels(lib, matrix)

        modules: Any = list(zip(self.messages, self.updates, strict=True))
        phi0 = modules[0][0].context(weight)[:, order].contiguous()
        for message, update in modules:
            one, two = message.context[0], message.context[2]
            left, right = update.mix.weight.chunk(2)
            up_one, up_two = update.context[0], update.context[2]
            filters = torch.cat([message.filter.weight, message.filter.bias[:, None]], dim=1)
            table = fused.by_chunks((coefficients @ filters.double().T).to(dtype), chunk)
            keep += [
                *(panels(one.weight.T), one.bias.clone(), panels(one.weight)),
                *(panels(two.weight[order].T), two.bias[order], panels(two.weight[order])),
                table,
                *(panels(left.T), panels(left), panels(right.T), panels(right)),
                *(panels(up_one.weight.T), up_one.bias.clone(), panels(up_one.weight)),
                *(panels(up_two.weight.T), up_two.bias.clone(), panels(up_two.weight)),
            ]
        embedding = weight.clone()
        addresses = (ctypes.c_void_p * len(keep))(*(t.data_ptr() for t in keep))
        return fused.Packed(
            channels=channels,
            layers=len(self.messages),
            intervals=fused.intervals(self.radial_functions),
            cutoff=self.cutoff,
            embedding=embedding,
            phi0=phi0,
            pointers=addresses,
            keep=keep,
        )

    def kernels(self, array: Tensor) -> Library | None:
        # A subclass may do other sums than the kernels know.
        return super().kernels(array) if type(self) is PaiNN else None

    def _compiled(
        self, kernels: Library, graph: AtomGraph, species: Tensor, edge_vectors: Tensor
    ) -> AtomFeatures:
        """Differentiable twice, in weights too."""
        chunk = kernels.chunk(self.channels, edge_vectors.dtype)
        count = fused.intervals(self.radial_functions)
        edges = EdgeList(kernels, graph, edge_vectors, self.cutoff, count)
        coefficients = fused.spline_coefficients(self.cutoff, self.radial_functions)
        coefficients = coefficients.to(edge_vectors.dtype)
        order = fused.chunk_order(self.channels, chunk)
        scalars = self.embedding(species)
        vectors = scalars.new_zeros(scalars.shape[0], 3, self.channels)
        for message, update in zip(self.messages, self.updates, strict=True):
            assert isinstance(message, Message)
            scalars, vectors = MessageSum.apply(
                *(scalars, vectors, message.said(scalars, order)),
                *(message.table(coefficients, chunk), edge_vectors, edges),
            )
            scalars, vectors = update(scalars, vectors)
        return AtomFeatures(scalars, vectors)

    def _reference(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        distance = edge_vectors.square().sum(dim=1).sqrt()
        direction = edge_vectors / distance[:, None]
        envelope = cosine_cutoff(distance, self.cutoff)
        # The envelope multiplies the basis here and the filter's bias in the message, so that the
        # filters of all layers come from one array.
        basis = sine_basis(distance, self.cutoff, self.radial_functions) * envelope[:, None]

        scalars = self.embedding(species)
        vectors = scalars.new_zeros(scalars.shape[0], 3, self.channels)
        for message, update in zip(self.messages, self.updates, strict=True):
            scalars, vectors = message(graph, scalars, vectors, basis, envelope, direction)
            scalars, vectors = update(scalars, vectors)
        return AtomFeatures(scalars, vectors)


class Message(nn.Module):
    """What the neighbors say (eq. 7 and 8 of the PaiNN paper)."""

    def __init__(self, channels: int, radial_functions: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels)
        )
        self.filter = nn.Linear(radial_functions, 3 * channels)

    def said(
        self, scalars: Float[Tensor, "atoms channels"], order: Tensor
    ) -> Float[Tensor, "atoms three_channels"]:
        """What each atom says, φ, in an order of channels that a kernel wants."""
        last = self.context[-1]
        assert isinstance(last, nn.Linear)
        return nn.functional.linear(
            self.context[:-1](scalars), last.weight[order], last.bias[order]
        )

    def table(
        self, coefficients: Float[Tensor, "knots functions"], chunk: int
    ) -> Float[Tensor, "chunks knots 3 chunk"]:
        """The filter as coefficients of B-splines."""
        weights = torch.cat([self.filter.weight, self.filter.bias[:, None]], dim=1)
        return fused.by_chunks(coefficients @ weights.T, chunk)

    def forward(
        self,
        graph: AtomGraph,
        scalars: Float[Tensor, "atoms channels"],
        vectors: Float[Tensor, "atoms 3 channels"],
        basis: Float[Tensor, "edges radial"],
        envelope: Float[Tensor, "edges"],
        direction: Float[Tensor, "edges 3"],
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
        weights = basis @ self.filter.weight.T + envelope[:, None] * self.filter.bias
        passed = self.context(scalars)[graph.neighbors] * weights
        to_scalars, from_direction, from_vectors = passed.chunk(3, dim=1)
        to_vectors = from_direction[:, None, :] * direction[:, :, None]
        to_vectors = to_vectors + from_vectors[:, None, :] * vectors[graph.neighbors]
        return (
            scalars.index_add(0, graph.centers, to_scalars),
            vectors.index_add(0, graph.centers, to_vectors),
        )


class Update(nn.Module):
    """What an atom makes of it (eq. 9 and 10 of the PaiNN paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, 2 * channels, bias=False)
        self.context = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels)
        )

    def forward(
        self,
        scalars: Float[Tensor, "atoms channels"],
        vectors: Float[Tensor, "atoms 3 channels"],
    ) -> tuple[Float[Tensor, "atoms channels"], Float[Tensor, "atoms 3 channels"]]:
        left, right = self.mix(vectors).chunk(2, dim=2)
        context = self.context(torch.cat([scalars, norm(right)], dim=1))
        to_scalars, scale_product, scale_vectors = context.chunk(3, dim=1)
        product = (left * right).sum(dim=1)
        return (
            scalars + to_scalars + scale_product * product,
            vectors + scale_vectors[:, None, :] * left,
        )
