"""An evaluation as files: metrics.json, predictions.xyz, plots, and a report.html with all of it.

Each file is written beside its place and moved there when whole.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from eip import plots
from eip.data.labels import OWN_UNITS
from eip.evaluation.metrics import (
    METRIC_KEYS,
    calibration_curve,
    element_table,
    error_roc,
    grade_table,
    retention_curve,
)
from eip.evaluation.predictions import Evaluation
from eip.files import json_text, replacing, to_json, write_whole
from eip.prediction import Prediction, Quantity, quantities


def _key(of: Quantity) -> str:
    """Of predictions.xyz: what ASE has a name for are the labels."""
    return f"eip_{of.name}" if of.ase else of.name


#: What the per-atom columns and per-frame keys of predictions.xyz hold.
PREDICTION_KEYS: dict[str, str] = {
    "energy": "reference total energy, eV (absent without a label)",
    "forces": "reference forces, eV/Å (absent without labels)",
    "stress": "reference stress, eV/Å³ (absent where not all frames have one)",
    "force_error": "mean_a |f_true - f_pred| of the atom, eV/Å (absent without labels)",
    "source": "where the frame was read",
    **{key: f"of what the file holds: {unit}" for key, unit in OWN_UNITS.items()},
    **{
        _key(of): f"predicted: {of.about}, {of.unit}"
        for of in quantities(Prediction)
        if of.filed and not of.internal
    },
}


#: Measures of groups of atoms: group → key → value.
Table = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ReportFiles:
    """Where the parts of a report are."""

    metrics: Path
    predictions: Path
    html: Path
    plots: tuple[Path, ...]


def write_report(
    evaluation: Evaluation,
    metrics: Mapping[str, float],
    out_dir: str | os.PathLike[str],
    *,
    ood: Evaluation | None = None,
    model_info: Mapping[str, Any] | None = None,
    percentile: float = 80.0,
) -> ReportFiles:
    """Writes all files of a report into ``out_dir``, which is made where missing.

    Args:
        metrics: what `compute_metrics` gave for the same evaluations.
        ood: drawn beside the first, and written to predictions_ood.xyz.
        model_info: shown in the report as a table; nested values as JSON.
        percentile: of the ROC curves drawn; the one that ``metrics`` was computed with.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(
        metrics=folder / "metrics.json",
        predictions=folder / "predictions.xyz",
        html=folder / "report.html",
        plots=tuple(folder / f"{name}.png" for name in _CAPTIONS),
    )
    tables = {"elements": element_table(evaluation), "grades": grade_table(evaluation)}
    if ood is not None:
        tables["grades_ood"] = grade_table(ood)
    write_metrics(metrics, files.metrics, **tables)
    write_predictions(evaluation, files.predictions)
    if ood is not None:
        write_predictions(ood, folder / "predictions_ood.xyz")
    images = {}
    for path, figure in zip(
        files.plots, _figures(evaluation, metrics, ood, percentile), strict=True
    ):
        plots.save_figure(figure, path)
        images[path.stem] = path.read_bytes()
    write_whole(files.html, _html(evaluation, metrics, tables, images, model_info or {}))
    return files


#: What metrics.json and the report tell of groups of atoms.
_TABLES = {
    "elements": "the measures of each element's atoms, by chemical symbol",
    "grades": "the measures of atoms by their extrapolation grade",
    "grades_ood": "the measures of atoms by their extrapolation grade, second data set",
}


def write_metrics(
    metrics: Mapping[str, float],
    path: str | os.PathLike[str],
    *,
    elements: Table | None = None,
    grades: Table | None = None,
    grades_ood: Table | None = None,
) -> None:
    """Metrics as JSON, with the meaning and unit of each key under ``_keys``; NaN becomes null."""
    content: dict[str, Any] = {
        key: int(value) if key.startswith("n_") else value for key, value in metrics.items()
    }
    tables = {"elements": elements, "grades": grades, "grades_ood": grades_ood}
    content |= {name: table for name, table in tables.items() if table}
    known = {**METRIC_KEYS, **_TABLES}
    content["_keys"] = {key: known[key] for key in content if key in known}
    content["_note"] = "energies in eV, lengths in Å; null: not defined for this data"
    write_whole(path, json_text(content))


def write_predictions(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Structures with labels and predictions as extended XYZ, one frame after another.

    The columns are those of `PREDICTION_KEYS` and what else was predicted; ``energy``,
    ``forces`` and ``stress`` are always the labels.
    """
    with replacing(path) as temporary, temporary.open("w") as file:
        for atoms in prediction_frames(evaluation):
            write(file, atoms, format="extxyz")


def prediction_frames(evaluation: Evaluation) -> Iterator[Atoms]:
    """The frames of `write_predictions` as ASE structures, labels in their calculator."""
    starts = np.concatenate([[0], np.cumsum(evaluation.n_atoms)])
    for index in range(evaluation.n_frames):
        part = slice(int(starts[index]), int(starts[index + 1]))
        atoms = Atoms(
            numbers=evaluation.numbers[part],
            positions=evaluation.positions[part],
            cell=evaluation.cell[index],
            pbc=evaluation.pbc[index],
        )
        labels: dict[str, Any] = {}
        if np.isfinite(evaluation.energy_true[index]):
            labels["energy"] = float(evaluation.energy_true[index])
        forces = evaluation.forces_true[part]
        if np.isfinite(forces).all():
            labels["forces"] = np.array(forces)
            atoms.set_array("force_error", evaluation.atom_error[part])
        if evaluation.stress_true is not None:
            labels["stress"] = full_3x3_to_voigt_6_stress(evaluation.stress_true[index])
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        for of, values in evaluation.predictions():
            if of.level == "atom":
                # A row for each atom, of a matrix its rows one after the other.
                rows = values[part].reshape((len(atoms), -1) if of.shape else -1)
                atoms.set_array(_key(of), np.array(rows))
            else:
                atoms.info[_key(of)] = np.array(values[index]) if of.shape else float(values[index])
        if evaluation.sources:
            atoms.info["source"] = evaluation.sources[index]
        atoms.info |= OWN_UNITS
        yield atoms


_CAPTIONS: dict[str, str] = {
    "parity": "Predicted against reference values. Energies are per atom, less the mean of the "
    "reference.",
    "uncertainty": "Error against σ, by atom and by structure. A σ that ranks well rises from "
    "left to right; one of the right size lies along the diagonal, a little below it (the mean "
    "|error| of a Gaussian is 0.8 σ).",
    "trust": "Left: how well σ finds the largest errors. Middle: the share of force components, "
    "and of energies that have an error bar, inside intervals of a given coverage. Right: the "
    "error of the atoms that remain when the "
    "most uncertain are set aside.",
}

#: Names, or patterns of them, of all that `write_report` writes.
REPORT_FILES = (
    "metrics.json", "predictions*.xyz", "report.html", *(f"{name}.png" for name in _CAPTIONS),
)  # fmt: skip


def _figures(
    evaluation: Evaluation, metrics: Mapping[str, float], ood: Evaluation | None, percentile: float
) -> Iterator[plots.Figure]:
    """The figures of `_CAPTIONS`, in that order."""
    error = evaluation.force_error
    sigma, atom_error = evaluation.force_uncertainty, evaluation.atom_error
    structure_sigma, structure_error = evaluation.structure_uncertainty, evaluation.structure_error

    figure = plots.new_figure(1, 2, size=(10.0, 4.4))
    true = evaluation.energy_true / evaluation.n_atoms
    shift = np.nanmean(true) if np.isfinite(true).any() else 0.0
    plots.parity(
        figure.axes[0],
        evaluation.forces_true,
        evaluation.forces_pred,
        quantity="force component",
        unit="eV/Å",
    )
    plots.parity(
        figure.axes[1],
        true - shift,
        evaluation.energy_pred / evaluation.n_atoms - shift,
        quantity="energy per atom",
        unit="eV/atom",
    )
    yield figure

    figure = plots.new_figure(1, 2, size=(10.0, 4.2))
    nothing = np.zeros(0)
    for ax, of, s, e in (
        (figure.axes[0], "atom", sigma, atom_error),
        (figure.axes[1], "structure", evaluation.uncertainty, structure_error),
    ):
        rho = metrics.get(f"spearman_{of}", math.nan)
        plots.uncertainty_against_error(
            ax,
            nothing if s is None else s,
            nothing if s is None else e,
            of=of,
            note=f"Spearman {rho:.3f}" if math.isfinite(rho) else "",
        )
    yield figure

    figure = plots.new_figure(1, 3, size=(14.0, 4.2))
    rocs = {
        "atoms": error_roc(atom_error, sigma, percentile),
        "structures": error_roc(structure_error, structure_sigma, percentile),
    }
    curves = {"this data": calibration_curve(error, sigma, evaluation.interval)}
    if ood is not None:
        rocs["atoms, OOD"] = error_roc(ood.atom_error, ood.force_uncertainty, percentile)
        curves["OOD"] = calibration_curve(ood.force_error, ood.force_uncertainty, ood.interval)
    for label, one in {"energies": evaluation, "energies, OOD": ood}.items():
        if one is not None and one.energy_uncertainty is not None:
            curves[label] = calibration_curve(one.energy_error, one.energy_uncertainty)
    plots.roc_curves(figure.axes[0], rocs)
    plots.calibration_curves(figure.axes[1], curves)
    plots.retention(figure.axes[2], *retention_curve(atom_error, sigma))
    yield figure


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2 { font-weight: 600; line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #e4e4e4; text-align: left;
         vertical-align: top; }
th { font-weight: 600; } td.number { text-align: right; white-space: nowrap; }
td.meaning { color: #666; font-size: .9rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; }
figcaption { color: #555; font-size: .9rem; } code { font-size: .9em; }
"""


def _html(
    evaluation: Evaluation,
    metrics: Mapping[str, float],
    tables: Mapping[str, Table],
    images: Mapping[str, bytes],
    model_info: Mapping[str, Any],
) -> str:
    has_ood = any(key.endswith("_ood") for key in metrics)
    rows = []
    for key, value in metrics.items():
        if key.endswith("_ood"):
            continue
        second = f"<td class=number>{_figure(metrics.get(key + '_ood'))}</td>" if has_ood else ""
        rows.append(
            f"<tr><td><code>{escape(key)}</code></td><td class=number>{_figure(value)}"
            f"</td>{second}<td class=meaning>{escape(METRIC_KEYS.get(key, ''))}</td></tr>"
        )
    second = "<th>OOD</th>" if has_ood else ""
    figures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(png).decode()}"><figcaption>{escape(_CAPTIONS[name])}</figcaption>'
        f"</figure>"
        for name, png in images.items()
    )
    info = "".join(
        f"<tr><td>{escape(str(key))}</td><td><code>"
        f"{escape(value if isinstance(value, str) else json.dumps(to_json(value)))}</code>"
        f"</td></tr>"
        for key, value in model_info.items()
    )
    scale = (
        "The potential gives no uncertainty σ of forces; measures of σ are empty."
        if evaluation.force_uncertainty is None
        else "σ is calibrated: the standard deviation of a force component's error; intervals are "
        "conformal."
        if evaluation.interval is not None
        else "σ is not calibrated: it ranks atoms, its size means little."
    )
    model = f"<h2>Model</h2><table>{info}</table>" if info else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>eIP evaluation</title><style>{_STYLE}</style>
<h1>Evaluation</h1>
<p>{evaluation.n_frames:,} frames, {len(evaluation.numbers):,} atoms; energies in eV, lengths in Å.
{scale}</p>
{figures}
<h2>Measures</h2>
<table><tr><th>key</th><th>value</th>{second}<th>meaning</th></tr>{"".join(rows)}</table>
{"".join(_section(_HEADINGS[name], table) for name, table in tables.items() if table)}
{model}
</html>
"""


_HEADINGS = {
    "elements": "By element",
    "grades": "By extrapolation grade",
    "grades_ood": "By extrapolation grade, OOD",
}


def _section(heading: str, table: Mapping[str, Mapping[str, float]]) -> str:
    keys = list(next(iter(table.values())))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td class=number>{_figure(values[key])}</td>" for key in keys)
        + "</tr>"
        for name, values in table.items()
    )
    names = "".join(f"<th>{escape(key)}</th>" for key in keys)
    return f"<h2>{heading}</h2>\n<table><tr><th></th>{names}</tr>\n{rows}</table>\n"


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"
