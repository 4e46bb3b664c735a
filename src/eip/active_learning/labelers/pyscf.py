"""Density functional theory of molecules by PySCF as a labeler."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.units import Bohr, Hartree

from eip.active_learning.labelers.base import (
    Labeler,
    LabelFailure,
    bare_copy,
    labelled_copy,
    one_line,
)
from eip.data.electrons import check_multiplicity, given_electrons
from eip.errors import InputError


class PySCFLabeler(Labeler):
    """A molecule's energy and forces by PySCF, restricted, or unrestricted with unpaired spins.

    Each structure starts from PySCF's own guess, so a label does not depend on the one before.
    An SCF that does not converge is tried again by second-order steps; then it is a failure.

    Args:
        functional: as libxc has it, "PBE", "B3LYP", "wB97M-V"; "HF" is Hartree-Fock.
        basis: of all elements; of a def2 basis heavy elements have its core potential.
        charge: of each structure, e; None: what its info says, else 0.
        multiplicity: 2S + 1; None: what its info says, else the lowest that the number of
            electrons allows.
        density_fit: fits the density, which is faster by several times.
        grid: level of the integration grid, 0 to 9.
        tolerance: of the energy, Hartree.
        max_iterations: of the SCF.
        threads: of PySCF in each process.

    Raises:
        InputError: on a value out of range; in a worker, if PySCF is not installed, it knows no
            such functional or basis, or the multiplicity does not fit the number of electrons.
    """

    def __init__(
        self,
        functional: str = "PBE",
        *,
        basis: str = "def2-svp",
        charge: int | None = None,
        multiplicity: int | None = None,
        density_fit: bool = True,
        grid: int = 3,
        tolerance: float = 1e-9,
        max_iterations: int = 100,
        threads: int = 1,
    ) -> None:
        check_multiplicity(multiplicity)
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise InputError(f"pyscf: tolerance must be > 0, got {tolerance}")
        for option, value, least in (
            ("max_iterations", max_iterations, 1),
            ("threads", threads, 1),
            ("grid", grid, 0),
        ):
            if not (isinstance(value, int) and value >= least):
                raise InputError(f"pyscf: {option} must be a whole number >= {least}, got {value}")
        if grid > 9:
            raise InputError(f"pyscf: grid must be at most 9, got {grid}")
        self.name = f"{functional}/{basis}"
        self._functional, self._basis = functional, basis
        self._charge, self._multiplicity = charge, multiplicity
        self._fits, self._grid, self._tolerance = density_fit, grid, tolerance
        self._iterations, self._threads = max_iterations, threads

    def check(self, atoms: Atoms) -> None:
        if atoms.pbc.any():
            raise InputError(
                f"{self.name} by PySCF is for molecules, and the structure is periodic; set its "
                "pbc to F, or take another method (cp2k, an ASE calculator)"
            )
        given_electrons(atoms, self._charge, self._multiplicity, self.name)

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        try:
            import pyscf
        except ImportError as error:
            raise InputError(
                f"{self.name} needs PySCF, which is not installed: pip install 'eip[pyscf]'"
            ) from error
        self.check(atoms)
        folder.mkdir(parents=True, exist_ok=True)
        structure = bare_copy(atoms)
        pyscf.lib.num_threads(self._threads)
        field = self._mean_field(structure, atoms)
        try:
            energy = field.kernel()
            if not field.converged:
                field = field.newton()
                energy = field.kernel()
            if not field.converged:
                raise LabelFailure(
                    f"{self.name}: the SCF did not converge in {self._iterations} iterations",
                    folder,
                )
            gradient = field.nuc_grad_method().kernel()
        except LabelFailure:
            raise
        except Exception as error:
            raise LabelFailure(f"{self.name}: {one_line(error)}", folder) from error
        forces = -gradient * (Hartree / Bohr)
        return labelled_copy(structure, energy * Hartree, forces, folder=folder)

    def _mean_field(self, structure: Atoms, given: Atoms) -> Any:
        from pyscf import dft, gto, scf

        charge, multiplicity = given_electrons(given, self._charge, self._multiplicity, self.name)
        spin = multiplicity - 1
        pairs = zip(structure.get_chemical_symbols(), structure.positions, strict=True)
        try:
            molecule = gto.M(
                atom=[(symbol, tuple(position)) for symbol, position in pairs],
                unit="Angstrom",
                basis=self._basis,
                ecp=self._basis if self._basis.lower().startswith("def2") else {},
                charge=charge,
                spin=spin,
                verbose=0,
            )
            if self._functional.upper() == "HF":
                field = scf.UHF(molecule) if spin else scf.RHF(molecule)
            else:
                dft.libxc.parse_xc(self._functional)
                field = dft.UKS(molecule) if spin else dft.RKS(molecule)
                field.xc = self._functional
                field.grids.level = self._grid
        except Exception as error:  # PySCF's own are of many kinds
            raise InputError(f"{self.name}: {one_line(error)}") from error
        field = field.density_fit() if self._fits else field
        field.conv_tol, field.max_cycle = self._tolerance, self._iterations
        return field
