"""What a potential is, and what it says of a structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.neighbors import build_graph

#: What the caller will differentiate afterwards. "nothing": the prediction is detached.
#: "uncertainty": energy and the uncertainties stay attached to the graph's positions, so that a
#: bias built of σ has a gradient (UDD); forces need not. "everything": forces too (training).
Differentiable = Literal["nothing", "uncertainty", "everything"]


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch of structures. Energies eV, lengths Å.

    "uncertainty" is always a standard deviation in the unit of the thing itself; a variance or a
    covariance says so in its name. A field is None where it was not asked for or where the
    potential has no such thing (a global head has no uncertainty by atom, say).

    Attributes:
        energy: total energy, eV, float64 whatever the dtype of the network.
        forces: eV/Å.
        stress: (1/V) ∂E/∂ε, eV/Å³, ASE's sign.
        force_uncertainty: σ_i of each atom's force, eV/Å (SPEC eq. 6); epistemic.
        force_covariance: U_i, (eV/Å)², epistemic; rotates with the structure.
        force_aleatoric: standard deviation of the noise in the labels, eV/Å.
        energy_uncertainty: eV, only of methods that put evidence on the energy.
        uncertainty: σ of a structure, the mean of its atoms' σ_i, eV/Å (SPEC eq. 7).
        features: what the network knows of each atom's surroundings and rotation leaves alone, for
            distances in latent space.
        energy_bias, forces_bias: what a bias added; ``energy`` and ``forces`` never hold it.
        evidence: the distribution's own parameters, for the loss; its type belongs to the method.
    """

    energy: Float[Tensor, "frames"]
    forces: Float[Tensor, "atoms 3"] | None = None
    stress: Float[Tensor, "frames 3 3"] | None = None
    force_uncertainty: Float[Tensor, "atoms"] | None = None
    force_covariance: Float[Tensor, "atoms 3 3"] | None = None
    force_aleatoric: Float[Tensor, "atoms"] | None = None
    energy_uncertainty: Float[Tensor, "frames"] | None = None
    uncertainty: Float[Tensor, "frames"] | None = None
    features: Float[Tensor, "atoms channels"] | None = None
    energy_bias: Float[Tensor, "frames"] | None = None
    forces_bias: Float[Tensor, "atoms 3"] | None = None
    evidence: object | None = None

    def rescaled(
        self,
        graph: AtomGraph,
        sigma: Float[Tensor, "atoms"],
        covariance_factor: Float[Tensor, "atoms"],
    ) -> Prediction:
        """With another σ_i, which σ of the structure follows, and U_i times a factor, if any."""
        covariance = self.force_covariance
        if covariance is not None:
            covariance = covariance * covariance_factor[:, None, None]
        return replace(
            self,
            force_uncertainty=sigma,
            force_covariance=covariance,
            uncertainty=graph.mean_by_frame(sigma),
        )

    def detach(self) -> Prediction:
        """The same figures, cut off from automatic differentiation, without the evidence."""
        return self._map(Tensor.detach)

    def to(self, device: torch.device | str) -> Prediction:
        """The same figures on another device, without the evidence."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        mapped: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            mapped[field.name] = function(value) if isinstance(value, Tensor) else None
        return Prediction(**mapped)


def concatenate(predictions: Sequence[Prediction]) -> Prediction:
    """The predictions of several batches as one; a field that one batch lacks is None."""
    joined: dict[str, Any] = {}
    for field in fields(Prediction):
        values = [getattr(p, field.name) for p in predictions]
        joined[field.name] = (
            torch.cat(values) if all(isinstance(v, Tensor) for v in values) else None
        )
    return Prediction(**joined)


class Potential(nn.Module, ABC):
    """Structures in, one `Prediction` out.

    Calibration, bias and ensembles wrap a potential and are potentials themselves; dynamics,
    evaluation and the ASE calculator know nothing but this class.
    """

    @property
    @abstractmethod
    def cutoff(self) -> float:
        """Å; the graph must hold every pair closer than this."""

    @property
    @abstractmethod
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the potential was made for, ascending."""

    @abstractmethod
    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        """Predicts a batch.

        With ``differentiable`` other than "nothing", the caller makes ``graph.positions`` require
        gradients and differentiates energy or uncertainties with respect to them.

        Edges longer than the cutoff must change nothing: a Verlet list brings some.
        """

    def predict(
        self,
        structures: Atoms | Sequence[Atoms],
        *,
        forces: bool = True,
        stress: bool = False,
        atoms_per_batch: int | None = None,
    ) -> Prediction:
        """Predicts ASE structures, in batches of about ``atoms_per_batch`` atoms.

        By default 1,024 on a CPU, whose cache then holds what a batch leaves behind, and 16,384 on
        a GPU, which wants more work at once.

        Atoms of all structures follow each other in ``forces`` and the other per-atom fields, in
        the order given. The result is detached and on the CPU.

        Raises:
            ValueError: if there is no structure, or one is empty or not finite.
            InputError: if an element occurs that the potential was not made for.
        """
        if atoms_per_batch is None:
            atoms_per_batch = 1024 if self.device.type == "cpu" else 16384
        structures = [structures] if isinstance(structures, Atoms) else list(structures)
        if not structures:
            raise ValueError("predict needs at least one structure, got none")
        parts, start, atoms_so_far = [], 0, 0
        for index, atoms in enumerate(structures):
            atoms_so_far += len(atoms)
            last = index == len(structures) - 1
            if last or atoms_so_far + len(structures[index + 1]) > atoms_per_batch:
                graph = build_graph(
                    structures[start : index + 1], self.cutoff, dtype=self.dtype, device=self.device
                )
                part = self(graph, forces=forces, stress=stress).detach()
                parts.append(part.to("cpu"))
                start, atoms_so_far = index + 1, 0
        return concatenate(parts)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that graphs must have."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class WrappedPotential(Potential):
    """A potential round another, which it is like in all but what it says."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def elements(self) -> tuple[int, ...]:
        return self.potential.elements

    @property
    def dtype(self) -> torch.dtype:
        return self.potential.dtype

    @property
    def device(self) -> torch.device:
        return self.potential.device
