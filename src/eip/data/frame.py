"""One labelled structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Bool, Float64, Int64

from eip.data.electrons import UNSAID, Electrons

#: What a frame may be labelled with.
LABELS: tuple[str, ...] = ("energy", "forces", "stress")


class LabelWarning(UserWarning):
    """Some frames of a data set carry a label that others lack."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure and what a reference method said of it. A label that is missing is None.

    Attributes:
        numbers: atomic numbers.
        positions: Å, as the file gives them (not wrapped).
        cell: lattice vectors as rows, Å; zero where no direction is periodic.
        pbc: periodic directions.
        energy: total energy, eV.
        forces: eV/Å, constraints not applied.
        stress: (1/V) ∂E/∂ε, eV/Å³, ASE's sign; only where all directions are periodic.
        source: the file and the frame's number in it, counted from 0: ``train.xyz#17``.
        electrons: charge and multiplicity, as far as the file says them. No network here knows
            them; whoever labels the structure anew needs to.
        group: what the frame shares with others that are not independent of it, a material's id
            say; a split by group keeps them together.
        isolated: a lone atom whose energy is the E0 of its element, and no frame to train on.
    """

    numbers: Int64[np.ndarray, "atoms"]
    positions: Float64[np.ndarray, "atoms 3"]
    cell: Float64[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, "3"]
    energy: float | None = None
    forces: Float64[np.ndarray, "atoms 3"] | None = None
    stress: Float64[np.ndarray, "3 3"] | None = None
    source: str = ""
    electrons: Electrons = UNSAID
    group: str | None = None
    isolated: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def has(self, label: str) -> bool:
        """Whether the frame carries "energy", "forces" or "stress"."""
        return getattr(self, label) is not None

    def to_atoms(self) -> Atoms:
        """ASE's form of it; the labels are the results of a `SinglePointCalculator`."""
        atoms = Atoms(
            numbers=self.numbers,
            positions=self.positions,
            cell=self.cell,
            pbc=self.pbc,
            info=self.electrons.as_info(),
        )
        results: dict[str, object] = {}
        if self.energy is not None:
            results["energy"] = self.energy
        if self.forces is not None:
            results["forces"] = self.forces.copy()
        if self.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(self.stress)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms
