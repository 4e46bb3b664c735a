"""What a head says of a batch, and what the labels make of it: moments and loss in eV and Å."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eip.uncertainty import distributions as dist

#: Of a Gaussian's variance, in units of the force scale squared.
VARIANCE_FLOOR = 1e-8


@dataclass(frozen=True)
class Moments:
    """Uncertainties in the units of `eip.prediction.Prediction`, whose fields they fill."""

    force_covariance: Float[Tensor, "atoms 3 3"] | None = None
    force_uncertainty: Float[Tensor, "atoms"] | None = None
    force_aleatoric: Float[Tensor, "atoms"] | None = None
    energy_uncertainty: Float[Tensor, "frames"] | None = None


@dataclass(frozen=True)
class Errors:
    """What evidence is held against: true − predicted, eV and eV/Å, and the hyperparameters.

    ``quantile`` is q, or None for the model without quantiles; ``regularization`` is λ. With
    ``variance_weight`` = b each term of the loss counts by the b-th power of its own aleatoric
    standard deviation, which is held fixed (β-NLL: M. Seitzer et al., ICLR 2022, with β = b/2). A
    likelihood can else pass off the large forces of a heavy-tailed data set as noise and never
    learn them; with b = 1 errors pull on the forces about as in a mean absolute error.
    """

    energy: Float[Tensor, "frames"]
    forces: Float[Tensor, "atoms 3"]
    quantile: float | None
    regularization: float
    variance_weight: float = 0.0


class Evidence(ABC):
    """A predicted distribution over the labels of a batch.

    ``scale`` is the force, eV/Å, by which labels are divided before they meet the evidence.
    """

    scale: float

    @abstractmethod
    def moments(self) -> Moments:
        """Standard deviations and covariances, differentiable."""

    @abstractmethod
    def loss(self, errors: Errors) -> Float[Tensor, ""]:
        """The second term of eq. 10 without its weight w."""


@dataclass(frozen=True)
class NoEvidence(Evidence):
    """A plain potential: mean absolute error of the force components."""

    scale: float

    def moments(self) -> Moments:
        return Moments()

    def loss(self, errors: Errors) -> Float[Tensor, ""]:
        return errors.forces.abs().mean() / self.scale


@dataclass(frozen=True)
class GaussianEvidence(Evidence):
    """A Gaussian over each atom's force, of covariance scale² · C.

    Its loss is the negative log-likelihood of the components under the mean of C's diagonal, which
    knows no axes. C may be of less than full rank.
    """

    scale: float
    covariance: Float[Tensor, "atoms 3 3"]

    def moments(self) -> Moments:
        # The floor is for members that agree: a root has no gradient at zero.
        squares = self.covariance.square().sum(dim=(1, 2))
        sigma = (squares + VARIANCE_FLOOR**2) ** 0.25
        return Moments(
            force_covariance=self.scale**2 * self.covariance, force_uncertainty=self.scale * sigma
        )

    def loss(self, errors: Errors) -> Float[Tensor, ""]:
        variance = self.covariance.diagonal(dim1=1, dim2=2).double().mean(dim=1) + VARIANCE_FLOOR
        squared = (errors.forces.double() / self.scale).square().mean(dim=1)
        terms = 0.5 * (variance.log() + squared / variance)
        return weighted_mean(terms, variance, errors.variance_weight)


@dataclass(frozen=True)
class TensorEvidence(Evidence):
    """One ν and α for an atom and an SPD matrix B over the directions; rotates with the atoms.

    B is float64 whatever the dtype of the network: it must stay positive definite.
    """

    scale: float
    nu: Float[Tensor, "atoms"]
    alpha: Float[Tensor, "atoms"]
    beta: Float[Tensor, "atoms 3 3"]

    def moments(self) -> Moments:
        # B/(α−1) and B/(ν(α−1)): one norm serves both, and the matrix is scaled once.
        beta, excess = self.beta.to(self.nu.dtype), self.alpha - 1.0
        aleatoric = self.scale * (frobenius(beta) / excess).sqrt()
        return Moments(
            force_covariance=beta * (self.scale**2 / (self.nu * excess))[:, None, None],
            force_uncertainty=aleatoric * self.nu.rsqrt(),
            force_aleatoric=aleatoric,
        )

    def loss(self, errors: Errors) -> Float[Tensor, ""]:
        # float64: the determinant of a narrow 3 × 3 matrix is a difference of large products.
        residual = errors.forces.double() / self.scale
        nu, alpha, beta = self.nu.double(), self.alpha.double(), self.beta.double()
        nll = dist.tensor_nll(residual, nu, alpha, beta, errors.quantile)
        regularizer = dist.tensor_regularizer(residual, nu, alpha, beta)
        terms = (nll + errors.regularization * regularizer) / 3.0
        return weighted_mean(terms, frobenius(beta) / (alpha - 1.0), errors.variance_weight)


@dataclass(frozen=True)
class ComponentEvidence(Evidence):
    """ν, α, β for each Cartesian component (the paper's), or one for all three (isotropic)."""

    scale: float
    nu: Float[Tensor, "atoms 3"]
    alpha: Float[Tensor, "atoms 3"]
    beta: Float[Tensor, "atoms 3"]

    def moments(self) -> Moments:
        epistemic = dist.epistemic_variance(self.nu, self.alpha, self.beta)
        aleatoric = dist.aleatoric_variance(self.alpha, self.beta)
        # The norm of a diagonal matrix is that of its diagonal.
        return Moments(
            force_covariance=torch.diag_embed(self.scale**2 * epistemic),
            force_uncertainty=self.scale * torch.linalg.vector_norm(epistemic, dim=1).sqrt(),
            force_aleatoric=self.scale * torch.linalg.vector_norm(aleatoric, dim=1).sqrt(),
        )

    def loss(self, errors: Errors) -> Float[Tensor, ""]:
        return _component_loss(errors.forces / self.scale, self.nu, self.alpha, self.beta, errors)


@dataclass(frozen=True)
class EnergyEvidence(Evidence):
    """One ν, α, β for a structure, on its energy per atom: the "no locality" ablation."""

    scale: float
    atoms_per_frame: Float[Tensor, "frames"]
    nu: Float[Tensor, "frames"]
    alpha: Float[Tensor, "frames"]
    beta: Float[Tensor, "frames"]

    def moments(self) -> Moments:
        variance = dist.epistemic_variance(self.nu, self.alpha, self.beta)
        return Moments(energy_uncertainty=self.scale * self.atoms_per_frame * variance.sqrt())

    def loss(self, errors: Errors) -> Float[Tensor, ""]:
        residual = errors.energy / (self.scale * self.atoms_per_frame)
        evidence = _component_loss(residual, self.nu, self.alpha, self.beta, errors)
        return errors.forces.abs().mean() / self.scale + evidence


def _component_loss(
    residual: Float[Tensor, "*dims"],
    nu: Float[Tensor, "*dims"],
    alpha: Float[Tensor, "*dims"],
    beta: Float[Tensor, "*dims"],
    errors: Errors,
) -> Float[Tensor, ""]:
    """Mean of eq. 8 + λ · eq. 9."""
    residual, nu, alpha, beta = residual.double(), nu.double(), alpha.double(), beta.double()
    nll = dist.nig_nll(residual, nu, alpha, beta, errors.quantile)
    regularizer = dist.nig_regularizer(residual, nu, alpha, beta, errors.quantile)
    terms = nll + errors.regularization * regularizer
    return weighted_mean(terms, dist.aleatoric_variance(alpha, beta), errors.variance_weight)


def weighted_mean(
    terms: Float[Tensor, "*dims"], variance: Float[Tensor, "*dims"], power: float
) -> Float[Tensor, ""]:
    """Mean of terms, each times a fixed power of its standard deviation (see `Errors`)."""
    if power == 0.0:
        return terms.mean()
    return (terms * variance.detach() ** (0.5 * power)).mean()


def frobenius(matrix: Float[Tensor, "atoms 3 3"]) -> Float[Tensor, "atoms"]:
    """‖U‖_F; with its root, σ_i of eq. 6 in a form that knows no axes (theory §2)."""
    return torch.linalg.vector_norm(matrix, dim=(1, 2))
