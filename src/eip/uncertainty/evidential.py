"""Heads that turn features into evidence, and the potential that carries one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from eip.errors import InputError, did_you_mean
from eip.graph import AtomGraph
from eip.kernels import kernels_for
from eip.models.backbone import AtomFeatures, norm
from eip.models.derivatives import forces_and_stress, strained
from eip.models.energy import EnergyModel
from eip.models.painn import PaiNN
from eip.potential import Differentiable, Potential, Prediction
from eip.uncertainty.compiled import tensor_head
from eip.uncertainty.evidence import (
    ComponentEvidence,
    EnergyEvidence,
    Evidence,
    NoEvidence,
    TensorEvidence,
)
from eip.uncertainty.registry import register

#: ν, β and α − 1 stay above this (SPEC §2): the likelihood has poles at zero.
FLOOR = 1e-6


def positive(raw: Tensor) -> Tensor:
    """Unbounded → above the floor."""
    return softplus(raw) + FLOOR


class EvidenceHead(nn.Module, ABC):
    """Features → evidence. ``scale`` is the training forces' RMS, eV/Å."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale

    @abstractmethod
    def forward(self, features: AtomFeatures, graph: AtomGraph) -> Evidence: ...


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class NoHead(EvidenceHead):
    """A plain potential, without uncertainty: what the others are compared with."""

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> NoEvidence:
        return NoEvidence(self.scale)


class TensorHead(EvidenceHead):
    """ν, α and B = b0·1 + Σ_k w_k u_k u_kᵀ; exact under rotation and reflection (SPEC §2).

    u_k are bias-free mixes of the vectors, b0 and w_k ≥ 0 come from scalars: the matrix is
    positive by construction and turns with the atoms. No eigen-decomposition is needed anywhere.
    """

    def __init__(self, channels: int, scale: float, rank: int = 8) -> None:
        super().__init__(channels, scale)
        self.rank = rank
        self.lengths = nn.Linear(channels, channels, bias=False)
        self.directions = nn.Linear(channels, rank, bias=False)
        self.coefficients = mlp(2 * channels, channels, 3 + rank)

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> TensorEvidence:
        kernels = None if torch.is_grad_enabled() else kernels_for(features.scalars)
        if kernels is not None and kernels.chunk(self.channels, features.scalars.dtype):
            return TensorEvidence(self.scale, *tensor_head(self, kernels, features))
        lengths = norm(self.lengths(features.vectors))
        raw = self.coefficients(torch.cat([features.scalars, lengths], dim=1))
        nu, alpha, base = positive(raw[:, 0]), 1.0 + positive(raw[:, 1]), positive(raw[:, 2])
        # float64: in float32 the sum would round b0 away beside a wide direction, and B with it
        # its positive definiteness.
        directions = self.directions(features.vectors).double()
        weighted = directions * softplus(raw[:, None, 3:]).double()
        identity = torch.eye(3, dtype=torch.float64, device=raw.device)
        beta = base.double()[:, None, None] * identity + weighted @ directions.transpose(1, 2)
        return TensorEvidence(self.scale, nu, alpha, beta)


class ComponentwiseHead(EvidenceHead):
    """The paper's: one MLP on each Cartesian component of the vectors. Breaks rotation.

    Kept to compare with the paper; how far it is from invariant, the contract tests show.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, scale)
        self.parameters_of_component = mlp(channels, channels, 3)

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> ComponentEvidence:
        raw = self.parameters_of_component(features.vectors)
        nu, alpha, beta = positive(raw[..., 0]), 1.0 + positive(raw[..., 1]), positive(raw[..., 2])
        return ComponentEvidence(self.scale, nu, alpha, beta)


class IsotropicHead(EvidenceHead):
    """One ν, α, β from scalars for all three directions: the "no directionality" ablation."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, scale)
        self.parameters_of_atom = mlp(channels, channels, 3)

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> ComponentEvidence:
        raw = self.parameters_of_atom(features.scalars)[:, None, :].expand(-1, 3, -1)
        nu, alpha, beta = positive(raw[..., 0]), 1.0 + positive(raw[..., 1]), positive(raw[..., 2])
        return ComponentEvidence(self.scale, nu, alpha, beta)


class GlobalHead(EvidenceHead):
    """One ν, α, β for a structure, on its energy: the "no locality" ablation."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, scale)
        self.parameters_of_frame = mlp(channels, channels, 3)

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> EnergyEvidence:
        raw = self.parameters_of_frame(graph.mean_by_frame(features.scalars))
        nu, alpha, beta = positive(raw[:, 0]), 1.0 + positive(raw[:, 1]), positive(raw[:, 2])
        return EnergyEvidence(self.scale, graph.atoms_per_frame.to(raw.dtype), nu, alpha, beta)


HEADS: dict[str, type[EvidenceHead]] = {
    "tensor": TensorHead,
    "componentwise": ComponentwiseHead,
    "isotropic": IsotropicHead,
    "global": GlobalHead,
    "none": NoHead,
}


@register
class EvidentialPotential(Potential):
    """PaiNN with an evidence head: energy, forces, stress and their uncertainty in one pass.

    Args:
        elements: atomic numbers the potential is for.
        element_energies: E0 of each, eV.
        force_scale: RMS of the training forces, eV/Å.
        head: one of ``HEADS``.
        channels, interactions, radial_functions, cutoff: see `eip.models.painn.PaiNN`.
        zbl: adds the ZBL repulsion at short range.

    Raises:
        InputError: if the head is unknown.
    """

    kind: ClassVar[str] = "evidential"

    def __init__(
        self,
        *,
        elements: Sequence[int],
        element_energies: Mapping[int, float],
        force_scale: float,
        head: str = "tensor",
        channels: int = 128,
        interactions: int = 3,
        radial_functions: int = 20,
        cutoff: float = 5.0,
        zbl: bool = False,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise InputError(f"unknown head '{head}': {did_you_mean(head, HEADS)}")
        elements = tuple(sorted(int(z) for z in elements))
        self.head_name = head
        backbone = PaiNN(len(elements), channels, interactions, radial_functions, cutoff)
        self.energy_model = EnergyModel(backbone, elements, element_energies, force_scale, zbl)
        self.head = HEADS[head](channels, float(force_scale))
        self._network = {
            "channels": channels,
            "interactions": interactions,
            "radial_functions": radial_functions,
            "cutoff": cutoff,
            "zbl": zbl,
        }

    @property
    def cutoff(self) -> float:
        return self.energy_model.backbone.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self.energy_model.elements

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        energies = self.energy_model.element_energies
        return {
            "elements": list(self.elements),
            "element_energies": {str(z): energy for z, energy in energies.items()},
            "force_scale": self.energy_model.force_scale,
            "head": self.head_name,
            **self._network,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> EvidentialPotential:
        energies = {int(z): energy for z, energy in settings["element_energies"].items()}
        return cls(**{**settings, "element_energies": energies})

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        with torch.set_grad_enabled(forces or stress or differentiable != "nothing"):
            positions = graph.positions
            ours = (forces or stress) and not positions.requires_grad
            if ours:
                positions = positions.detach().requires_grad_()
                graph = graph.with_positions(positions)
            strain = None
            if stress:
                graph, strain = strained(graph)
            output = self.energy_model(graph, frozen=differentiable != "everything")
            # A σ that nobody will differentiate leaves no trace behind it.
            with torch.set_grad_enabled(differentiable != "nothing"):
                evidence = self.head(output.features, graph)
                moments = evidence.moments()
            force = virial = None
            if forces or stress:
                force, virial = forces_and_stress(
                    output.energy,
                    positions,
                    strain,
                    graph.cell,
                    retain_graph=differentiable != "nothing",
                    create_graph=differentiable == "everything",
                )
                # Nobody else holds them: a loss of forces need not be differentiated down to them,
                # which would take second derivatives of the geometry.
                for leaf in (positions if ours else None, strain):
                    if leaf is not None:
                        leaf.requires_grad_(False)
        sigma = moments.force_uncertainty
        prediction = Prediction(
            energy=output.energy,
            forces=force,
            stress=virial,
            force_uncertainty=sigma,
            force_covariance=moments.force_covariance,
            force_aleatoric=moments.force_aleatoric,
            energy_uncertainty=moments.energy_uncertainty,
            uncertainty=None if sigma is None else graph.mean_by_frame(sigma),
            features=output.features.scalars,
            evidence=evidence,
        )
        return (
            prediction
            if differentiable != "nothing"
            else replace(prediction.detach(), evidence=None)
        )
