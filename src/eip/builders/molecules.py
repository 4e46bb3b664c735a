"""Single molecules, by name."""

from __future__ import annotations

import ase.build
from ase import Atoms
from ase.build.molecule import extra
from ase.collections import g2

from eip.errors import InputError, did_you_mean


def molecule(name: str) -> Atoms:
    """A free molecule of ASE's collection: the G2 set and a few more, at MP2 geometry.

    Raises:
        InputError: if the name is not in the collection.
    """
    known = [*g2.names, *extra]
    if name not in known:
        hint = did_you_mean(name, known)
        if not hint.startswith("did"):
            hint = f"it has {len(known)}, of which some are CH4, CH3CH2OH, C6H6, H2O and CO2"
        raise InputError(f"ASE's collection has no molecule '{name}'; {hint}")
    built = ase.build.molecule(name)
    return Atoms(numbers=built.numbers, positions=built.positions)
