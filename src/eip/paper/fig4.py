"""Figure 4: active learning."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from eip import plots
from eip.paper.job import Job, Made, Row, kept_structures, learned, starts_of
from eip.verbs.run_logs import log_of


def active_learning(job: Job) -> Made:
    starts = kept_structures(job.folder / "starts.xyz", lambda: starts_of(job.setup.extra["start"]))
    values = job.values(learn=dict(job.setup.extra["learn"]))
    folder = job.folder / "learn"
    result = learned(job, values, starts, folder)
    rows = []
    told = (
        ("collapses", "collapses"),
        ("50 ps, stable", "collapses after 20 ps"),
        ("50 ps, stable", "50 ps, stable"),
    )
    for generation in result.generations:
        number = generation.generation
        of_paper = told[number] if number < len(told) else ("", "")
        for which, words in zip((False, True), of_paper, strict=True):
            runs = [run for run in generation.runs if run["udd"] is which]
            times = ", ".join(f"{run['time_ps']:.2g} ps, {run['ending']}" for run in runs[:4])
            rows.append(
                Row(f"generation {number}, {'UDD' if which else 'MD'}", words, times or "none")
            )
    errors = " → ".join(f"{1000 * g.metrics['force_mae']:.0f}" for g in result.generations)
    labels = " → ".join(str(g.labels) for g in result.generations)
    rows.append(Row("labels", "1000 → …", labels))
    rows.append(Row("force MAE on its own validation frames, meV/Å", "", errors))
    logs = {}
    for generation in result.generations:
        for run in generation.runs[:2]:
            name = f"generation {generation.generation}, {'UDD' if run['udd'] else 'MD'}"
            logs[name] = log_of(folder / generation.run_folder(run["name"]))
    measures: dict[str, Any] = {
        "labels": result.labels,
        "reason": result.reason,
        "seconds": result.seconds,
        "generations": [asdict(g) for g in result.generations],
    }
    return rows, job.drawn(plots.dynamics(logs)), measures
