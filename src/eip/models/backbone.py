"""The seam between a network that sees atoms and everything that reads from it."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels import kernels_for
from eip.kernels.build import pointer

#: Added under the root of a vector's squared norm: without it, the gradient of an isolated atom's
#: zero vector is NaN.
NORM_EPSILON = 1e-8


@dataclass(frozen=True)
class AtomFeatures:
    """What a backbone knows of each atom's surroundings.

    ``scalars`` stay, ``vectors`` turn when the structure is rotated or reflected.
    """

    scalars: Float[Tensor, "atoms channels"]
    vectors: Float[Tensor, "atoms 3 channels"]

    def invariants(self) -> Float[Tensor, "atoms two_channels"]:
        """Scalars and the lengths of the vectors: all that does not turn."""
        kernels = None if torch.is_grad_enabled() else kernels_for(self.scalars)
        if kernels is not None:
            scalars, vectors = self.scalars.contiguous(), self.vectors.contiguous()
            atoms, channels = scalars.shape
            out = scalars.new_empty(atoms, 2 * channels)
            kernels.function("invariants", scalars.dtype)(
                *(ctypes.c_int64(atoms), ctypes.c_int64(channels)),
                *map(pointer, (scalars, vectors, out)),
            )
            return out
        return torch.cat([self.scalars, norm(self.vectors)], dim=1)


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


def norm(vectors: Float[Tensor, "atoms 3 channels"]) -> Float[Tensor, "atoms channels"]:
    """Length of each channel's vector, differentiable at zero."""
    return (vectors.square().sum(dim=1) + NORM_EPSILON).sqrt()
