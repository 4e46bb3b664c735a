"""What a person sees: tables, progress bars, text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress

    from eip.data.convert import Progress as Converting

out = Console()
err = Console(stderr=True)


def show(message: object) -> None:
    """Text as it is, or a table of rich."""
    if isinstance(message, str):
        out.print(message, highlight=False, markup=False, soft_wrap=True)
    elif isinstance(message, Table):
        _show_table(message)
    else:
        out.print(message)


def _show_table(table: Table) -> None:
    """With every word of it, where rich would cut some: lines are broken between words, and where
    that is not enough, the table is wider than the terminal (80 columns where there is none)."""
    unbound = out.options.update(max_width=10_000)
    needed = Measurement.get(out, unbound, table)
    if needed.maximum <= out.width:
        out.print(table)
        return
    cells = [
        [Measurement.get(out, unbound, cell) for cell in (column.header, *column.cells)]
        for column in table.columns
    ]
    longest_line = [max(one.maximum for one in column) for column in cells]
    widths = [max(one.minimum for one in column) for column in cells]  # of the longest word
    for _ in range(out.width - needed.minimum):
        lacking = [line - width for line, width in zip(longest_line, widths, strict=True)]
        widths[lacking.index(max(lacking))] += 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    Console(file=out.file, width=max(out.width, needed.minimum)).print(table)


def warn(message: object) -> None:
    """On stderr, so that what is piped on stays clean."""
    err.print(message, style="yellow", highlight=False, markup=False)


#: As in `eip.units`, which imports ASE.
_EV_A3_IN_GPA = 160.21766208

#: What a person looks at first: key, words, factor, unit.
_FIRST = (
    ("force_mae", "force error (MAE of a component)", 1000, "meV/Å"),
    ("force_rmse", "force error (RMSE of a component)", 1000, "meV/Å"),
    ("energy_mae_per_atom", "energy error (MAE)", 1000, "meV/atom"),
    ("stress_mae", "stress error (MAE of a component)", _EV_A3_IN_GPA, "GPa"),
    ("mean_uncertainty", "uncertainty σ, mean", 1000, "meV/Å"),
    ("spearman_atom", "rank correlation of σ and error, atoms (1 is best)", 1, ""),
    ("roc_auc_atom", "σ finds the worst atoms (ROC-AUC; 0.5 is chance)", 1, ""),
    ("coverage_80", "share of errors inside the 80 % interval", 1, ""),
    ("energy_coverage_80", "share of energies inside their 80 % interval", 1, ""),
    ("miscalibration_area", "miscalibration area (0 is best)", 1, ""),
    ("extrapolating", "share of atoms beyond the range of held-out ones", 1, ""),
)


def show_metrics(metrics: Mapping[str, float], title: str) -> None:
    """The first figures to look at, out of distribution beside them."""
    has_ood = "ood_ratio" in metrics
    table = Table("", "value", *(["OOD"] if has_ood else []), title=f"metrics {title}")
    for key, words, factor, unit in _FIRST:
        cells = [
            f"{metrics[name] * factor:.3g} {unit}" if name in metrics else ""
            for name in (key, f"{key}_ood")
        ]
        if key in metrics and metrics[key] == metrics[key]:
            table.add_row(words, *cells[: 1 + has_ood])
    show(table)
    said = {  # without labels of forces there is no error for σ to grow with
        "ood_ratio": "σ grows {:.2f} times as much as the error (1 is right, below: too little)",
        "ood_auc": "σ tells such structures apart with an AUC of {:.2f}",
    }
    known = [
        words.format(metrics[key])
        for key, words in said.items()
        if math.isfinite(metrics.get(key, math.nan))
    ]
    if known:
        show(f"Out of distribution {'; '.join(known)}.")


def list_data_sets() -> None:
    """The catalog, with licence and citation."""
    from eip.data.fetch import catalog

    for data_set in catalog().values():
        size = data_set.size
        how = f" ({size / 1e6:.3g} MB)" if size else ""
        if data_set.by_hand:
            how = " (by hand, from the page)"
        unchecked = any(f.checksum is None for f in data_set.files)
        out.print(f"[bold]{escape(data_set.name)}[/]{how}: {escape(data_set.title)}")
        lines = [
            f"licence: {data_set.licence}",
            f"cite: {data_set.cite}",
            f"page: {data_set.page}",
            f"note: {data_set.note}" if data_set.note else "",
            "checksum: none is published; what is found is kept" if unchecked else "",
        ]
        for line in filter(None, lines):
            out.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)


def download_bars(shown: bool) -> Progress:
    """A bar for each file, with its speed."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not shown,
    )


@contextmanager
def conversion_bar(shown: bool) -> Iterator[Callable[[Converting], None]]:
    """A bar that is told of frames read."""
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[frames]:,} frames"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not shown,
        transient=True,
    ) as bars:
        task = bars.add_task("reading", total=None, frames=0)

        def tick(now: Converting) -> None:
            total = None if now.share is None else 1.0
            bars.update(
                task,
                description=now.doing,
                completed=now.share or 0.0,
                total=total,
                frames=now.frames,
            )

        yield tick


@contextmanager
def bar(shown: bool, what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar that is told what share is done."""
    from rich.progress import Progress

    with Progress(console=err, disable=not shown, transient=True) as bars:
        task = bars.add_task(what, total=1.0)
        yield lambda share: bars.update(task, completed=share)


def lines_of(value: Any) -> str:
    """A value of a description as the text of a cell."""
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_cell(v)}" for k, v in value.items())
    return _cell(value)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)
