"""What verbs tell a person as they go."""

from __future__ import annotations

from collections.abc import Callable

from ase.data import chemical_symbols

from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.latent_distance import LatentDistancePotential

#: Takes text, or a table of rich.
Log = Callable[[object], None]


def silent(message: object) -> None:
    """Shows nothing."""


def latent_distance_text(potential: LatentDistancePotential) -> str:
    """How σ goes with the evidence and the latent distance."""
    return (
        f"σ goes with the evidence to the power {potential.sigma_exponent:.2g}, with the distance "
        f"from the training atoms to the power {potential.distance_exponent:.2g}, and with that of "
        f"the neighbors to the power {potential.neighborhood_exponent:.2g}."
    )


def calibration_text(potential: CalibratedPotential) -> str:
    """By how much σ was scaled, and on what."""
    c = potential.calibration
    by_element = ", ".join(f"{chemical_symbols[z]} {f:.3g}" for z, f in c.element_factors.items())
    return (
        f"Calibrated on {c.n_frames} frames: σ is scaled by {c.factor:.3g}"
        + (f" ({by_element})" if by_element else "")
        + " and is an error bar in eV/Å from here on."
    )
