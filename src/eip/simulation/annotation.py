"""Structures as ASE writes them to any of its formats, with everything that was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.row import AtomsRow

from eip.errors import InputError
from eip.prediction import Prediction, Quantity, quantities
from eip.simulation.calculator import Calculator, Results

#: Among the parameters of a calculator, what else it predicted.
_PREDICTED = "predicted"


class _Kept(SinglePointCalculator):
    """Results that go into a file.

    ASE's writers take the properties that ASE has a name for, and of all others none. Adding names
    to its lists (``all_properties``) would work for extended xyz, and make what a file is read as
    depend on whether eIP was imported. Of a calculator, its trajectories and databases keep the
    parameters as well: that is where the others go.
    """

    name = "eip"

    def __init__(self, atoms: Atoms, results: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        super().__init__(atoms, **results)
        self.parameters[_PREDICTED] = dict(own)

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        return dict(self.parameters)


def annotate(atoms: Atoms | AtomsRow) -> Atoms:
    """A copy of a structure that keeps σ, and whatever else was predicted, in ASE's files.

        write("run.xyz", eip.annotate(atoms), append=True)
        Trajectory("run.traj", "a").write(eip.annotate(atoms))
        database.write(eip.annotate(atoms))

    and back: ``eip.annotate(read("run.traj"))``, ``eip.annotate(row)``.

    Args:
        atoms: with an `eip.Calculator`, which computes what it has not yet; or what was read from
            such a file, or a row of such a database.

    Returns:
        the structure with ASE's results in its calculator; what each atom has otherwise
        (``force_uncertainty``, …) in ``arrays`` and what the structure has (``uncertainty``, …) in
        ``info``, in eV and Å. Matrices of atoms (``force_covariance``) are in the calculator's
        parameters alone, under "predicted": trajectories and databases keep them, extended xyz
        does not.

    Raises:
        InputError: if the calculator is none of eIP's, and no file's that holds predictions.
    """
    described: Sequence[Quantity] = quantities(Prediction)
    row = atoms if isinstance(atoms, AtomsRow) else None
    structure = atoms if isinstance(atoms, Atoms) else atoms.toatoms()
    if isinstance(structure.calc, Calculator):
        structure.calc.get_property("energy", structure)
        found = structure.calc.results
        assert isinstance(found, Results)
        results, own, described = dict(found), found.own, quantities(found.kind)
    else:
        results, own = _of_file(structure, row)
    kept = structure.copy()
    add_predicted(kept, own, described)
    kept.calc = _Kept(kept, results, own)
    return kept


def _of_file(atoms: Atoms, row: AtomsRow | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file kept: results as ASE knows them, and the others."""
    parameters = getattr(atoms.calc, "parameters", {})
    if row is not None:
        parameters = row.get("calculator_parameters") or {}
    own = parameters.get(_PREDICTED)
    if own is None and atoms.has("force_uncertainty"):  # extended xyz, which has it all in place
        own = {}
    if own is None:
        raise InputError(
            "annotate takes structures with an eip.Calculator, or read from a file that they were "
            f"written to, got one with {type(atoms.calc).__name__ if atoms.calc else 'none'}"
        )
    return dict(atoms.calc.results if atoms.calc is not None else {}), dict(own)


def add_predicted(atoms: Atoms, results: Mapping[str, Any], described: Sequence[Quantity]) -> None:
    """Puts what ASE has no name for where files have it: arrays of atoms, info of structures.

    Matrices of each atom are left out: they would make a trajectory twice as large.
    """
    for of in described:
        if of.name in results and not of.ase and of.rank < 2:
            value = results[of.name]
            if of.level == "atom":
                atoms.set_array(of.name, np.asarray(value))
            else:
                atoms.info[of.name] = value
