"""A small analytic potential with a smooth σ, for tests of whatever drives a potential."""

from __future__ import annotations

import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import nn

from eip.graph import AtomGraph
from eip.potential import Differentiable, Potential
from eip.prediction import Prediction


class ToyPotential(Potential):
    """Morse pairs under a smooth cutoff; σ_i grows with how unusual the neighbors' distances are.

    Pair energy: depth [(1 − e^{−a(r − r0)})² − 1] c(r), c → 0 with two derivatives at the cutoff.
    σ_i = floor + scale Σ_j (r_ij − r0)² c(r_ij) / r0², eV/Å.
    """

    def __init__(
        self,
        *,
        cutoff: float = 4.0,
        r0: float = 2.4,
        depth: float = 0.4,
        steepness: float = 1.6,
        sigma_scale: float = 1.0,
        elements: tuple[int, ...] = (1, 8, 18, 29),
        uncertain: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self._cutoff, self._elements, self._uncertain = cutoff, elements, uncertain
        self.r0, self.steepness, self.sigma_scale = r0, steepness, sigma_scale
        self.depth = nn.Parameter(torch.tensor(depth, dtype=dtype))
        self.calls = 0

    @property
    def cutoff(self) -> float:
        return self._cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self._elements

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        self.calls += 1
        with torch.enable_grad():
            positions = graph.positions
            if differentiable == "nothing":
                positions = positions.detach()
            if not positions.requires_grad:
                positions = positions.requires_grad_()
            strain = torch.zeros_like(graph.cell, requires_grad=True)
            strained = AtomGraph(
                **{
                    **graph.__dict__,
                    "positions": positions
                    + torch.einsum("na,nab->nb", positions, strain[graph.frame]),
                    "cell": graph.cell + graph.cell @ strain,
                }
            )
            r = (strained.edge_vectors() ** 2).sum(1).sqrt()
            u = (r / self._cutoff).clamp(max=1.0)
            weight = (1 - u**2) ** 3
            morse = (1 - torch.exp(-self.steepness * (r - self.r0))) ** 2 - 1
            by_edge = 0.5 * self.depth * morse * weight
            zero = (positions * 0).sum(1)
            by_atom = zero.index_add(0, graph.centers, by_edge)
            energy = graph.sum_by_frame(by_atom).double()
            sigma = None
            if self._uncertain:
                unusual = (r - self.r0) ** 2 / self.r0**2 * weight
                floor = zero + 0.001 * (1 + graph.numbers % 3)
                sigma = floor.index_add(0, graph.centers, self.sigma_scale * unusual)
            grad_r = grad_s = None
            if forces or stress:
                grad_r, grad_s = torch.autograd.grad(
                    energy.sum(), [positions, strain], retain_graph=differentiable != "nothing"
                )
                volume = graph.cell.det().abs().clamp(min=1e-12)[:, None, None]
                grad_s = 0.5 * (grad_s + grad_s.transpose(1, 2)) / volume
            prediction = Prediction(
                energy=energy,
                forces=-grad_r if forces and grad_r is not None else None,
                stress=grad_s if stress else None,
                force_uncertainty=sigma,
                uncertainty=None if sigma is None else graph.mean_by_frame(sigma),
            )
        return prediction.detach() if differentiable == "nothing" else prediction


def cluster(n: int = 7, seed: int = 0, spread: float = 0.15) -> Atoms:
    """Copper atoms about 2.4 Å apart, in vacuum, without any symmetry."""
    import numpy as np

    crystal = bulk("Cu", "fcc", a=2.4 * 2**0.5, cubic=True).repeat(3)
    order = np.argsort(np.linalg.norm(crystal.positions - crystal.positions.mean(0), axis=1))
    atoms = crystal[order[:n]]
    atoms.pbc, atoms.cell = False, None
    atoms.rattle(spread, seed=seed)
    return atoms


def crystal(repeat: int = 2, seed: int = 0, spread: float = 0.05) -> Atoms:
    """Periodic copper, rattled."""
    atoms = bulk("Cu", "fcc", a=2.4 * 2**0.5, cubic=True).repeat(repeat)
    atoms.rattle(spread, seed=seed)
    return atoms


def water() -> Atoms:
    return molecule("H2O")
