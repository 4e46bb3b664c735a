"""The seam between a network that sees atoms and everything that reads from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.features import invariants, norm

#: Of a network, what is trained.
Layers = Literal["all", "last"]


@dataclass(frozen=True)
class AtomFeatures:
    """What a backbone knows of each atom's surroundings.

    ``scalars`` stay, ``vectors`` turn when the structure is rotated or reflected; a backbone may
    have none, or of another width. ``energy`` is that of each atom, eV, E0 included, of a backbone
    with a readout of its own.
    """

    scalars: Float[Tensor, "atoms channels"]
    vectors: Float[Tensor, "atoms 3 vector_channels"] | None = None
    energy: Float[Tensor, "atoms"] | None = None

    def invariants(self) -> Float[Tensor, "atoms invariant_channels"]:
        """Scalars and the lengths of the vectors: all that does not turn."""
        if self.vectors is None:
            return self.scalars
        if self.vectors.shape[2] != self.scalars.shape[1]:
            return torch.cat([self.scalars, norm(self.vectors)], dim=1)
        found: Tensor = invariants(self.scalars, self.vectors)
        return found


class Backbone(nn.Module, ABC):
    """Graph → features of each atom. Any equivariant network can be one.

    Attributes:
        channels: width of scalars.
        vector_channels: width of vectors; None: the same; 0: there are none.
        cutoff: Å.
        own_energy: whether it gives energies of atoms itself; else they are read from scalars.
        trainable: whether its weights are trained; else they stay what they are.
        elements: atomic numbers that it knows; None: whatever it is trained on.
    """

    channels: int
    vector_channels: int | None = None
    cutoff: float
    own_energy: bool = False
    trainable: bool = True
    elements: tuple[int, ...] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # With a forward of its own it is another function than what it inherits a shortcut for.
        if "forward" in vars(cls) and "fixed" not in vars(cls):
            cls.fixed = Backbone.fixed  # type: ignore[method-assign]

    @abstractmethod
    def forward(
        self,
        graph: AtomGraph,
        species: Tensor,
        edge_vectors: Float[Tensor, "edges 3"],
    ) -> AtomFeatures:
        """Features of each atom.

        Args:
            graph: who is whose neighbor.
            species: index of each atom's element, ``[atoms]``, counted from 0.
            edge_vectors: from centre to neighbor, Å; the only source of geometry, so that a strain
                or a derivative enters in one place.
        """

    def fixed(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        """The same for a caller who will differentiate in the edge vectors alone, not in weights.

        A backbone may take shortcuts here that training cannot.
        """
        return self(graph, species, edge_vectors)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that it computes in."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode and self.trainable)
        return self

    def trained(self, layers: Layers = "all") -> Iterator[nn.Parameter]:
        """The weights that are trained.

        Args:
            layers: of ``last`` none, because what is last is read from the features; a backbone
                with energies of its own has last layers itself.
        """
        if self.trainable and layers == "all":
            yield from self.parameters()


def begin_training(network: nn.Module, layers: Layers = "all") -> None:
    """Training mode, and gradients of all weights but those of a backbone that are not trained."""
    network.train().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, Backbone):
            module.requires_grad_(False)
            for weight in module.trained(layers):
                weight.requires_grad_(True)
