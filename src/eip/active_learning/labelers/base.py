"""What a labeler is, and the copy of a structure that carries its label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from eip.data.electrons import electrons_of
from eip.errors import InputError


class LabelFailure(Exception):
    """A calculation that failed or did not converge: the structure has no label.

    Attributes:
        reason: one readable sentence.
        folder: where its outputs were kept, if it left any.
    """

    def __init__(self, reason: str, folder: Path | None = None) -> None:
        # Both, because an exception is unpickled by calling its class with its args.
        super().__init__(reason, folder)
        self.reason, self.folder = reason, folder

    def __str__(self) -> str:
        return self.reason if self.folder is None else f"{self.reason} (outputs in {self.folder})"


class Labeler(ABC):
    """A reference method: picklable, cheap to make; the work is done in `label`.

    Attributes:
        name: of the method, "GFN2-xTB" say.
    """

    name: str

    @abstractmethod
    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        """The structure with its label.

        Args:
            atoms: not changed. Only numbers, positions, cell, pbc, and charge and multiplicity in
                its info (see `electrons_of`) count: constraints, initial charges and magnetic
                moments, a calculator and whatever else it carries do not.
            folder: of this calculation alone; made if missing, and the place of its outputs.

        Returns:
            A bare copy (numbers, positions, cell, pbc) whose ``calc`` holds energy (eV), forces
            (eV/Å) and, where the structure is periodic and the method has it, stress (eV/Å³).

        Raises:
            LabelFailure: if the calculation failed or did not converge.
            InputError: if the labeler itself is set up wrongly, so that no structure will succeed.
        """

    def check(self, atoms: Atoms) -> None:
        """Looks at a structure before any is calculated.

        Raises:
            InputError: if it has a charge or multiplicity that the method cannot take, which is
                any but the usual where a method does not say otherwise.
        """
        own = electrons_of(atoms)
        if not own.is_plain(atoms):
            raise InputError(
                f"the structure has charge {own.charge or 0}"
                + (f" and multiplicity {own.multiplicity}" if own.multiplicity else "")
                + f", which {self.name} cannot be told"
            )


def bare_copy(atoms: Atoms) -> Atoms:
    """Numbers, positions, cell and pbc, sharing no memory with the original."""
    return Atoms(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        pbc=atoms.pbc.copy(),
    )


def labelled_copy(
    atoms: Atoms,
    energy: float,
    forces: np.ndarray,
    stress: np.ndarray | None = None,
    *,
    folder: Path | None = None,
) -> Atoms:
    """A bare copy with a label.

    Args:
        energy: eV.
        forces: ``[atoms, 3]``, eV/Å.
        stress: ``[6]`` in Voigt order, eV/Å³.
        folder: of the calculation, named if it failed.

    Raises:
        LabelFailure: if something in it is not finite or the forces are not one for each atom.
    """
    energy, forces = float(energy), np.array(forces, dtype=np.float64)
    if forces.shape != (len(atoms), 3):
        raise LabelFailure(f"forces of shape {forces.shape} for {len(atoms)} atoms", folder)
    results: dict[str, Any] = {"energy": energy, "forces": forces}
    if stress is not None:
        stress = np.array(stress, dtype=np.float64)
        if stress.shape != (6,):
            raise LabelFailure(f"a stress of shape {stress.shape}, expected 6 components", folder)
        results["stress"] = stress
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise LabelFailure(f"{name} not finite", folder)
    copy = bare_copy(atoms)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def one_line(error: BaseException) -> str:
    """Kind and words of an error, for a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())
