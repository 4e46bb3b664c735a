"""Whole figures: a training, runs of dynamics, active learning, comparisons, the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from eip.plots.panels import parity, roc_curves, uncertainty_against_error
from eip.plots.style import (
    COLORS,
    GUIDE,
    HEXBIN_FROM,
    INK,
    colors,
    finite,
    has_data,
    hide_empty,
    legend,
    new_figure,
    plain_log_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure
else:  # matplotlib is loaded when something is drawn, not when eIP is imported
    Axes = Figure = Any


def training_curves(columns: Mapping[str, ArrayLike], *, x: str = "epoch") -> Figure:
    """One panel for each kind of column of a training log, over the epochs.

    ``columns`` is the log by column; those whose names hold "loss", "force", "energy",
    "spearman", "auc", "coverage", "uncertainty", "learning_rate" or "lr" are drawn, others
    ignored. Rows in which a column is NaN are left out for that column alone.
    """
    kinds = {
        "loss": ("loss",),
        "force error (eV/Å)": ("force",),
        "energy error (eV/atom)": ("energy",),
        "quality of σ": ("spearman", "auc", "coverage"),
        "σ (eV/Å)": ("uncertainty",),
        "learning rate": ("learning_rate", "lr"),
    }
    groups: dict[str, list[str]] = {}
    for name in columns:
        kind = next((k for k, words in kinds.items() if any(w in name for w in words)), None)
        if name != x and kind is not None:
            groups.setdefault(kind, []).append(name)
    groups = {kind: groups[kind] for kind in kinds if kind in groups}
    panels = max(1, len(groups))
    columns_of_panels = min(3, panels)
    figure = new_figure(math.ceil(panels / columns_of_panels), columns_of_panels)
    for ax in figure.axes[panels:]:
        ax.remove()
    epochs = np.asarray(columns[x], float) if x in columns else None
    for ax, (kind, names) in zip(figure.axes, groups.items(), strict=False):
        all_positive = True
        for color, name in zip(colors(len(names)), names, strict=True):
            values = np.asarray(columns[name], float)
            at, values = finite(np.arange(len(values)) if epochs is None else epochs, values)
            all_positive &= bool((values > 0).all())
            ax.plot(
                at,
                values,
                color=color,
                lw=1.6,
                label=name.replace("_", " "),
                marker="o" if len(at) < 3 else None,
                ms=3,
            )
        ax.set_xlabel(x)
        ax.set_ylabel(kind)
        if all_positive and kind != "quality of σ":
            ax.set_yscale("log")
            plain_log_ticks(ax.yaxis)
        legend(ax, "best")
    return figure


def dynamics(
    runs: Mapping[str, Mapping[str, ArrayLike]],
    *,
    threshold: float | None = None,
    endings: Mapping[str, str] | None = None,
) -> Figure:
    """Energy, temperature and σ of runs (MD and UDD, say) over time, laid over each other.

    Each run holds ``time`` (fs) and any of ``energy`` (eV), ``temperature`` (K) and
    ``uncertainty`` (eV/Å); ``threshold`` is the σ at which a run is stopped, ``endings`` says in
    words how each run ended, and is written where it did.
    """
    panels = (
        ("energy", "energy (eV)"),
        ("temperature", "temperature (K)"),
        ("uncertainty", "σ (eV/Å)"),
    )
    figure = new_figure(3, 1, size=(7.0, 7.2), share_x=True)
    for ax, (key, label) in zip(figure.axes, panels, strict=True):
        ax.set_ylabel(label)
        for color, (name, run) in zip(colors(len(runs)), runs.items(), strict=True):
            if key not in run:
                continue
            time, values = finite(np.asarray(run["time"], float) / 1000.0, run[key])
            if not len(time):
                continue
            ending = (endings or {}).get(name)
            ax.plot(
                time,
                values,
                color=color,
                lw=1.1,
                alpha=0.9,
                label=f"{name}: {ending}" if ending else name,
            )
            ax.plot(time[-1], values[-1], color=color, marker="o", ms=5, mec="white")
            if ending:
                ax.axvline(time[-1], color=color, lw=0.8, ls=":")
    last = figure.axes[-1]
    if threshold is not None:
        last.axhline(threshold, color=INK, lw=1.0, ls="--")
        last.annotate(
            f"threshold {threshold:.3g} eV/Å",
            (0.01, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )
        low, high = last.get_ylim()
        last.set_ylim(low, max(high, threshold + 0.15 * (threshold - low)))
    last.set_xlabel("time (ps)")
    handles, labels = [], []
    for ax in figure.axes:  # a run may lack one of the panels
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            if text not in labels:
                handles.append(handle)
                labels.append(text)
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=1 if endings else 4,
            frameon=False,
            fontsize=9,
        )
    return figure


def learning(
    labels: ArrayLike,
    force_mae: ArrayLike,
    stable_ps: ArrayLike,
    uncertain: Mapping[str, ArrayLike],
    seconds: Mapping[str, float],
) -> Figure:
    """A learning run: error over labels, stability and uncertain share by generation, time spent.

    Args:
        labels, force_mae: of each generation; meV/Å.
        stable_ps: shortest run of MD of each generation, ps.
        uncertain: "md", "udd" → share of the frames seen that were candidates.
        seconds: what the time went into.
    """
    figure = new_figure(1, 4, size=(16.5, 3.6))
    curve, stable, share, time = figure.axes
    curve.plot(np.asarray(labels), np.asarray(force_mae), "o-", color=COLORS[0])
    curve.set(xlabel="labels", ylabel="force MAE (meV/Å)", ylim=(0, None))
    generations = np.arange(len(np.asarray(stable_ps)))
    stable.bar(generations, np.asarray(stable_ps), color=COLORS[2])
    stable.set(xlabel="generation", ylabel="shortest run of MD (ps)", xticks=generations)
    for color, (name, values) in zip(COLORS, uncertain.items(), strict=False):
        share.plot(generations, 100 * np.asarray(values), "o-", color=color, label=name.upper())
    share.set(xlabel="generation", ylabel="uncertain frames (%)", ylim=(0, None))
    share.set_xticks(generations)
    legend(share, "best")
    time.barh(list(seconds), [value / 60 for value in seconds.values()], color=COLORS[0])
    time.invert_yaxis()
    time.set_xlabel("minutes")
    return figure


def gantt(
    kinds: Sequence[str],
    lanes: Sequence[int],
    begun: ArrayLike,
    seconds: ArrayLike,
) -> Figure:
    """Who worked on what when: a bar for each task, in its lane.

    Args:
        kinds: of the tasks; each has its colour.
        lanes: counted from 0.
        begun, seconds: of the tasks; the first to begin is at zero.
    """
    count = max(lanes, default=0) + 1
    figure = new_figure(size=(10.0, 1.2 + 0.28 * count))
    (ax,) = figure.axes
    start = (np.asarray(begun) - np.min(begun)) / 60.0 if len(kinds) else np.zeros(0)
    width = np.asarray(seconds, float) / 60.0
    # Not sets: colours follow the order of first appearance.
    for color, kind in zip(COLORS, dict.fromkeys(kinds), strict=False):
        own = np.array([one == kind for one in kinds])
        ax.barh(
            np.asarray(lanes)[own], width[own], left=start[own], color=color, label=kind,
            edgecolor="white", linewidth=0.3, height=0.8,
        )  # fmt: skip
    ax.set(xlabel="minutes", ylabel="at work at once", yticks=range(count))
    ax.set_yticklabels([str(lane + 1) for lane in range(count)])
    ax.invert_yaxis()
    if len(kinds):
        legend(ax, "best")
    return figure


def comparison(
    clouds: Mapping[str, tuple[ArrayLike, ArrayLike, str]],
    bars: Mapping[str, Mapping[str, tuple[float, float | None]]],
    columns: int = 4,
) -> Figure:
    """Methods side by side: error over σ of each, then a bar chart of each measure.

    Args:
        clouds: label → σ and error of each atom, eV/Å, and a note for the corner.
        bars: title → label → value and its spread (None: unknown).
    """
    panels = len(clouds) + len(bars)
    columns = min(columns, max(1, panels))
    figure = new_figure(-(-panels // columns), columns)
    axes = list(figure.axes)
    for ax, (sigma, error, note) in zip(axes, clouds.values(), strict=False):
        uncertainty_against_error(ax, sigma, error, note=note)
    for ax, (title, values) in zip(axes[len(clouds) :], bars.items(), strict=False):
        heights = [value for value, _ in values.values()]
        spreads = [spread or 0.0 for _, spread in values.values()]
        ax.barh(
            list(values),
            heights,
            xerr=spreads if any(spreads) else None,
            color=COLORS[0],
            ecolor=INK,
            capsize=2,
            height=0.7,
        )
        ax.invert_yaxis()
        ax.set_title(title, fontsize=10, color=INK)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure


def data_efficiency(
    clouds: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    curves: Mapping[str, Mapping[str, ArrayLike]],
) -> Figure:
    """Growing shares of the training data (the paper's Fig. 2): error over σ, then measures.

    Args:
        clouds: share → "ID", "OOD" → σ and error of each structure, eV/Å.
        curves: title → "ID", "OOD" → a value for each share.
    """
    columns = max(len(clouds), len(curves))
    figure = new_figure(2, columns)
    for ax, (share, sets) in zip(figure.axes[:columns], clouds.items(), strict=False):
        both: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for color, (name, (sigma, error)) in zip(colors(len(sets)), sets.items(), strict=True):
            x, y = finite(sigma, error)
            keep = (x > 0) & (y > 0)
            ax.scatter(x[keep], y[keep], s=4, color=color, alpha=0.35, lw=0, label=name)
            both[0].append(x[keep])
            both[1].append(y[keep])
        ax.set(xscale="log", yscale="log", title=f"{share} of the training frames")
        ax.set_xlabel("uncertainty σ of the structure (eV/Å)")
        ax.set_ylabel("force error of the structure (eV/Å)")
        x, y = (np.concatenate(values) for values in both)
        if not has_data(ax, x):
            continue
        ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
        ax.plot(ends, ends, color=GUIDE, lw=1.0, ls="--")
        plain_log_ticks(ax.xaxis)
        plain_log_ticks(ax.yaxis)
        legend(ax, "lower right")
    shares = list(clouds)
    for ax, (title, of) in zip(figure.axes[columns:], curves.items(), strict=False):
        for color, (name, values) in zip(colors(len(of)), of.items(), strict=True):
            ax.plot(shares, np.asarray(values, float), "o-", color=color, label=name)
        ax.set_xlabel("share of the training frames")
        ax.set_ylabel(title)
        legend(ax, "best")
    hide_empty(figure)
    return figure


def periodic_table(values: Mapping[str, Mapping[str, float]]) -> Figure:
    """One table of elements for each title, coloured by a value of each (log scale); grey: none.

    Args:
        values: title → chemical symbol → value.
    """
    from ase.data import chemical_symbols
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    figure = new_figure(len(values), 1, size=(10.5, 5.0 * len(values)))
    for ax, (title, of) in zip(list(figure.axes), values.items(), strict=True):
        ax.set(xlim=(0.4, 18.6), ylim=(9.8, 0.4), aspect="equal")
        ax.axis("off")
        ax.set_title(title, fontsize=11, color=INK)
        known = np.array([v for v in of.values() if np.isfinite(v) and v > 0])
        if not len(known):
            continue
        norm = LogNorm(known.min(), max(known.max(), known.min() * 1.01))
        colors = ScalarMappable(norm, "viridis")
        for number, symbol in enumerate(chemical_symbols[1:95], start=1):
            column, row = _cell_of(number)
            value = of.get(symbol, math.nan)
            shown = math.isfinite(value) and value > 0
            face: Any = colors.to_rgba(np.array([value]))[0] if shown else "#EEEEEE"
            ax.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, color=face, lw=0))
            dark = shown and norm(value) < 0.6
            ink = "white" if dark else (INK if shown else "#AAAAAA")
            ax.text(column, row - 0.12, symbol, ha="center", va="center", fontsize=9, color=ink)
            if shown:
                ax.text(
                    column, row + 0.25, f"{value:.2g}", ha="center", va="center", fontsize=5.5,
                    color=ink,
                )  # fmt: skip
        figure.colorbar(colors, ax=ax, shrink=0.7, pad=0.01)
    return figure


def _cell_of(number: int) -> tuple[int, float]:
    """Group and period of an element; lanthanides and actinides in rows of their own."""
    for first, row in ((57, 8.8), (89, 9.8 - 0.1)):
        if first <= number < first + 15:
            return number - first + 3, row - (0.3 if first == 57 else 0.2)
    starts = (1, 3, 11, 19, 37, 55, 87)
    period = sum(number >= start for start in starts)
    place = number - starts[period - 1]
    if period == 1:
        return (1, 1.0) if number == 1 else (18, 1.0)
    if period in (2, 3):
        return (place + 1 if place < 2 else place + 11), float(period)
    if period in (4, 5):
        return place + 1, float(period)
    return (place + 1 if place < 2 else place - 13), float(period)


def sampling(
    axes: tuple[Axes, Axes, Axes],
    logs: Mapping[str, Mapping[str, ArrayLike]],
    entropy: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str,
    *,
    timed: bool = True,
) -> None:
    """Energy, σ and configurational entropy over time, MD against UDD (the paper's Fig. 5d-i).

    Args:
        logs: by run, ``time`` (fs), ``energy`` (eV), ``uncertainty`` (eV/Å).
        entropy: by run, times (fs) and entropy of all frames up to each.
        timed: False where times are numbers of frames.
    """
    per = 1000.0 if timed else 1.0
    for ax, (key, label) in zip(
        axes[:2], (("energy", "energy (eV)"), ("uncertainty", "σ (eV/Å)")), strict=True
    ):
        for color, (name, log) in zip(colors(len(logs)), logs.items(), strict=True):
            time, value = finite(np.asarray(log["time"], float) / per, log[key])
            if len(time):
                ax.plot(time, value, color=color, lw=1.1, label=name)
        ax.set_ylabel(label)
    for color, (name, (at, share)) in zip(colors(len(entropy)), entropy.items(), strict=True):
        axes[2].plot(np.asarray(at, float) / per, share, color=color, lw=1.4, label=name)
    axes[2].set_ylabel("configurational entropy")
    for ax in axes:
        ax.set_xlabel("time (ps)" if timed else "frame")
        ax.set_title(title, fontsize=10, color=INK)
        if ax.has_data():
            legend(ax, "best")
        else:
            has_data(ax, np.empty(0))


def order_parameters(
    runs: Mapping[str, tuple[ArrayLike, ArrayLike]], names: tuple[str, str], title: str = ""
) -> Figure:
    """What each run sampled of two order parameters: a panel each, with histograms of all beside.

    Args:
        runs: by run, the samples of both.
        names: of the order parameters, with units.
    """
    figure = new_figure(1, len(runs) + 2, size=(4.2 * (len(runs) + 2), 4.0))
    *clouds, first, second = figure.axes
    samples = {name: finite(a, b) for name, (a, b) in runs.items()}
    # On the same axes, or the eye compares nothing.
    limits = [
        _padded(np.concatenate([both[which] for both in samples.values()])) for which in (0, 1)
    ]
    for cloud, color, (name, (x, y)) in zip(
        clouds, colors(len(samples)), samples.items(), strict=True
    ):
        cloud.set(xlabel=names[0], ylabel=names[1], xlim=limits[0], ylim=limits[1])
        cloud.set_title(f"{title} {name}".strip(), fontsize=10, color=color)
        if not has_data(cloud, x):
            continue
        if len(x) < HEXBIN_FROM:
            cloud.scatter(x, y, s=6, color=color, alpha=0.4, lw=0, zorder=2)
        else:
            cloud.hexbin(
                x, y, gridsize=40, bins="log", mincnt=1, cmap="viridis", zorder=2,
                extent=(*limits[0], *limits[1]),
            )  # fmt: skip
        for ax, values, limit in ((first, x, limits[0]), (second, y, limits[1])):
            ax.hist(
                values, bins=40, range=limit, density=True, histtype="step", color=color, lw=1.4,
                label=name,
            )  # fmt: skip
    first.set(xlabel=names[0], ylabel="probability density")
    second.set(xlabel=names[1], ylabel="probability density")
    for ax in (first, second):
        legend(ax, "best")
    return figure


def _padded(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def structure(
    distributions: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike]]],
    displacements: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike]]],
    bands: Mapping[str, Mapping[str, ArrayLike]] | None = None,
) -> Figure:
    """Radial distribution functions by pair and mean squared displacements by element.

    Args:
        distributions: by run, radii (Å) and g(r) by pair of elements.
        displacements: by run, times (ps) and Å² by element.
        bands: by run and pair, the standard deviation of g(r): drawn as a band of twice it.
    """
    pairs = list(dict.fromkeys(pair for _, of in distributions.values() for pair in of))
    elements = list(dict.fromkeys(e for _, of in displacements.values() for e in of))
    columns = 4
    rows = max(1, math.ceil((len(pairs) + len(elements)) / columns))
    figure = new_figure(rows, columns, size=(3.6 * columns, 3.0 * rows))
    panels = iter(figure.axes)
    parts = (
        (pairs, distributions, "r (Å)", "g(r)"),
        (elements, displacements, "time between (ps)", "squared displacement (Å²)"),
    )
    for keys, runs, across, up in parts:
        for key, ax in zip(keys, panels, strict=False):
            for color, (name, (x, of)) in zip(colors(len(runs)), runs.items(), strict=True):
                if key in of:
                    y, error = np.asarray(of[key]), (bands or {}).get(name, {}).get(key)
                    ax.plot(np.asarray(x), y, color=color, lw=1.2, label=name)
                    if error is not None:
                        two = 2.0 * np.asarray(error)
                        ax.fill_between(np.asarray(x), y - two, y + two, color=color, alpha=0.25)
            ax.set(xlabel=across, ylabel=up)
            ax.set_title(key, fontsize=10, color=INK)
            legend(ax, "best")
    hide_empty(figure)
    return figure


def bond_scans(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Energies of bonds by their length; what is smooth and has one minimum looks so.

    Args:
        curves: by bond, its length over the one it has in the structure, and eV above the minimum.
    """
    figure = new_figure(1, 2, size=(11.0, 4.4))
    for ax, window in zip(figure.axes, ((0.6, 1.8), (0.85, 1.2)), strict=True):
        for color, (factors, energies) in zip(colors(len(curves)), curves.values(), strict=True):
            x, y = np.asarray(factors), np.asarray(energies)
            inside = (x >= window[0]) & (x <= window[1])
            ax.plot(x[inside], y[inside], color=color, lw=1.0, alpha=0.8)
        ax.axvline(1.0, color=GUIDE, lw=0.8, ls=":")
        ax.set(xlabel="length over that of the structure", ylabel="energy (eV)")
    # A molecule has dozens of bonds of few kinds: a legend of some of them is of use, of all not.
    if len(curves) <= 16:
        for line, name in zip(figure.axes[0].lines, curves, strict=False):
            line.set_label(name)
        figure.axes[0].legend(fontsize=7, ncols=2, frameon=False)
    return figure


def universal(
    cloud: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    roc: tuple[ArrayLike, ArrayLike, float],
    runs: Mapping[
        str, tuple[Mapping[str, Mapping[str, ArrayLike]], Mapping[str, tuple[ArrayLike, ArrayLike]]]
    ],
) -> Figure:
    """A universal potential and what it is used for (the paper's Fig. 5).

    Args:
        cloud: forces, true and predicted (eV/Å), σ and error of each atom (eV/Å).
        roc: as `roc_curves`.
        runs: material → as `sampling`.
    """
    figure = new_figure(1 + len(runs), 3)
    axes = list(figure.axes)
    true, predicted, sigma, error = cloud
    parity(axes[0], true, predicted, quantity="force component", unit="eV/Å")
    uncertainty_against_error(axes[1], sigma, error)
    roc_curves(axes[2], {"atoms": roc})
    for row, (name, (logs, entropy)) in enumerate(runs.items(), start=1):
        three = axes[3 * row : 3 * row + 3]
        sampling((three[0], three[1], three[2]), logs, entropy, name)
    return figure
