"""torch-sim: many structures at once, each with its σ.

import torch_sim as ts
from eip.engines.torchsim import EIPModel

model = EIPModel("model.eip")
state = ts.integrate(structures, model, integrator=ts.nvt_langevin, n_steps=1000,
                     temperature=300, timestep=0.0005)
sigma = model(state)["force_uncertainty"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from eip.engines.lists import VerletLists
from eip.errors import InputError
from eip.potential import Potential, layers, prepared
from eip.prediction import check_finite
from eip.simulation.bias import UDDPotential
from eip.simulation.calculator import as_potential

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
except ImportError as error:
    raise ImportError(
        "eip.engines.torchsim needs torch-sim, which is not installed: pip install 'eip[torchsim]'"
    ) from error


class EIPModel(ModelInterface):
    """A potential as torch-sim takes models.

    ``model(state)`` gives ``energy`` (systems, eV), ``forces`` (atoms 3, eV/Å) and ``stress``
    (systems 3 3, eV/Å³; NaN where a system is periodic in no direction), and by its name whatever
    else the potential says (see `eip.prediction.Prediction`): ``force_uncertainty`` (atoms),
    ``uncertainty`` (systems), ``force_covariance`` (atoms 3 3), ``extrapolation_grade`` (atoms),
    ``energies`` (atoms), …; all detached. Energy, forces and stress never hold a bias: dynamics
    that are to feel one take a `BiasedEIPModel`.

    Between calls it keeps a neighbor list of each system, which is built anew when its atoms have
    moved.

    Args:
        model: path of a model.eip, or a potential (put into evaluation mode), of which a snapshot
            is taken.
        device: where to predict; None: as the model is.
        dtype: of states and of what is returned; the network computes in its own. In float32 a
            total energy of −10,000 eV would have 1 meV left.
        compute_forces, compute_stress: whether to.
        skin: Å beyond the cutoff that neighbor lists reach.
        memory_scales_with: what torch-sim's automatic batching takes for a measure of memory:
            "n_atoms" is right for molecules, which have no volume.

    Raises:
        InputError: at the first state with an element that the potential was not made for.
        NonFinitePrediction: where something predicted is NaN or infinite.
    """

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
        skin: float = 0.5,
        memory_scales_with: Literal["n_atoms_x_density", "n_atoms"] = "n_atoms_x_density",
    ) -> None:
        super().__init__()
        self.potential = prepared(as_potential(model, device=device))
        self._device, self._dtype = self.potential.device, dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._memory_scales_with = memory_scales_with
        self._neighbors = VerletLists(self.potential.cutoff, skin)

    @property
    def compute_forces(self) -> bool:
        """Whether forces are computed."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = compute_forces

    @property
    def compute_stress(self) -> bool:
        """Whether the stress is computed."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = compute_stress

    def forward(self, state: SimState | dict[str, Tensor]) -> dict[str, Tensor]:
        """What the potential says of the systems of a state, or of a mapping of its fields."""
        if isinstance(state, dict):
            state = SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        cell = state.row_vector_cell.double().to(self.device)
        pbc = torch.as_tensor(state.pbc, device=self.device).expand(len(cell), 3)
        graph = self._neighbors(
            *(state.atomic_numbers.to(self.device), state.positions.to(self.device)),
            *(cell, pbc, state.system_idx.to(self.device)),
        )
        if self._compute_stress and not bool(pbc.all()):
            graph = graph.in_cell(torch.where(pbc.any(dim=1)[:, None, None], cell, 0.0))
        prediction = self.potential(graph, forces=self._compute_forces, stress=self._compute_stress)
        check_finite(prediction, graph, "system {}".format)
        return {
            of.name: value.to(self._dtype) for of, value in prediction.figures() if not of.internal
        }


class BiasedEIPModel(EIPModel):
    """What drives biased dynamics: ``forces`` are forces + bias, as integrators take them.

    For a potential with a bias (`eip.UDDPotential`); without one it is the plain model. ``energy``
    and ``stress`` stay those of the potential; ``forces_bias`` and ``energy_bias`` are beside them.

    Raises:
        InputError: if the bias has a memory or pushes every few steps, which a model that sees one
            state at a time cannot do.
    """

    def __init__(self, model: str | Path | Potential, **settings: Any) -> None:
        for layer in layers(model) if isinstance(model, Potential) else ():
            udd = layer.parameters_udd if isinstance(layer, UDDPotential) else None
            if udd is not None and (udd.memory is not None or udd.interval > 1):
                raise InputError(
                    "a model of torch-sim sees one state at a time: its bias can have no memory "
                    "and no interval"
                )
        super().__init__(model, **settings)

    def forward(self, state: SimState | dict[str, Tensor]) -> dict[str, Tensor]:
        """What the potential says, with the bias in the forces."""
        said = super().forward(state)
        if "forces" in said and "forces_bias" in said:
            said["forces"] = said["forces"] + said["forces_bias"]
        return said
