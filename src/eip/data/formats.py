"""Formats of other packages: they give structures, and all else is as with eIP's own.

    class Mine(Format):
        units = {"energy": "Hartree", "length": "Bohr", "forces": "Hartree/Bohr"}

        def structures(self, path):
            ...  # yields ase.Atoms

and, in the package's pyproject.toml, by the suffix of its files without the dot:

    [project.entry-points."eip.formats"]
    mine = "my_package.reader:Mine"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from ase import Atoms

from eip.errors import InputError
from eip.plugins import Registry

FORMATS = Registry("eip.formats", "format", {})
#: Suffixes that are not for others to take.
_OWN = ("xyz", "extxyz", "npz", "db", "json", "aselmdb")


class Format(ABC):
    """What a package says of a format; made without arguments.

    Attributes:
        units: of "energy", "length", "forces", "stress" and "virial", where the format fixes them
            (see docs/data.md); else what a structure's info says, else eV and Å.
    """

    units: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def structures(self, path: Path) -> Iterator[Atoms]:
        """The structures of a file, in its units, one after the other.

        Labels are results of a calculator, or stand in info (energy, stress) and arrays (forces)
        under the usual names; which of them count, their units and whether they can be is decided
        by eIP, as is what to do with frames that are not wanted. What this raises is told the user
        with file and frame.
        """


def format_of(path: Path) -> Format | None:
    """The format that a package has registered for the suffix of a file.

    Raises:
        InputError: if it cannot be imported or is no `Format`.
    """
    suffix = path.suffix.removeprefix(".").casefold()
    if suffix in _OWN or suffix not in FORMATS.names():
        return None
    made = FORMATS.get(suffix)
    if not (isinstance(made, type) and issubclass(made, Format)):
        raise InputError(f"the format '{suffix}' is no subclass of {Format.__qualname__}: {made!r}")
    return made()
