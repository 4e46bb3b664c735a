"""Lone atoms that say so (``config_type=IsolatedAtom``): the energies of elements, E0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from eip.data.frame import Frame
from eip.errors import InputError

# Energies of one atom that differ by less are one, eV.
_SAME = 1e-4


class IsolatedAtoms:
    """Energies of isolated atoms, one for each element.

    Args:
        entries: what `entries` said.
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self._frames: dict[int, Frame] = {}
        for entry in entries:
            self.add(
                Frame(
                    numbers=np.array([int(entry["number"])], dtype=np.int64),
                    positions=np.zeros((1, 3)),
                    cell=np.zeros((3, 3)),
                    pbc=np.full(3, False),
                    energy=float(entry["energy"]),
                    source=str(entry["source"]),
                    isolated=True,
                )
            )

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames.values())

    def add(self, frame: Frame) -> None:
        """Takes the energy of a frame.

        Raises:
            InputError: if it is not of one atom, has no energy, or another one than the element
                has already.
        """
        keep = "; keep_isolated_atoms takes such frames for frames like others"
        if len(frame) != 1 or frame.energy is None:
            what = f"{len(frame)} atoms" if len(frame) != 1 else "no energy"
            raise InputError(
                f"{frame.source}: config_type=IsolatedAtom says that it gives the energy of an "
                f"atom, and it has {what}{keep}"
            )
        number = int(frame.numbers[0])
        first = self._frames.setdefault(number, frame)
        assert first.energy is not None
        if abs(first.energy - frame.energy) > _SAME:
            raise InputError(
                f"{frame.source}: the isolated {chemical_symbols[number]} has {frame.energy} eV, "
                f"and {first.energy} eV in {first.source}{keep}"
            )

    @property
    def energies(self) -> dict[int, float]:
        """eV, by atomic number."""
        return {z: float(f.energy or 0.0) for z, f in sorted(self._frames.items())}

    @property
    def entries(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {"number": z, "energy": f.energy, "source": f.source}
            for z, f in sorted(self._frames.items())
        ]
