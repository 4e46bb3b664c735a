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
from eip.models.registry import new_backbone
from eip.potential import Differentiable, Potential

N = TypeVar("N", bound="NetworkPotential")


@dataclass(frozen=True)
class Pass:
    """One forward pass, not differentiated yet: ``graph`` is what the network saw of it."""

    graph: AtomGraph
    output: EnergyOutput
    positions: Tensor
    strain: Tensor | None

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
        backbone: one of `eip.models.registry.BACKBONES`.
        channels, interactions, radial_functions, cutoff: see the backbone; None is its default.
        mean_neighbors, feature_limit: see `eip.models.cartesian_ace.CartesianACE`; of that
            backbone alone.
        zbl: adds the ZBL repulsion at short range.
        dropout: see `eip.models.energy.EnergyModel`.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int],
        element_energies: Mapping[int, float],
        force_scale: float,
        channels: int = 128,
        interactions: int = 3,
        radial_functions: int | None = None,
        cutoff: float = 5.0,
        zbl: bool = False,
        dropout: float = 0.0,
        backbone: str = "painn",
        mean_neighbors: float | None = None,
        feature_limit: float | None = None,
    ) -> None:
        super().__init__()
        elements = tuple(sorted(int(z) for z in elements))
        options = {
            "channels": channels,
            "interactions": interactions,
            "radial_functions": radial_functions,
            "cutoff": cutoff,
            "mean_neighbors": mean_neighbors,
            "feature_limit": feature_limit,
        }
        options = {key: value for key, value in options.items() if value is not None}
        network = new_backbone(backbone, len(elements), **options)
        self.energy_model = EnergyModel(
            network, elements, element_energies, force_scale, zbl, dropout
        )
        self._network = {
            "backbone": backbone,
            **options,
            "radial_functions": network.radial_functions,
            "zbl": zbl,
        }

    @property
    def cutoff(self) -> float:
        return self.energy_model.backbone.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self.energy_model.elements

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        energies = self.energy_model.element_energies
        return {
            "elements": list(self.elements),
            "element_energies": {str(z): energy for z, energy in energies.items()},
            "force_scale": self.energy_model.force_scale,
            **self._network,
        }

    @classmethod
    def from_settings(cls: type[N], settings: dict[str, Any]) -> N:
        energies = {int(z): energy for z, energy in settings["element_energies"].items()}
        return cls(**{**settings, "element_energies": energies})

    @contextmanager
    def run(
        self, graph: AtomGraph, *, forces: bool, stress: bool, differentiable: Differentiable
    ) -> Iterator[Pass]:
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
            output = self.energy_model(graph, frozen=differentiable != "everything")
            yield Pass(graph, output, positions, strain)
            # Nobody else holds them: a loss of forces need not be differentiated down to them,
            # which would take second derivatives of the geometry.
            for leaf in (positions if ours else None, strain):
                if leaf is not None:
                    leaf.requires_grad_(False)
