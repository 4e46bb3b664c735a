"""Units: energy eV, length Å, force eV/Å, stress eV/Å³, time fs, temperature K, mass u.

Every file, array and figure of eIP is in these units; data in others is converted where it is
read, and nowhere else. The conversion factors come from ASE's table (CODATA 2014), so that a file
converted by ASE and one converted by eIP agree to the last digit.
"""

from __future__ import annotations

import re
from functools import cache

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

#: How many eV/Å³ one unit of pressure is.
PRESSURE_IN_EV_A3: dict[str, float] = {
    "GPa": _ase.GPa,
    "MPa": 1e-3 * _ase.GPa,
    "kbar": 1e3 * _ase.bar,
    "bar": _ase.bar,
    "Pa": _ase.Pascal,
}

#: The units that a file may have, by what they are of, and how many eV, Å, eV/Å, eV/Å³ each is.
UNITS: dict[str, dict[str, float]] = {
    "energy": ENERGY_IN_EV,
    "length": LENGTH_IN_ANGSTROM,
    "forces": {
        f"{energy}/{length}": e / a
        for energy, e in ENERGY_IN_EV.items()
        for length, a in LENGTH_IN_ANGSTROM.items()
    },
    "stress": PRESSURE_IN_EV_A3
    | {
        f"{energy}/{length}^3": e / a**3
        for energy, e in ENERGY_IN_EV.items()
        for length, a in LENGTH_IN_ANGSTROM.items()
    },
}

_SPELLINGS = {
    "angstrom": "ang",
    "angstroms": "ang",
    "a": "ang",
    "ha": "hartree",
    "eh": "hartree",
    "rydberg": "ry",
    "a0": "bohr",
}


def unit_factor(kind: str, name: str) -> float | None:
    """How many eV, Å, eV/Å, eV/Å³ a unit is, as people spell it ("Ha/Bohr", "eV/Å^3", "kBar").

    Args:
        kind: "energy", "length", "forces" or "stress".

    Returns:
        The factor; None for a unit that is not among `UNITS`.
    """
    return _by_spelling(kind).get(_plain(name))


@cache
def _by_spelling(kind: str) -> dict[str, float]:
    return {_plain(name): factor for name, factor in UNITS[kind].items()}


def _plain(unit: str) -> str:
    unit = unit.strip().casefold().replace("ångström", "ang").replace("å", "a").replace(" ", "")
    unit = re.sub(r"(?:\^|\*\*)?(?:3|³)$", "^3", unit)
    return re.sub(r"[a-z]+0?", lambda word: _SPELLINGS.get(word[0], word[0]), unit)
