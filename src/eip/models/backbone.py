"""The seam between a network that sees atoms and everything that reads from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.features import invariants


@dataclass(frozen=True)
class AtomFeatures:
    """What a backbone knows of each atom's surroundings.

    ``scalars`` stay, ``vectors`` turn when the structure is rotated or reflected.
    """

    scalars: Float[Tensor, "atoms channels"]
    vectors: Float[Tensor, "atoms 3 channels"]

    def invariants(self) -> Float[Tensor, "atoms two_channels"]:
        """Scalars and the lengths of the vectors: all that does not turn."""
        found: Tensor = invariants(self.scalars, self.vectors)
        return found


class Backbone(nn.Module, ABC):
    """Graph → features of each atom. Any equivariant network that hands on both can be one."""

    channels: int
    cutoff: float

    @abstractmethod
    def forward(
        self,
        graph: AtomGraph,
        species: Tensor,
        edge_vectors: Float[Tensor, "edges 3"],
        *,
        frozen: bool = False,
    ) -> AtomFeatures:
        """Features of each atom.

        Args:
            graph: who is whose neighbor.
            species: index of each atom's element, ``[atoms]``, counted from 0.
            edge_vectors: from centre to neighbor, Å; the only source of geometry, so that a strain
                or a derivative enters in one place.
            frozen: the caller will differentiate the features once, in the edge vectors alone: a
                backbone may then take shortcuts that training cannot.
        """
