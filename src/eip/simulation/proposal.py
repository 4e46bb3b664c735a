"""What bias of uncertainty-driven dynamics suits a potential and a system."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float

from eip.errors import InputError
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.simulation.bias import UDDParameters, bias_forces, sigma_of
from eip.simulation.settings import usual_limiter
from eip.units import BOLTZMANN


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


class FlatUncertainty(InputError):
    """σ does not change where it was asked, so nothing can be driven by it."""


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
        raise FlatUncertainty(
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
        sigma = sigma_of(prediction)
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
