"""Normal-Inverse-Gamma evidence and the Student-t it predicts: pure mathematics.

Symbols (SPEC §2 and §3; Amini et al. 2020; Hüttel et al. 2023):

    γ   predicted value                 r   residual, true − γ
    ν   pseudo-observations of the mean, > 0
    α   shape, > 1                      β   scale, > 0; B its matrix form, SPD
    q   quantile, 0 < q < 1             τ = (1−2q)/(q(1−q))      ω = 2/(q(1−q))
    z = β/(α−1), the noise variance     Ω   scale of the Student-t

Everything is dimensionless: forces come divided by a scale, because 1/β and ρ carry units and the
loss would depend on the unit of force (SPEC §3).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

#: Inside the root of a residual's length, so that a perfect prediction has a gradient.
_LENGTH_EPSILON = 1e-12


def epistemic_variance(nu: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Var[μ] = β/(ν(α−1)) (eq. 1 and 5)."""
    return beta / (nu * (alpha - 1.0))


def aleatoric_variance(alpha: Tensor, beta: Tensor) -> Tensor:
    """E[σ²] = β/(α−1) (eq. 1)."""
    return beta / (alpha - 1.0)


def quantile_constants(quantile: float) -> tuple[float, float]:
    """τ and ω of the quantile model.

    Raises:
        ValueError: if the quantile is not inside (0, 1).
    """
    if not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must lie inside (0, 1), got {quantile}")
    spread = quantile * (1.0 - quantile)
    return (1.0 - 2.0 * quantile) / spread, 2.0 / spread


def nig_nll(
    residual: Float[Tensor, "*dims"],
    nu: Float[Tensor, "*dims"],
    alpha: Float[Tensor, "*dims"],
    beta: Float[Tensor, "*dims"],
    quantile: float | None = 0.5,
) -> Float[Tensor, "*dims"]:
    """Negative log-likelihood of one component (eq. 8); without quantiles for ``None``."""
    z = aleatoric_variance(alpha, beta)
    if quantile is None:
        tau, scale = 0.0, 2.0 * beta * (1.0 + nu)
    else:
        tau, omega = quantile_constants(quantile)
        scale = 4.0 * beta * (1.0 + omega * z * nu)
    return (
        0.5 * torch.log(math.pi / nu)
        + 0.5 * torch.log(scale)
        + (alpha + 0.5) * torch.log1p(nu * (residual - tau * z) ** 2 / scale)
        + torch.lgamma(alpha)
        - torch.lgamma(alpha + 0.5)
    )


def nig_regularizer(
    residual: Float[Tensor, "*dims"],
    nu: Float[Tensor, "*dims"],
    alpha: Float[Tensor, "*dims"],
    beta: Float[Tensor, "*dims"],
    quantile: float | None = 0.5,
) -> Float[Tensor, "*dims"]:
    """ρ_q(r)·(2ν + α + 1/β): evidence costs where the prediction is wrong (eq. 9)."""
    q = 0.5 if quantile is None else quantile
    pinball = torch.maximum(q * residual, (q - 1.0) * residual)
    return pinball * (2.0 * nu + alpha + 1.0 / beta)


def tensor_nll(
    residual: Float[Tensor, "atoms dims"],
    nu: Float[Tensor, "atoms"],
    alpha: Float[Tensor, "atoms"],
    beta: Float[Tensor, "atoms dims dims"],
    quantile: float | None = 0.5,
) -> Float[Tensor, "atoms"]:
    """Negative log-likelihood of a vector (SPEC §3, tensor form); eq. 8 is its case d = 1.

    Raises:
        ValueError: for a quantile other than ½: any other prefers one sign of each Cartesian
            component, so it has no rotation-invariant form.
    """
    if quantile not in (None, 0.5):
        raise ValueError(f"the tensor form needs quantile 0.5 (or None), got {quantile}")
    d = residual.shape[1]
    if quantile is None:
        scale = 2.0 * beta * (1.0 + nu)[:, None, None]
    else:
        _, omega = quantile_constants(quantile)
        scale = 4.0 * (beta + (omega * nu / (alpha - 1.0))[:, None, None] * (beta @ beta))
    inverse, determinant = spd_inverse(scale)
    distance2 = torch.einsum("na,nab,nb->n", residual, inverse, residual)
    half = 0.5 * d
    return (
        half * torch.log(math.pi / nu)
        + 0.5 * torch.log(determinant)
        + (alpha + half) * torch.log1p(nu * distance2)
        + torch.lgamma(alpha)
        - torch.lgamma(alpha + half)
    )


def tensor_regularizer(
    residual: Float[Tensor, "atoms dims"],
    nu: Float[Tensor, "atoms"],
    alpha: Float[Tensor, "atoms"],
    beta: Float[Tensor, "atoms dims dims"],
) -> Float[Tensor, "atoms"]:
    """½[(2ν+α)‖r‖ + ‖B⁻¹r‖] (SPEC §3); eq. 9 at q = ½ is its case d = 1."""
    inverse, _ = spd_inverse(beta)
    weighted = torch.einsum("nab,nb->na", inverse, residual)
    return 0.5 * ((2.0 * nu + alpha) * _length(residual) + _length(weighted))


def spd_inverse(
    matrix: Float[Tensor, "atoms dims dims"],
) -> tuple[Float[Tensor, "atoms dims dims"], Float[Tensor, "atoms"]]:
    """Inverse and determinant; closed form by cofactors for 3 × 3, so that it fuses and batches."""
    d = matrix.shape[-1]
    if d == 1:
        return 1.0 / matrix, matrix[:, 0, 0]
    if d != 3:
        return torch.linalg.inv(matrix), torch.linalg.det(matrix)
    x, y, z = matrix.unbind(dim=1)
    adjugate = torch.stack(
        [torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y)], dim=2
    )
    determinant = (x * adjugate[:, :, 0]).sum(dim=1)
    return adjugate / determinant[:, None, None], determinant


def _length(vector: Float[Tensor, "atoms dims"]) -> Float[Tensor, "atoms"]:
    return (vector.square().sum(dim=1) + _LENGTH_EPSILON).sqrt()
