"""What a labeler must keep, whatever reference method stands behind it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from eip.active_learning.labelers import Labeler, LabelFailure, bare_copy
from eip.testing.contract import ContractViolation, name_of

#: eV/Å below which forces are not used to judge a slope: zero times any factor is zero.
_SMALLEST_FORCE = 0.1


def check_labeler(
    labeler: Labeler,
    structures: Sequence[Atoms],
    folder: Path,
    *,
    tolerance: float = 1e-2,
    step: float = 5e-3,
    stress: bool = True,
    repeat_tolerance: float = 1e-6,
    failing: Labeler | None = None,
    seed: int = 0,
) -> None:
    """Holds the contract of a labeler against it; 4 labels a structure, 6 with stress.

    It returns a bare copy with finite energy and forces, leaves the structure as it was and is
    not led astray by what else that carries; it survives pickling and gives the same label again;
    its forces are the slope of its energies, −dE/dx, and its stress that over strain. The slopes
    find forces in a unit that does not go with that of the energy, and unconverged densities. An
    energy and forces that are both in Hartree only a known value can find.

    Args:
        labeler: any.
        structures: with forces, perturbed molecules say.
        folder: a scratch folder.
        tolerance: of slopes, relative to the largest force, or to 1 eV/Å if that is less; of
            stress to the largest component, or 0.01 eV/Å³.
        step: of central differences, Å along a direction of unit length; of strain a tenth of it.
        stress: whether a stress, where there is one, is held against differences.
        repeat_tolerance: of a second label, eV and eV/Å.
        failing: the same method set up so that it cannot converge; it must refuse every structure.
        seed: of the directions.

    Raises:
        ContractViolation: with the first thing that is not so.
        ValueError: if a structure's forces are too small for the check to find anything.
    """
    rng = np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        where = name_of(index, atoms)
        place = folder / f"structure-{index}"
        labelled = _check_copy(labeler, atoms, place / "first", where)
        again = pickle.loads(pickle.dumps(labeler)).label(bare_copy(atoms), place / "again")
        _check_repeated(labelled, again, repeat_tolerance, where)
        _check_forces(labeler, labelled, place, where, tolerance, step, rng)
        if stress and "stress" in labelled.calc.results:
            _check_stress(labeler, labelled, place, where, tolerance, step / 10, rng)
        if failing is not None:
            _check_failure(failing, atoms, place / "failing", where)


def _check_copy(labeler: Labeler, atoms: Atoms, folder: Path, where: str) -> Atoms:
    """The label of a structure that carries everything that must not count."""
    given = bare_copy(atoms)
    stale = np.full((len(atoms), 3), 7.0)
    given.calc = SinglePointCalculator(given, energy=7.0, forces=stale)
    given.info["energy"] = 7.0
    given.arrays["forces"] = stale.copy()
    given.set_constraint(FixAtoms([0]))
    before, calculator = given.copy(), given.calc
    labelled = labeler.label(given, folder)
    if labelled is given:
        raise ContractViolation("label_copy", f"it returned the structure itself for {where}")
    unchanged = (
        given.calc is calculator
        and given.info == before.info
        and len(given.constraints) == 1
        and set(given.arrays) == set(before.arrays)
        and all(np.array_equal(given.arrays[key], before.arrays[key]) for key in before.arrays)
        and np.array_equal(given.cell.array, before.cell.array)
        and np.array_equal(given.pbc, before.pbc)
    )
    if not unchanged:
        raise ContractViolation("label_copy", f"it changed the structure it was given, {where}")
    for key, one, other in (
        ("numbers", labelled.numbers, atoms.numbers),
        ("positions", labelled.positions, atoms.positions),
        ("cell", labelled.cell.array, atoms.cell.array),
        ("pbc", labelled.pbc, atoms.pbc),
    ):
        if not np.array_equal(one, other):
            raise ContractViolation("label_copy", f"{key} are not those of {where}", quantity=key)
    if np.shares_memory(labelled.positions, given.positions):
        raise ContractViolation("label_copy", f"it shares memory with {where}")
    if set(labelled.arrays) != {"numbers", "positions"} or labelled.info or labelled.constraints:
        raise ContractViolation(
            "label_copy", f"not bare: it carries {sorted(labelled.arrays)}, {labelled.info}"
        )
    _check_results(labelled, where)
    return labelled


def _check_results(labelled: Atoms, where: str) -> None:
    if not isinstance(labelled.calc, SinglePointCalculator):
        raise ContractViolation("label_results", f"no SinglePointCalculator on {where}")
    results = labelled.calc.results
    shapes = {"energy": (), "forces": (len(labelled), 3), "stress": (6,)}
    for name, shape in shapes.items():
        value = results.get(name)
        if value is None and name != "stress":
            raise ContractViolation("label_results", f"no {name} for {where}", quantity=name)
        if value is None:
            continue
        if np.shape(value) != shape:
            raise ContractViolation(
                "label_results", f"{name} of shape {np.shape(value)}, not {shape}", quantity=name
            )
        if not np.isfinite(value).all():
            raise ContractViolation("label_results", f"{name} not finite", quantity=name)
    if not isinstance(results["energy"], float):
        raise ContractViolation("label_results", "the energy is no float", quantity="energy")


def _check_repeated(first: Atoms, second: Atoms, allowed: float, where: str) -> None:
    for name, one in first.calc.results.items():
        other = second.calc.results.get(name)
        deviation = np.inf if other is None else float(np.abs(np.subtract(one, other)).max())
        if not deviation <= allowed:
            raise ContractViolation(
                "label_repeated",
                f"another {name} the second time, by {deviation:.2e}, for {where}",
                quantity=name,
                deviation=deviation,
                allowed=allowed,
            )


def _check_forces(
    labeler: Labeler,
    labelled: Atoms,
    folder: Path,
    where: str,
    tolerance: float,
    step: float,
    rng: np.random.Generator,
) -> None:
    forces = labelled.calc.results["forces"]
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest < _SMALLEST_FORCE:
        # Forces in a smaller unit than eV/Å end here too: a slope decides which it is.
        steepest = rng.normal(size=forces.shape)
    else:
        # Mostly along the forces, where a wrong factor shows; a little across, where a wrong
        # component does.
        across = rng.normal(size=forces.shape)
        steepest = forces / np.linalg.norm(forces) + 0.5 * across / np.linalg.norm(across)
    direction = steepest / np.linalg.norm(steepest)
    energies = []
    for sign in (1, -1):
        moved = bare_copy(labelled)
        moved.positions += sign * step * direction
        energies.append(labeler.label(moved, folder / f"moved{sign:+d}").calc.results["energy"])
    found = -(energies[0] - energies[1]) / (2 * step)
    expected = float((forces * direction).sum())
    if max(abs(found), abs(expected)) < _SMALLEST_FORCE / 10:
        raise ValueError(f"{where}: forces too small to be checked; perturb the structure")
    allowed = tolerance * max(largest, 1.0)
    _demand("label_forces", "forces", expected, found, allowed, "eV/Å", where)


def _check_stress(
    labeler: Labeler,
    labelled: Atoms,
    folder: Path,
    where: str,
    tolerance: float,
    step: float,
    rng: np.random.Generator,
) -> None:
    stress = labelled.get_stress(voigt=False)
    strain = rng.normal(size=(3, 3))
    strain = stress / max(float(np.linalg.norm(stress)), 1e-12) + 0.2 * (strain + strain.T)
    strain /= np.linalg.norm(strain)
    energies = []
    for sign in (1, -1):
        strained = bare_copy(labelled)
        strained.set_cell(
            strained.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True
        )
        energies.append(labeler.label(strained, folder / f"strain{sign:+d}").calc.results["energy"])
    found = (energies[0] - energies[1]) / (2 * step) / labelled.get_volume()
    expected = float((stress * strain).sum())
    allowed = tolerance * max(float(np.abs(stress).max()), 1e-2)
    _demand("label_stress", "stress", expected, found, allowed, "eV/Å³", where)


def _demand(
    law: str, quantity: str, label: float, slope: float, allowed: float, unit: str, where: str
) -> None:
    deviation = abs(label - slope)
    if not deviation <= allowed:
        raise ContractViolation(
            law,
            f"{quantity} of {label:.5f} {unit} along a direction where the energies' slope says "
            f"{slope:.5f}, allowed {allowed:.1e}, in {where}",
            quantity=quantity,
            deviation=deviation,
            allowed=allowed,
        )


def _check_failure(failing: Labeler, atoms: Atoms, folder: Path, where: str) -> None:
    try:
        failing.label(bare_copy(atoms), folder)
    except LabelFailure as failure:
        copy = pickle.loads(pickle.dumps(failure))
        if not copy.reason or (copy.reason, copy.folder) != (failure.reason, failure.folder):
            raise ContractViolation(
                "label_failure", f"the failure does not survive pickling: {failure!r}"
            ) from failure
        return
    raise ContractViolation(
        "label_failure", f"it labelled {where}, though it cannot have converged"
    )
