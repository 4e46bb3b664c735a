"""What verbs tell a person as they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ase.data import chemical_symbols

from eip.composition import OpenEnergies
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.energy_error import EnergyErrorPotential
from eip.uncertainty.guard import Guard
from eip.uncertainty.latent_distance import LatentDistancePotential

#: Takes text, or a table of rich.
Log = Callable[[object], None]


def silent(message: object) -> None:
    """Shows nothing."""


#: How a model comes to a guard (`eip.uncertainty.guard`).
CALIBRATE_GIVES = "eip calibrate MODEL FRAMES gives it one"
TRAINING_GIVES = (
    "a guard needs the training frames as well, for the distances of others from them; eip "
    "calibrate MODEL FRAMES --trained-on TRAINING_FRAMES gives it one"
)


def latent_distance_text(potential: LatentDistancePotential) -> str:
    """How σ goes with the evidence and the latent distance, and what it is at least far away."""
    powers = (
        potential.sigma_exponent,
        potential.distance_exponent,
        potential.neighborhood_exponent,
    )
    fitted = (
        f"σ goes with the evidence to the power {powers[0]:.2g}, with the distance from the "
        f"training atoms to the power {powers[1]:.2g}, and with that of the neighbors to the power "
        f"{powers[2]:.2g}. "
    )
    guard = potential.guard
    said = "" if powers == (1.0, 0.0, 0.0) else fitted
    return said + ("" if guard is None else guard_text(guard))


def guard_text(guard: Guard) -> str:
    """From where on σ grows whatever was fitted."""
    return (
        f"Beyond the range of {guard.n_atoms} held-out atoms (extrapolation grade above 1) σ grows "
        f"by up to {guard.strength:g} of the forces' size for each step of the grade."
    )


def energy_error_text(potential: EnergyErrorPotential) -> str:
    """That energies have an error bar, and how large it is elsewhere."""
    text = "Energies have an error bar, from the last layer and the validation frames' energies"
    if potential.open_scales:
        text += (
            f"; of other compositions it is of the order of {max(potential.open_scales):.2g} eV "
            "for each atom that is another"
        )
    return text + "."


def sentence(groups: Sequence[OpenEnergies]) -> str:
    """What training frames leave open, in one line."""
    text = "; ".join(group.text() for group in groups)
    return f"{text[:1].upper()}{text[1:]}."


def calibration_text(potential: CalibratedPotential) -> str:
    """By how much σ was scaled, and on what."""
    c = potential.calibration
    by_element = ", ".join(f"{chemical_symbols[z]} {f:.3g}" for z, f in c.element_factors.items())
    return (
        f"Calibrated on {c.n_frames} frames: σ is scaled by {c.factor:.3g}"
        + (f" ({by_element})" if by_element else "")
        + " and is an error bar in eV/Å from here on."
    )
