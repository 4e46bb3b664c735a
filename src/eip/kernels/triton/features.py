"""`eip.kernels.features` by Triton's kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eip.kernels.operators import contiguous
from eip.kernels.triton.edges import starts
from eip.kernels.triton.launch import blocks, launch_atoms, launch_each
from eip.kernels.triton.sources import features as sources


def evidence(raw: Tensor, mixed: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """ν, α and B (see `eip.kernels.features.tensor_head`).

    Args:
        raw: what the last layer gives for ν, α, b0 and the w_k.
        mixed: the u_k, ``[atoms, 3, K]``.
    """
    atoms, _, rank = mixed.shape
    nu, alpha = raw.new_empty(atoms), raw.new_empty(atoms)
    beta = raw.new_empty(atoms, 3, 3, dtype=torch.float64)
    arrays = *contiguous((raw, mixed)), nu, alpha, beta
    launch_atoms(sources.evidence(), atoms, *arrays, atoms, K=rank, FLOOR=floor)
    return nu, alpha, beta


def squared_distance(
    features: Tensor, species: Tensor, means: Tensor, whitening: Tensor, epsilon: float
) -> Tensor:
    """See `eip.kernels.features.squared_distance`."""
    atoms, channels = features.shape
    out = features.new_empty(atoms)
    arrays = *contiguous((features, species, means, whitening)), out
    kernel = sources.squared_distance()
    launch_each(kernel, atoms, blocks(channels), *arrays, atoms, channels, EPSILON=epsilon)
    return out


def neighborhood_mean(per_atom: Tensor, positions: Tensor, cell: Tensor, *graph: Any) -> Tensor:
    """See `eip.kernels.features.neighborhood_mean`."""
    frame, centers, neighbors, shifts, cutoff = graph
    atoms = len(per_atom)
    out = torch.empty_like(per_atom, memory_format=torch.contiguous_format)
    geometry = positions.double(), cell.double(), frame, starts(centers, atoms), neighbors
    arrays = *contiguous((per_atom, *geometry, shifts.float())), out
    launch_atoms(sources.neighborhood_mean(), atoms, *arrays, atoms, PER_SQUARE=1.0 / cutoff**2)
    return out
