"""Backbone and readout: a graph's energy, and the features it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures, Backbone
from eip.models.zbl import ZBL


@dataclass(frozen=True)
class EnergyOutput:
    """Energy of each structure, eV, float64, with the features of its atoms."""

    energy: Float[Tensor, "frames"]
    features: AtomFeatures


class EnergyModel(nn.Module):
    """E = Σ_i E_i + Σ_i E0(Z_i) (SPEC §1).

    The network works in units of the training forces' RMS; totals are summed in float64, because
    a molecule's −17,617 eV leave no meV in float32.

    Args:
        backbone: gives the features.
        elements: atomic numbers; their order is the backbone's species index.
        element_energies: E0 of each element, eV.
        force_scale: RMS of the training forces, eV/Å; E_i = force_scale · 1 Å · network.
        zbl: adds a repulsion at short range.
    """

    species_of_number: Tensor

    def __init__(
        self,
        backbone: Backbone,
        elements: Sequence[int],
        element_energies: Mapping[int, float],
        force_scale: float,
        zbl: bool = False,
    ) -> None:
        super().__init__()
        missing = [z for z in elements if z not in element_energies]
        if missing:
            raise ValueError(f"element_energies lacks {[chemical_symbols[z] for z in missing]}")
        if not force_scale > 0:
            raise ValueError(f"force_scale must be positive, in eV/Å, got {force_scale}")
        self.backbone = backbone
        self.elements = tuple(elements)
        self.force_scale = float(force_scale)
        # A table, not a parameter: never trained, never cast to float32 by .to(dtype).
        self._element_energies = {z: float(element_energies[z]) for z in self.elements}
        index = torch.full((119,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("species_of_number", index, persistent=False)
        width = backbone.channels
        self.readout = nn.Sequential(
            nn.Linear(width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1)
        )
        self.zbl = ZBL(backbone.cutoff) if zbl else None

    @property
    def element_energies(self) -> dict[int, float]:
        """E0 of each element, eV."""
        return dict(self._element_energies)

    def species(self, graph: AtomGraph) -> Int[Tensor, "atoms"]:
        """Index of each atom's element.

        Raises:
            InputError: if the potential was not made for one.
        """
        species = self.species_of_number[graph.numbers]
        if bool((species < 0).any()):
            foreign = sorted({int(z) for z in graph.numbers[species < 0].tolist()})
            raise InputError(
                f"this potential knows {_symbols(self.elements)}, not {_symbols(foreign)}: "
                "it was trained without them, and so can say nothing of them"
            )
        return species

    def forward(self, graph: AtomGraph, *, frozen: bool = False) -> EnergyOutput:
        """``frozen``: see `eip.models.backbone.Backbone.forward`."""
        species = self.species(graph)
        vectors = graph.edge_vectors()
        features = self.backbone(graph, species, vectors, frozen=frozen)
        atom_energy = self.force_scale * self.readout(features.scalars)[:, 0].double()
        if self.zbl is not None:
            atom_energy = atom_energy + self.zbl(graph, vectors).double()
        offsets = torch.tensor(
            list(self._element_energies.values()), dtype=torch.float64, device=atom_energy.device
        )
        return EnergyOutput(graph.sum_by_frame(atom_energy + offsets[species]), features)


def _symbols(numbers: Sequence[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)
