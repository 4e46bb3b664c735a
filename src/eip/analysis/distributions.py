"""Radial distribution functions, added up frame by frame."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from eip.analysis.order_parameters import pairs_within
from eip.errors import InputError


class PairDistribution:
    """g_ab(r) by pair of elements: the density of b around a over that of an ideal gas.

    Frames are added one by one; memory does not grow with them. g is normalised by the pairs that
    there are, N_a (N_b − δ_ab), so that points put anywhere at random give 1, however few (M. P.
    Allen, D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. 2017, §8.1). Images are counted
    too, so r may exceed half of the cell.
    """

    def __init__(self, cutoff: float = 6.0, bins: int = 120) -> None:
        """
        Args:
            cutoff: Å.

        Raises:
            InputError: if the cutoff or the number of bins is not positive.
        """
        if not cutoff > 0.0 or bins < 1:
            raise InputError(
                f"a distribution needs a positive cutoff and number of bins, got {cutoff} Å and "
                f"{bins}"
            )
        self.cutoff, self.bins = cutoff, bins
        self.frames = 0
        self._elements: Int[np.ndarray, "elements"] = np.empty(0, dtype=np.int64)
        self._counts = np.zeros((0, 0, bins))
        self._ideal = np.zeros((0, 0))

    def add(self, atoms: Atoms) -> None:
        """One more frame; new elements may turn up.

        Raises:
            InputError: if it is not periodic in three directions: it would have no density.
        """
        if not atoms.pbc.all():
            raise InputError("a radial distribution function needs a cell periodic in 3 directions")
        self._know(np.unique(atoms.numbers))
        kinds = np.searchsorted(self._elements, atoms.numbers)
        i, j, distances = pairs_within(atoms, self.cutoff)
        which = distances * (self.bins / self.cutoff)
        n = len(self._elements)
        at = np.minimum(which.astype(np.int64), self.bins - 1)
        flat = (kinds[i] * n + kinds[j]) * self.bins + at
        self._counts += np.bincount(flat, minlength=n * n * self.bins).reshape(n, n, self.bins)
        of = np.bincount(kinds, minlength=n).astype(np.float64)
        self._ideal += (np.outer(of, of) - np.diag(of)) / atoms.get_volume()
        self.frames += 1

    def _know(self, numbers: Int[np.ndarray, "elements"]) -> None:
        every = np.union1d(self._elements, numbers)
        if len(every) == len(self._elements):
            return
        place = np.searchsorted(every, self._elements)
        counts = np.zeros((len(every), len(every), self.bins))
        ideal = np.zeros((len(every), len(every)))
        counts[np.ix_(place, place)] = self._counts
        ideal[np.ix_(place, place)] = self._ideal
        self._elements, self._counts, self._ideal = every, counts, ideal

    @property
    def radii(self) -> Float[np.ndarray, "bins"]:
        """Middles of the bins, Å."""
        return (np.arange(self.bins) + 0.5) * self.cutoff / self.bins

    def by_pair(self) -> dict[str, Float[np.ndarray, "bins"]]:
        """g(r) by pair of elements, "Li-O", in the order of the alphabet; those that there are."""
        edges = np.arange(self.bins + 1) * self.cutoff / self.bins
        shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
        found = {}
        for a in range(len(self._elements)):
            for b in range(a, len(self._elements)):
                if self._ideal[a, b] > 0.0:
                    name = "-".join(sorted(chemical_symbols[self._elements[k]] for k in (a, b)))
                    found[name] = self._counts[a, b] / (self._ideal[a, b] * shells)
        return dict(sorted(found.items()))
