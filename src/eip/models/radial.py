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
