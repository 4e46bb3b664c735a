"""A message-passing atomic cluster expansion in Cartesian tensors: scalars, vectors, matrices.

Drautz (2019) and Batatia et al. (2022) in the form of theory §7: where they have spherical
harmonics up to l = 2 and Clebsch-Gordan coefficients, here are vectors, symmetric traceless
matrices and their products.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import cartesian
from eip.kernels.coupling import FIRST_PATHS, PATHS
from eip.kernels.packing import Packable
from eip.kernels.products import FACTORS, PRODUCTS
from eip.models.backbone import AtomFeatures, Backbone

#: Widths of the hidden layers of a radial filter's network.
RADIAL_HIDDEN = (64, 32)
#: Standard deviation of the weights of products, by the number of factors: higher ones start
#: smaller, since powers grow.
WEIGHT_OF_FACTORS = {1: 0.4, 2: 0.1, 3: 0.02}
#: What a layer behind a SiLU is multiplied by so that it keeps the size of its input.
SILU_GAIN = 1.68
#: Rough size of the radial basis between neighbors, 1/Å, whose inverse likewise.
BASIS_GAIN = 3.0


class CartesianACE(Backbone, Packable):
    """Exactly invariant and equivariant, with two continuous derivatives at the cutoff.

    This holds the weights; what is done with them is `eip.kernels.cartesian`.

    Args:
        n_elements: how many different elements there are.
        channels: width F of scalars, vectors and matrices.
        interactions: layers.
        radial_functions: size of the radial basis.
        cutoff: Å.
        mean_neighbors: of an atom of the training set; sums over neighbors are divided by its root.
        feature_limit: of the size of what is multiplied, see `eip.kernels.products.bounded`; None:
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
            Update(n_elements, channels, matrices=layer < interactions - 1)
            for layer in range(interactions)
        )

    def forward(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        arrays = edge_vectors, species, graph.centers, graph.neighbors, *self.arrays()
        return AtomFeatures(*cartesian.network(*arrays, *self._constants()))

    def fixed(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        arrays = edge_vectors, species, graph.centers, graph.neighbors, *self.arrays()
        return AtomFeatures(*cartesian.features(*arrays, *self._constants()))

    def _constants(self) -> tuple[float, int, float, float]:
        return self.cutoff, self.radial_functions, self.mean_neighbors, self.inverse_square

    def weights(self) -> list[Tensor]:
        found = [self.embedding.weight]
        modules: Any = zip(self.messages, self.updates, strict=True)
        for message, update in modules:
            linear = (
                *(message.context[0], message.context[2]),
                *(message.radial[0], message.radial[2], message.filter),
            )
            found += [array for one in linear for array in (one.weight, one.bias)]
            found += [
                *(update.mix_scalars.weight, update.mix_vectors.weight),
                *(update.mix_matrices.weight, update.weights),
                *(update.gate[0].weight, update.gate[0].bias),
                *(update.gate[2].weight, update.gate[2].bias),
                *(update.to_scalars.weight, update.to_vectors.weight),
            ]
            if update.to_matrices is not None:
                found.append(update.to_matrices.weight)
        return found

    def pack(self) -> Tensor | None:
        return cartesian.pack(self.weights(), *self._constants())


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
    """Weights of what an atom says to its neighbors, and of the filters of its way to them."""

    def __init__(self, channels: int, radial_functions: int, first: bool) -> None:
        super().__init__()
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
        self.filter = dense(two, (FIRST_PATHS if first else PATHS) * channels, SILU_GAIN)


class Update(nn.Module):
    """Weights of what an atom makes of it: products, and a gate."""

    def __init__(self, n_elements: int, channels: int, matrices: bool) -> None:
        super().__init__()
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
