"""Normal-Inverse-Gamma evidence and the Student-t it predicts: pure mathematics.

Symbols (theory §2 and §3; Amini et al. 2020; Hüttel et al. 2023):

    γ   predicted value                 r   residual, true − γ
    ν   pseudo-observations of the mean, > 0
    α   shape, > 1                      β   scale, > 0; B its matrix form, SPD
    q   quantile, 0 < q < 1             τ = (1−2q)/(q(1−q))      ω = 2/(q(1−q))
    z = β/(α−1), the noise variance     Ω   scale of the Student-t

Everything is dimensionless: forces come divided by a scale, because 1/β and ρ carry units and the
loss would depend on the unit of force (theory §3).
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
    """Negative log-likelihood of a vector (theory §3, tensor form); eq. 8 is its case d = 1.

    Raises:
        ValueError: for a quantile other than ½: any other prefers one sign of each Cartesian
            component, so it has no rotation-invariant form.
    """
    if quantile not in (None, 0.5):
        raise ValueError(f"the tensor form needs quantile 0.5 (or None), got {quantile}")
    d = residual.shape[1]
    # Ω is never formed: it is 4B(1 + cB), and squaring B would square its condition number.
    inverse, determinant = spd_inverse(beta)
    whitened = torch.einsum("nab,nb->na", inverse, residual)
    if quantile is None:
        factor = 2.0 * (1.0 + nu)
        distance2 = (residual * whitened).sum(dim=1) / factor
        log_determinant = d * torch.log(factor) + torch.log(determinant)
    else:
        _, omega = quantile_constants(quantile)
        c = (omega * nu / (alpha - 1.0))[:, None, None]
        identity = torch.eye(d, dtype=beta.dtype, device=beta.device)
        inverse2, determinant2 = spd_inverse(identity + c * beta)
        whitened2 = torch.einsum("nab,nb->na", inverse2, residual)
        # Not negative in exact arithmetic; the clamp is for the last digit of a tiny distance.
        distance2 = (whitened * whitened2).sum(dim=1).clamp(min=0.0) / 4.0
        log_determinant = d * math.log(4.0) + torch.log(determinant) + torch.log(determinant2)
    half = 0.5 * d
    return (
        half * torch.log(math.pi / nu)
        + 0.5 * log_determinant
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
    """½[(2ν+α)‖r‖ + ‖B⁻¹r‖] (theory §3); eq. 9 at q = ½ is its case d = 1."""
    inverse, _ = spd_inverse(beta)
    weighted = torch.einsum("nab,nb->na", inverse, residual)
    return 0.5 * ((2.0 * nu + alpha) * _length(residual) + _length(weighted))


def spd_inverse(
    matrix: Float[Tensor, "atoms dims dims"],
) -> tuple[Float[Tensor, "atoms dims dims"], Float[Tensor, "atoms"]]:
    """Inverse and determinant; closed form for 3 × 3, so that it fuses and batches.

    By L D Lᵀ: the determinant by cofactors is a difference of large products, and comes out
    negative where one direction of an evidence matrix is far wider than the others.
    """
    d = matrix.shape[-1]
    if d == 1:
        return 1.0 / matrix, matrix[:, 0, 0]
    if d != 3:
        return torch.linalg.inv(matrix), torch.linalg.det(matrix)
    d1, a21, a31 = matrix[:, 0, 0], matrix[:, 1, 0], matrix[:, 2, 0]
    l21, l31 = a21 / d1, a31 / d1
    d2 = matrix[:, 1, 1] - l21 * a21
    rest = matrix[:, 2, 1] - l31 * a21
    l32 = rest / d2
    d3 = matrix[:, 2, 2] - l31 * a31 - l32 * rest
    one, zero = torch.ones_like(d1), torch.zeros_like(d1)
    # Rows of L⁻¹ over the roots of D: the inverse is a sum of squares, positive by construction.
    rows = torch.stack([one, zero, zero, -l21, one, zero, l21 * l32 - l31, -l32, one], dim=1)
    rows = rows.view(-1, 3, 3)
    inverse = rows.transpose(1, 2) @ (rows / torch.stack([d1, d2, d3], dim=1)[:, :, None])
    return inverse, d1 * d2 * d3


def _length(vector: Float[Tensor, "atoms dims"]) -> Float[Tensor, "atoms"]:
    return (vector.square().sum(dim=1) + _LENGTH_EPSILON).sqrt()
