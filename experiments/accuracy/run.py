"""Accuracy and trust of the error bar on fixed splits of published reference data.

    python experiments/accuracy/run.py acac --epochs 60 --seeds 0 1 2    # the table of the README
    python experiments/accuracy/run.py water --epochs 20 --batch-size 2 --ema-decay 0.999 --seeds 0
    python experiments/accuracy/run.py all --epochs 3 --frames 40        # does each data set train?

A run that is done is not done again, one that was killed goes on; figures of all runs land in
results.json beside this file: {data set: {setting: {metric: {mean, std, seeds}}}}, eV and Å.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase.io import iread

from eip.data import (
    FrameStore,
    GraphDataset,
    fit_element_energies,
    force_rms,
    make_loader,
    open_frames,
    split_indices,
)
from eip.evaluation import calibrate, compute_metrics, evaluate
from eip.model_file import save_model
from eip.models.settings import BACKBONES, BackboneSettings, backbone_settings
from eip.training.trainer import TrainingSettings, seeded, train
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import fit_latent_distance

HERE = Path(__file__).parent

#: What a setting's name is silent of: the training of the first runs.
FIRST = TrainingSettings(epochs=200, batch_size=5, selection="loss", variance_weight=0.0)


@dataclass(frozen=True)
class Split:
    """Frames to train on, validate with, and test on."""

    store: FrameStore
    train: np.ndarray
    validation: np.ndarray
    test: FrameStore
    test_indices: np.ndarray | None = None
    ood: FrameStore | None = None
    ood_indices: np.ndarray | None = None


def acac(data: Path, cache: Path) -> Split:
    store = open_frames(data / "acac/train_300K.xyz", cache_dir=cache)
    train, validation = split_indices(len(store), 50, 0, "last")
    test, ood = (open_frames(data / f"acac/test_MD_{t}K.xyz", cache_dir=cache) for t in (300, 600))
    return Split(store, train, validation, test, ood=ood)


def water(data: Path, cache: Path) -> Split:
    store = open_frames([data / f"water/data_{i}" for i in range(3)], cache_dir=cache)
    train, validation = split_indices(len(store), 20, 0, "last")
    return Split(store, train, validation, open_frames(data / "water/data_3", cache_dir=cache))


def aspirin(data: Path, cache: Path) -> Split:
    store = open_frames(data / "aspirin/rmd17_aspirin_train.xyz", cache_dir=cache)
    train, validation = split_indices(len(store), 200, 0, "last")
    test = open_frames(data / "aspirin/rmd17_aspirin_test.xyz", cache_dir=cache)
    return Split(store, train, validation, test)


def threebpa(data: Path, cache: Path) -> Split:
    store = open_frames(data / "3bpa/train_300K.xyz", cache_dir=cache)
    train, validation = split_indices(len(store), 50, 0, "last")
    # Published test sets are not at hand: the mixed-temperature frames serve as the other ones.
    other = open_frames(data / "3bpa/train_mixedT.xyz", cache_dir=cache)
    return Split(store, train, validation, store, validation, other)


def silica(data: Path, cache: Path) -> Split:
    known = [open_frames(data / f"silica/{n}.npz", cache_dir=cache) for n in SILICA_KNOWN]
    store = open_frames([data / f"silica/{n}.npz" for n in SILICA_KNOWN], cache_dir=cache)
    ood = open_frames([data / f"silica/{n}.npz" for n in SILICA_OTHER], cache_dir=cache)
    rng, parts, start = np.random.default_rng(0), ([], [], []), 0
    for part in known:
        order = start + rng.permutation(len(part))
        for chosen, frames in zip(parts, np.split(order[:450], [300, 350]), strict=True):
            chosen.append(frames)
        start += len(part)
    train, validation, test = (np.sort(np.concatenate(p)) for p in parts)
    first = len(open_frames(data / f"silica/{SILICA_OTHER[0]}.npz", cache_dir=cache))
    others = np.concatenate(
        [rng.permutation(first)[:200], first + rng.permutation(len(ood) - first)[:200]]
    )
    return Split(store, train, validation, store, test, ood, np.sort(others))


SILICA_KNOWN, SILICA_OTHER = ("sod", "dft", "edi", "att"), ("abw", "oso")


def mptrj(data: Path, cache: Path) -> Split:
    known, hot = (data / f"mptrj/{name}.xyz" for name in ("mptrj-random-1k", "mpf-TP"))
    store, ood = (open_frames(path, cache_dir=cache) for path in (known, hot))
    # By material: frames of one trajectory are alike.
    materials = np.array([atoms.info["mptrj_traj_id"] for atoms in iread(known)])
    names = np.random.default_rng(0).permutation(np.unique(materials))
    order = np.concatenate([np.flatnonzero(materials == name) for name in names])
    train, validation, test = (np.sort(part) for part in np.split(order, [800, 900]))
    # An element that the potential was not made for is refused, which is another matter.
    ours = set(store.elements)
    strange = [i for i, atoms in enumerate(iread(hot)) if not ours.issuperset(atoms.numbers)]
    return Split(
        store, train, validation, store, test, ood, np.delete(np.arange(len(ood)), strange)
    )


SPLITS: dict[str, Callable[[Path, Path], Split]] = {
    "acac": acac,
    "water": water,
    "aspirin": aspirin,
    "3bpa": threebpa,
    "silica": silica,
    "mptrj": mptrj,
}


def run(
    split: Split,
    settings: TrainingSettings,
    head: str,
    network: BackboneSettings,
    latent_distance: bool,
    run_dir: Path,
) -> dict:
    """Trains, calibrates and measures once; returns the measures.

    With or without latent distance it is one training, and two measurements.
    """
    done = run_dir / ("measures_latent.json" if latent_distance else "measures.json")
    if done.exists():
        return json.loads(done.read_text())
    energies = fit_element_energies(split.store, split.train)
    network = network.informed(GraphDataset(split.store, split.train, cutoff=network.cutoff))
    with seeded(settings.seed):
        potential = EvidentialPotential(
            # Every element of the file: the splits of MPtrj are by frame, and a few elements fall
            # into the test frames alone; their E0 is the fit's best guess.
            elements=split.store.elements,
            element_energies={z: energies.get(z, 0.0) for z in split.store.elements},
            force_scale=force_rms(split.store, split.train),
            head=head,
            backbone=network,
        )

    def frames(store: FrameStore, indices: np.ndarray | None) -> GraphDataset:
        return GraphDataset(store, indices, cutoff=potential.cutoff)

    def loader(dataset: GraphDataset):
        return make_loader(dataset, max_atoms=1500, shuffle=False, seed=0)

    def measure(model: torch.nn.Module, dataset: GraphDataset):
        return evaluate(model, loader(dataset), progress=False)

    validation = frames(split.store, split.validation)
    result = train(
        potential,
        *(frames(split.store, split.train), validation, settings, run_dir),
        resume=True,
        progress=sys.stderr.isatty(),
    )
    if result.ending == "interrupted":
        raise KeyboardInterrupt  # the same command goes on
    if latent_distance:
        training = [batch.graph for batch in loader(frames(split.store, split.train))]
        held_out = [(batch.graph, batch.forces) for batch in loader(validation)]
        potential = fit_latent_distance(potential, training, held_out)
    on_validation = measure(potential, validation)
    if on_validation.force_uncertainty is not None:
        potential = calibrate(potential, on_validation)
    test = measure(potential, frames(split.test, split.test_indices))
    ood = measure(potential, frames(split.ood, split.ood_indices)) if split.ood else None
    measures = {
        **{k: v for k, v in compute_metrics(test, ood).items() if np.isfinite(v)},
        "training_seconds": result.seconds,
        "epochs": result.epochs,
    }
    name = "model_latent.eip" if latent_distance else "model.eip"
    save_model(potential, run_dir / name, {"metrics": measures})
    done.write_text(json.dumps(measures, indent=1))
    return measures


def network_of(arguments: argparse.Namespace) -> BackboneSettings:
    """Of the command line; without a limit where none is given."""
    named = backbone_settings(arguments.backbone)
    given = ("channels", "interactions", "cutoff", "feature_limit")
    options = {key: getattr(arguments, key) for key in given}
    return named.replace(**{k: v for k, v in options.items() if k in type(named).model_fields})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=[*SPLITS, "all"])
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--head", default="tensor")
    parser.add_argument("--backbone", choices=BACKBONES.names(), default="painn")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--interactions", type=int, default=3)
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å")
    parser.add_argument("--feature-limit", type=float)
    parser.add_argument("--latent-distance", action="store_true", help="as eip train has it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, help="train on so many frames only")
    # Every setting of the training, by its own name; what is given is part of the run's.
    for name in TrainingSettings.model_fields:
        if name not in ("seed", "effort", "device", "devices", "parallel", "num_workers"):
            default = getattr(FIRST, name)
            kind = type(default) if default is not None else float
            as_given = {"action": "store_true", "default": None} if kind is bool else {"type": kind}
            parser.add_argument(f"--{name.replace('_', '-')}", **as_given)
    arguments = parser.parse_args()
    changed = {
        k: v
        for k, v in vars(arguments).items()
        if v is not None and k in TrainingSettings.model_fields
    }
    # What was there before other backbones were keeps its name.
    of_network = ["" if arguments.backbone == "painn" else arguments.backbone, arguments.head]
    of_network += [f"F{arguments.channels}"]
    of_network += [f"L{arguments.interactions}"] * (arguments.interactions != 3)
    of_network += [f"cutoff={arguments.cutoff}"] * (arguments.cutoff != 5.0)
    of_network += [f"limit={arguments.feature_limit}"] * (arguments.feature_limit is not None)
    setting = "-".join(
        [*filter(None, of_network), *(f"{k}={v}" for k, v in changed.items())]
        + ([f"frames={arguments.frames}"] if arguments.frames else [])
    )
    results_file = HERE / "results.json"
    for name in SPLITS if arguments.dataset == "all" else [arguments.dataset]:
        split = SPLITS[name](arguments.data, arguments.out / "frames")
        if arguments.frames:
            split = replace(split, train=split.train[: arguments.frames])
        runs = [
            run(
                split,
                FIRST.replace(seed=seed, **changed),
                arguments.head,
                network_of(arguments),
                arguments.latent_distance,
                arguments.out / name / setting / f"seed{seed}",
            )
            for seed in arguments.seeds
        ]
        table = {
            key: {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "seeds": len(values),
            }
            for key in runs[0]
            if len(values := [r[key] for r in runs if key in r]) == len(runs)
        }
        results = json.loads(results_file.read_text()) if results_file.exists() else {}
        shown = f"{setting}-latent" if arguments.latent_distance else setting
        results.setdefault(name, {})[shown] = table
        results_file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(name, shown)
        for key, value in table.items():
            spread = f" ± {value['std']:.4f}" if value["std"] is not None else ""
            print(f"  {key:28s} {value['mean']:10.4f}{spread}")


if __name__ == "__main__":
    main()
