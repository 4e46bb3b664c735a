"""What all plots share: the canvas, colours, and how a cloud, a note or a legend looks."""

from __future__ import annotations

import math
import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Figure
else:  # matplotlib is loaded when something is drawn, not when eIP is imported
    Axes = Axis = Figure = Any

#: Okabe and Ito's colours: told apart by colour-blind eyes and in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
Corner = Literal["upper left", "lower right", "best"]

INK = "#333333"
GUIDE = "#8A8A8A"

#: Fewer points than this are drawn one by one: a hexbin of few points is mostly holes.
HEXBIN_FROM = 2000


def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] | None = None,
    share_x: bool = False,
) -> Figure:
    """A figure with a grid of Axes (``figure.axes``, row by row); ``size`` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (4.6 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for ax in np.atleast_1d(figure.subplots(rows, columns, sharex=share_x)).flat:
        _style(ax)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Writes a figure under its final name only once it is whole; the suffix says the format."""
    path = Path(path)
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=path.suffix, delete=False) as file:
        temporary = Path(file.name)
    try:
        figure.savefig(temporary, dpi=dpi, facecolor="white")
        _readable_by_others(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def hide_empty(figure: Figure) -> None:
    for ax in figure.axes:
        if not ax.has_data():
            ax.set_visible(False)


def _style(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.tick_params(colors=INK, labelsize=9)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)
    ax.grid(color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)


def cloud(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    *,
    extent: tuple[float, float, float, float],
    log: bool = False,
) -> None:
    """Points while they can be told apart, their density in hexagons where they cannot."""
    if len(x) < HEXBIN_FROM:
        ax.scatter(x, y, s=9, alpha=0.45, color=COLORS[0], lw=0, zorder=2)
        return
    scale: Literal["log", "linear"] = "log" if log else "linear"
    image = ax.hexbin(
        x,
        y,
        gridsize=60,
        bins="log",
        mincnt=1,
        cmap="viridis",
        lw=0.2,
        xscale=scale,
        yscale=scale,
        extent=extent,
        zorder=2,
    )
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.75, pad=0.02)
    bar.set_label("number in hexagon", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def add_note(ax: Axes, text: str) -> None:
    ax.text(
        0.03,
        0.97,
        text,
        transform=ax.transAxes,
        va="top",
        ha="left",
        fontsize=9,
        color=INK,
        zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )


def legend(ax: Axes, where: Corner, title: str | None = None) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            handles,
            labels,
            loc=where,
            title=title,
            fontsize=8.5,
            title_fontsize=8.5,
            framealpha=0.85,
            edgecolor="none",
        ).set_zorder(6)


def has_data(ax: Axes, values: np.ndarray) -> bool:
    """Whether there is something to draw; says so on the Axes where not."""
    if values.size:
        return True
    ax.text(0.5, 0.5, "no data", transform=ax.transAxes, ha="center", va="center", color=GUIDE)
    return False


def finite(*arrays: ArrayLike) -> list[np.ndarray]:
    flat = [np.asarray(a, float).ravel() for a in arrays]
    known = np.logical_and.reduce([np.isfinite(a) for a in flat])
    return [a[known] for a in flat]


def log_limits(ends: np.ndarray) -> tuple[float, float]:
    return float(ends[0]) / 1.3, float(ends[1]) * 1.3


def plain_log_ticks(axis: Axis) -> None:
    """Numbers such as 0.02 in place of 2×10⁻², which collide on a short axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def log10(limits: tuple[float, float]) -> tuple[float, float]:
    return math.log10(limits[0]), math.log10(limits[1])


def colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _readable_by_others(path: Path) -> None:
    """A temporary file is its owner's alone; a result has the permissions of any new file."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
