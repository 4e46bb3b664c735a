"""Methods of uncertainty side by side on one split: trained, evaluated, timed, tabled and drawn."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from eip import plots
from eip.config import Config
from eip.data import open_frames
from eip.data.dataset import Batch, GraphDataset, make_loader
from eip.errors import InputError, did_you_mean
from eip.evaluation import evaluate
from eip.files import json_text, write_whole
from eip.locks import locked
from eip.model_file import load_model, read_model_info
from eip.potential import Potential, WrappedPotential, prepared
from eip.training.loss import Loss
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.methods import EVIDENTIAL, MEMBERS, METHODS
from eip.uncertainty.readout_ensemble import ReadoutEnsemblePotential
from eip.workflow import (
    Say,
    bare_network,
    is_trained,
    nobody,
    plain_config,
    train_members,
    train_model,
)

#: What `eip compare` runs unless told otherwise: every method with a σ for each atom's force.
DEFAULT_METHODS = tuple(m for m in METHODS if m not in ("componentwise", "global", "none"))

#: Beside the keys of `eip.evaluation.METRIC_KEYS`.
COST_KEYS: dict[str, str] = {
    "training_seconds": "of all networks that the method trains, as it went, s",
    "training_cost": "time of a training step over that of the plain potential, interleaved, "
    "median, times the number of networks",
    "prediction_cost": "time of energy, forces and σ over that of the plain potential's energy and "
    "forces, interleaved, median",
    "memory_mb": "what loading and predicting add to the process's peak memory, MB (on a GPU: the "
    "peak there)",
}

#: Atoms of the batch that is timed, about; rounds of which the median is taken.
_TIMED_ATOMS, _ROUNDS, _WARM_UP = 200, 15, 3


@dataclass(frozen=True)
class Comparison:
    """What `compare_methods` left behind.

    Attributes:
        figures: by label and key, {"mean", "std" (None of one seed), "seeds"}.
        table: comparison.md. plot: comparison.png. json: comparison.json.
    """

    figures: dict[str, dict[str, dict[str, float | None]]]
    json: Path
    table: Path
    plot: Path


def compare_methods(
    config: Config,
    methods: Sequence[str] | Mapping[str, Config] = DEFAULT_METHODS,
    seeds: Sequence[int] | None = None,
    *,
    progress: bool = True,
    say: Say = nobody,
) -> Comparison:
    """Trains what is missing in ``config.run_dir`` and compares; can be stopped and called again.

    A run folder for each method and seed: ``<run_dir>/<label>/seed<n>``. Methods that start from a
    plain potential share it: ``<run_dir>/none/seed<n>`` is also the network of gmm and llpr, and
    the member of an ensemble.

    Args:
        methods: names, or labels with a configuration for each (to vary more than the method).
        seeds: of initial weights and the order of frames; by default that of the configuration.

    Raises:
        InputError: as `eip.workflow.train_model`; if a method is unknown or there is no test set.
    """
    if not config.data.test:
        raise InputError("a comparison needs data.test: frames that no method has seen")
    seeds = list(seeds) if seeds is not None else [config.training.seed]
    if isinstance(methods, Mapping):
        configs = dict(methods)
    else:
        for method in methods:
            if method not in METHODS:
                raise InputError(f"unknown method '{method}': {did_you_mean(method, METHODS)}")
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
        trained = train_members(list(wanted.values()), config.training.parallel, progress, say)
        if trained is None:
            raise InterruptedError("stopped while a network was being trained")
        for run, networks in built:
            if not is_trained(run.run_dir):
                train_model(run, networks=networks, resume=True, progress=progress)
        return _report(folder, list(configs), seeds, config, say)


def _with_method(config: Config, method: str) -> Config:
    return config.model_copy(
        update={"model": config.model.model_copy(update={"uncertainty": method})}
    )


def _networks_of(
    label: str, run: Config, configs: Mapping[str, Config], folder: Path, plain: Config
) -> list[Config]:
    """Runs whose networks a run is made of; none if it trains its own."""
    method, seed = run.model.uncertainty, run.training.seed
    if method == "ensemble":
        members = run.model.members or MEMBERS[method]
        seeds = range(seed * members, (seed + 1) * members)
        return [plain_config(plain, k, folder / "none" / f"seed{k}") for k in seeds]
    if method in ("gmm", "llpr"):
        return [plain_config(plain, seed, folder / "none" / f"seed{seed}")]
    if method in EVIDENTIAL and not run.model.latent_distance:
        with_distance = run.model.model_copy(update={"latent_distance": True})
        for other, of_other in configs.items():
            same = of_other.training == configs[label].training
            if of_other.model == with_distance and same:
                run_dir = folder / other / f"seed{seed}"
                return [run.model_copy(update={"run_dir": run_dir, "model": with_distance})]
    return []


# --- figures, table and plot ---------------------------------------------------------------------


def _report(
    folder: Path, labels: Sequence[str], seeds: Sequence[int], config: Config, say: Say
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
    plots.save_figure(plots.comparison(panels, _bars(figures)), out.plot)
    say(rich_table(figures))
    return out


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and spread over seeds."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
    }


#: Columns of the table: heading, key, factor, digits.
_TABLE = (
    ("force MAE, meV/Å", "force_mae", 1000.0, 1),
    ("Spearman, atoms", "spearman_atom", 1.0, 3),
    ("ROC-AUC, atoms", "roc_auc_atom", 1.0, 3),
    ("Spearman, structures", "spearman_structure", 1.0, 3),
    ("in 80 % interval", "coverage_80", 1.0, 3),
)
_TABLE_OOD = (
    ("OOD ratio", "ood_ratio", 1.0, 2),
    ("ID/OOD AUC", "ood_auc", 1.0, 3),
)
_TABLE_COST = (
    ("training ×", "training_cost", 1.0, 2),
    ("prediction ×", "prediction_cost", 1.0, 2),
    ("memory, MB", "memory_mb", 1.0, 0),
)


def _rows(
    figures: Mapping[str, Mapping[str, Mapping[str, float | None]]],
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells; ID / OOD in one cell where both were measured."""
    has_ood = any("ood_ratio" in of for of in figures.values())
    columns = (*_TABLE, *(_TABLE_OOD if has_ood else ()), *_TABLE_COST)

    def cell(of: Mapping[str, Mapping[str, float | None]], key: str, by: float, n: int) -> str:
        found = of.get(key)
        mean = found["mean"] if found else None
        if found is None or mean is None or not np.isfinite(mean):
            return "–"
        spread = f" ± {found['std'] * by:.{n}f}" if found["std"] is not None else ""
        return f"{mean * by:.{n}f}{spread}"

    rows = []
    for label, of in figures.items():
        row = [label]
        for _, key, by, n in columns:
            both = [cell(of, key, by, n)]
            if f"{key}_ood" in of:
                both.append(cell(of, f"{key}_ood", by, n))
            row.append("–" if set(both) == {"–"} else " / ".join(both))
        rows.append(row)
    return ["method", *(heading for heading, *_ in columns)], rows


def markdown(figures: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    """The table as Markdown: ID / OOD, mean ± standard deviation over seeds."""
    headings, rows = _rows(figures)
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_table(figures: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Table:
    """The same for a terminal."""
    headings, rows = _rows(figures)
    table = Table(*headings, title="methods, test / OOD")
    for row in rows:
        table.add_row(*row)
    return table


def _panels(runs: Mapping[str, Path], config: Config) -> dict[str, tuple[Any, Any, str]]:
    """σ and error of each atom of the test frames, of each label's first seed."""
    panels = {}
    for label, run in runs.items():
        potential = load_model(run / "model.eip")
        loader = make_loader(_test_set(config, potential), max_atoms=1000, shuffle=False, seed=0)
        found = evaluate(potential, loader, progress=False)
        if found.force_uncertainty is not None:
            metrics = json.loads((run / "metrics.json").read_text())
            note = f"{label}\nSpearman {metrics['spearman_atom']:.2f}"
            panels[label] = (found.force_uncertainty, found.atom_error, note)
    return panels


def _test_set(config: Config, potential: Potential) -> GraphDataset:
    store = open_frames(config.data.test, config.data.label_keys(), config.run_dir / "data")
    return GraphDataset(store, cutoff=potential.cutoff, dtype=potential.dtype)


def _bars(
    figures: Mapping[str, Mapping[str, Mapping[str, float | None]]],
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Titles of bar charts, and in each label → value and spread."""
    wanted = (
        ("force MAE (meV/Å)", "force_mae", 1000.0),
        ("Spearman (atoms)", "spearman_atom", 1.0),
        ("ROC-AUC (atoms)", "roc_auc_atom", 1.0),
        ("training time / plain", "training_cost", 1.0),
        ("prediction time / plain", "prediction_cost", 1.0),
        ("OOD ratio", "ood_ratio", 1.0),
    )
    out: dict[str, dict[str, tuple[float, float | None]]] = {}
    for title, key, by in wanted:
        for label, of in figures.items():
            found = of.get(key)
            if found is None or found["mean"] is None or not np.isfinite(found["mean"]):
                continue
            spread = None if found["std"] is None else found["std"] * by
            out.setdefault(title, {})[label] = (found["mean"] * by, spread)
    return out


# --- cost ----------------------------------------------------------------------------------------


def costs_of(models: Mapping[str, Path], config: Config) -> dict[str, dict[str, float]]:
    """The keys of ``COST_KEYS`` that are ratios or sizes, of models one of which is "none".

    Timed in turn, so that what else the machine does falls on all alike.
    """
    loaded = {label: load_model(path) for label, path in models.items()}
    snapshots = {label: prepared(potential) for label, potential in loaded.items()}
    batch = _timed_batch(config, loaded["none"])
    loss = Loss.of(config.training)
    networks = {label: bare_network(load_model(path)) for label, path in models.items()}
    for label, network in networks.items():
        # Drawn after a plain training; to train its last layers would be another method.
        if isinstance(network, ReadoutEnsemblePotential) and network.origin == "llpr":
            networks[label] = bare_network(load_model(models["none"]))
    for network in networks.values():
        network.train().requires_grad_(True)
    predicting: dict[str, list[float]] = {label: [] for label in loaded}
    training: dict[str, list[float]] = {label: [] for label in loaded}
    for round_ in range(_WARM_UP + _ROUNDS):
        for label, potential in snapshots.items():
            times = _predict(potential, batch), _step(networks[label], batch, loss)
            if round_ >= _WARM_UP:
                predicting[label].append(times[0])
                training[label].append(times[1])
    plain = statistics.median(predicting["none"]), statistics.median(training["none"])
    out = {}
    # A process for each: a peak never goes down again. They are forked from one that has imported
    # what they need: importing takes many times as long as the rest.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for label, path in models.items():
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            memory = pool.submit(_peak_memory, path, config).result()
        out[label] = {
            "prediction_cost": statistics.median(predicting[label]) / plain[0],
            "training_cost": statistics.median(training[label]) / plain[1] * _count(loaded[label]),
            "memory_mb": memory,
        }
    return out


def _count(potential: Potential) -> int:
    """Networks that had to be trained."""
    while isinstance(potential, WrappedPotential):
        potential = potential.potential
    return len(potential.members) if isinstance(potential, EnsemblePotential) else 1


def _timed_batch(config: Config, potential: Potential) -> Batch:
    dataset = _test_set(config, potential)
    loader = make_loader(dataset, max_atoms=_TIMED_ATOMS, shuffle=False, seed=0)
    batch: Batch = next(iter(loader)).to(potential.device)
    return batch


def _predict(potential: Potential, batch: Batch) -> float:
    started = time.perf_counter()
    potential(batch.graph)
    _wait_for(potential)
    return time.perf_counter() - started


def _step(network: Potential, batch: Batch, loss: Loss) -> float:
    """Forward and backward pass of training."""
    started = time.perf_counter()
    loss(network(batch.graph, differentiable="everything"), batch).total.backward()
    for parameter in network.parameters():
        parameter.grad = None
    _wait_for(network)
    return time.perf_counter() - started


def _wait_for(potential: Potential) -> None:
    if potential.device.type == "cuda":
        torch.cuda.synchronize()


def _peak_memory(model: Path, config: Config) -> float:
    """MB that loading and predicting add; on a GPU, the peak there."""
    before = _forget_peak()
    potential = load_model(model)
    batch = _timed_batch(config, potential)
    for _ in range(3):
        potential(batch.graph)
    if potential.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return _peak() - before


def _forget_peak() -> float:
    """Memory of the process now, MB; where the system can, the peak is counted from here on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    """MB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
