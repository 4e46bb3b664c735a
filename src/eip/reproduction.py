"""The paper's figures, each from one call: trained, evaluated, drawn, beside what the paper says.

Two scales. ``paper`` is the paper's data and network, for a GPU node and its time; ``small`` puts
samples that a laptop can take in their place, and shows that everything runs and where the trends
of the paper hold. What has been trained is not trained again, so a run can be stopped and called
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from ase import Atoms
from ase.io import write
from rich.table import Table

from eip import analysis, builders, plots
from eip.active_learning.loop import LearningResult
from eip.comparison import compare_methods
from eip.config import Config, LearningConfig, override, parse_config
from eip.data import FrameStore, open_frames, split_indices
from eip.data.store import write_store
from eip.errors import InputError, did_you_mean
from eip.evaluation import Evaluation, compute_metrics
from eip.evaluation.metrics import element_table, error_roc
from eip.files import json_text, replacing, write_whole
from eip.learning import learn
from eip.locks import locked
from eip.recipes import RECIPES, FigureName, Recipe, Scale, Sets
from eip.simulation import DynamicsSettings
from eip.workflow import (
    Say,
    UDDChoice,
    is_trained,
    log_of,
    nobody,
    predict_store,
    run_md,
    train_model,
)

#: Frames of which scatter plots are drawn and their measures taken, at most.
_MOST_FRAMES = 20_000


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: with its unit.
        paper: what the paper says, a number or words; "" if nothing.
        ours: what came out here.
    """

    what: str
    paper: str
    ours: str


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` left behind.

    Attributes:
        rows: the table. table: the same as Markdown. json: the same and every figure of it.
        plot: the figure.
    """

    rows: list[Row]
    table: Path
    json: Path
    plot: Path


# --- the call ------------------------------------------------------------------------------------


def figure_named(name: str) -> FigureName:
    """Raises `InputError` where it is none."""
    return cast(FigureName, _one_of(name, get_args(FigureName), "figure"))


def scale_named(name: str) -> Scale:
    """Raises `InputError` where it is none."""
    return cast(Scale, _one_of(name, get_args(Scale), "scale"))


def _one_of(name: str, known: Sequence[str], what: str) -> str:
    if name not in known:
        raise InputError(f"unknown {what} '{name}': {did_you_mean(name, known)}")
    return name


def reproduce(
    figure: FigureName,
    data: Path,
    out: Path,
    *,
    scale: Scale = "small",
    changes: Sequence[str] = (),
    progress: bool = True,
    say: Say = nobody,
) -> Reproduction:
    """Makes one of the paper's figures in ``out/<figure>-<scale>``; goes on with what is there.

    Args:
        data: folder with what `eip fetch` brought; files are also found elsewhere below it.
        changes: keys of `model`, `training` or (fig4) `learn` in place of the recipe's, as
            ``"training.epochs=5"``.

    Raises:
        InputError: if a file is missing (the error says how to get it) or the folder holds a run of
            another configuration.
        InterruptedError: if the user stopped a training.
    """
    recipe = RECIPES[figure, scale]
    say(f"{figure}, {scale}: {recipe.about}.")
    with locked(folder := (out / f"{figure}-{scale}").resolve()):
        return _made(figure, scale, _Job(recipe, data, folder, changes, progress, say))


def _made(figure: FigureName, scale: Scale, job: _Job) -> Reproduction:
    recipe, folder, say = job.recipe, job.folder, job.say
    make: Callable[[_Job], tuple[list[Row], Path, dict[str, Any]]] = {
        "fig2": _data_efficiency,
        "fig3": _methods,
        "fig4": _active_learning,
        "fig5": _universal,
    }[figure]
    rows, plot, measures = make(job)
    result = Reproduction(rows, folder / "reproduction.md", folder / "reproduction.json", plot)
    title = f"{figure} ({scale}): {recipe.about}"
    write_whole(result.table, f"{title}\n\n{_markdown(rows)}")
    content = {
        "figure": figure,
        "scale": scale,
        "about": recipe.about,
        "rows": [asdict(row) for row in rows],
        "measures": measures,
    }
    write_whole(result.json, json_text(content))
    table = Table("", "paper", "here", title=title)
    for row in rows:
        table.add_row(row.what, row.paper, row.ours)
    say(table)
    return result


def _markdown(rows: Sequence[Row]) -> str:
    lines = [("", "paper", "here"), ("---", "---", "---")]
    lines += [(row.what, row.paper or "–", row.ours) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    data: Path
    folder: Path
    changes: Sequence[str]
    progress: bool
    say: Say

    def values(self, **sections: Any) -> dict[str, Any]:
        """Model and training of the recipe, other sections, and the user's changes."""
        values = {
            "model": dict(self.recipe.model),
            "training": dict(self.recipe.training),
            **sections,
        }
        for change in self.changes:
            override(values, change)
        return values

    def config(self, sets: Mapping[str, Path], run_dir: Path, **training: Any) -> Config:
        values = self.values(data={name: [str(path)] for name, path in sets.items()})
        values["training"].update(training)
        return parse_config({**values, "run_dir": str(run_dir)}, name=str(self.folder))

    def drawn(self, figure: plots.Figure) -> Path:
        return plots.save_figure(figure, self.folder / "reproduction.png")

    def trained(self, config: Config) -> Path:
        """The model of a run, trained as far as it is not."""
        if is_trained(config.run_dir):
            return config.run_dir / "model.eip"
        run = train_model(config, resume=True, progress=self.progress, say=self.say)
        if run.model is None:
            raise InterruptedError("training was stopped")
        return run.model


# --- frames --------------------------------------------------------------------------------------


def draw_sets(
    sets: Sets, data: Path, folder: Path, fraction: float = 1.0, say: Say = nobody
) -> dict[str, Path]:
    """Writes train, validation, test and ood as stores into ``folder``, as far as missing.

    Frames with an element that is not among those trained on are left out: a potential refuses
    them.

    Args:
        fraction: of the training frames that are kept.

    Raises:
        InputError: if a file is missing.
    """
    names = ["train", "validation", "test", *(["ood"] if sets.ood else [])]
    paths = {name: folder / name for name in names}
    if all((path / "store.json").is_file() for path in paths.values()):
        return paths
    cache = folder.parent / "read"
    stores = [open_frames(_find(f, data, sets), cache_dir=cache) for f in sets.known]
    if sets.train is None and len(stores) > 1:
        stores = [open_frames([_find(f, data, sets) for f in sets.known], cache_dir=cache)]
    chosen: dict[str, list[tuple[FrameStore, np.ndarray]]] = {name: [] for name in names}
    for store in stores:
        rest = np.arange(len(store))
        if not isinstance(sets.test, tuple):
            rest, test = split_indices(len(store), sets.test, 0, sets.split, store.groups)
            chosen["test"].append((store, test))
        train, validation = split_indices(
            len(rest), sets.validation, 1, sets.split, store.groups[rest]
        )
        kept = round(fraction * min(len(train), sets.train or len(train)))
        drawn = np.random.default_rng(0).permutation(train)[: max(2, kept)]
        chosen["train"].append((store, rest[np.sort(drawn)]))
        chosen["validation"].append((store, rest[validation]))
    if isinstance(sets.test, tuple):
        store = open_frames([_find(f, data, sets) for f in sets.test], cache_dir=cache)
        chosen["test"].append((store, np.arange(len(store))))
    for file in sets.ood:
        store = open_frames(_find(file, data, sets), cache_dir=cache)
        order = np.random.default_rng(0).permutation(len(store))
        chosen["ood"].append((store, np.sort(order[: sets.ood_frames])))
    known: set[int] = set()
    for store, indices in chosen["train"]:
        known.update(*(store[int(i)].numbers.tolist() for i in indices))
    for name, parts in chosen.items():
        frames = (store[int(i)] for store, indices in parts for i in indices)
        fitting = (frame for frame in frames if known.issuperset(frame.numbers.tolist()))
        if not (paths[name] / "store.json").is_file():
            written = write_store(fitting, paths[name])
            lost = sum(len(indices) for _, indices in parts) - len(written)
            if lost:
                say(f"{name}: {lost} frames with an element that is not trained on are left out")
    return paths


def _find(file: str, data: Path, sets: Sets) -> Path:
    """The file at its place, or the only one of its name below the data folder."""
    if (data / file).exists():
        return data / file
    found = sorted(data.rglob(Path(file).name)) if data.is_dir() else []
    if len(found) == 1:
        return found[0]
    how = " and ".join(f"eip fetch {name} --to {data}" for name in sets.fetch)
    if found:
        raise InputError(
            f"{data / file}: no such file, and {len(found)} of that name elsewhere: {found[0]}, "
            f"{found[1]}, …"
        )
    raise InputError(f"{data / file}: no such file; to get it: {how}")


def _there(sigma: np.ndarray | None) -> np.ndarray:
    assert sigma is not None  # no recipe trains a potential without
    return sigma


def _evaluation(model: Path, path: Path) -> Evaluation:
    store = open_frames(path)
    order = np.random.default_rng(0).permutation(len(store))
    return predict_store(model, store, np.sort(order[:_MOST_FRAMES]))


# --- figure 2: how much data ---------------------------------------------------------------------


def _data_efficiency(job: _Job) -> tuple[list[Row], Path, dict[str, Any]]:
    assert job.recipe.sets is not None
    clouds, curves = {}, {}
    measures: dict[str, dict[str, float]] = {}
    for fraction in job.recipe.extra["fractions"]:
        name = f"{100 * fraction:g} %"
        folder = job.folder / f"{100 * fraction:g}percent"
        sets = draw_sets(job.recipe.sets, job.data, folder / "data", fraction, job.say)
        # With a hundredth of the frames, a tenth of the steps.
        epochs = round(job.values()["training"]["epochs"] / fraction**0.5)
        model = job.trained(job.config(sets, folder / "model", epochs=epochs))
        known, other = (_evaluation(model, sets[s]) for s in ("test", "ood"))
        measures[name] = compute_metrics(known, other)
        clouds[name] = {
            label: (_there(found.structure_uncertainty), found.structure_error)
            for label, found in (("ID", known), ("OOD", other))
        }
    for title, key, by in _EFFICIENCY:
        curves[title] = {
            "ID": [of[key] * by for of in measures.values()],
            "OOD": [of[f"{key}_ood"] * by for of in measures.values()],
        }

    def over(key: str, digits: int, by: float = 1.0) -> str:
        return " → ".join(f"{of[key] * by:.{digits}f}" for of in measures.values())

    shares = " → ".join(measures)
    rows = [
        Row(f"Spearman, structures, ID, {shares}", "0.74 to 0.86", over("spearman_structure", 2)),
        Row("the same, OOD", "“favourable”", over("spearman_structure_ood", 2)),
        Row("ROC-AUC, structures, ID", "0.86 to 0.93", over("roc_auc_structure", 2)),
        Row("the same, OOD", "“favourable”", over("roc_auc_structure_ood", 2)),
        Row("force MAE, ID, meV/Å", "falls", over("force_mae", 0, 1000.0)),
        Row("force MAE, OOD, meV/Å", "falls", over("force_mae_ood", 0, 1000.0)),
        Row("mean σ, ID, meV/Å", "falls", over("mean_uncertainty", 0, 1000.0)),
        Row("mean σ, OOD, meV/Å", "falls", over("mean_uncertainty_ood", 0, 1000.0)),
    ]
    return rows, job.drawn(plots.data_efficiency(clouds, curves)), measures


_EFFICIENCY = (
    ("mean σ (meV/Å)", "mean_uncertainty", 1000.0),
    ("force MAE (meV/Å)", "force_mae", 1000.0),
    ("Spearman (structures)", "spearman_structure", 1.0),
    ("ROC-AUC (structures)", "roc_auc_structure", 1.0),
)


# --- figure 3: five methods ----------------------------------------------------------------------


def _methods(job: _Job) -> tuple[list[Row], Path, dict[str, Any]]:
    assert job.recipe.sets is not None
    sets = draw_sets(job.recipe.sets, job.data, job.folder / "data", say=job.say)
    methods = ("tensor", "ensemble", "dropout", "gmm", "mve")
    config = job.config(sets, job.folder / "methods")
    found = compare_methods(config, methods, progress=job.progress, say=job.say)
    figures = found.figures

    def each(key: str, digits: int, by: float = 1.0) -> str:
        cells = []
        for method in methods:
            value = figures[method].get(key, {}).get("mean")
            cells.append(f"{method} {'–' if value is None else f'{value * by:.{digits}f}'}")
        return ", ".join(cells)

    rows = [
        Row("training over the plain potential's", "ensemble 4", each("training_cost", 1)),
        Row("prediction over the plain potential's", "dropout 4", each("prediction_cost", 1)),
        Row(
            "force MAE, meV/Å",
            "ensemble, gmm and eIP lowest, dropout and mve higher",
            each("force_mae", 1, 1000.0),
        ),
        Row("Spearman, atoms", "all strong", each("spearman_atom", 2)),
        Row("ROC-AUC, atoms", "eIP above the ensemble", each("roc_auc_atom", 2)),
    ]
    if "ood_ratio" in figures["tensor"]:
        rows.append(Row("growth of σ over growth of the error, OOD", "", each("ood_ratio", 2)))
    return rows, found.plot, {label: dict(of) for label, of in figures.items()}


# --- figure 4: active learning -------------------------------------------------------------------


def _active_learning(job: _Job) -> tuple[list[Row], Path, dict[str, Any]]:
    starts = _kept_structures(job.folder / "starts.xyz", lambda: _starts(job.recipe.extra["start"]))
    values = job.values(learn=dict(job.recipe.extra["learn"]))
    result = _learned(job, values, starts, job.folder / "learn")
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
            logs[name] = log_of(Path(run["folder"]))
    measures: dict[str, Any] = {
        "labels": result.labels,
        "reason": result.reason,
        "seconds": result.seconds,
        "generations": [asdict(g) for g in result.generations],
    }
    for generation in measures["generations"]:  # paths of one machine are no figures
        for run in generation["runs"]:
            run.pop("folder", None)
    return rows, job.drawn(plots.dynamics(logs)), measures


def _learned(job: _Job, values: Mapping[str, Any], starts: Path, run_dir: Path) -> LearningResult:
    """A learning run, gone on with where it was."""
    learning = {**values["learn"], "starts": str(starts)}
    config = parse_config(
        {**values, "learn": learning, "run_dir": str(run_dir)}, root=LearningConfig
    )
    return learn(config, resume=True, progress=job.progress, say=job.say)


def _kept_structures(path: Path, make: Callable[[], list[Atoms]]) -> Path:
    """Made once: a run that goes on starts from the same."""
    if not path.is_file():
        frames = make()
        with replacing(path) as temporary:
            write(str(temporary), frames, format="extxyz")
    return path


def _starts(start: Mapping[str, Any]) -> list[Atoms]:
    if "molecule" in start:
        return [builders.molecule(start["molecule"])]
    if "lifepo4" in start:
        return [builders.lifepo4(start["lifepo4"])]
    if "pdms" in start:
        return [builders.pdms(*start["pdms"])]
    return [builders.water(start["water"], seed=seed) for seed in range(start["boxes"])]


# --- figure 5: a universal potential -------------------------------------------------------------


def _universal(job: _Job) -> tuple[list[Row], Path, dict[str, Any]]:
    assert job.recipe.sets is not None
    sets = draw_sets(job.recipe.sets, job.data, job.folder / "data", say=job.say)
    model = job.trained(job.config(sets, job.folder / "model"))
    known = _evaluation(model, sets["test"])
    other = _evaluation(model, sets["ood"])
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
        start = {material: job.recipe.extra[material]}
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
    sigma = _there(known.force_uncertainty)
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


def _potential_for(job: _Job, name: str, universal: Path) -> Path:
    """The universal potential, or where the recipe says so one that learns of a reference method.

    That one starts from a smaller piece of the material.
    """
    own = job.recipe.extra.get("learn", {}).get(name)
    if own is None:
        return universal
    folder = job.folder / name
    folder.mkdir(exist_ok=True)
    values = {key: dict(own[key]) for key in ("model", "training", "learn")}
    start = _kept_structures(folder / "small.xyz", lambda: _starts(own["start"]))
    return _learned(job, values, start, folder / "learn").model


def _md_and_udd(job: _Job, model: Path, folder: Path, start: Mapping[str, Any]) -> dict[str, str]:
    """Runs both, as far as they have not ended; how each ended."""
    folder.mkdir(exist_ok=True)
    file = _kept_structures(folder / "start.xyz", lambda: _starts(start))
    steps = round(job.recipe.extra["ps"] * 1000.0 / _TIMESTEP)
    settings = DynamicsSettings(
        temperature=300.0, timestep_fs=_TIMESTEP, steps=steps, trajectory_interval=10
    )
    endings = {}
    for which, udd in (("MD", None), ("UDD", UDDChoice())):
        run = folder / which
        done = _summary(run)
        if done is None or done["cause"] == "interrupted":
            summary = run_md(
                model, file, settings, run,
                udd=udd, resume=True, progress=job.progress, say=job.say,
            )  # fmt: skip
            if summary.cause == "interrupted":
                raise InterruptedError("dynamics was stopped")
            done = asdict(summary)
        endings[which] = done["ending"]
    return endings


def _summary(run: Path) -> dict[str, Any] | None:
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


_TIMESTEP = 0.5  # fs
