"""`eip reproduce`: one of the paper's figures, beside what the paper says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast, get_args

from rich.table import Table

from eip.errors import InputError, did_you_mean
from eip.files import json_text, write_whole
from eip.locks import locked
from eip.paper.fig2 import data_efficiency
from eip.paper.fig3 import methods_compared
from eip.paper.fig4 import active_learning
from eip.paper.fig5 import universal
from eip.paper.job import Job, Made, Row
from eip.paper.setups import SETUPS, FigureName, Scale
from eip.verbs.messages import Log, silent

_MAKERS: Mapping[FigureName, Callable[[Job], Made]] = {
    "fig2": data_efficiency,
    "fig3": methods_compared,
    "fig4": active_learning,
    "fig5": universal,
}


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` left behind.

    Attributes:
        rows: the table. table: the same as Markdown. json: the same and every figure of it.
        plot: the figure.
    """

    rows: list[Row]
    table: Path
    json: Path
    plot: Path


def figure_named(name: str) -> FigureName:
    """Raises `InputError` where it is none."""
    return cast(FigureName, _one_of(name, get_args(FigureName), "figure"))


def scale_named(name: str) -> Scale:
    """Raises `InputError` where it is none."""
    return cast(Scale, _one_of(name, get_args(Scale), "scale"))


def _one_of(name: str, known: Sequence[str], what: str) -> str:
    if name not in known:
        raise InputError(f"unknown {what} '{name}': {did_you_mean(name, known)}")
    return name


def reproduce(
    figure: FigureName,
    data: Path,
    out: Path,
    *,
    scale: Scale = "small",
    changes: Sequence[str] = (),
    progress: bool = True,
    log: Log = silent,
) -> Reproduction:
    """Makes one of the paper's figures in ``out/<figure>-<scale>``; goes on with what is there.

    Args:
        data: folder with what `eip fetch` brought; files are also found elsewhere below it.
        changes: keys of `model`, `training` or (fig4) `learn` in place of the figure's, as
            ``"training.epochs=5"``.

    Raises:
        InputError: if a file is missing (the error says how to get it) or the folder holds a run of
            another configuration.
        InterruptedError: if the user stopped a training.
    """
    setup = SETUPS[figure, scale]
    log(f"{figure}, {scale}: {setup.about}.")
    with locked(folder := (out / f"{figure}-{scale}").resolve()):
        return _made(figure, scale, Job(setup, data, folder, changes, progress, log))


def _made(figure: FigureName, scale: Scale, job: Job) -> Reproduction:
    setup, folder, log = job.setup, job.folder, job.log
    rows, plot, measures = _MAKERS[figure](job)
    result = Reproduction(rows, folder / "reproduction.md", folder / "reproduction.json", plot)
    title = f"{figure} ({scale}): {setup.about}"
    write_whole(result.table, f"{title}\n\n{_markdown(rows)}")
    content = {
        "figure": figure,
        "scale": scale,
        "about": setup.about,
        "rows": [asdict(row) for row in rows],
        "measures": measures,
    }
    write_whole(result.json, json_text(content))
    table = Table("", "paper", "here", title=title)
    for row in rows:
        table.add_row(row.what, row.paper, row.ours)
    log(table)
    return result


def _markdown(rows: Sequence[Row]) -> str:
    lines = [("", "paper", "here"), ("---", "---", "---")]
    lines += [(row.what, row.paper or "–", row.ours) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
