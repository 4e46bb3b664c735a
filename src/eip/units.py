"""Units: energy eV, length Å, force eV/Å, stress eV/Å³, time fs, temperature K, mass u.

Every file, array and figure of eIP is in these units; data in others is converted where it is
read, and nowhere else. The conversion factors come from ASE's table (CODATA 2014), so that a file
converted by ASE and one converted by eIP agree to the last digit.
"""

from __future__ import annotations

from ase import units as _ase

#: Boltzmann's constant, eV/K (ASE, CODATA 2014).
BOLTZMANN: float = _ase.kB

#: One femtosecond in ASE's unit of time, Å·sqrt(u/eV). ASE's integrators expect this unit.
FEMTOSECOND: float = _ase.fs

#: Coulomb's constant e²/(4πε0), eV·Å (from Hartree·Bohr).
COULOMB: float = _ase.Hartree * _ase.Bohr

#: How many eV one unit of energy is.
ENERGY_IN_EV: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": _ase.Hartree,
    "Ry": _ase.Rydberg,
    "kcal/mol": _ase.kcal / _ase.mol,
    "kJ/mol": _ase.kJ / _ase.mol,
}

#: How many Å one unit of length is.
LENGTH_IN_ANGSTROM: dict[str, float] = {
    "Ang": 1.0,
    "nm": 10.0,
    "Bohr": _ase.Bohr,
}
