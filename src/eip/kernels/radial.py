"""Radial basis functions and cutoff functions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sine_basis(
    distance: Float[Tensor, "edges"], cutoff: float, count: int
) -> Float[Tensor, "edges count"]:
    """sin(nπr/rc)/r for n = 1 … count (Schütt et al. 2021, after Gasteiger et al. 2020), 1/Å."""
    n = torch.arange(1, count + 1, device=distance.device, dtype=distance.dtype)
    r = distance[:, None]
    return torch.sin(r * (n * (math.pi / cutoff))) / r


def cosine_cutoff(distance: Float[Tensor, "edges"], cutoff: float) -> Float[Tensor, "edges"]:
    """½(1 + cos(πr/rc)) inside the cutoff, 0 outside; value and slope go to zero at rc."""
    inside = distance < cutoff
    return torch.where(inside, 0.5 * (1.0 + torch.cos(distance * (math.pi / cutoff))), 0.0)


def polynomial_cutoff(
    distance: Float[Tensor, "edges"], cutoff: float, power: int = 6
) -> Float[Tensor, "edges"]:
    """1 at zero, 0 from the cutoff on, with two continuous derivatives (Gasteiger et al. 2020).

    1 − (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) − p(p+1)/2 x^(p+2), x = r/rc.
    """
    p = power
    # Clamped, so that what lies far outside cannot overflow before it is put to zero.
    x = (distance / cutoff).clamp(max=1.0)
    inside = 0.5 * (p + 1) * (p + 2) - p * (p + 2) * x + 0.5 * p * (p + 1) * x**2
    return torch.where(distance < cutoff, 1.0 - x**p * inside, 0.0)
