"""PaiNN, the polarizable atom interaction network (Schütt, Unke and Gastegger 2021)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import painn
from eip.kernels.packing import Packable
from eip.models.backbone import AtomFeatures, Backbone


class PaiNN(Backbone, Packable):
    """Scalars and vectors of each atom, exactly invariant and equivariant.

    This holds the weights; what is done with them is `eip.kernels.painn`.

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
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        arrays = edge_vectors, species, graph.centers, graph.neighbors, *self.arrays()
        return AtomFeatures(*painn.network(*arrays, self.cutoff, self.radial_functions))

    def fixed(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        arrays = edge_vectors, species, graph.centers, graph.neighbors, *self.arrays()
        return AtomFeatures(*painn.features(*arrays, self.cutoff, self.radial_functions))

    def weights(self) -> list[Tensor]:
        found = [self.embedding.weight]
        modules: Any = zip(self.messages, self.updates, strict=True)
        for message, update in modules:
            found += [
                *_weights(message.context[0], message.context[2], message.filter),
                update.mix.weight,
                *_weights(update.context[0], update.context[2]),
            ]
        return found

    def pack(self) -> Tensor | None:
        return painn.pack(self.weights(), self.cutoff, self.radial_functions)


def _weights(*linear: nn.Linear) -> list[Tensor]:
    return [array for one in linear for array in (one.weight, one.bias)]


class Message(nn.Module):
    """Weights of what the neighbors say (eq. 7 and 8 of the PaiNN paper)."""

    def __init__(self, channels: int, radial_functions: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels)
        )
        self.filter = nn.Linear(radial_functions, 3 * channels)


class Update(nn.Module):
    """Weights of what an atom makes of it (eq. 9 and 10 of the PaiNN paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, 2 * channels, bias=False)
        self.context = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels)
        )
