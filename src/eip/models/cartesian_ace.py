"""A message-passing atomic cluster expansion in Cartesian tensors: scalars, vectors, matrices.

Drautz (2019) and Batatia et al. (2022) in the form of theory §7: where they have spherical
harmonics up to l = 2 and Clebsch-Gordan coefficients, here are vectors, symmetric traceless
matrices and their products.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import Library, packing
from eip.kernels.packing import Packable
from eip.models import fused_cartesian
from eip.models.backbone import AtomFeatures, Backbone
from eip.models.coupling import (
    FIRST_PATHS,
    PATHS,
    coupling,
    intervals,
    plain_coupling,
    spline_fit,
    spline_values,
)
from eip.models.fused import address_table
from eip.models.message_passing import EdgeList
from eip.models.products import FACTORS, PRODUCTS, Triple, bounded, plain_products, products

#: What `eip train` bounds the size of features by before they are multiplied; few are larger than 4
#: on training frames. Without, acetylacetone's bonds at 0.6 of their length lie up to 700 keV below
#: the minimum; with it, none below it, and errors on test frames are the same.
FEATURE_LIMIT = 6.0
#: Widths of the hidden layers of a radial filter's network.
RADIAL_HIDDEN = (64, 32)
#: Standard deviation of the weights of products, by the number of factors: higher ones start
#: smaller, since powers grow.
WEIGHT_OF_FACTORS = {1: 0.4, 2: 0.1, 3: 0.02}
#: What a layer behind a SiLU is multiplied by so that it keeps the size of its input.
SILU_GAIN = 1.68
#: Rough size of the radial basis between neighbors, 1/Å, whose inverse likewise.
BASIS_GAIN = 3.0


class CartesianACE(Backbone, Packable[fused_cartesian.Packed]):
    """Exactly invariant and equivariant, with two continuous derivatives at the cutoff.

    On a CPU compiled kernels do the sums and products; elsewhere, for a width that is no multiple
    of the processor's vectors, and without a compiler, plain PyTorch. A radial filter is the cubic
    spline through what a network makes of the radial basis, on either path.

    Each layer sums what neighbors say, mixes channels, forms all products of up to three factors
    with weights by element and channel, and adds them to what an atom has, gated by its scalars.

    Args:
        n_elements: how many different elements there are.
        channels: width F of scalars, vectors and matrices.
        interactions: layers.
        radial_functions: size of the radial basis.
        cutoff: Å.
        mean_neighbors: of an atom of the training set; sums over neighbors are divided by its root.
        feature_limit: of the size of what is multiplied, see `eip.models.products.bounded`; None:
            there is none.
    """

    def __init__(
        self,
        n_elements: int,
        channels: int = 64,
        interactions: int = 3,
        radial_functions: int = 8,
        cutoff: float = 5.0,
        mean_neighbors: float = 16.0,
        feature_limit: float | None = None,
    ) -> None:
        super().__init__()
        if not mean_neighbors > 0:
            raise ValueError(f"mean_neighbors must be positive, got {mean_neighbors}")
        if feature_limit is not None and not feature_limit > 0:
            raise ValueError(f"feature_limit must be positive, got {feature_limit}")
        self.channels, self.cutoff, self.radial_functions = channels, cutoff, radial_functions
        self.mean_neighbors = float(mean_neighbors)
        self.inverse_square = 0.0 if feature_limit is None else feature_limit**-2
        self.embedding = nn.Embedding(n_elements, channels)
        self.messages = nn.ModuleList(
            Message(channels, radial_functions, first=layer == 0) for layer in range(interactions)
        )
        self.updates = nn.ModuleList(
            # Nobody reads the matrices of the last layer.
            Update(n_elements, channels, self.inverse_square, matrices=layer < interactions - 1)
            for layer in range(interactions)
        )

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
            return fused_cartesian.frozen(self, kernels, graph, species, edge_vectors)
        return self._compiled(kernels, graph, species, edge_vectors)

    def kernels(self, array: Tensor) -> Library | None:
        # A subclass may do other sums than the kernels know.
        return super().kernels(array) if type(self) is CartesianACE else None

    def pack(self, lib: Library) -> fused_cartesian.Packed:
        """Tables, and matrices as panels, of both ways, in the order of cartesian.cpp."""
        embedding = self.embedding.weight.clone()
        keep: list[Tensor | None] = []
        for message, update, table in zip(
            self.messages, self.updates, self.tables(lib), strict=True
        ):
            assert isinstance(message, Message) and isinstance(update, Update)
            keep += [*message.packed(lib), table, *update.packed(lib)]
        first = self.messages[0]
        assert isinstance(first, Message)
        said = first.context(embedding).unflatten(1, (3, -1)).transpose(0, 1)
        return fused_cartesian.Packed(
            channels=self.channels,
            layers=len(self.messages),
            intervals=intervals(self.radial_functions),
            cutoff=self.cutoff,
            inverse_square=self.inverse_square,
            embedding=embedding,
            said=said.contiguous(),
            pointers=address_table([None if t is None else t.data_ptr() for t in keep]),
            keep=keep,
        )

    def tables(self, lib: Library) -> list[Tensor]:
        """The filters of each layer as the kernels read them."""
        return [self._table(message, lib) for message in self.messages]  # type: ignore[arg-type]

    def _compiled(
        self, kernels: Library, graph: AtomGraph, species: Tensor, edge_vectors: Tensor
    ) -> AtomFeatures:
        """Differentiable twice, in weights too."""
        count = intervals(self.radial_functions)
        edges = EdgeList(kernels, graph, edge_vectors, self.cutoff, count)
        tables = self.tables(kernels)
        scalars, vectors, matrices = self._of_atoms(species)
        for message, update, table in zip(self.messages, self.updates, tables, strict=True):
            assert isinstance(message, Message)
            said, v, t = message.said(scalars, vectors, matrices)
            s_sum, v_sum, t_sum = coupling(said, v, t, table, edge_vectors, edges)
            scalars, vectors, matrices = update(
                species, scalars + s_sum, vectors + v_sum, matrices + t_sum, kernels
            )
        return AtomFeatures(scalars, vectors.transpose(0, 1))

    def _coefficients(self, message: Message) -> Float[Tensor, "knots hidden"]:
        """Of a layer's radial functions, as B-splines; divided by the root of n̄, see above."""
        weight = message.filter.weight
        fit, basis, envelope = spline_fit(
            *(self.cutoff, self.radial_functions, weight.dtype, weight.device)
        )
        hidden = torch.cat([message.radial(basis), torch.ones_like(envelope)], dim=1)
        return (fit / math.sqrt(self.mean_neighbors)) @ (hidden * envelope)

    def _table(self, message: Message, lib: Library) -> Float[Tensor, "chunks knots paths chunk"]:
        """The filters of a layer."""
        table = self._coefficients(message) @ message.weights().T
        lanes = lib.function("lanes", table.dtype, result=True)()
        return table.reshape(len(table), message.paths, -1, lanes).permute(2, 0, 1, 3).contiguous()

    def _of_atoms(self, species: Tensor) -> Triple:
        """What atoms have before they have heard of any other."""
        scalars = self.embedding(species)
        return (
            scalars,
            scalars.new_zeros(3, *scalars.shape),
            scalars.new_zeros(5, *scalars.shape),
        )

    def _reference(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        distance = edge_vectors.square().sum(dim=1).sqrt()
        direction = edge_vectors / distance[:, None]
        scalars, vectors, matrices = self._of_atoms(species)
        for message, update in zip(self.messages, self.updates, strict=True):
            assert isinstance(message, Message)
            said, v, t = message.said(scalars, vectors, matrices)
            values = spline_values(self._coefficients(message), distance, self.cutoff)
            filters = values @ message.weights().T
            s_sum, v_sum, t_sum = plain_coupling(
                *(said, v, t, filters.unflatten(1, (message.paths, -1)), direction),
                *(graph.centers, graph.neighbors),
            )
            scalars, vectors, matrices = update(
                species, scalars + s_sum, vectors + v_sum, matrices + t_sum
            )
        return AtomFeatures(scalars, vectors.transpose(0, 1))


def dense(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear map with a bias that starts as zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=gain * inputs**-0.5)
    nn.init.zeros_(linear.bias)
    return linear


def mix(channels: int, gain: float = 1.0) -> nn.Linear:
    """A map over channels without bias, which starts with ``gain`` on the size of what it mixes."""
    linear = nn.Linear(channels, channels, bias=False)
    nn.init.normal_(linear.weight, std=gain * channels**-0.5)
    return linear


class Message(nn.Module):
    """What an atom says to its neighbors, and the filters of its way to them."""

    def __init__(self, channels: int, radial_functions: int, first: bool) -> None:
        super().__init__()
        self.first, self.paths = first, FIRST_PATHS if first else PATHS
        self.channels = channels
        # Three kinds of scalars, and how loud vector and matrix are.
        self.context = nn.Sequential(
            dense(channels, channels),
            nn.SiLU(),
            dense(channels, (3 if first else 5) * channels, 0.5 * SILU_GAIN),
        )
        one, two = RADIAL_HIDDEN
        self.radial = nn.Sequential(
            *(dense(radial_functions, one, BASIS_GAIN), nn.SiLU()),
            *(dense(one, two, SILU_GAIN), nn.SiLU()),
        )
        self.filter = dense(two, self.paths * channels, SILU_GAIN)

    def said(
        self,
        scalars: Float[Tensor, "atoms channels"],
        vectors: Float[Tensor, "3 atoms channels"],
        matrices: Float[Tensor, "5 atoms channels"],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Scalars for the three sums, ``[3, atoms, channels]``, vector and matrix."""
        context = self.context(scalars).unflatten(1, (-1, self.channels)).transpose(0, 1)
        if self.first:
            return context, None, None
        return context[:3], context[3] * vectors, context[4] * matrices

    def packed(self, lib: Library) -> list[Tensor | None]:
        """What cartesian.cpp reads of it, but for the table; nothing where it is of elements."""
        if self.first:
            return [None] * 6
        found: list[Tensor | None] = []
        for linear in (self.context[0], self.context[2]):
            assert isinstance(linear, nn.Linear)
            forward, back = both_ways(lib, linear.weight)
            found += [forward, linear.bias.clone(), back]
        return found

    def weights(self) -> Float[Tensor, "paths_channels hidden"]:
        """Of the radial functions in each filter."""
        return torch.cat([self.filter.weight, self.filter.bias[:, None]], dim=1)


class Update(nn.Module):
    """What an atom makes of it: products, and a gate."""

    def __init__(
        self, n_elements: int, channels: int, inverse_square: float, matrices: bool
    ) -> None:
        super().__init__()
        self.channels, self.inverse_square = channels, inverse_square
        self.mix_scalars, self.mix_vectors, self.mix_matrices = (mix(channels) for _ in range(3))
        sizes = torch.tensor([WEIGHT_OF_FACTORS[factors] for factors in FACTORS])
        self.weights = nn.Parameter(torch.randn(n_elements, PRODUCTS, channels) * sizes[:, None])
        self.gate = nn.Sequential(
            dense(2 * channels, channels), nn.SiLU(), dense(channels, 3 * channels, 0.5)
        )
        last = self.gate[2]
        assert isinstance(last, nn.Linear)
        nn.init.ones_(last.bias[channels:])
        self.to_scalars, self.to_vectors = mix(channels, 0.5), mix(channels, 0.5)
        self.to_matrices = mix(channels, 0.5) if matrices else None

    def forward(
        self,
        species: Tensor,
        scalars: Float[Tensor, "atoms channels"],
        vectors: Float[Tensor, "3 atoms channels"],
        matrices: Float[Tensor, "5 atoms channels"],
        kernels: Library | None = None,
    ) -> Triple:
        mixed = self.mix_scalars(scalars), self.mix_vectors(vectors), self.mix_matrices(matrices)
        if kernels is None:
            weights = self.weights.index_select(0, species).transpose(0, 1)
            x, u, m = plain_products(*bounded(*mixed, self.inverse_square), weights)
        else:
            x, u, m = products(*mixed, self.weights, species, self.inverse_square, kernels)
        to_scalars, gate_u, gate_m = self.gate(torch.cat([scalars, x], dim=1)).chunk(3, dim=1)
        return (
            scalars + to_scalars + self.to_scalars(x),
            vectors + self.to_vectors(gate_u * u),
            matrices if self.to_matrices is None else matrices + self.to_matrices(gate_m * m),
        )

    def packed(self, lib: Library) -> list[Tensor | None]:
        """What cartesian.cpp reads of it."""
        one, two = self.gate[0], self.gate[2]
        assert isinstance(one, nn.Linear) and isinstance(two, nn.Linear)
        of_s, of_x = one.weight.chunk(2, dim=1)
        forward, back = both_ways(lib, two.weight)
        last = [None, None] if self.to_matrices is None else both_ways(lib, self.to_matrices.weight)
        return [
            *both_ways(lib, self.mix_scalars.weight),
            *both_ways(lib, self.mix_vectors.weight),
            *both_ways(lib, self.mix_matrices.weight),
            self.weights.clone(),
            *(*both_ways(lib, of_s), *both_ways(lib, of_x), one.bias.clone()),
            *(forward, two.bias.clone(), back),
            *both_ways(lib, self.to_scalars.weight),
            *both_ways(lib, self.to_vectors.weight),
            *last,
        ]


def both_ways(lib: Library, weight: Tensor) -> list[Tensor]:
    """A linear map as panels, and its transpose for the gradient."""
    return [packing.panels(lib, weight.T), packing.panels(lib, weight)]
