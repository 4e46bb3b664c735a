"""What LAMMPS' files leave open: which element a type is, and in which units they are."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NoReturn

from ase.data import atomic_numbers
from ase.io.formats import open_with_compression

from eip.data.labels import Labels
from eip.errors import InputError

#: ASE's names of the formats.
DUMPS, DATA = ("lammps-dump-text", "lammps-dump-binary"), "lammps-data"
_HEADER_LINES = 60
_UNITS = {
    "metal": {"length": "Ang", "forces": "eV/Ang"},
    "real": {"length": "Ang", "forces": "kcal/mol/Ang"},
    "electron": {"length": "Bohr", "forces": "Hartree/Bohr"},
}


class _Types(dict[int, Any]):
    """By type; an InputError says which has no element."""

    def __init__(self, elements: tuple[str, ...], first: int, values: list[Any]) -> None:
        super().__init__(enumerate(values, start=first))
        self._elements, self._first = elements, first

    def __missing__(self, key: Any) -> NoReturn:
        raise InputError(
            f"there are atoms of type {key + 1 - self._first}, and elements are given for "
            f"{len(self._elements)}: {', '.join(self._elements)}"
        )


def reading_options(path: Path, kind: str, labels: Labels) -> tuple[dict[str, Any], dict[str, str]]:
    """What ASE's reader must be told, and the units that the file declares.

    Raises:
        InputError: if the file has nothing but types and nobody says what elements they are, or
            it is in units that mean nothing here.
    """
    columns, units = _header(path) if kind == DUMPS[0] else ([], "")
    if units and units not in _UNITS:
        raise InputError(f"{path} is in LAMMPS units '{units}', expected {', '.join(_UNITS)}")
    declared = _UNITS[units] if units else {}
    elements = labels.elements
    own = next((name for name in ("element", "mass") if name in columns), None)
    if own is not None and elements is not None:
        raise InputError(
            f"{path} has a column '{own}' that says which elements its atoms are, and elements "
            f"were given as well ({', '.join(elements)}): leave them out, or dump without it"
        )
    if own is not None or (kind == DATA and elements is None and _has_masses(path)):
        return {}, declared
    if elements is None:
        raise InputError(
            f"{path} has LAMMPS' types in place of elements; give the elements of types 1, 2, … "
            "in their order: --elements O,H or data.labels.elements: [O, H] (or dump them: "
            "dump … element, with dump_modify element)"
        )
    if kind == DATA:
        numbers = [atomic_numbers[symbol] for symbol in elements]
        return {"Z_of_type": _Types(elements, 1, numbers)}, declared
    return {"specorder": _Types(elements, 0, list(elements))}, declared


def _header(path: Path) -> tuple[list[str], str]:
    """Columns and units of a dump."""
    units = ""
    with open_with_compression(str(path), "rt") as file:
        lines = iter(itertools.islice(file, _HEADER_LINES))
        for line in lines:
            if line.startswith("ITEM: UNITS"):
                units = next(lines, "").strip()
            elif line.startswith("ITEM: ATOMS"):
                return line.split()[2:], units
    return [], units


def _has_masses(path: Path) -> bool:
    with open_with_compression(str(path), "rt") as file:
        next(file, None)  # the title may say anything
        return any(line.split()[:1] == ["Masses"] for line in file)
