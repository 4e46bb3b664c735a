"""Energies of a network that others trained, beside those of labels: often of another level of
theory, or corrected, so that they differ by a constant for each element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from eip.data import FrameStore, fit_energy_shifts
from eip.evaluation import Evaluation

#: eV/atom, mean: what is off by more is said.
LARGE = 0.05
#: Elements that are named.
_NAMED = 6


@dataclass(frozen=True)
class EnergyGap:
    """What energies are off by, label − prediction.

    Attributes:
        shifts: by element, eV, what is to be added to the network's.
        before, after: mean |label − prediction| / atoms of a frame, eV/atom, without and with it.
    """

    shifts: Mapping[int, float]
    before: float
    after: float

    def moved(self, found: Evaluation) -> Evaluation:
        """Predictions with the constants added."""
        # An element that no training frame has stays as it is.
        added = np.array([self.shifts.get(int(z), 0.0) for z in found.numbers])
        by_frame = np.bincount(found.frame, added, minlength=found.n_frames)
        return replace(found, energy_pred=found.energy_pred + by_frame)

    def text(self, network: str, moved: bool) -> str:
        """For a person: what was done about it, or can be."""
        largest = sorted(self.shifts.items(), key=lambda pair: -abs(pair[1]))
        named = ", ".join(f"{chemical_symbols[z]} {e:+.3g}" for z, e in largest[:_NAMED])
        named += ", …" if len(largest) > _NAMED else ""
        off = (
            f"The energies of {network} are off by {self.before:.3g} eV/atom on the training "
            f"frames, by {self.after:.3g} with a constant for each element ({named} eV)"
        )
        if moved:
            return f"{off}, which is added to them."
        return (
            f"{off}. They are left as they are, and evaluations leave them out; --shift-energies "
            "(shift_energies=True) adds these constants. Forces do not depend on it."
        )


def energy_gap(
    store: FrameStore,
    indices: Int[np.ndarray, "frames"],
    predicted: Float[np.ndarray, "frames"],
) -> EnergyGap:
    """Of frames that have energies, eV."""
    shifts = fit_energy_shifts(store, indices, predicted)
    added = np.array([shifts[z] for z in sorted(shifts)])
    counts = np.stack([_counts(store, int(i), sorted(shifts)) for i in indices])
    gaps = (store.energies[indices] - predicted) / counts.sum(axis=1)
    left = gaps - counts @ added / counts.sum(axis=1)
    return EnergyGap(shifts, float(np.abs(gaps).mean()), float(np.abs(left).mean()))


def _counts(store: FrameStore, index: int, elements: Sequence[int]) -> np.ndarray:
    numbers = store[index].numbers
    return np.array([(numbers == z).sum() for z in elements], dtype=np.float64)
