"""GFN-xTB by tblite as a labeler."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ase import Atoms

from eip.active_learning.labelers.base import (
    Labeler,
    LabelFailure,
    bare_copy,
    labelled_copy,
    one_line,
)
from eip.data.electrons import check_multiplicity, given_electrons
from eip.errors import InputError, did_you_mean

METHODS = ("GFN2-xTB", "GFN1-xTB")


class XTBLabeler(Labeler):
    """GFN2-xTB or GFN1-xTB through tblite, with stress where periodic.

    Each structure starts from tblite's own guess, so a label does not depend on the one before.

    Args:
        method: "GFN2-xTB" or "GFN1-xTB".
        charge: of each structure, e; None: what its info says, else 0.
        multiplicity: 2S + 1; None: what its info says, else the lowest that the number of
            electrons allows, 1 or 2.
        accuracy: tblite's; smaller is tighter.
        electronic_temperature: K, of the Fermi smearing; the energy is the free energy at it.
        max_iterations: of the self-consistent charges.

    Raises:
        InputError: on a value out of range; in a worker, if tblite is not installed, an element is
            beyond the method, or the multiplicity does not fit the number of electrons.
    """

    def __init__(
        self,
        method: str = "GFN2-xTB",
        *,
        charge: int | None = None,
        multiplicity: int | None = None,
        accuracy: float = 1.0,
        electronic_temperature: float = 300.0,
        max_iterations: int = 250,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"xtb: unknown method '{method}', {did_you_mean(method, METHODS)}")
        check_multiplicity(multiplicity)
        for option, value in (
            ("accuracy", accuracy),
            ("electronic_temperature", electronic_temperature),
            ("max_iterations", max_iterations),
        ):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"xtb: {option} must be > 0, got {value}")
        self.name = method
        self._charge, self._multiplicity = charge, multiplicity
        self._options: dict[str, Any] = {
            "accuracy": float(accuracy),
            "electronic_temperature": float(electronic_temperature),
            "max_iterations": int(max_iterations),
        }

    def check(self, atoms: Atoms) -> None:
        given_electrons(atoms, self._charge, self._multiplicity, self.name)

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        try:
            from tblite.ase import TBLite
        except ImportError as error:
            raise InputError(
                f"{self.name} needs tblite, which is not installed: pip install 'eip[reference]'"
            ) from error
        from ase.calculators.calculator import InputError as CalculatorInputError

        folder.mkdir(parents=True, exist_ok=True)
        structure = bare_copy(atoms)
        charge, multiplicity = given_electrons(atoms, self._charge, self._multiplicity, self.name)
        structure.calc = TBLite(
            method=self.name,
            charge=charge,
            multiplicity=multiplicity,
            verbosity=0,
            **self._options,
        )
        try:
            energy, forces = structure.get_potential_energy(), structure.get_forces()
            # tblite's virial is that of three dimensions; for slabs and chains it means little.
            stress = structure.get_stress() if structure.pbc.all() else None
        except CalculatorInputError as error:
            raise InputError(f"{self.name}: {error}") from error
        except Exception as error:
            raise LabelFailure(f"{self.name}: {one_line(error)}", folder) from error
        return labelled_copy(structure, energy, forces, stress, folder=folder)
