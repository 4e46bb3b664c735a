"""Mean squared displacements, added up frame by frame."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float

from eip.errors import InputError

#: Frames that displacements are counted from, at most.
_ORIGINS = 32


class Displacements:
    """⟨|r(t₀ + t) − r(t₀)|²⟩ by element, over many t₀.

    Positions are unwrapped: between two frames each atom takes the shorter way through the cell's
    faces, so no atom may move half a cell between them. What the whole structure moves, by its
    centre of mass, is taken off.

    Memory is bounded: of the frames, `_ORIGINS` at most are kept to count from. When there are
    more, every second one is dropped and they are taken half as often from then on; what has been
    counted from those dropped stays.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._origins: list[tuple[int, np.ndarray]] = []
        self._stride = 1
        self._sums: list[np.ndarray] = []
        self._counts: list[int] = []
        self._before: Atoms | None = None

    def add(self, atoms: Atoms) -> None:
        """One more frame, as long after the one before as that after its own.

        Raises:
            InputError: if its atoms are not those of the first frame.
        """
        if self._before is None:
            self._numbers, self._masses = atoms.numbers.copy(), atoms.get_masses()
            self._elements, self._kinds = np.unique(self._numbers, return_inverse=True)
            self._at = atoms.positions.copy()
        else:
            if not np.array_equal(atoms.numbers, self._numbers):
                raise InputError("the atoms are not those of the first frame")
            self._at += _shortest(self._before, atoms)
        self._before = atoms.copy()
        at = self._at - self._masses @ self._at / self._masses.sum()
        if self.frames % self._stride == 0:
            self._origins.append((self.frames, at))
        of = np.bincount(self._kinds)
        for begun, origin in self._origins:
            lag = self.frames - begun
            while len(self._sums) <= lag:
                self._sums.append(np.zeros(len(of)))
                self._counts.append(0)
            squared = ((at - origin) ** 2).sum(axis=1)
            self._sums[lag] += np.bincount(self._kinds, squared) / of
            self._counts[lag] += 1
        if len(self._origins) > _ORIGINS:
            self._stride *= 2
            self._origins = [o for o in self._origins if o[0] % self._stride == 0]
        self.frames += 1

    def by_element(self) -> dict[str, Float[np.ndarray, "lags"]]:
        """Mean squared displacement, Å², at 0, 1, 2 … frames apart."""
        if not self.frames:
            return {}
        means = np.array(self._sums) / np.array(self._counts)[:, None]
        return {chemical_symbols[z]: means[:, k] for k, z in enumerate(self._elements)}


def _shortest(before: Atoms, after: Atoms) -> Float[np.ndarray, "atoms 3"]:
    """Displacements from one frame to the next, without those of a cell that changes."""
    if not after.pbc.any():
        return after.positions - before.positions
    moved = after.get_scaled_positions(wrap=False) - before.get_scaled_positions(wrap=False)
    moved -= np.where(after.pbc, np.round(moved), 0.0)
    return moved @ after.cell.complete().array
