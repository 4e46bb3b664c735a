"""Several potentials as one: their spread is the uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Differentiable, LikeAnother, Potential
from eip.prediction import Prediction
from eip.uncertainty.evidence import GaussianEvidence
from eip.uncertainty.evidential import NONE
from eip.uncertainty.methods import Method
from eip.uncertainty.registry import build_potential, describe_potential


class EnsemblePotential(LikeAnother):
    """The mean of potentials trained from different weights (Lakshminarayanan et al. 2017).

    Energy, forces and stress are the members' means; U_i is the covariance of their forces, with
    M − 1 in the denominator.

    Args:
        potentials: at least two, for the same elements and of the same cutoff.

    Raises:
        InputError: if they are too few or do not fit together.
    """

    kind: ClassVar[str] = "ensemble"

    def __init__(self, potentials: Sequence[Potential]) -> None:
        super().__init__()
        if len(potentials) < 2:
            raise InputError(f"an ensemble needs at least two potentials, got {len(potentials)}")
        first = potentials[0]
        for other in potentials[1:]:
            if other.elements != first.elements or other.cutoff != first.cutoff:
                raise InputError(
                    f"the potentials of an ensemble must have the same elements and cutoff, got "
                    f"{first.elements}, {first.cutoff} Å and {other.elements}, {other.cutoff} Å"
                )
        self.potentials = nn.ModuleList(potentials)

    @property
    def members(self) -> tuple[Potential, ...]:
        return tuple(self.potentials)  # type: ignore[arg-type]

    @property
    def _like(self) -> Potential:
        return self.members[0]

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        # σ is made of forces, so its gradient takes one of theirs; and it is there without them.
        inside: Differentiable = "nothing" if differentiable == "nothing" else "everything"
        if inside == "everything" and not graph.positions.requires_grad:
            # Each member would differentiate by positions of its own.
            graph = graph.with_positions(graph.positions.detach().requires_grad_())
        said = [m(graph, forces=True, stress=stress, differentiable=inside) for m in self.members]
        force = torch.stack([p.forces for p in said])
        energy = torch.stack([p.energy for p in said])
        moments = GaussianEvidence(1.0, sample_covariance(force)).moments()
        prediction = Prediction(
            energy=energy.mean(dim=0),
            forces=force.mean(dim=0) if forces else None,
            stress=mean_of([p.stress for p in said]) if stress else None,
            energies=mean_of([p.energies for p in said]),
            features=said[0].features,
            # They learned from the same frames.
            repulsion_covariance=said[0].repulsion_covariance,
            energy_deviations=((energy - energy.mean(dim=0)) / math.sqrt(len(said) - 1)).T,
            repulsion_grade=said[0].repulsion_grade,
        )
        moments = replace(moments, energy_uncertainty=energy.std(dim=0))
        return prediction.with_uncertainty(graph, **vars(moments))

    def settings(self) -> dict[str, Any]:
        """JSON-able: the members."""
        return {"potentials": [describe_potential(member) for member in self.members]}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> EnsemblePotential:
        """Built again, with fresh weights inside."""
        return cls([build_potential(**member) for member in settings["potentials"]])


def mean_of(values: Sequence[Tensor | None]) -> Tensor | None:
    """Over the members; None where one has no such thing."""
    given = [value for value in values if value is not None]
    return torch.stack(given).mean(dim=0) if len(given) == len(values) else None


def sample_covariance(
    members: Float[Tensor, "members atoms 3"],
) -> Float[Tensor, "atoms 3 3"]:
    """Over the members, with their number − 1 in the denominator."""
    away = members - members.mean(dim=0)
    return torch.einsum("mia,mib->iab", away, away) / (len(members) - 1)


ENSEMBLE = Method(
    about="several networks",
    network=NONE.network,
    joined=EnsemblePotential,
    members=4,
    starts_from="several",
)
