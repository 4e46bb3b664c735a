"""The report that active learning leaves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eip import plots
from eip.active_learning.ledger import Ledger
from eip.active_learning.results import LearningResult
from eip.active_learning.tasks import read_tasks
from eip.files import write_whole
from eip.verbs.learning_page import write_page
from eip.verbs.learning_tables import COLUMNS, COST_COLUMNS, cost_rows, rows
from eip.verbs.run_logs import plot_dynamics


def write_report(folder: Path, result: LearningResult) -> None:
    """learning.md, learning.html, learning.png and dynamics.png (the paper's Fig. 4) in the run's
    folder."""
    candidates = Ledger(folder / "ledger.db").candidates()
    tasks = list(read_tasks(folder / "tasks.csv"))
    costs = cost_rows(result, candidates, tasks)
    write_whole(folder / "learning.md", _markdown(result, folder, costs))
    labels = [g.labels for g in result.generations]
    error = [1000.0 * g.metrics.get("force_mae", float("nan")) for g in result.generations]
    figure = plots.learning(
        labels,
        error,
        [g.stable_ps for g in result.generations],
        {k: [g.uncertain(k) / max(1, g.seen[k]) for g in result.generations]
         for k in result.generations[0].seen},
        result.seconds,
    )  # fmt: skip
    plots.save_figure(figure, folder / "learning.png")
    write_page(folder, result, [figure], candidates, tasks, costs)
    shown = {}
    for g in _ends(result.generations):
        for kind in (False, True):
            of_kind = [r for r in g.runs if r["udd"] is kind]
            if of_kind:
                name = f"{'UDD' if kind else 'MD'}, generation {g.generation}"
                shown[name] = (folder / g.run_folder(of_kind[0]["name"]), of_kind[0]["ending"])
    plot_dynamics(shown, folder / "dynamics.png")


def _ends(generations: Sequence[Any]) -> list[Any]:
    """The first and the last: more would hide each other."""
    return [generations[0]] if len(generations) == 1 else [generations[0], generations[-1]]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(line)} |\n" for line in lines]


def _markdown(result: LearningResult, folder: Path, costs: Sequence[Sequence[str]]) -> str:
    model = os.path.relpath(result.model, folder)
    last = result.generations[-1]
    lines = [
        "# Active learning\n",
        f"\nEnded: {result.reason}. {result.labels} labels; model: `{model}`.\n\n",
        *([f"{last.open_verdict}\n\n"] if last.open_verdict else []),
        *_table(COLUMNS, rows(result)),
        "\n![learning](learning.png)\n\n![dynamics](dynamics.png)\n",
        "\n## What labels cost\n\n",
        *_table(COST_COLUMNS, costs),
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
