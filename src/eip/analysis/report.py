"""Runs side by side on disk: analysis.json and the plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from eip import plots
from eip.analysis.averages import Average, Deviations, average
from eip.analysis.kinds import Measure
from eip.analysis.settings import BINS
from eip.analysis.trajectories import (
    Sampling,
    Trajectory,
    analyze_trajectory,
    common_measure,
    sampling_of,
)
from eip.errors import InputError
from eip.files import json_text, write_whole

#: Of a run's log: time (fs), energy (eV), uncertainty (eV/Å), and other columns.
Log = Mapping[str, list[float]]
#: A maximum of g(r) counts as a peak from here on.
_PEAK = 1.5


def write_analysis(
    runs: Mapping[str, Path],
    kind: str,
    out_dir: Path,
    *,
    logs: Mapping[str, Log] | None = None,
    bins: int = BINS,
    every: int = 1,
    skip_fs: float = 0.0,
    cutoff: float = 6.0,
    deviations: Mapping[str, Deviations] | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Analyzes runs and writes analysis.json, sampling.png, order_parameters.png, structure.png.

    Args:
        runs: by name, a trajectory that ASE reads or a folder of `eip md`.
        kind: see `eip.analysis.kinds.Kind`, or "auto".
        logs: of those runs that have one: it is finer than the trajectory, which stands in else.
        bins: cells along each order parameter.
        every, skip_fs, cutoff: as `analyze_trajectory`.
        deviations: of each run, of the same frames: averages get their error.
        temperature: of the runs, K; needed with ``deviations``.

    Returns:
        What is in analysis.json (docs/analysis.md names its keys).

    Raises:
        InputError: if a trajectory cannot be read or has no such order parameters.
    """
    measure = common_measure(runs, kind)
    found = {
        name: analyze_trajectory(path, measure, every=every, skip_fs=skip_fs, cutoff=cutoff)
        for name, path in runs.items()
    }
    sampled, ranges = sampling_of(found, measure, bins)
    # Entropy and coverage grow with the number of samples, so a longer run would win by its length.
    same = min(len(of.times) for of in found.values())
    averages = {
        name: _averages(found[name], measure, of, temperature or math.nan)
        for name, of in (deviations or {}).items()
    }
    series = {name: _series(of, (logs or {}).get(name), skip_fs) for name, of in found.items()}
    content = {
        "kind": measure.kind,
        "bins": bins,
        "order_parameters": None
        if ranges is None
        else dict(zip(_names(measure), ranges, strict=True)),
        "frames_compared": same,
        "runs": {
            name: {
                "file": str(runs[name]),
                **_scalars(found[name], series[name]),
                **_sampled(sampled.get(name), measure, same),
                **_curves(found[name]),
                **({"averages": averages[name]} if name in averages else {}),
            }
            for name in runs
        },
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    _draw(found, sampled, series, measure, averages, out_dir)
    write_whole(out_dir / "analysis.json", json_text(content))
    return content


def _names(measure: Measure) -> tuple[str, str]:
    assert measure.names is not None  # only the kind "none" has none, and no samples either
    return measure.names


def _series(of: Trajectory, log: Log | None, skip_fs: float) -> dict[str, Float[np.ndarray, "n"]]:
    """Time (fs), energy and σ: of the log if there is one, else of the frames."""
    if log is None:
        return {"time": of.times, "energy": of.energies, "uncertainty": of.uncertainties}
    wanted = {name: np.asarray(log[name]) for name in ("time", "energy", "uncertainty")}
    late = wanted["time"] >= skip_fs
    return {name: column[late] for name, column in wanted.items()}


def _scalars(of: Trajectory, series: Mapping[str, np.ndarray]) -> dict[str, Any]:
    energy, sigma = (a[np.isfinite(a)] for a in (series["energy"], series["uncertainty"]))
    length = float(of.times[-1] - of.times[0]) / 1000.0 if of.timed else None
    return {
        "frames": len(of.times),
        "length_ps": length,
        "mean_energy": float(energy.mean()) if len(energy) else None,
        "mean_uncertainty": float(sigma.mean()) if len(sigma) else None,
        "max_uncertainty": float(sigma.max()) if len(sigma) else None,
    }


def _sampled(of: Sampling | None, measure: Measure, same: int) -> dict[str, Any]:
    if of is None:
        return {}
    both = zip(_names(measure), (of.first, of.second), strict=True)
    return {
        "order_parameters": {
            name: {"mean": float(values.mean()), "std": float(values.std())}
            for name, values in both
        },
        "entropy": float(of.entropy[-1]),
        "entropy_same_length": float(of.entropy[same - 1]),
        "coverage": float(of.coverage[-1]),
        "coverage_same_length": float(of.coverage[same - 1]),
    }


def _averages(
    of: Trajectory, measure: Measure, deviations: Deviations, temperature: float
) -> dict[str, Any]:
    """What a run's averages are, with both parts of their error."""

    def found(values: Float[np.ndarray, "frames *shape"], energies: bool = False) -> Average:
        return average(values, deviations.parts, temperature, energies=energies)

    said = {name: found(g) for name, g in deviations.distributions.items()}
    quantities: dict[str, Average] = {}
    if np.isfinite(of.energies).all():
        quantities["energy"] = found(of.energies, energies=True)
    if of.first is not None and of.second is not None:
        for name, values in zip(_names(measure), (of.first, of.second), strict=True):
            quantities[name] = found(values.mean(axis=1))
    for pair, values in of.coordination_of_frames.items():
        quantities[f"coordination {pair}"] = found(values)
    everything = [*quantities.values(), *said.values()]
    return {
        "quantities": {name: _errors(one) for name, one in quantities.items()},
        "distribution": {pair: _errors(one) for pair, one in said.items()},
        "effective_frames": everything[0].effective_frames if everything else None,
        "doubt": deviations.doubt or next((one.doubt for one in everything if one.doubt), ""),
    }


def _errors(of: Average) -> dict[str, Any]:
    return {
        "mean": of.value,
        "potential_error": of.potential_error,
        "sampling_error": of.sampling_error,
        "error": of.error,
    }


def _curves(of: Trajectory) -> dict[str, Any]:
    curves: dict[str, Any] = {
        "torsion_entropy": of.torsion_entropies(),
        "coordination": {
            pair: {"mean": mean, "std": spread} for pair, (mean, spread) in of.coordination.items()
        },
        "squared_displacement": {"time_ps": _lags(of), **of.displacements.by_element()},
    }
    if of.distribution is not None:
        by_pair = of.distribution.by_pair()
        curves["first_peak"] = {
            pair: _first_peak(of.distribution.radii, g) for pair, g in by_pair.items()
        }
        curves["distribution"] = {"r": of.distribution.radii, **by_pair}
    return curves


def _lags(of: Trajectory) -> Float[np.ndarray, "lags"] | None:
    """Times between frames, ps; None where they do not come at even times."""
    steps = np.diff(of.times)
    if not of.timed or (len(steps) and not np.allclose(steps, steps[0], rtol=1e-3)):
        return None
    return np.arange(len(of.times)) * (steps[0] if len(steps) else 0.0) / 1000.0


def _first_peak(
    radii: Float[np.ndarray, "bins"], g: Float[np.ndarray, "bins"]
) -> dict[str, float] | None:
    """The highest point before g falls below 1 again, once it has risen above."""
    above = np.flatnonzero(g > _PEAK)
    if not len(above):
        return None
    below = np.flatnonzero(g[above[0] :] < 1.0)
    end = above[0] + below[0] if len(below) else len(g)
    at = above[0] + int(np.argmax(g[above[0] : end]))
    return {"r": float(radii[at]), "g": float(g[at])}


def _draw(
    found: Mapping[str, Trajectory],
    sampled: Mapping[str, Sampling],
    series: Mapping[str, Mapping[str, np.ndarray]],
    measure: Measure,
    averages: Mapping[str, Mapping[str, Any]],
    out_dir: Path,
) -> None:
    figure = plots.new_figure(1, 3, size=(13.0, 4.0))
    energy, sigma, entropy = figure.axes
    timed = all(of.timed for of in found.values())
    # Where one run does not say its times, all are drawn by frame.
    grown = {
        name: (of.times if timed else np.arange(len(of.times)), of.entropy)
        for name, of in sampled.items()
    }
    drawn = {
        name: of if timed else {**of, "time": np.arange(len(of["time"]))}
        for name, of in series.items()
    }
    plots.sampling((energy, sigma, entropy), drawn, grown, "", timed=timed)
    plots.save_figure(figure, out_dir / "sampling.png")
    if sampled:
        samples = {name: (of.first.ravel(), of.second.ravel()) for name, of in sampled.items()}
        figure = plots.order_parameters(samples, _names(measure))
        plots.save_figure(figure, out_dir / "order_parameters.png")
    distributions: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for name, of in found.items():
        if of.distribution is not None:
            distributions[name] = (of.distribution.radii, of.distribution.by_pair())
        lags = _lags(of)
        if lags is not None:
            moved[name] = (lags, of.displacements.by_element())
    if distributions or moved:
        bands = {
            name: {pair: np.array(g["error"]) for pair, g in of["distribution"].items()}
            for name, of in averages.items()
        }
        plots.save_figure(plots.structure(distributions, moved, bands), out_dir / "structure.png")


def label_runs(paths: list[Path], labels: list[str] | None = None) -> dict[str, Path]:
    """Runs by name: as given, or by the last part of each path, or all of it if not enough.

    Raises:
        InputError: if there are not as many labels as paths, or two alike.
    """
    if labels is None:
        labels = [path.name if path.is_dir() else path.stem for path in paths]
        if len(set(labels)) < len(labels):
            labels = [str(path) for path in paths]
    if len(labels) != len(paths):
        raise InputError(f"{len(labels)} labels for {len(paths)} trajectories: {', '.join(labels)}")
    if len(set(labels)) < len(labels):
        raise InputError(f"two trajectories have the same label: {', '.join(labels)}")
    return dict(zip(labels, paths, strict=True))
