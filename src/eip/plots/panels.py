"""One Axes and plain arrays each: how good a potential is, and how far its σ can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from eip.plots.style import (
    COLORS,
    GUIDE,
    add_note,
    cloud,
    colors,
    finite,
    has_data,
    legend,
    log10,
    log_limits,
    plain_log_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:  # matplotlib is loaded when something is drawn, not when eIP is imported
    Axes = Any


def parity(
    ax: Axes,
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    quantity: str,
    unit: str,
    error_scale: float = 1000.0,
    error_unit: str | None = None,
) -> None:
    """Predicted against true values with the diagonal, MAE and RMSE.

    Errors in the corner are multiplied by ``error_scale`` and named ``error_unit`` (m + unit).
    """
    x, y = finite(true, predicted)
    ax.set_xlabel(f"reference {quantity} ({unit})")
    ax.set_ylabel(f"predicted {quantity} ({unit})")
    if not has_data(ax, x):
        return
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin
    cloud(ax, x, y, extent=(low, high, low, high))
    ax.plot([low, high], [low, high], color=GUIDE, lw=1.0, ls="--", zorder=3)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    error = (y - x) * error_scale
    name = error_unit or f"m{unit}"
    add_note(
        ax, f"MAE {np.abs(error).mean():.3g} {name}\nRMSE {np.sqrt((error**2).mean()):.3g} {name}"
    )


def uncertainty_against_error(
    ax: Axes, sigma: ArrayLike, error: ArrayLike, *, note: str = "", of: str = "atom"
) -> None:
    """Log-log cloud of error over σ with the diagonal and the median error of each tenth of σ."""
    x, y = finite(sigma, error)
    positive = (x > 0) & (y > 0)
    x, y = x[positive], y[positive]
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel(f"uncertainty σ of the {of} (eV/Å)")
    ax.set_ylabel(f"force error of the {of} (eV/Å)")
    if not has_data(ax, x):
        return
    # A few errors near zero by chance would stretch the axis over decades without news.
    x_limits = log_limits(np.quantile(x, [0.001, 1.0]))
    y_limits = log_limits(np.quantile(y, [0.002, 1.0]))
    cloud(ax, x, y, extent=(*log10(x_limits), *log10(y_limits)), log=True)
    both = np.array([min(x_limits[0], y_limits[0]), max(x_limits[1], y_limits[1])])
    ax.plot(both, both, color=GUIDE, lw=1.0, ls="--", zorder=3, label="error = σ")
    if len(x) >= 50:
        tenths = np.array_split(np.argsort(x, kind="stable"), 10)
        ax.plot(
            [np.median(x[t]) for t in tenths],
            [np.median(y[t]) for t in tenths],
            color=COLORS[1],
            lw=1.6,
            marker="o",
            ms=4,
            zorder=4,
            label="median in each tenth of σ",
        )
    ax.set(xlim=x_limits, ylim=y_limits)
    plain_log_ticks(ax.xaxis)
    plain_log_ticks(ax.yaxis)
    legend(ax, "lower right")
    if note:
        add_note(ax, note)


def roc_curves(ax: Axes, curves: Mapping[str, tuple[ArrayLike, ArrayLike, float]]) -> None:
    """ROC curves: label → (false positive rate, true positive rate, area)."""
    ax.plot([0, 1], [0, 1], color=GUIDE, lw=1.0, ls="--", label="chance")
    for color, (label, (false_rate, true_rate, area)) in zip(
        colors(len(curves)), curves.items(), strict=True
    ):
        if np.isfinite(area):
            ax.plot(false_rate, true_rate, color=color, lw=1.8, label=f"{label}: {area:.3f}")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set_xlabel("false positive rate")
    ax.set_ylabel("true positive rate")
    legend(ax, "lower right", title="area under curve")


def calibration_curves(ax: Axes, curves: Mapping[str, tuple[ArrayLike, ArrayLike, float]]) -> None:
    """Observed against expected coverage: label → (expected, observed, miscalibration area)."""
    ax.plot([0, 1], [0, 1], color=GUIDE, lw=1.0, ls="--")
    for color, (label, (expected, observed, area)) in zip(
        colors(len(curves)), curves.items(), strict=True
    ):
        if np.isfinite(area):
            ax.plot(expected, observed, color=color, lw=1.8, label=f"{label}: {area:.3f}")
            ax.fill_between(
                np.asarray(expected, float),
                np.asarray(expected, float),
                np.asarray(observed, float),
                color=color,
                alpha=0.15,
                lw=0,
            )
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xlabel("expected coverage of force components")
    ax.set_ylabel("observed coverage")
    ax.text(0.97, 0.55, "too sure", color=GUIDE, ha="right", fontsize=9)
    ax.text(0.03, 0.55, "too cautious", color=GUIDE, ha="left", fontsize=9)
    legend(ax, "upper left", title="miscalibration area")


def retention(ax: Axes, fraction: ArrayLike, by_uncertainty: ArrayLike, oracle: ArrayLike) -> None:
    """Mean error (eV/Å) of the atoms that stay when the most uncertain are set aside."""
    share, kept, best = (np.asarray(a, float) for a in (fraction, by_uncertainty, oracle))
    ax.set_xlabel("fraction of atoms kept, most certain first")
    ax.set_ylabel("force error of those kept (meV/Å)")
    if not has_data(ax, kept[np.isfinite(kept)]):
        return
    scale = 1000.0
    ax.axhline(kept[-1] * scale, color=GUIDE, lw=1.0, ls="--", label="in random order")
    ax.fill_between(share, best * scale, kept * scale, color=COLORS[0], alpha=0.12, lw=0)
    ax.plot(share, kept * scale, color=COLORS[0], lw=1.8, label="by σ")
    ax.plot(share, best * scale, color=COLORS[2], lw=1.8, label="by the error itself (bound)")
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    legend(ax, "lower right")
