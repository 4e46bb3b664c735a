"""Energy → forces and stress, by automatic differentiation."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from eip.graph import AtomGraph


def strained(graph: AtomGraph) -> tuple[AtomGraph, Float[Tensor, "frames 3 3"]]:
    """The graph under a zero strain that the energy can be differentiated by (theory §1)."""
    strain = torch.zeros_like(graph.cell, requires_grad=True)
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    if graph.n_frames == 1:
        moved = graph.positions @ symmetric[0]
    else:
        moved = torch.einsum("na,nab->nb", graph.positions, symmetric[graph.frame])
    positions = graph.positions + moved
    return replace(graph, positions=positions, cell=graph.cell + graph.cell @ symmetric), strain


def forces_and_stress(
    energy: Float[Tensor, "frames"],
    positions: Float[Tensor, "atoms 3"],
    strain: Float[Tensor, "frames 3 3"] | None,
    cell: Float[Tensor, "frames 3 3"],
    *,
    retain_graph: bool,
    create_graph: bool,
) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, "frames 3 3"] | None]:
    """F = −∂E/∂R and, where a strain is given, (1/V) ∂E/∂ε; NaN where the cell has no volume."""
    inputs = [positions] if strain is None else [positions, strain]
    gradients = torch.autograd.grad(
        energy.sum(),
        inputs,
        retain_graph=retain_graph or create_graph,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    if strain is None:
        return -gradients[0], None
    volume = torch.linalg.det(cell).abs()[:, None, None]
    periodic = volume > 0
    # NaN is put in last, not divided by: a loss that leaves such frames out gets finite gradients.
    stress = gradients[1] / torch.where(periodic, volume, 1.0)
    return -gradients[0], torch.where(periodic, stress, torch.nan)
