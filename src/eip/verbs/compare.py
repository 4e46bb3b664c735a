"""`eip compare`: methods of uncertainty on one split, trained, evaluated, timed and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eip import plots
from eip.config import Config
from eip.data.dataset import make_loader
from eip.errors import InputError
from eip.evaluation import Evaluation, evaluate
from eip.files import json_text, write_whole
from eip.locks import locked
from eip.model_file import load_model, read_model_info
from eip.uncertainty.methods import compared, method
from eip.verbs.comparison_tables import Figures, bars, markdown, rich_tables, summary
from eip.verbs.costs import costs_of
from eip.verbs.members import check_same, plain_config, train_members
from eip.verbs.memory import test_set
from eip.verbs.messages import Log, silent
from eip.verbs.rivals import Rival, check_rivals, rival_rows
from eip.verbs.runs import configured, is_trained
from eip.verbs.train import train, train_member

#: What `eip compare` runs unless told otherwise: every method with a σ for each atom's force.
DEFAULT_METHODS = tuple(compared())


@dataclass(frozen=True)
class Comparison:
    """What `compare` left behind.

    Attributes:
        figures: by label and key, {"mean", "std" (None of one seed), "seeds"}.
        table: comparison.md. plot: comparison.png. json: comparison.json.
    """

    figures: Figures
    json: Path
    table: Path
    plot: Path


def compare(
    config: Config | str | Path,
    methods: Sequence[str] | Mapping[str, Config] = DEFAULT_METHODS,
    seeds: Sequence[int] | None = None,
    *,
    rivals: Sequence[str] = (),
    progress: bool = True,
    log: Log = silent,
) -> Comparison:
    """Trains what is missing in ``config.run_dir`` and compares; can be stopped and called again.

    A run folder for each method and seed: ``<run_dir>/<label>/seed<n>``. Methods that start from a
    plain potential share it: ``<run_dir>/none/seed<n>`` is also the network of gmm and llpr, and
    the member of an ensemble.

    Args:
        methods: names, or labels with a configuration for each (to vary more than the method).
        seeds: of initial weights and the order of frames; by default that of the configuration.
        rivals: potentials of others as rows, and of each two of them their difference as an error
            bar: networks that eIP can attach to (chgnet), model files, and functions that make an
            ASE calculator ("file.py:function", "package.module:function").

    Raises:
        InputError: as `eip.train`; if a method or a rival is unknown, there is no test set, or what
            is in the folder was trained otherwise or measured on other frames.
    """
    config = configured(config, Config)
    if isinstance(methods, str):
        methods = [methods]
    check_rivals(rivals)
    if not config.data.test:
        raise InputError("a comparison needs data.test: frames that no method has seen")
    seeds = list(seeds) if seeds is not None else [config.training.seed]
    if isinstance(methods, Mapping):
        configs = dict(methods)
    else:
        configs = {m: _with_method(config, m) for m in methods}
    configs = {"none": plain_config(config, config.training.seed, config.run_dir), **configs}

    folder = config.run_dir
    wanted: dict[Path, Config] = {}
    built: list[tuple[Config, list[Path]]] = []
    for label, of_label in configs.items():
        for seed in seeds:
            run = of_label.model_copy(
                update={
                    "run_dir": folder / label / f"seed{seed}",
                    "training": of_label.training.model_copy(update={"seed": seed}),
                }
            )
            sources = _networks_of(label, run, configs, folder, config)
            for source in sources or [run]:
                wanted[source.run_dir] = source
            if sources:
                built.append((run, [s.run_dir / "model.eip" for s in sources]))
    with locked(folder):
        trained = train_members(
            list(wanted.values()), train_member, config.training.parallel, progress, log
        )
        if trained is None:
            raise InterruptedError("stopped while a network was being trained")
        for run, networks in built:
            check_same(run)
            if not is_trained(run.run_dir):
                train(run, networks=networks, resume=True, progress=progress)
        plain = folder / "none" / f"seed{seeds[0]}" / "model.eip"
        rows = rival_rows(rivals, config, plain, progress=progress, log=log) if rivals else {}
        return _report(folder, list(configs), seeds, config, rows, log)


def _with_method(config: Config, name: str) -> Config:
    method(name)  # An unknown one is an error before anything is trained.
    model = config.model.model_copy(update={"uncertainty": name})
    return config.model_copy(update={"model": model})


def _networks_of(
    label: str, run: Config, configs: Mapping[str, Config], folder: Path, plain: Config
) -> list[Config]:
    """Runs whose networks a run is made of; none if it trains its own."""
    of, seed = method(run.model.uncertainty), run.training.seed
    if of.starts_from == "several":
        members = run.model.members or of.members
        seeds = range(seed * members, (seed + 1) * members)
        return [plain_config(plain, k, folder / "none" / f"seed{k}") for k in seeds]
    if of.starts_from == "plain":
        return [plain_config(plain, seed, folder / "none" / f"seed{seed}")]
    if of.latent_distance and not run.model.latent_distance:
        with_distance = run.model.model_copy(update={"latent_distance": True})
        for other, of_other in configs.items():
            same = of_other.training == configs[label].training
            if of_other.model == with_distance and same:
                run_dir = folder / other / f"seed{seed}"
                return [run.model_copy(update={"run_dir": run_dir, "model": with_distance})]
    return []


def _report(
    folder: Path,
    labels: Sequence[str],
    seeds: Sequence[int],
    config: Config,
    rivals: Mapping[str, Rival],
    log: Log,
) -> Comparison:
    runs = {label: [folder / label / f"seed{seed}" for seed in seeds] for label in labels}
    costs = costs_of({label: of[0] / "model.eip" for label, of in runs.items()}, config)
    columns: dict[str, dict[str, list[float]]] = {}
    for label, folders in runs.items():
        columns[label] = {}
        for run in folders:
            measured = json.loads((run / "metrics.json").read_text())
            info = read_model_info(run / "model.eip")["info"]
            seconds = info["training"]["seconds"]
            values = {
                k: v for k, v in measured.items() if isinstance(v, int | float) and k[0] != "_"
            }
            values["training_seconds"] = seconds
            for key, value in values.items():
                columns[label].setdefault(key, []).append(float(value))
        for key, value in costs[label].items():
            columns[label][key] = [value]
    for label, row in rivals.items():
        columns[label] = {key: [value] for key, value in row.metrics.items()}
    figures = {
        label: {key: summary(values) for key, values in of_label.items()}
        for label, of_label in columns.items()
    }
    out = Comparison(
        figures,
        folder / "comparison.json",
        folder / "comparison.md",
        folder / "comparison.png",
    )
    write_whole(out.json, json_text(figures))
    write_whole(out.table, markdown(figures))
    panels = _panels({label: of[0] for label, of in runs.items() if label != "none"}, config)
    for label, row in rivals.items():
        if row.measured.force_uncertainty is not None:
            panels[label] = _panel(label, row.measured, row.metrics)
    plots.save_figure(plots.comparison(panels, bars(figures)), out.plot)
    for table in rich_tables(figures):
        log(table)
    return out


def _panels(runs: Mapping[str, Path], config: Config) -> dict[str, tuple[Any, Any, str]]:
    """σ and error of each atom of the test frames, of each label's first seed."""
    panels = {}
    for label, run in runs.items():
        potential = load_model(run / "model.eip")
        loader = make_loader(test_set(config, potential), max_atoms=1000, shuffle=False, seed=0)
        found = evaluate(potential, loader, progress=False)
        if found.force_uncertainty is not None:
            metrics = json.loads((run / "metrics.json").read_text())
            panels[label] = _panel(label, found, metrics)
    return panels


def _panel(
    label: str, found: Evaluation, metrics: Mapping[str, float | int]
) -> tuple[np.ndarray, np.ndarray, str]:
    assert found.force_uncertainty is not None
    note = f"{label}\nSpearman {metrics['spearman_atom']:.2f}"
    return found.force_uncertainty, found.atom_error, note
