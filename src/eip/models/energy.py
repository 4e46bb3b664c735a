"""Backbone and readout: a graph's energy, and the features it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.composition import species_table
from eip.errors import unknown_elements
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures, Backbone
from eip.models.short_range import Approach, ShortRange, ShortRangeSettings
from eip.models.zbl import ZBL


@dataclass(frozen=True)
class EnergyOutput:
    """Energy of each structure, eV, float64, with those of its atoms and their features.

    ``approach``: pairs that are closer than any training frame has them; None: there is none.
    """

    energy: Float[Tensor, "frames"]
    by_atom: Float[Tensor, "atoms"]
    features: AtomFeatures
    approach: Approach | None = None


def readout(width: int, dropout: float) -> nn.Sequential:
    """From an atom's scalars to its energy, in units of the force scale times 1 Å."""
    hidden = [nn.Linear(width, width // 2), nn.SiLU(), *[nn.Dropout(dropout)] * bool(dropout)]
    return nn.Sequential(*hidden, nn.Linear(width // 2, 1))


class EnergyModel(nn.Module):
    """E = Σ_i E_i + Σ_i E0(Z_i) (theory §1), or a backbone's own energies.

    The network works in units of the training forces' RMS; totals are summed in float64, because
    a molecule's −17,617 eV leave no meV in float32.

    Args:
        backbone: gives the features.
        elements: atomic numbers; their order is the backbone's species index.
        element_energies: E0 of each element, eV.
        force_scale: RMS of the training forces, eV/Å; E_i = force_scale · 1 Å · network.
        zbl: adds the repulsion of model files of before.
        dropout: probability that training leaves a hidden unit of the readout out.
        short_range: where the data begin, below which nuclei repel; None: nowhere.
    """

    species_of_number: Tensor

    def __init__(
        self,
        backbone: Backbone,
        elements: Sequence[int],
        element_energies: Mapping[int, float],
        force_scale: float,
        zbl: bool = False,
        dropout: float = 0.0,
        short_range: ShortRangeSettings | None = None,
    ) -> None:
        super().__init__()
        missing = [z for z in elements if z not in element_energies]
        if missing:
            raise ValueError(f"element_energies lacks {[chemical_symbols[z] for z in missing]}")
        if not force_scale > 0:
            raise ValueError(f"force_scale must be positive, in eV/Å, got {force_scale}")
        if backbone.elements is not None and not set(elements) <= set(backbone.elements):
            strange = set(elements) - set(backbone.elements)
            raise unknown_elements(strange, backbone.elements, "what the potential is to be for")
        self.backbone = backbone
        self.elements = tuple(elements)
        self.force_scale = float(force_scale)
        # A table, not a parameter: never trained, never cast to float32 by .to(dtype).
        self._element_energies = {z: float(element_energies[z]) for z in self.elements}
        self._offsets: dict[torch.device, Tensor] = {}
        self._looked_up: tuple[Tensor, int, Tensor] | None = None
        self.register_buffer("species_of_number", species_table(self.elements), persistent=False)
        width = backbone.channels
        self.readout = None if backbone.own_energy else readout(width, dropout)
        # Who reads vectors takes them to be as wide as scalars.
        own = backbone.vector_channels or width
        self.widening = nn.Linear(own, width, bias=False) if own != width else None
        self.zbl = ZBL(backbone.cutoff) if zbl else None
        self.short_range: ShortRange | None = None
        self.begin_at(short_range)

    def begin_at(self, short_range: ShortRangeSettings | None) -> None:
        """Sets where the data begin.

        A network that was trained elsewhere knows pairs of atoms that our frames do not show: it is
        asked always.
        """
        if short_range is None or not self.backbone.trainable:
            self.short_range = None
        else:
            made = ShortRange(short_range, self.elements, self.backbone.cutoff)
            self.short_range = made.to(self.species_of_number.device)

    @property
    def element_energies(self) -> dict[int, float]:
        """E0 of each element, eV."""
        return dict(self._element_energies)

    def move_energies(self, shifts: Mapping[int, float]) -> None:
        """Adds to E0 of elements, eV."""
        self._element_energies = {
            z: energy + float(shifts.get(z, 0.0)) for z, energy in self._element_energies.items()
        }
        self._offsets = {}

    def species(self, graph: AtomGraph) -> Int[Tensor, "atoms"]:
        """Index of each atom's element.

        Raises:
            InputError: if the potential was not made for one, or is on another device.
        """
        graph.demand_on(self.species_of_number.device)
        numbers = graph.numbers
        # On a GPU the check makes the host wait for all that it has asked for before; a run of
        # dynamics hands the same array over at each step.
        if self._looked_up is not None:
            same, version, species = self._looked_up
            if same is numbers and version == numbers._version:
                return species
        species = self.species_of_number.index_select(0, numbers)
        if bool((species < 0).any()):
            raise unknown_elements(numbers[species < 0].tolist(), self.elements)
        # A CPU array may share memory that others write to; and there the check costs nothing.
        if numbers.is_cuda and not (numbers.is_inference() or species.is_inference()):
            self._looked_up = numbers, numbers._version, species
        return species

    def forward(self, graph: AtomGraph, *, fixed: bool = False) -> EnergyOutput:
        """``fixed``: the caller will differentiate in positions alone, not in weights."""
        species = self.species(graph)
        # In the network's precision; the graph's geometry is float64.
        vectors = true = graph.edge_vectors(self.backbone.dtype)
        approach = None
        if self.short_range is not None:
            vectors, approach = self.short_range(graph, species, true)
        run = self.backbone.fixed if fixed else self.backbone
        features = run(graph, species, vectors)
        if self.widening is not None:
            features = replace(features, vectors=self.widening(features.vectors))
        if self.readout is None:
            assert features.energy is not None
            atom_energy = features.energy.double()
        else:
            atom_energy = self.force_scale * self.readout(features.scalars)[:, 0].double()
        if self.zbl is not None:
            atom_energy = atom_energy + self.zbl(graph, true).double()
        if approach is not None:
            atom_energy = atom_energy + approach.energy.double()
        if self.readout is not None:
            atom_energy = atom_energy + self.offsets(species)
        return EnergyOutput(graph.sum_by_frame(atom_energy), atom_energy, features, approach)

    def offsets(self, species: Int[Tensor, "atoms"]) -> Float[Tensor, "atoms"]:
        """E0 of each atom, eV, float64."""
        return self._offsets_on(species.device).index_select(0, species)

    def _offsets_on(self, device: torch.device) -> Float[Tensor, "elements"]:
        """E0 by species, float64: not a buffer, because a module's casts take buffers along."""
        if device not in self._offsets:
            with torch.inference_mode(False):
                self._offsets[device] = torch.tensor(
                    list(self._element_energies.values()), dtype=torch.float64, device=device
                )
        return self._offsets[device]
