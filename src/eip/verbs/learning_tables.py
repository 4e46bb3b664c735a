"""The tables of active learning: its generations, and where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from eip.active_learning.results import LearningResult

COLUMNS = (
    "generation", "labels", "force MAE, meV/Å", "stable MD", "shortest, ps", "MD uncertain",
    "UDD uncertain", "frames beyond the data", "selected", "labelled", "rejected",
)  # fmt: skip


#: For the width of a terminal.
_SHORT = ("gen", "labels", "MAE, meV/Å", "stable", "ps", "MD", "UDD", "beyond", "sel", "lab", "rej")


def rows(result: LearningResult) -> list[list[str]]:
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
    for row in rows(result):
        table.add_row(*row)
    return table


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
