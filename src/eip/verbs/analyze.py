"""`eip analyze`: what runs sampled, on one grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eip.analysis.averages import Deviations, deviations_of
from eip.analysis.report import label_runs, write_analysis
from eip.analysis.settings import BINS, AnalysisSettings
from eip.analysis.trajectories import read_trajectory
from eip.errors import InputError
from eip.model_file import load_model
from eip.run_folder import read_record
from eip.verbs.arguments import as_paths
from eip.verbs.run_logs import log_of


def analyze(
    runs: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    *,
    kind: str = "auto",
    labels: Sequence[str] | None = None,
    bins: int = BINS,
    every: int = 1,
    skip_ps: float = 0.0,
    cutoff: float = 6.0,
    model: str | Path | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Order parameters, entropy and structure of trajectories: analysis.json and plots.

    Args:
        runs: folders of `eip md`, or files that ASE reads.
        kind: see `eip.analysis.kinds.Kind`, or "auto".
        labels: names of the runs; by default the last part of each path.
        bins: cells along each order parameter.
        every: every n-th frame is taken.
        skip_ps: what comes earlier is left out.
        cutoff: of radial distribution functions, Å.
        model: that drove the runs: averages get their error, see `eip.analysis.averages`.
        temperature: of the runs, K; needed with a model.

    Returns:
        What is in analysis.json.

    Raises:
        InputError: if a trajectory is missing or has no such order parameters; if a model comes
            without a temperature, or its energies have no error bar.
    """
    settings = AnalysisSettings(
        kind=kind, bins=bins, every=every, skip_ps=skip_ps, cutoff=cutoff,
        model=None if model is None else Path(model), temperature=temperature,
    )  # fmt: skip
    if (settings.model is None) != (settings.temperature is None):
        raise InputError(
            "averages with their error need the model that drove the runs and their temperature: "
            "give both, model and temperature (--model, --temperature), or neither"
        )
    named = label_runs(as_paths(runs), None if labels is None else list(labels))
    logs = {name: log_of(path) for name, path in named.items() if (path / "log.csv").is_file()}
    return write_analysis(
        named,
        settings.kind,
        Path(out_dir),
        logs=logs,
        bins=settings.bins,
        every=settings.every,
        skip_fs=1000.0 * settings.skip_ps,
        cutoff=settings.cutoff,
        deviations=_deviations(named, settings),
        temperature=settings.temperature,
    )


def _deviations(runs: Mapping[str, Path], settings: AnalysisSettings) -> dict[str, Deviations]:
    """Of each run; nothing without a model."""
    if settings.model is None:
        return {}
    for path in runs.values():
        _demand_canonical(path, settings.temperature)
    potential = load_model(settings.model)
    return {
        name: deviations_of(
            potential,
            read_trajectory(path, every=settings.every, skip_fs=1000.0 * settings.skip_ps),
            settings.cutoff,
        )
        for name, path in runs.items()
    }


def _demand_canonical(path: Path, temperature: float | None) -> None:
    """That a folder of `eip md` is of a run at this temperature, without a bias.

    Raises:
        InputError: if it is not.
    """
    record = read_record(path) if path.is_dir() else None
    if record is None or record["verb"] != "md":
        return
    asked = record["asked"]
    if asked.get("udd"):
        raise InputError(
            f"{path} was driven by the uncertainty: averages with their error are of runs without "
            "a bias"
        )
    if asked["ensemble"] == "nve":
        raise InputError(
            f"{path} is of ensemble nve: averages with their error are of a run at a temperature"
        )
    if temperature is not None and not math.isclose(asked["temperature"], temperature):
        raise InputError(
            f"{path} was run at {asked['temperature']:g} K, and the temperature given is "
            f"{temperature:g} K"
        )
