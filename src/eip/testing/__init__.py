"""What must hold for every backbone and every potential, as tests that anyone can run on theirs.

    from eip.testing import check_backbone, check_potential, check_uncertainty

    check_potential(MyPotential())                  # on structures made up for its elements
    check_potential(MyPotential(), list_of_atoms)   # and on yours
    check_backbone(MyBackbone(), elements=(1, 8))
    check_uncertainty(MyPotential(), list_of_atoms)  # σ, at home and far from it
    check_engine(evaluate, potential)               # an engine says what ASE says

Each law is a function of its own, so that a test can demand one alone; ``POTENTIAL_LAWS`` and
``BACKBONE_LAWS`` list them. A law that is broken raises `ContractViolation`, which says by how
much. All laws but `check_precision` are held against a float64 copy: in float32 a small violation
and rounding look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ase import Atoms

from eip.models.backbone import Backbone
from eip.potential import Potential
from eip.testing.contract import (
    DERIVATIVE_TOLERANCE,
    PRECISION_TOLERANCE,
    TOLERANCE,
    ContractViolation,
    in_float64,
    subject_of_backbone,
)
from eip.testing.derivatives import check_forces, check_stress, check_uncertainty_gradient
from eip.testing.drift import EnergyDrift, energy_drift
from eip.testing.engines import check_engine, engine_structures
from eip.testing.ladders import (
    Ascent,
    Ladder,
    check_ladders,
    check_uncertainty,
    climb,
    ladders,
)
from eip.testing.locality import check_isolated_atoms, check_smoothness
from eip.testing.predictions import check_elements, check_precision, check_prediction
from eip.testing.scans import BondScan, scan_bonds
from eip.testing.structures import example_structures
from eip.testing.symmetries import (
    check_batching,
    check_beyond_cutoff,
    check_permutation,
    check_reflection,
    check_rotation,
    check_supercell,
    check_translation,
    check_wrapping,
)

__all__ = [
    "BACKBONE_LAWS",
    "POTENTIAL_LAWS",
    "Ascent",
    "BondScan",
    "ContractViolation",
    "EnergyDrift",
    "Ladder",
    "check_backbone",
    "check_batching",
    "check_beyond_cutoff",
    "check_elements",
    "check_engine",
    "check_forces",
    "check_isolated_atoms",
    "check_ladders",
    "check_permutation",
    "check_potential",
    "check_precision",
    "check_prediction",
    "check_reflection",
    "check_rotation",
    "check_smoothness",
    "check_stress",
    "check_supercell",
    "check_translation",
    "check_uncertainty",
    "check_uncertainty_gradient",
    "check_wrapping",
    "climb",
    "energy_drift",
    "engine_structures",
    "example_structures",
    "ladders",
    "scan_bonds",
]

#: What both keep.
SYMMETRY_LAWS = (
    check_rotation,
    check_reflection,
    check_translation,
    check_permutation,
    check_wrapping,
    check_batching,
    check_beyond_cutoff,
    check_supercell,
    check_isolated_atoms,
    check_smoothness,
)
DERIVATIVE_LAWS = (check_forces, check_stress, check_uncertainty_gradient)
POTENTIAL_LAWS = (*SYMMETRY_LAWS, *DERIVATIVE_LAWS, check_precision)
BACKBONE_LAWS = SYMMETRY_LAWS


def check_potential(
    potential: Potential,
    structures: Sequence[Atoms] | None = None,
    *,
    tolerance: float = TOLERANCE,
    derivative_tolerance: float = DERIVATIVE_TOLERANCE,
    precision_tolerance: float = PRECISION_TOLERANCE,
    seed: int = 0,
) -> None:
    """Holds all laws of a potential against it.

    Args:
        potential: any; it is copied, not changed.
        structures: by default `example_structures` of its elements. Give weights that matter: a
            force or an uncertainty that is zero everywhere keeps every law.
        tolerance, derivative_tolerance, precision_tolerance: see `eip.testing.contract`.
        seed: of rotations, permutations and displacements.

    Raises:
        ContractViolation: with the first law that is broken.
    """
    if structures is None:
        structures = example_structures(potential.elements, potential.cutoff, seed=seed)
    check_prediction(potential, structures)
    check_elements(potential)
    potential = in_float64(potential)
    for law in SYMMETRY_LAWS:
        law(potential, structures, tolerance=tolerance, seed=seed)
    for derivative_law in DERIVATIVE_LAWS:
        derivative_law(potential, structures, tolerance=derivative_tolerance, seed=seed)
    check_precision(potential, structures, tolerance=precision_tolerance, seed=seed)


def check_backbone(
    backbone: Backbone | Callable[[], Backbone],
    elements: Sequence[int],
    structures: Sequence[Atoms] | None = None,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Holds the symmetries of a backbone against it: scalars stay, vectors turn.

    Args:
        backbone: one, or a function that makes one; it is copied, not changed.
        elements: atomic numbers in the order of its species index.
        structures: by default `example_structures` of the elements.

    Raises:
        ContractViolation: with the first law that is broken.
    """
    made = backbone if isinstance(backbone, Backbone) else backbone()
    subject = subject_of_backbone(made, tuple(elements))
    if structures is None:
        structures = example_structures(subject.elements, subject.cutoff, seed=seed)
    for law in SYMMETRY_LAWS:
        law(subject, structures, tolerance=tolerance, seed=seed)
