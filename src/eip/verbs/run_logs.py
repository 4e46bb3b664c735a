"""Logs of runs, read back and drawn."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from eip import plots


def plot_dynamics(
    runs: Mapping[str, tuple[Path, str]], path: Path, threshold: float | None = None
) -> None:
    """Energy, temperature and σ of runs over time, laid over each other.

    Args:
        runs: by name, the folder and the ending.
        threshold: σ that stops a run, eV/Å.
    """
    columns = {name: log_of(folder) for name, (folder, _) in runs.items()}
    endings = {name: ending for name, (_, ending) in runs.items()}
    figure = plots.dynamics(columns, threshold=threshold, endings=endings)
    plots.save_figure(figure, path)


def log_of(folder: Path) -> dict[str, list[float]]:
    """Columns of the log of a run of dynamics (`eip.simulation.records.LOG_COLUMNS`); time: fs."""
    log = _read_csv(folder / "log.csv")
    return {"time": log.pop("time_fs", []), **log}


def plot_training(run_dir: Path) -> None:
    """The curves of train.csv, as far as there are any: training.png."""
    log = run_dir / "train.csv"
    if not log.is_file():
        return
    plots.save_figure(plots.training_curves(_read_csv(log)), run_dir / "training.png")


def _read_csv(path: Path) -> dict[str, list[float]]:
    """Columns of numbers; an empty cell is NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {k: [float(row[k] or "nan") for row in rows] for k in reader.fieldnames or ()}
