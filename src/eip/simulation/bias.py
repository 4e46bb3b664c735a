"""Uncertainty-driven dynamics (UDD): a bias that pushes a structure to where the potential errs.

======================  =======  ===============================================================
A                       eV       depth of the bias: E_bias falls from 0 to −A as σ grows
B                       eV/Å     width: the push fades once σ passes B √N
C                       eV/Å     bias force that the limiter lets through best (saturating: 0.71)
D                       eV/Å     height of the limiter; the largest limited force is 0.242 D
hover                   –        extrapolation grade at which the push turns round, if it shall
memory                  fs       time that a run averages the bias force over, if it shall
soft                    –        whether the push goes along what is soft
interval                steps    between two pushes of a run, each as strong as all it stands for
σ                       eV/Å     uncertainty of a structure, mean of its σ_i (theory, eq. 7)
======================  =======  ===============================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.errors import InputError, did_you_mean
from eip.graph import AtomGraph
from eip.potential import Differentiable, Potential, WrappedPotential
from eip.prediction import Prediction
from eip.simulation.settings import Limiter
from eip.simulation.softness import softened
from eip.uncertainty.guard import EDGE

#: Largest limited force over D: e^{−½}/√(2π), reached at ‖F_bias‖ = C.
LARGEST_OVER_D = math.exp(-0.5) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class UDDParameters:
    """A [eV], B, C, D [eV/Å] and what becomes of the push; see the table of the module.

    σ is steepest along what is stiff: the push of the moment follows the vibrations of bonds,
    outwards at each of their ends. A soft one turns to what gives way: torsions, diffusion, the
    way over a barrier. A memory's mean over some vibrations holds none of them either.

    A push every few steps is the integrator of multiple time steps (Tuckerman et al. 1992): the
    bias varies slowly, and its cost is shared by all steps up to the next.

    Raises:
        InputError: if one is not positive and finite, hover is not above 1, or the limiter is
            unknown.
    """

    A: float
    B: float
    C: float
    D: float
    limiter: str = "global"
    hover: float | None = None
    memory: float | None = None
    soft: bool = False
    interval: int = 1

    def __post_init__(self) -> None:
        units = {"A": "eV", "B": "eV/Å", "C": "eV/Å", "D": "eV/Å", "memory": "fs"}
        for name, unit in units.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"UDD needs {name} > 0 {unit}, got {value}")
        if self.hover is not None and not (math.isfinite(self.hover) and self.hover > EDGE):
            raise InputError(
                f"UDD hovers at an extrapolation grade above {EDGE:g}, the edge of what was seen; "
                f"got {self.hover}"
            )
        if not (isinstance(self.interval, int) and self.interval >= 1):
            raise InputError(f"UDD needs an interval of 1 step or more, got {self.interval}")
        if self.limiter not in get_args(Limiter):
            raise InputError(
                f"unknown limiter '{self.limiter}': "
                f"{did_you_mean(str(self.limiter), get_args(Limiter))}"
            )

    @classmethod
    def from_max_force(
        cls, A: float, B: float, C: float, max_bias_force: float, *more: Any, **named: Any
    ) -> UDDParameters:
        """With the largest limited force, eV/Å, in place of D; the others as they are."""
        return cls(A, B, C, max_bias_force / LARGEST_OVER_D, *more, **named)

    @property
    def max_bias_force(self) -> float:
        """Largest limited force, eV/Å: 0.242 D. With "atom", before the net force is removed."""
        return LARGEST_OVER_D * self.D

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"max_bias_force": self.max_bias_force}
        for field in fields(self):
            if field.name != "limiter" and values[field.name] == field.default:
                del values[field.name]  # runs of before there was one go on
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UDDParameters:
        """From what `as_dict` gave."""
        return cls(**{of.name: values[of.name] for of in fields(cls) if of.name in values})


def bias_energy(
    sigma: Float[Tensor, "frames"],
    n_atoms: Int[Tensor, "frames"],
    A: float,
    B: float,
    limiter: str = "global",
) -> Float[Tensor, "frames"]:
    """E_bias = A [exp(−σ²/(N B²)) − 1], eV, float64 (eq. 12).

    With the saturating limiter it is −A ln[1 + σ²/(N B²)], the same where σ is small, whose slope
    does not fade where it is large.
    """
    exponent = sigma.double() ** 2 / (n_atoms.double() * B**2)
    # Where σ is small exp(…) − 1 and ln(1 + …) would cancel.
    return -A * torch.log1p(exponent) if limiter == "saturating" else A * torch.expm1(-exponent)


def limit_bias(
    forces_bias: Float[Tensor, "atoms 3"], graph: AtomGraph, C: float, D: float, limiter: str
) -> Float[Tensor, "atoms 3"]:
    """F_lim = F_bias · D/(√(2π) C) · exp(−F²/(2C²)), eV/Å (eq. 14); `Limiter` says what F is.

    The largest F_lim, 0.242 D, is reached at F = C. With the saturating limiter F_lim comes to it
    as F grows, from below: F_lim = 0.242 D · F_bias/√(F² + C²).
    """
    if limiter == "component":
        force = forces_bias.abs()
    else:
        force = torch.linalg.vector_norm(forces_bias, dim=1, keepdim=True)
    if limiter in ("global", "saturating"):
        force = graph.largest_by_frame(force[:, 0])[graph.frame][:, None]
    if limiter == "saturating":
        gain = LARGEST_OVER_D * D / torch.sqrt(force**2 + C**2)
    else:
        gain = D / (math.sqrt(2 * math.pi) * C) * torch.exp(-(force**2) / (2 * C**2))
    limited = forces_bias * gain
    if limiter == "atom":
        limited = limited - graph.mean_by_frame(limited)[graph.frame]
    return limited


def turn_round(
    forces_bias: Float[Tensor, "atoms 3"],
    grade: Float[Tensor, "atoms"],
    graph: AtomGraph,
    hover: float,
) -> Float[Tensor, "atoms 3"]:
    """Whole as long as no atom is beyond what was seen, none where the largest grade is ``hover``,
    back towards what is known, at most as strong, where it is larger."""
    largest = graph.largest_by_frame(grade)
    push = ((hover - largest) / (hover - EDGE)).clamp(-1.0, 1.0)
    return forces_bias * push.to(forces_bias.dtype)[graph.frame][:, None]


class UDDPotential(WrappedPotential):
    """A potential with the bias of UDD beside its predictions.

    ``energy``, ``forces`` and ``stress`` stay the unbiased ones of the wrapped potential; the bias
    is in ``energy_bias`` (eq. 12) and ``forces_bias`` (eq. 14, limited). The limited force is in
    general the gradient of no energy, so energy + energy_bias is no conserved quantity.

    Args:
        potential: has to give ``uncertainty``.
        udd: the bias; its memory and interval are a run's, what is said here is of the moment.

    Raises:
        InputError: at the first prediction, if the potential gives no uncertainty, or no
            extrapolation grade to hover at.
    """

    def __init__(self, potential: Potential, udd: UDDParameters) -> None:
        super().__init__(potential)
        self.parameters_udd = udd

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        udd = self.parameters_udd
        detached = differentiable == "nothing"
        with torch.enable_grad():
            if detached:
                graph = graph.with_positions(graph.positions.detach().requires_grad_())
            prediction = self.potential(
                graph,
                forces=forces,
                stress=stress,
                differentiable="uncertainty" if detached else differentiable,
            )
            energy = bias_energy(
                sigma_of(prediction), graph.atoms_per_frame, udd.A, udd.B, udd.limiter
            )
            prediction = replace(prediction, energy_bias=energy)
            if forces:
                unlimited = bias_forces(
                    energy,
                    graph.positions,
                    retain=not detached,
                    create=differentiable == "everything",
                )
                if udd.soft:
                    with torch.set_grad_enabled(differentiable == "everything"):
                        unlimited = softened(unlimited, graph, self.cutoff)
                limited = limit_bias(unlimited, graph, udd.C, udd.D, udd.limiter)
                if udd.hover is not None:
                    limited = turn_round(limited, _grade(prediction), graph, udd.hover)
                prediction = replace(prediction, forces_bias=limited)
        return prediction.detach() if detached else prediction


def bias_forces(
    energy_bias: Float[Tensor, "frames"],
    positions: Float[Tensor, "atoms 3"],
    *,
    retain: bool = False,
    create: bool = False,
) -> Float[Tensor, "atoms 3"]:
    """F_bias = −∂E_bias/∂R before the limiter, eV/Å; zero where σ knows no positions.

    A structure's σ depends on its own atoms alone, so the sum over structures has for gradient
    the gradient of each.
    """
    if not energy_bias.requires_grad:
        return torch.zeros_like(positions)
    (gradient,) = torch.autograd.grad(
        energy_bias.sum(),
        positions,
        retain_graph=retain or create,
        create_graph=create,
        allow_unused=True,
    )
    return torch.zeros_like(positions) if gradient is None else -gradient


def sigma_of(prediction: Prediction) -> Float[Tensor, "frames"]:
    """σ of each structure.

    Raises:
        InputError: if the potential gives none.
    """
    if prediction.uncertainty is None:
        raise InputError(
            "UDD follows the uncertainty of a potential, and this one gives none; train one with "
            "an evidential head, or use an ensemble"
        )
    return prediction.uncertainty


def _grade(prediction: Prediction) -> Float[Tensor, "atoms"]:
    if prediction.extrapolation_grade is None:
        raise InputError(
            "UDD is to hover at an extrapolation grade, and this potential gives none; "
            "eip calibrate MODEL FRAMES --trained-on TRAINING gives it a guard"
        )
    return prediction.extrapolation_grade
