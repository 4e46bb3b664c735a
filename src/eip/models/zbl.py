"""Screened nuclear repulsion at short range (Ziegler, Biersack and Littmark 1985)."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.indexing import sums
from eip.units import COULOMB, LENGTH_IN_ANGSTROM

#: Of the screening, a sum of exponentials of the reduced distance.
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
#: Screening length in Å is this times the Bohr radius over (Z_i^0.23 + Z_j^0.23).
SCREENING = 0.88534 * LENGTH_IN_ANGSTROM["Bohr"]


def screened_repulsion(
    z_i: Float[Tensor, "pairs"], z_j: Float[Tensor, "pairs"], distance: Float[Tensor, "pairs"]
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """The universal potential of two nuclei, eV, and minus its slope, eV/Å; both positive."""
    inverse_length = (z_i**0.23 + z_j**0.23) / SCREENING
    reduced = distance * inverse_length
    terms = [(c * torch.exp(-e * reduced), e) for c, e in zip(COEFFICIENTS, EXPONENTS, strict=True)]
    screening = torch.stack([term for term, _ in terms]).sum(dim=0)
    falling = torch.stack([e * term for term, e in terms]).sum(dim=0) * inverse_length
    coulomb = COULOMB * z_i * z_j / distance
    return coulomb * screening, coulomb * (screening / distance + falling)


class ZBL(nn.Module):
    """Repulsion that is switched off well inside a chemical bond, as model files of before have it.

    It ends smoothly at ``reach`` times the sum of covalent radii, at the cutoff at the latest, and
    the network stays what it is below: `eip.models.short_range` has taken its place.
    """

    radii: Tensor

    def __init__(self, cutoff: float, reach: float = 0.75) -> None:
        super().__init__()
        self.cutoff, self.reach = cutoff, reach
        radii = torch.tensor(covalent_radii, dtype=torch.float64)
        self.register_buffer("radii", radii, persistent=False)

    def forward(
        self, graph: AtomGraph, edge_vectors: Float[Tensor, "edges 3"]
    ) -> Float[Tensor, "atoms"]:
        """Energy of each atom, half of each of its pairs, eV."""
        z_i, z_j = graph.numbers[graph.centers], graph.numbers[graph.neighbors]
        distance = edge_vectors.square().sum(dim=1).sqrt()
        reach = self.reach * (self.radii[z_i] + self.radii[z_j]).to(distance.dtype)
        reach = reach.clamp(max=self.cutoff)
        repulsion, _ = screened_repulsion(z_i.to(distance.dtype), z_j.to(distance.dtype), distance)
        x = (distance / reach).clamp(max=1.0)
        # 1 at contact, 0 at the end with two continuous derivatives.
        switch = 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
        pair = repulsion * switch
        found: Tensor = sums(0.5 * pair, graph.centers, graph.n_atoms)
        return found
