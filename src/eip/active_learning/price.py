"""What a label is expected to cost: a power of its number of atoms, by the labels so far.

    symbol      meaning
    t_k, N_k    seconds that a label took its worker, failed ones too, and its atoms
    p           t ∝ N^p
    a           median of t_k / N_k^p, s

p is fitted to ln t over ln N, with p = 2 as what is known before: between the cost of building a
matrix and that of diagonalizing it, where xTB and density functional theory of 10 to 500 atoms
are. That counts as much as labels with Σ (ln N − mean)² = w; half of them twice as large as the
others, three labels do. Each size's median is taken, since the first label of a worker loads its
program. p is rounded to halves, so that hardly ever a selection depends on the noise of times.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

#: p of which a run with labels of one size, or none, begins.
_USUAL = 2.0
#: w: the variance of ln t of labels of one size over that of p among methods, (0.3/0.5)².
_WEIGHT = 0.36


@dataclass(frozen=True)
class Price:
    """Of a label, by its number of atoms.

    Attributes:
        exponent: p.
        seconds: a, s; None: nothing was labelled yet.
        labels: that it was fitted to.
    """

    exponent: float = _USUAL
    seconds: float | None = None
    labels: int = 0

    def of(self, atoms: Int[np.ndarray, "labels"]) -> Float[np.ndarray, "labels"] | None:
        """Expected seconds of labels with so many atoms; None: nothing is known of them."""
        if self.seconds is None:
            return None
        return self.seconds * np.asarray(atoms, dtype=np.float64) ** self.exponent

    def by_atom(self, atoms: Int[np.ndarray, "labels"]) -> Float[np.ndarray, "labels"]:
        """What an atom of each costs, in units of that of the smallest: 1 where all are alike."""
        sizes = np.asarray(atoms, dtype=np.float64)
        return (sizes / sizes.min()) ** (self.exponent - 1.0)

    def __str__(self) -> str:
        if self.seconds is None:
            return f"∝ N^{self.exponent:g}"
        return f"{self.seconds:.2g} s · N^{self.exponent:g}"


def fitted_price(atoms: Sequence[int], seconds: Sequence[float]) -> Price:
    """See the module.

    Args:
        atoms, seconds: of each label that was worked on.
    """
    by_size: dict[int, list[float]] = defaultdict(list)
    for size, time in zip(atoms, seconds, strict=True):
        if size > 0 and time > 0:
            by_size[size].append(time)
    if not by_size:
        return Price()
    count = np.array([len(times) for times in by_size.values()], dtype=np.float64)
    x = np.log(np.array(list(by_size), dtype=np.float64))
    y = np.log([float(np.median(times)) for times in by_size.values()])
    x, y = x - np.average(x, weights=count), y - np.average(y, weights=count)
    slope = (count @ (x * y) + _WEIGHT * _USUAL) / (count @ x**2 + _WEIGHT)
    # A larger label is not cheaper than a smaller one.
    exponent = max(0.0, math.floor(2.0 * slope + 0.5) / 2.0)
    scales = [time / size**exponent for size, times in by_size.items() for time in times]
    return Price(exponent, float(np.median(scales)), len(scales))
