"""The report that active learning leaves, and its tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from eip import plots
from eip.active_learning.results import LearningResult
from eip.files import write_whole
from eip.verbs.run_logs import plot_dynamics


def write_report(folder: Path, result: LearningResult) -> None:
    """learning.md, learning.png and dynamics.png (the paper's Fig. 4) in the run's folder."""
    write_whole(folder / "learning.md", _markdown(result, folder))
    labels = [g.labels for g in result.generations]
    error = [1000.0 * g.metrics.get("force_mae", float("nan")) for g in result.generations]
    figure = plots.learning(
        labels,
        error,
        [g.stable_ps for g in result.generations],
        {k: [g.candidates[k] / max(1, g.seen[k]) for g in result.generations]
         for k in result.generations[0].seen},
        result.seconds,
    )  # fmt: skip
    plots.save_figure(figure, folder / "learning.png")
    shown = {}
    for g in _ends(result.generations):
        for kind in (False, True):
            of_kind = [r for r in g.runs if r["udd"] is kind]
            if of_kind:
                name = f"{'UDD' if kind else 'MD'}, generation {g.generation}"
                shown[name] = (Path(of_kind[0]["folder"]), of_kind[0]["ending"])
    plot_dynamics(shown, folder / "dynamics.png")


def _ends(generations: Sequence[Any]) -> list[Any]:
    """The first and the last: more would hide each other."""
    return [generations[0]] if len(generations) == 1 else [generations[0], generations[-1]]


_COLUMNS = (
    "generation", "labels", "force MAE, meV/Å", "stable MD", "shortest, ps", "MD uncertain",
    "UDD uncertain", "frames beyond the data", "selected", "labelled", "rejected",
)  # fmt: skip


#: For the width of a terminal.
_SHORT = ("gen", "labels", "MAE, meV/Å", "stable", "ps", "MD", "UDD", "beyond", "sel", "lab", "rej")


def _rows(result: LearningResult) -> list[list[str]]:
    rows = []
    for g in result.generations:
        md = [r for r in g.runs if not r["udd"]]

        def share(kind: str, g: Any = g) -> str:
            return f"{g.candidates[kind] / max(1, g.seen[kind]):.1%}" if kind in g.seen else "–"

        rows.append(
            [
                str(g.generation),
                str(g.labels),
                f"{1000 * g.metrics.get('force_mae', float('nan')):.1f}",
                f"{sum(r['ending'] == 'finished' for r in md)} of {len(md)}",
                f"{g.stable_ps:.3g}",
                share("md"),
                share("udd"),
                str(sum(g.extrapolating.values())),
                str(g.selected),
                str(g.labelled),
                str(g.rejected),
            ]
        )
    return rows


def result_table(result: LearningResult) -> Table:
    """The generations, for a terminal."""
    table = Table(*_SHORT, title=f"learning: {result.reason}")
    for row in _rows(result):
        table.add_row(*row)
    return table


def _markdown(result: LearningResult, folder: Path) -> str:
    model = os.path.relpath(result.model, folder)
    last = result.generations[-1]
    verdict = "" if last.verdict == last.stop else last.verdict
    lines = [
        "# Active learning\n",
        f"\nEnded: {result.reason}. {result.labels} labels; model: `{model}`.\n\n",
        *([f"{verdict[0].upper()}{verdict[1:]}.\n\n"] if verdict else []),
        f"| {' | '.join(_COLUMNS)} |\n",
        f"| {' | '.join(['---'] * len(_COLUMNS))} |\n",
        *(f"| {' | '.join(row)} |\n" for row in _rows(result)),
        "\n![learning](learning.png)\n\n![dynamics](dynamics.png)\n",
        "\n## Where the time went\n\n| | s |\n| --- | --- |\n",
        *(f"| {name} | {seconds:.0f} |\n" for name, seconds in result.seconds.items()),
        f"\nBeyond training, dynamics and labels: {result.overhead_fraction:.1%}.\n",
        "\n## How each run of dynamics ended\n\n| generation | run | ending | ps |\n",
        "| --- | --- | --- | --- |\n",
        *(
            f"| {g.generation} | {r['name']} | {r['ending']}: {r['reason']} | "
            f"{r['time_ps']:.3g} |\n"
            for g in result.generations
            for r in g.runs
        ),
        "\nWhat was selected, from where and how uncertain it was:\n"
        "`ase db ledger.db -c candidate,state,generation,origin,sigma`\n",
    ]
    return "".join(lines)


def status_table(found: Mapping[str, Any]) -> Table:
    """What `eip.active_learning.results.status` says, for a terminal."""
    table = Table(title="learning", show_header=False)
    for key, value in found.items():
        if isinstance(value, Mapping):
            text = ", ".join(
                f"{k}: {v:.0f} s" if key == "seconds" else f"{v} {k}" for k, v in value.items() if v
            )
            value = text or "–"
        table.add_row(key, str(value))
    return table
