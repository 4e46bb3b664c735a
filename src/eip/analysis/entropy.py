"""How widely a run has sampled: entropy and coverage of order parameters (theory §4, eq. 11).

A finite sample of n looks less spread than what it was drawn from, by about (occupied cells − 1) /
2n in nats (G. A. Miller, 1955), so runs are compared over as many frames, on one grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from eip.analysis.settings import BINS
from eip.errors import InputError

#: Cells of a turn, of 10° each.
TORSION_BINS = 36

Ranges = tuple[tuple[float, float], tuple[float, float]]


def configurational_entropy(
    first: Float[np.ndarray, "samples"],
    second: Float[np.ndarray, "samples"],
    ranges: Ranges,
    bins: int = BINS,
) -> float:
    """−Σ p log p / (2 log bins) over a grid of two order parameters, 0 (one cell) to 1 (all alike).

    Args:
        ranges: of the grid, in the unit of each; samples beyond count in its outermost cells.

    Raises:
        InputError: if there are no samples, or a range is empty.
    """
    growth = entropy_growth(np.reshape(first, (1, -1)), np.reshape(second, (1, -1)), ranges, bins)
    return float(growth[-1])


def entropy_growth(
    first: Float[np.ndarray, "frames samples"],
    second: Float[np.ndarray, "frames samples"],
    ranges: Ranges,
    bins: int = BINS,
) -> Float[np.ndarray, "frames"]:
    """The entropy of all frames up to each (the paper's Fig. 5f and i).

    Raises:
        InputError: as `configurational_entropy`.
    """
    cells = _cells(first, second, ranges, bins)
    counts = np.zeros(bins * bins)
    out = np.empty(len(cells))
    for frame, visited in enumerate(cells):
        np.add.at(counts, visited, 1.0)
        out[frame] = histogram_entropy(counts) / (2.0 * np.log(bins))
    return out


def coverage_growth(
    first: Float[np.ndarray, "frames samples"],
    second: Float[np.ndarray, "frames samples"],
    ranges: Ranges,
    bins: int = BINS,
) -> Float[np.ndarray, "frames"]:
    """The share of the grid's cells that all frames up to each have visited, 0 to 1.

    Raises:
        InputError: as `configurational_entropy`.
    """
    cells = _cells(first, second, ranges, bins)
    _, begun = np.unique(cells.ravel(), return_index=True)
    new = np.bincount(begun // cells.shape[1], minlength=len(cells))
    return np.cumsum(new) / bins**2


def histogram_entropy(counts: Float[np.ndarray, "*cells"]) -> float:
    """−Σ p log p in nats, p being the share of each cell: log n for n cells alike.

    Raises:
        InputError: if the counts are negative or all zero.
    """
    whole = counts.sum()
    if not whole > 0.0 or counts.min() < 0.0:
        raise InputError("an entropy needs counts of which none is negative and one is positive")
    p = counts[counts > 0.0] / whole
    return float(max(0.0, -np.sum(p * np.log(p))))


def torsion_entropy(angles: Float[np.ndarray, "*samples"], bins: int = TORSION_BINS) -> float:
    """Entropy of a torsion's histogram over that of a uniform one: 0 (one cell) to 1.

    Args:
        angles: degrees; whole turns do not matter.

    Raises:
        InputError: if there are no samples, or fewer than two bins.
    """
    if angles.size == 0 or bins < 2:
        raise InputError(f"a torsion's entropy needs samples and at least 2 bins, got {bins} bins")
    counts, _ = np.histogram(np.mod(angles, 360.0), bins=bins, range=(0.0, 360.0))
    return histogram_entropy(counts.astype(np.float64)) / float(np.log(bins))


def _cells(first: np.ndarray, second: np.ndarray, ranges: Ranges, bins: int) -> np.ndarray:
    """The cell of the grid that each sample falls into, 0 to bins² − 1."""
    if first.size == 0 or first.shape != second.shape:
        raise InputError(
            f"two order parameters of the same frames are needed, got {first.shape} and "
            f"{second.shape}"
        )
    if bins < 2:
        raise InputError(f"bins must be at least 2, got {bins}")
    row, column = (
        _intervals(values, limits, bins)
        for values, limits in zip((first, second), ranges, strict=True)
    )
    return row * bins + column


def _intervals(values: np.ndarray, limits: tuple[float, float], bins: int) -> np.ndarray:
    low, high = limits
    if not low < high:
        raise InputError(f"the range of an order parameter is empty: {low} to {high}")
    return np.clip(((values - low) / (high - low) * bins).astype(np.int64), 0, bins - 1)


def shared_ranges(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    given: tuple[tuple[float, float] | None, tuple[float, float] | None] | None = None,
) -> Ranges:
    """The smallest ranges that hold all samples of several runs, so that they can be compared.

    Args:
        given: ranges that are known, as those of angles of a full turn.
    """
    limits = []
    for which in (0, 1):
        known = None if given is None else given[which]
        if known is not None:
            limits.append(known)
            continue
        values = np.concatenate([np.ravel(pair[which]) for pair in pairs])
        low, high = float(values.min()), float(values.max())
        # The largest value belongs into the last cell; a constant one needs a width.
        limits.append((low, high + 1e-9 + 1e-9 * abs(high)))
    return limits[0], limits[1]
