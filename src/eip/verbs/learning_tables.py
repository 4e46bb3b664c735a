"""The tables of active learning: its generations, and where a run stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from eip.active_learning.ledger import Candidate
from eip.active_learning.price import Price
from eip.active_learning.results import LearningResult
from eip.active_learning.tasks import TaskTime

COLUMNS = (
    "generation", "labels", "force MAE, meV/Å", "stable MD", "shortest, ps", "MD uncertain",
    "UDD uncertain", "frames beyond the data", "selected", "labelled", "rejected",
)  # fmt: skip

#: Of what labels cost.
COST_COLUMNS = (
    "generation", "selected", "of them fragments", "atoms of fragments", "atoms of whole frames",
    "price", "expected, s", "taken, s",
)  # fmt: skip

#: For the width of a terminal.
_SHORT = ("gen", "labels", "MAE, meV/Å", "stable", "ps", "MD", "UDD", "beyond", "sel", "lab", "rej")


def rows(result: LearningResult) -> list[list[str]]:
    rows = []
    for g in result.generations:
        md = [r for r in g.runs if not r["udd"]]

        def share(kind: str, g: Any = g) -> str:
            return f"{g.uncertain(kind) / max(1, g.seen[kind]):.1%}" if kind in g.seen else "–"

        rows.append(
            [
                str(g.generation),
                str(g.labels),
                f"{1000 * g.metrics['force_mae']:.1f}" if "force_mae" in g.metrics else "–",
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


def cost_rows(
    result: LearningResult, candidates: Sequence[Candidate], tasks: Iterable[TaskTime]
) -> list[list[str]]:
    """What the labels of each generation were expected to cost and did, in a worker's seconds.

    Args:
        candidates: of the ledger; those that check the potential alone are not counted.
        tasks: of the run.
    """
    seconds: dict[str, float] = {}
    for task in tasks:
        if task.kind == "label":
            seconds[task.name] = seconds.get(task.name, 0.0) + task.seconds
    of = {g.generation: g for g in result.generations}
    found = []
    for number in (-1, *of):
        own = [
            c
            for c in candidates
            if c.generation == number and c.state != "proposed" and not c.checks
        ]
        if not own:
            continue
        g = of.get(number)
        cut = [c.cut for c in own if c.cut is not None]
        pieces = _range(len(c.atoms) for c in cut)
        expected = None if g is None else g.expected_seconds
        found.append(
            [
                "the start" if g is None else str(number),
                str(len(own)),
                str(len(cut)),
                f"{pieces} of {_range(c.of for c in cut)}" if cut else "–",
                _range(len(c.atoms) for c in own if c.cut is None) or "–",
                "–" if g is None or g.price is None else str(Price(**g.price)),
                "–" if expected is None else f"{expected:.3g}",
                f"{sum(seconds.get(c.key, 0.0) for c in own):.3g}",
            ]
        )
    return found


def _range(numbers: Iterable[int]) -> str:
    held = sorted(set(numbers))
    return " to ".join(str(n) for n in dict.fromkeys((held[0], held[-1]))) if held else ""


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
