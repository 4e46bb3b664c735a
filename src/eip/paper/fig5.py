"""Figure 5: a universal potential, and dynamics of LiFePO4 and PDMS with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eip import analysis, plots
from eip.errors import InputError
from eip.evaluation import compute_metrics
from eip.evaluation.metrics import element_table, error_roc
from eip.paper.frames import draw_sets, predicted, present
from eip.paper.job import Job, Made, Row, kept_structures, learned, starts_of
from eip.simulation import DynamicsSettings, UDDSettings
from eip.verbs.md import md
from eip.verbs.run_logs import log_of

_TIMESTEP = 0.5  # fs


def universal(job: Job) -> Made:
    assert job.setup.sets is not None
    sets = draw_sets(job.setup.sets, job.data, job.folder / "data", log=job.log)
    model = job.trained(job.config(sets, job.folder / "model"))
    known = predicted(model, sets["test"])
    other = predicted(model, sets["ood"])
    measures: dict[str, Any] = dict(compute_metrics(known, other))
    measures["elements"] = element_table(known)
    plots.save_figure(
        plots.periodic_table(
            {
                "force MAE (eV/Å)": {s: of["force_mae"] for s, of in measures["elements"].items()},
                "mean σ (eV/Å)": {
                    s: of["mean_uncertainty"] for s, of in measures["elements"].items()
                },
            }
        ),
        job.folder / "elements.png",
    )
    rows = [
        Row("force MAE, meV/Å", "", _two(measures, "force_mae", 0, 1000.0)),
        Row("energy MAE, meV/atom", "", _two(measures, "energy_mae_per_atom", 0, 1000.0)),
        Row("Spearman, atoms", "0.76", _two(measures, "spearman_atom", 2)),
        Row("ROC-AUC, atoms", "0.914", _two(measures, "roc_auc_atom", 3)),
        Row("growth of σ over growth of the error, OOD", "", f"{measures['ood_ratio']:.2f}"),
    ]
    sampling: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    materials: tuple[tuple[str, analysis.Kind], ...] = (("LiFePO4", "lifepo4"), ("PDMS", "polymer"))
    for name, kind in materials:
        folder = job.folder / name
        potential = _potential_for(job, name, model)
        material = name.lower()
        start = {material: job.setup.extra[material]}
        endings = _md_and_udd(job, potential, folder, start)
        logs = {which: log_of(folder / which) for which in endings}
        found = _sampled({which: folder / which for which in endings}, kind)
        sampling[name] = (logs, {which: (of.times, of.entropy) for which, of in found.items()})
        of: dict[str, Any] = {
            which: {
                "ending": endings[which],
                "ps": logs[which]["time"][-1] / 1000.0,
                "mean_uncertainty": float(np.nanmean(logs[which]["uncertainty"])),
            }
            for which in endings
        }
        growth = of["UDD"]["mean_uncertainty"] / of["MD"]["mean_uncertainty"]
        entropies = "none: order parameters end with a collapse"
        if found:
            # Over as many frames: entropy grows with the number of samples.
            both = min(len(run.entropy) for run in found.values()) - 1
            for which, run in found.items():
                of[which]["entropy"] = float(run.entropy[both])
            entropies = f"{of['UDD']['entropy']:.3f} against {of['MD']['entropy']:.3f}"
        measures[name] = of
        runs = "; ".join(f"{run['ps']:.3g} ps, {run['ending']}" for run in of.values())
        rows += [
            Row(f"{name}: MD; UDD", "both stable", runs),
            Row(f"{name}: mean σ of UDD over MD's", "larger", f"{growth:.2f}"),
            Row(f"{name}: entropy, UDD against MD", "larger", entropies),
        ]
    roc = error_roc(known.atom_error, known.force_uncertainty, 80.0)
    sigma = present(known.force_uncertainty)
    cloud = (known.forces_true, known.forces_pred, sigma, known.atom_error)
    return rows, job.drawn(plots.universal(cloud, roc, sampling)), measures


def _two(measures: Mapping[str, float], key: str, digits: int, by: float = 1.0) -> str:
    return f"{measures[key] * by:.{digits}f}; OOD {measures[f'{key}_ood'] * by:.{digits}f}"


def _sampled(runs: Mapping[str, Path], kind: analysis.Kind) -> dict[str, analysis.Sampling]:
    """Nothing where a run broke what its order parameters are made of."""
    try:
        return analysis.compare_sampling(runs, kind)
    except InputError:
        return {}


def _potential_for(job: Job, name: str, universal: Path) -> Path:
    """The universal potential, or where its setup says so one that learns of a reference method.

    That one starts from a smaller piece of the material.
    """
    own = job.setup.extra.get("learn", {}).get(name)
    if own is None:
        return universal
    folder = job.folder / name
    folder.mkdir(exist_ok=True)
    values = {key: dict(own[key]) for key in ("model", "training", "learn")}
    start = kept_structures(folder / "small.xyz", lambda: starts_of(own["start"]))
    return learned(job, values, start, folder / "learn").model


def _md_and_udd(job: Job, model: Path, folder: Path, start: Mapping[str, Any]) -> dict[str, str]:
    """Runs both, as far as they have not ended; how each ended."""
    folder.mkdir(exist_ok=True)
    file = kept_structures(folder / "start.xyz", lambda: starts_of(start))
    steps = round(job.setup.extra["ps"] * 1000.0 / _TIMESTEP)
    settings = DynamicsSettings(
        temperature=300.0, timestep_fs=_TIMESTEP, steps=steps, trajectory_interval=10
    )
    endings = {}
    for which, udd in (("MD", None), ("UDD", UDDSettings())):
        run = folder / which
        done = _summary(run)
        if done is None or done["cause"] == "interrupted":
            summary = md(
                model, file, settings, run,
                udd=udd, resume=True, progress=job.progress, log=job.log,
            )  # fmt: skip
            if summary.cause == "interrupted":
                raise InterruptedError("dynamics was stopped")
            done = asdict(summary)
        endings[which] = done["ending"]
    return endings


def _summary(run: Path) -> dict[str, Any] | None:
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
