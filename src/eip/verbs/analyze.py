"""`eip analyze`: what runs sampled, on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eip.analysis.report import label_runs, write_analysis
from eip.analysis.settings import BINS, AnalysisSettings
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

    Returns:
        What is in analysis.json.

    Raises:
        InputError: if a trajectory is missing or has no such order parameters.
    """
    settings = AnalysisSettings(kind=kind, bins=bins, every=every, skip_ps=skip_ps, cutoff=cutoff)
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
    )
