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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int
from torch import Tensor

from eip.errors import InputError, did_you_mean
from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.potential import Differentiable, Potential, WrappedPotential
from eip.prediction import Prediction
from eip.simulation.settings import Limiter, usual_limiter
from eip.simulation.softness import softened
from eip.uncertainty.guard import EDGE
from eip.units import BOLTZMANN

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
        A, B, C, D: see `UDDParameters`.
        max_bias_force: instead of D, the largest limited force, eV/Å.
        hover: see `turn_round`: a run stays where frames are new and still worth a label.
        soft: the push goes along what gives way, see `eip.simulation.softness`.
        memory, interval: of a run (see `UDDParameters`); what is said here is of the moment.

    Raises:
        InputError: if a parameter is not positive, or not exactly one of D and max_bias_force is
            given; at the first prediction, if the potential gives no uncertainty, or no
            extrapolation grade to hover at.
    """

    def __init__(
        self,
        potential: Potential,
        A: float,
        B: float,
        C: float,
        D: float | None = None,
        limiter: str = "global",
        *,
        max_bias_force: float | None = None,
        hover: float | None = None,
        memory: float | None = None,
        soft: bool = False,
        interval: int = 1,
    ) -> None:
        super().__init__(potential)
        if (D is None) == (max_bias_force is None):
            raise InputError(
                f"UDD needs either D or max_bias_force, got D={D} and "
                f"max_bias_force={max_bias_force}"
            )
        parameters = (
            UDDParameters(A, B, C, D, limiter)
            if D is not None
            else UDDParameters.from_max_force(A, B, C, max_bias_force or 0.0, limiter)
        )
        self.parameters_udd = replace(
            parameters, hover=hover, memory=memory, soft=soft, interval=interval
        )

    @classmethod
    def of(cls, potential: Potential, udd: UDDParameters) -> UDDPotential:
        """With parameters that are there already."""
        return cls(potential, **{of.name: getattr(udd, of.name) for of in fields(udd)})

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
                _sigma(prediction), graph.atoms_per_frame, udd.A, udd.B, udd.limiter
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


def _sigma(prediction: Prediction) -> Float[Tensor, "frames"]:
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


@dataclass(frozen=True)
class UDDProposal:
    """Parameters of UDD, with the figures that they were derived from; see `propose_udd`.

    Attributes:
        parameters: the proposal.
        temperature: K.
        n_frames, n_atoms: structures looked at, and the median of their atoms.
        sigma: median σ, eV/Å.
        force_rms: root mean square ‖F_i‖ in the structures, eV/Å.
        force_thermal: the same at thermal equilibrium, eV/Å, from the curvature of the energy.
        width: σ, in units of today's, at which the push fades.
        fraction: largest bias force over the larger of the two forces above.
        median_force, high_force: median and 95 % quantile of the structures' largest ‖F_bias‖
            before the limiter, eV/Å.
    """

    parameters: UDDParameters
    temperature: float
    n_frames: int
    n_atoms: float
    sigma: float
    force_rms: float
    force_thermal: float
    width: float
    fraction: float
    median_force: float
    high_force: float

    def explain(self) -> str:
        """The reasoning with its figures, a few lines of text."""
        p = self.parameters
        typical = self.median_force / p.C
        if p.limiter == "saturating":
            felt, why = typical / math.hypot(typical, 1.0), "0.3 of that"
            until = "up to there the push grows with σ, beyond it with its relative slope"
        else:
            felt = typical * math.exp(0.5 * (1 - typical**2))
            why = f"twice that, or the 95 % quantile {self.high_force:.3g} eV/Å if larger"
            until = f"so the push fades once σ has grown {self.width:g}-fold"
        kelvin = p.A / BOLTZMANN
        often = "" if p.interval == 1 else f", {p.interval} times that at every {p.interval}th step"
        return "\n".join(
            [
                f"UDD parameters from {self.n_frames} structure(s) of {self.n_atoms:g} atoms at "
                f"{self.temperature:g} K, where σ = {self.sigma:.4g} eV/Å and the RMS force is "
                f"{self.force_rms:.3g} eV/Å ({self.force_thermal:.3g} expected at this temperature "
                f"from the curvature of the energy).",
                f"B = {p.B:.4g} eV/Å: σ²/(N B²) is 1 at {self.width:g} times today's σ, {until}.",
                f"D = {p.D:.4g} eV/Å: no atom feels more bias than 0.242 D = "
                f"{p.max_bias_force:.3g} eV/Å, {self.fraction:.0%} of the force scale{often}.",
                f"A = {p.A:.4g} eV ({kelvin:.3g} K): before the limiter the most biased atom of a "
                f"typical structure then feels {self.median_force:.3g} eV/Å, as much as the limit.",
                f"C = {p.C:.4g} eV/Å: {why}; of a typical structure's bias {felt:.0%} of the limit "
                f"come through.",
            ]
        )


def propose_udd(
    potential: Potential,
    frames: Atoms | Iterable[Any],
    temperature: float,
    *,
    width: float = 3.0,
    fraction: float = 0.3,
    limiter: str | None = None,
    **more: Any,
) -> UDDProposal:
    """Proposes A, B, C, D from the model's own σ, its gradient, and the force scale.

    Frames of a short run at the temperature are best; a single relaxed structure knows nothing of
    thermal σ gradients. Only A/C and A/(N B²) matter for direction and size of the limited force,
    so A is settled by convention: typical F_bias before the limiter = largest after it.

    Args:
        frames: ASE structures, or anything with ``to_atoms()``.
        temperature: K.
        width: the push fades where σ is this many times today's; with the saturating limiter it
            does not.
        fraction: largest bias force, as part of the force scale: the larger of the RMS ‖F_i‖ of
            the frames and the one expected at the temperature.
        limiter: see `Limiter`; None: as `usual_limiter` has it.
        more: of `UDDParameters` by name, what is not proposed: hover, memory, soft, interval.

    Raises:
        InputError: if the potential gives no uncertainty, or one that knows no positions.
    """
    structures = [frames] if isinstance(frames, Atoms) else list(frames)
    structures = [s if isinstance(s, Atoms) else s.to_atoms() for s in structures]
    if not structures:
        raise InputError("propose_udd needs at least one structure, got none")
    limiter = limiter or usual_limiter(more.get("hover"))
    for name, value in (("temperature", temperature), ("width", width), ("fraction", fraction)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"propose_udd needs {name} > 0, got {value}")

    looked = [_look(potential, atoms) for atoms in structures]
    n_atoms = np.array([len(atoms) for atoms in structures], dtype=np.float64)
    sigma = np.array([s for s, _, _ in looked])
    steepest = np.array([g for _, g, _ in looked])
    force_rms = math.sqrt(np.average([f for _, _, f in looked], weights=n_atoms))
    if not (steepest.max() > 0 and np.isfinite(steepest).all()):
        raise InputError(
            f"UDD cannot follow this σ: its gradient over {len(structures)} structure(s) is "
            f"{'zero' if np.isfinite(steepest).all() else 'not finite'}"
        )
    force_thermal = _thermal_force(potential, structures[0], temperature)
    force_scale = max(force_rms, force_thermal)

    B = width * math.sqrt(float(np.median(sigma**2 / n_atoms)))
    exponent = sigma**2 / (n_atoms * B**2)
    fading = 1.0 / (1.0 + exponent) if limiter == "saturating" else np.exp(-exponent)
    by_unit_A = fading * steepest / (n_atoms * B**2)
    largest = fraction * force_scale
    A = largest / float(np.median(by_unit_A[by_unit_A > 0]))
    median_force, high_force = np.quantile(A * by_unit_A, [0.5, 0.95]).tolist()
    C = 0.3 * median_force if limiter == "saturating" else max(2 * median_force, high_force)
    return UDDProposal(
        parameters=UDDParameters.from_max_force(A, B, C, largest, limiter, **more),
        temperature=temperature,
        n_frames=len(structures),
        n_atoms=float(np.median(n_atoms)),
        sigma=float(np.median(sigma)),
        force_rms=force_rms,
        force_thermal=force_thermal,
        width=width,
        fraction=fraction,
        median_force=median_force,
        high_force=high_force,
    )


def _look(potential: Potential, atoms: Atoms) -> tuple[float, float, float]:
    """σ, largest ‖∂σ²/∂R_i‖ and mean ‖F_i‖² of a structure."""
    graph = build_graph(atoms, potential.cutoff, device=potential.device)
    graph = graph.with_positions(graph.positions.requires_grad_())
    with torch.enable_grad():
        prediction = potential(graph, differentiable="uncertainty")
        sigma = _sigma(prediction)
        # The force of a bias −σ² is the gradient of σ².
        gradient = bias_forces(-(sigma.double() ** 2), graph.positions)
    assert prediction.forces is not None
    return (
        float(sigma.detach()[0]),
        float(torch.linalg.vector_norm(gradient, dim=1).max()),
        float((prediction.forces.detach() ** 2).sum(1).mean()),
    )


def _thermal_force(
    potential: Potential, atoms: Atoms, temperature: float, probes: int = 4, step: float = 0.01
) -> float:
    """RMS ‖F_i‖ expected at a temperature, eV/Å.

    By equipartition <F·F> = kT <∇²E>; the Laplacian by Hutchinson's estimate, vᵀHv over random
    signs v, with Hv by central differences of forces. Zero where the curvature is negative.
    """
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(probes, len(atoms), 3))
    moved: list[Atoms] = []
    for v in signs:
        for sign in (1, -1):
            moved.append(atoms.copy())
            moved[-1].positions += sign * step * v
    forces = np.array([_forces(potential, one) for one in moved]).reshape(probes, 2, -1, 3)
    laplacian = float((signs * (forces[:, 1] - forces[:, 0])).sum((1, 2)).mean() / (2 * step))
    return math.sqrt(max(BOLTZMANN * temperature * laplacian, 0.0) / len(atoms))


def _forces(potential: Potential, atoms: Atoms) -> Float[np.ndarray, "atoms 3"]:
    graph = build_graph(atoms, potential.cutoff, device=potential.device)
    forces = potential(graph).forces
    return forces.detach().cpu().numpy().astype(np.float64)
