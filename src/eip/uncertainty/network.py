"""What potentials made of one network share: how it is described, and its forces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from eip.graph import AtomGraph
from eip.models.derivatives import forces_and_stress, strained
from eip.models.energy import EnergyModel, EnergyOutput
from eip.models.settings import BackboneSettings, backbone_settings, merged
from eip.models.short_range import ShortRangeSettings
from eip.potential import Differentiable, Potential

N = TypeVar("N", bound="NetworkPotential")


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass, not differentiated yet: ``graph`` is what the network saw of it."""

    graph: AtomGraph
    output: EnergyOutput
    positions: Tensor
    strain: Tensor | None

    def repulsion(self) -> dict[str, Tensor]:
        """What `eip.prediction.Prediction` has of it."""
        approach = self.output.approach
        if approach is None:
            return {}
        covariance, grade = approach.covariance(), approach.grade()
        return {"repulsion_covariance": covariance, "repulsion_grade": grade}

    def forces_and_stress(
        self,
        energy: Float[Tensor, "frames"],
        *,
        retain_graph: bool,
        create_graph: bool = False,
    ) -> tuple[Float[Tensor, "atoms 3"], Float[Tensor, "frames 3 3"] | None]:
        """Of an energy that this pass gave, in the network's precision."""
        forces, stress = forces_and_stress(
            energy,
            self.positions,
            self.strain,
            self.graph.cell,
            retain_graph=retain_graph,
            create_graph=create_graph,
        )
        dtype = self.output.features.scalars.dtype
        return forces.to(dtype), None if stress is None else stress.to(dtype)


class NetworkPotential(Potential):
    """A backbone and its readout.

    Args:
        elements: atomic numbers the potential is for.
        element_energies: E0 of each, eV.
        force_scale: RMS of the training forces, eV/Å.
        backbone: name or settings of the network, see `eip.models.settings`.
        zbl, dropout: see `eip.models.energy.EnergyModel`.
        short_range: where the data begin, as settings or as `settings` has them; see
            `eip.models.short_range`.
        options: keys of the backbone, in place of a mapping with its name and them.

    Raises:
        InputError: if there is no such backbone, or it has no such key.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int],
        element_energies: Mapping[int, float],
        force_scale: float,
        backbone: str | Mapping[str, Any] | BackboneSettings = "painn",
        zbl: bool = False,
        dropout: float = 0.0,
        short_range: ShortRangeSettings | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        elements = tuple(sorted(int(z) for z in elements))
        self.backbone_settings = backbone_settings(
            merged(backbone, options) if options else backbone
        )
        network = self.backbone_settings.build(len(elements))
        if isinstance(short_range, Mapping):
            short_range = ShortRangeSettings.from_dict(short_range)
        self.energy_model = EnergyModel(
            network, elements, element_energies, force_scale, zbl, dropout, short_range
        )

    @property
    def cutoff(self) -> float:
        return self.energy_model.backbone.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self.energy_model.elements

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        energies, short_range = self.energy_model.element_energies, self.energy_model.short_range
        described = {
            "elements": list(self.elements),
            "element_energies": {str(z): energy for z, energy in energies.items()},
            "force_scale": self.energy_model.force_scale,
            "backbone": self.backbone_settings.to_dict(),
            "zbl": self.energy_model.zbl is not None,
        }
        if short_range is not None:
            described["short_range"] = short_range.settings.to_dict()
        return described

    @classmethod
    def from_settings(cls: type[N], settings: dict[str, Any]) -> N:
        energies = {int(z): energy for z, energy in settings["element_energies"].items()}
        if settings.get("backbone") == "cartesian_ace":  # of before a limit was the default
            settings = {"feature_limit": None, **settings}
        return cls(**{**settings, "element_energies": energies})

    @contextmanager
    def run(
        self, graph: AtomGraph, *, forces: bool, stress: bool, differentiable: Differentiable
    ) -> Iterator[ForwardPass]:
        """A forward pass whose forces, stress and whatever else can be asked for inside."""
        with torch.set_grad_enabled(forces or stress or differentiable != "nothing"):
            positions = graph.positions
            ours = (forces or stress) and not positions.requires_grad
            if ours:
                positions = positions.detach().requires_grad_()
                graph = graph.with_positions(positions)
            strain = None
            if stress:
                graph, strain = strained(graph)
            output = self.energy_model(graph, fixed=differentiable != "everything")
            yield ForwardPass(graph, output, positions, strain)
            # Nobody else holds them: a loss of forces need not be differentiated down to them,
            # which would take second derivatives of the geometry.
            for leaf in (positions if ours else None, strain):
                if leaf is not None:
                    leaf.requires_grad_(False)
