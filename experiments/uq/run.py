"""Every method of uncertainty on one network and one budget, on fixed splits of published data.

    python experiments/uq/run.py acac --seeds 0 1 2        # every method, ablations, calibrations
    python experiments/uq/run.py silica --methods tensor ensemble gmm mve --seeds 0
    python experiments/uq/run.py acac --fraction 0.05      # of the training frames
    python experiments/uq/run.py --table                   # docs/uq_results.md from results.json

What is trained already is not trained again, so that a run can be stopped and carried on; figures
land in results.json beside this file: {data set: {method: {metric: {mean, std, seeds}}}}, eV and Å;
keys with _ood and, for molecules never seen in training, _unseen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eip.config import Config, parse_config
from eip.data import FrameStore, GraphDataset, make_loader, open_frames
from eip.data.store import write_store
from eip.evaluation import calibrate, compute_metrics, evaluate
from eip.model_file import load_model
from eip.uncertainty.calibrated import CalibratedPotential
from eip.verbs.compare import compare
from eip.verbs.comparison_tables import markdown, summary

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "accuracy"))
from run import SPLITS, Split  # noqa: E402

#: How each data set is trained: all methods alike.
TRAINING: dict[str, dict[str, Any]] = {
    "acac": {"epochs": 60},
    "aspirin": {"epochs": 60},
    "silica": {"epochs": 15},
    "water": {"epochs": 20, "batch_size": 2, "ema_decay": 0.999},
    "mptrj": {"epochs": 12, "learning_rate": 5e-4, "energy_weight": 0.1},
}

#: Label → what differs from the defaults of `model` and `training`.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "tensor": {},
    "ensemble": {"model": {"uncertainty": "ensemble"}},
    "gmm": {"model": {"uncertainty": "gmm"}},
    "mve": {"model": {"uncertainty": "mve"}},
    "llpr": {"model": {"uncertainty": "llpr"}},
    "dropout": {"model": {"uncertainty": "dropout"}},
    "shallow_ensemble": {"model": {"uncertainty": "shallow_ensemble"}},
    # Ablations: ours, then the paper's.
    "tensor, without latent distance": {"model": {"latent_distance": False}},
    "componentwise, q = 0.4 (the paper's)": {
        "model": {"uncertainty": "componentwise", "latent_distance": False},
        "training": {"quantile": 0.4},
    },
    "componentwise": {"model": {"uncertainty": "componentwise", "latent_distance": False}},
    "without directionality (isotropic)": {
        "model": {"uncertainty": "isotropic", "latent_distance": False}
    },
    "without locality (global)": {"model": {"uncertainty": "global"}},
    "without the quantile model": {
        "model": {"latent_distance": False},
        "training": {"quantile": None},
    },
}

#: Methods whose calibrations are compared, and how.
CALIBRATED = ("tensor", "ensemble", "mve")
CALIBRATIONS = ("none", "scale", "per_element", "isotonic", "split_conformal")

#: Epochs that a share of the training frames gets: about half the steps of the whole.
EPOCHS_OF_FRACTION = {0.01: 1000, 0.05: 400, 0.3: 120}


def stores_of(split: Split, folder: Path, fraction: float) -> dict[str, Path]:
    """The parts of a split as stores of their own."""
    train = split.train
    if fraction < 1.0:
        count = max(2, round(fraction * len(train)))
        train = np.sort(np.random.default_rng(0).permutation(train)[:count])
    parts = {
        "train": (split.store, train),
        "validation": (split.store, split.validation),
        "test": (split.test, split.test_indices),
        "ood": (split.ood, split.ood_indices),
    }
    out = {}
    known = set(np.unique(np.concatenate([split.store[int(i)].numbers for i in train])).tolist())
    for name, (store, indices) in parts.items():
        if store is None:
            continue
        out[name] = folder / name
        if not (out[name] / "store.json").exists():
            chosen = range(len(store)) if indices is None else indices
            frames = (store[int(i)] for i in chosen)
            # A potential refuses an element that it was not trained on.
            write_store((f for f in frames if known.issuperset(f.numbers.tolist())), out[name])
    return out


def unseen_frames(name: str, data: Path, cache: Path) -> FrameStore | None:
    """Frames of a molecule that is not in the training set, at nearly the same level of theory."""
    if name == "acac":
        return open_frames(data / "aspirin/rmd17_aspirin_test.xyz", cache_dir=cache)
    if name == "aspirin":
        return open_frames(data / "acac/test_MD_300K.xyz", cache_dir=cache)
    return None


def changed(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    sections = {
        section: getattr(config, section).model_copy(update=dict(values))
        for section, values in changes.items()
    }
    return config.model_copy(update=sections)


def metrics_of(model: Path, known: FrameStore, other: FrameStore, every: int) -> dict[str, float]:
    """Figures of a set that is neither test nor ood, kept beside the model."""
    kept = model.parent / "unseen.json"
    if kept.exists():
        return json.loads(kept.read_text())
    potential = load_model(model)

    def found(store: FrameStore, indices: np.ndarray | None = None):
        dataset = GraphDataset(store, indices, cutoff=potential.cutoff)
        loader = make_loader(dataset, max_atoms=1000, shuffle=False, seed=0)
        return evaluate(potential, loader, progress=False)

    both = compute_metrics(found(known), found(other, np.arange(0, len(other), every)))
    out = {
        key.replace("_ood", "") + "_unseen": value
        for key, value in both.items()
        if (key.endswith("_ood") or key in ("ood_ratio", "ood_auc")) and np.isfinite(value)
    }
    kept.write_text(json.dumps(out, indent=1))
    return out


def calibrations_of(model: Path, stores: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Figures of each calibration fitted on the same validation frames."""
    kept = model.parent / "calibrations.json"
    if kept.exists():
        return json.loads(kept.read_text())
    potential = load_model(model)
    assert isinstance(potential, CalibratedPotential)
    raw = potential.potential

    def found(which, name: str):
        dataset = GraphDataset(open_frames(stores[name]), cutoff=raw.cutoff)
        loader = make_loader(dataset, max_atoms=1000, shuffle=False, seed=0)
        return evaluate(which, loader, progress=False)

    on_validation = found(raw, "validation")
    out = {}
    for method in CALIBRATIONS:
        tried = raw if method == "none" else calibrate(raw, on_validation, method=method)
        sets = [found(tried, name) for name in ("test", "ood") if name in stores]
        figures = compute_metrics(*sets)
        out[method] = {k: v for k, v in figures.items() if np.isfinite(v)}
    kept.write_text(json.dumps(out, indent=1))
    return out


def run(name: str, labels: list[str], seeds: list[int], fraction: float, arguments) -> None:
    data, folder = arguments.data, arguments.out / name
    if fraction < 1.0:
        folder = arguments.out / f"{name}-{fraction:g}"
    split = SPLITS[name](data, arguments.out / "frames")
    stores = stores_of(split, folder / "data", fraction)
    training = dict(TRAINING[name])
    if fraction < 1.0:
        training["epochs"] = EPOCHS_OF_FRACTION[fraction]
    config = parse_config(
        {
            "run_dir": str(folder.absolute()),
            "data": {key: [str(path.absolute())] for key, path in stores.items()},
            # What the tables are of: the paper's network, trained by the likelihood alone.
            "model": {"backbone": "painn"},
            "training": {
                **training,
                "batch_size": training.get("batch_size", 5),
                "selection": "loss",
                "variance_weight": 0.0,
                "parallel": arguments.parallel,
            },
        }
    )
    configs = {label: changed(config, METHODS[label]) for label in labels}
    comparison = compare(config, configs, seeds, progress=False, log=print)
    figures = comparison.figures
    unseen = unseen_frames(name, data, arguments.out / "frames")
    known = open_frames(stores["test"])
    extra: dict[str, dict[str, list[float]]] = {}
    for label in labels:
        for seed in seeds:
            model = folder / label / f"seed{seed}" / "model.eip"
            if unseen is not None:
                for key, value in metrics_of(model, known, unseen, 5).items():
                    extra.setdefault(label, {}).setdefault(key, []).append(value)
            if label in CALIBRATED and fraction == 1.0:
                for method, of in calibrations_of(model, stores).items():
                    for key, value in of.items():
                        row = extra.setdefault(f"{label}, calibration: {method}", {})
                        row.setdefault(key, []).append(value)
    for label, columns in extra.items():
        figures.setdefault(label, {}).update({k: summary(v) for k, v in columns.items()})
    results_file = HERE / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    results[folder.name] = {**results.get(folder.name, {}), **figures}
    results_file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write_tables(results)


def write_tables(results: Mapping[str, Any]) -> None:
    """docs/uq_results.md: one table for each data set."""
    lines = [
        "# Methods of uncertainty, measured\n\n",
        "Written by `python experiments/uq/run.py --table` from `experiments/uq/results.json`. "
        "Same network (F = 64), same training, same frames for all; test / out of distribution, "
        "mean ± standard deviation over seeds. Costs are over those of the plain potential.\n",
    ]
    for name, figures in results.items():
        seeds = sorted({round(of["force_mae"]["seeds"]) for of in figures.values()})
        methods = {k: v for k, v in figures.items() if ", calibration: " not in k}
        lines.append(f"\n## {name}\n\nSeeds: {', '.join(map(str, seeds))}.\n\n")
        lines.append(markdown(methods))
        molecules = {k: v for k, v in methods.items() if "ood_ratio_unseen" in v}
        if molecules:
            lines.append("\nA molecule never seen:\n\n")
            lines.append(simple_table(molecules, UNSEEN))
        calibrations = {k: v for k, v in figures.items() if ", calibration: " in k}
        if calibrations:
            lines.append("\nCalibrations (80 % intervals should hold 0.8):\n\n")
            lines.append(simple_table(calibrations, CALIBRATION))
    (HERE.parents[1] / "docs" / "uq_results.md").write_text("".join(lines))


UNSEEN = {
    "force MAE, meV/Å": ("force_mae_unseen", 1000.0, 0),
    "OOD ratio": ("ood_ratio_unseen", 1.0, 2),
    "ID/OOD AUC": ("ood_auc_unseen", 1.0, 3),
    "in 80 % interval": ("coverage_80_unseen", 1.0, 3),
}
CALIBRATION = {
    "in 80 % interval": ("coverage_80", 1.0, 3),
    "OOD": ("coverage_80_ood", 1.0, 3),
    "miscalibration area": ("miscalibration_area", 1.0, 3),
    "OOD ": ("miscalibration_area_ood", 1.0, 3),
    "CRPS, meV/Å": ("crps", 1000.0, 1),
    "OOD  ": ("crps_ood", 1000.0, 1),
}


def simple_table(figures: Mapping[str, Any], columns: Mapping[str, tuple[str, float, int]]) -> str:
    rows = [["", *(heading.strip() for heading in columns)], ["---"] * (len(columns) + 1)]
    for label, of in figures.items():
        cells = [
            f"{of[key]['mean'] * by:.{n}f}" if key in of else "–" for key, by, n in columns.values()
        ]
        rows.append([label, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=list(TRAINING), nargs="?")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/uq"))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fraction", type=float, choices=[*EPOCHS_OF_FRACTION, 1.0], default=1.0)
    parser.add_argument("--parallel", type=int, default=1, help="networks trained at once")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if arguments.table or arguments.dataset is None:
        write_tables(json.loads((HERE / "results.json").read_text()))
        return
    run(arguments.dataset, arguments.methods, arguments.seeds, arguments.fraction, arguments)


if __name__ == "__main__":
    main()
