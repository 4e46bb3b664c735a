"""Heads that turn features into evidence, and the potential that carries one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels.features import pack_tensor_head, positive, tensor_head
from eip.kernels.packing import Packable
from eip.models.backbone import AtomFeatures
from eip.potential import Differentiable
from eip.prediction import Prediction
from eip.uncertainty.evidence import (
    ComponentEvidence,
    EnergyEvidence,
    Evidence,
    GaussianEvidence,
    NoEvidence,
    TensorEvidence,
)
from eip.uncertainty.methods import Method
from eip.uncertainty.names import METHODS
from eip.uncertainty.network import NetworkPotential


class EvidenceHead(nn.Module, ABC):
    """Features → evidence. ``scale`` is the training forces' RMS, eV/Å."""

    #: Of which `IsotropicHead` and others know nothing.
    needs_vectors: ClassVar[bool] = False

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


class TensorHead(EvidenceHead, Packable):
    """ν, α and B = b0·1 + Σ_k w_k u_k u_kᵀ; exact under rotation and reflection (theory §2).

    u_k are bias-free mixes of the vectors, b0 and w_k ≥ 0 come from scalars: the matrix is
    positive by construction and turns with the atoms. No eigen-decomposition is needed anywhere.
    """

    needs_vectors = True

    def __init__(self, channels: int, scale: float, rank: int = 8) -> None:
        super().__init__(channels, scale)
        self.rank = rank
        self.lengths = nn.Linear(channels, channels, bias=False)
        self.directions = nn.Linear(channels, rank, bias=False)
        self.coefficients = mlp(2 * channels, channels, 3 + rank)

    def weights(self) -> list[Tensor]:
        modules: Any = self.coefficients
        hidden, out = modules[0], modules[2]
        mixes = self.lengths.weight, self.directions.weight
        return [*mixes, hidden.weight, hidden.bias, out.weight, out.bias]

    def pack(self) -> Tensor | None:
        return pack_tensor_head(self.weights())

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> TensorEvidence:
        evidence = tensor_head(features.scalars, features.vectors, *self.arrays())
        return TensorEvidence(self.scale, *evidence)


class ComponentwiseHead(EvidenceHead):
    """The paper's: one MLP on each Cartesian component of the vectors. Breaks rotation.

    Kept to compare with the paper; how far it is from invariant, the contract tests show.
    """

    needs_vectors = True

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


class VarianceHead(EvidenceHead):
    """Mean-variance estimation: a Gaussian whose variance is read from each atom's invariants.

    (Nix and Weigend 1994.) All of the error counts as noise of the labels.
    """

    needs_vectors = True

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, scale)
        self.variance_of_atom = mlp(2 * channels, channels, 1)

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> GaussianEvidence:
        variance = positive(self.variance_of_atom(features.invariants())[:, 0])
        identity = torch.eye(3, dtype=variance.dtype, device=variance.device)
        return GaussianEvidence(self.scale, variance[:, None, None] * identity)


class GlobalHead(EvidenceHead):
    """One ν, α, β for a structure, on its energy: the "no locality" ablation."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, scale)
        self.parameters_of_frame = mlp(channels, channels, 3)

    def forward(self, features: AtomFeatures, graph: AtomGraph) -> EnergyEvidence:
        raw = self.parameters_of_frame(graph.mean_by_frame(features.scalars))
        nu, alpha, beta = positive(raw[:, 0]), 1.0 + positive(raw[:, 1]), positive(raw[:, 2])
        return EnergyEvidence(self.scale, graph.atoms_per_frame.to(raw.dtype), nu, alpha, beta)


class EvidentialPotential(NetworkPotential):
    """A network with an evidence head: energy, forces, stress and their uncertainty in one pass.

    Args:
        head: name of an `EvidenceMethod`.
        network: elements, their energies, sizes: see `NetworkPotential`.

    Raises:
        InputError: if the head is unknown.
    """

    kind: ClassVar[str] = "evidential"

    def __init__(self, *, head: str = "tensor", **network: Any) -> None:
        super().__init__(**network)
        of = METHODS.get(head)
        if not isinstance(of, EvidenceMethod):
            raise InputError(f"the method '{head}' is not one of evidence and has no head")
        self.head_name = head
        model = self.energy_model
        if of.head.needs_vectors and model.backbone.vector_channels == 0:
            raise InputError(
                f"the method '{head}' reads vectors of each atom, and the backbone "
                f"{self.backbone_settings.name} has none; isotropic, ensemble and gmm do without"
            )
        self.head = of.head(model.backbone.channels, model.force_scale)

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        return {**super().settings(), "head": self.head_name}

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        with self.run(graph, forces=forces, stress=stress, differentiable=differentiable) as run:
            energy, features = run.output.energy, run.output.features
            # A σ that nobody will differentiate leaves no trace behind it.
            with torch.set_grad_enabled(differentiable != "nothing"):
                evidence = self.head(features, run.graph)
                moments = evidence.moments()
                invariants = features.invariants()
                repulsion = run.repulsion()
            force = virial = None
            if forces or stress:
                force, virial = run.forces_and_stress(
                    energy,
                    retain_graph=differentiable != "nothing",
                    create_graph=differentiable == "everything",
                )
        prediction = Prediction(
            energy=energy,
            forces=force,
            stress=virial,
            energies=run.output.by_atom,
            features=invariants,
            evidence=evidence,
            **repulsion,
        ).with_uncertainty(graph, **vars(moments))
        return prediction if differentiable != "nothing" else prediction.detach()


@dataclass(frozen=True, kw_only=True)
class EvidenceMethod(Method):
    """A method whose network is an `EvidentialPotential` with a head of its own.

    Its name among the methods is that of the head, by which model files know it.
    """

    head: type[EvidenceHead]


def _evidential(head: str, *, members: int, **network: Any) -> EvidentialPotential:
    return EvidentialPotential(head=head, **network)


def evidence(name: str, head: type[EvidenceHead], about: str, **more: Any) -> EvidenceMethod:
    """A method that is a head; ``more`` as in `eip.uncertainty.methods.Method`."""
    return EvidenceMethod(about=about, head=head, network=partial(_evidential, name), **more)


TENSOR = evidence("tensor", TensorHead, "evidence, a matrix for each atom", latent_distance=True)
COMPONENTWISE = evidence(
    "componentwise",
    ComponentwiseHead,
    "evidence for each component, the paper's; breaks rotation",
    latent_distance=True,
    invariant=False,
)
ISOTROPIC = evidence(
    "isotropic", IsotropicHead, "evidence, the same in all directions", latent_distance=True
)
GLOBAL = evidence(
    "global",
    GlobalHead,
    "evidence on the energy; nothing for an atom",
    by_atom=False,
    energy_error=False,
    needs_energies=True,
)
MVE = evidence("mve", VarianceHead, "mean-variance estimation")
NONE = evidence("none", NoHead, "no uncertainty", by_atom=False, energy_error=False)
