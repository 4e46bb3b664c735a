"""The verbs of the command line as functions: from files to files, built of everything below.

Each takes ``say``, which is given what a person would like to see (text or a table of rich); by
default nobody listens.
"""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Int

from eip import plots
from eip.analysis import BINS
from eip.analysis.report import label_runs, write_analysis
from eip.config import (
    Config,
    LearningConfig,
    config_yaml,
    load_config,
    parse_config,
)
from eip.data import (
    DataSummary,
    FrameStore,
    GraphDataset,
    Labels,
    LabelWarning,
    energy_scale,
    fit_element_energies,
    force_scale,
    make_loader,
    open_frames,
    read_structures,
    split_indices,
    summarize,
)
from eip.data.dataset import Batch
from eip.data.kept import kept_frames
from eip.data.plausibility import DataWarning, find_doubts
from eip.errors import InputError, MissingLabel, did_you_mean
from eip.evaluation import Evaluation, calibrate, compute_metrics, evaluate, write_report
from eip.files import write_whole
from eip.model_file import load_model, read_model_info, save_model
from eip.models.cartesian_ace import FEATURE_LIMIT
from eip.potential import Potential, WrappedPotential
from eip.run_folder import RunFolder, file_identity, with_files, working_in
from eip.signals import die_with, heed_termination
from eip.simulation import (
    DynamicsSettings,
    DynamicsSummary,
    Limiter,
    UDDParameters,
    propose_udd,
    run_dynamics,
)
from eip.training.processes import launched, leader_first
from eip.training.trainer import TrainingResult, seeded, train
from eip.uncertainty.calibration import CalibratedPotential
from eip.uncertainty.calibration import Method as CalibrationMethod
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.latent_distance import LatentDistancePotential
from eip.uncertainty.methods import MEMBERS, fit_after_training, new_network

Say = Callable[[object], None]


def nobody(message: object) -> None:
    """Listens to nothing."""


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingRun:
    """What `train_model` left behind.

    Attributes:
        model: model.eip; None if training was interrupted, and in all but the first of several
            processes that a launcher started.
        result: of the trainer.
        metrics: of the test frames, or of the validation frames where there are none.
        measured_on: "test" or "validation".
    """

    run_dir: Path
    model: Path | None
    result: TrainingResult
    metrics: dict[str, float]
    measured_on: str


def train_model(
    config: Config,
    *,
    networks: Sequence[Path] = (),
    resume: bool = False,
    progress: bool = True,
    say: Say = nobody,
) -> TrainingRun:
    """Frames → statistics → network → training → what the method adds → calibration → model.eip.

    The run folder gets config.yaml, data/ (the frames as they were read), train.csv, checkpoints/,
    tensorboard/, training.png, model.eip, and the files of `eip.evaluation.write_report`; of an
    ensemble, members/ with a run folder for each.

    Args:
        networks: model files of the same data without an uncertainty, which stand in for the
            training of a method that starts from such (gmm, llpr) or of several (ensemble).
        resume: go on with what is in the run folder.
        progress: shows progress bars.

    Raises:
        InputError: if the run folder is in use, files or labels are wrong, or an element of the
            validation, test or ood frames does not occur in training.
    """
    run_dir = config.run_dir
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device is 'cuda', but torch finds no GPU; 'auto' takes the CPU")
    launch = launched()
    follows = launch is not None and launch.rank > 0
    with ExitStack() as stack:

        def prepare() -> tuple[bool, dict[str, FrameStore]]:
            # The first process holds the folder for all of them.
            begun = follows or stack.enter_context(run_of(config, "train", resume=resume)).begun
            return begun, _read_sets(config, run_dir / "data", begun)

        begun, stores = leader_first(launch, prepare)
        if not begun:
            write_whole(run_dir / "config.yaml", config_yaml(config, run_dir))
        if follows:
            say, progress = nobody, False
        return _train_model(config, stores, networks, follows, progress, say)


def _train_model(
    config: Config,
    stores: dict[str, FrameStore],
    networks: Sequence[Path],
    follows: bool,
    progress: bool,
    say: Say,
) -> TrainingRun:
    """From the frames on; what is on disk of an earlier sitting is not done again."""
    run_dir, model = config.run_dir, config.model
    chosen = _split(config, stores)
    for name, store in stores.items():
        say(summarize(store).table(f"{name} frames"))
    if not follows:
        _say_first(config, stores, chosen, say)

    def sets_for(potential: Potential) -> dict[str, GraphDataset]:
        # All at once: a strange element among the test frames is found before training.
        return {
            name: _dataset(stores.get(name, stores["train"]), potential, indices)
            for name, indices in chosen.items()
        }

    if model.uncertainty == "ensemble" and not networks:
        member = _member_configs(config)[0]
        sets_for(_network(member, stores["train"], chosen["train"], nobody))
        found = train_members(_member_configs(config), config.training.parallel, progress, say)
        if found is None:
            return TrainingRun(run_dir, None, _interrupted(), {}, "nothing")
        networks = found
    if networks:
        potential, result = _assembled(networks)
        sets = sets_for(potential)
    else:
        potential = _network(config, stores["train"], chosen["train"], say)
        sets = sets_for(potential)
        weights = sum(p.numel() for p in potential.parameters())
        say(
            f"Training on {len(sets['train'])} frames, validating on {len(sets['validation'])}; "
            f"{weights:,} weights."
        )
        settings = config.training
        result = train(
            potential,
            sets["train"],
            sets["validation"],
            settings,
            run_dir,
            resume=True,
            progress=progress,
        )
        if follows:
            return TrainingRun(run_dir, None, result, {}, "nothing")
        _plot_training(run_dir)
        if result.ending == "interrupted":
            return TrainingRun(run_dir, None, result, {}, "nothing")
        say(
            f"{result.epochs} epochs in {result.seconds:.0f} s ({result.ending}); the best was "
            f"epoch {result.best_epoch}"
        )

    best = fit_after_training(
        model.uncertainty,
        potential,
        lambda: [batch.graph for batch in _some_batches(sets["train"], potential)],
        lambda: [
            (batch.graph, batch.forces)
            for batch in _some_batches(sets["validation"], potential)
            if batch.forces is not None
        ],
        members=model.members,
        latent_distance=model.latent_distance,
        seed=config.training.seed,
    )
    if isinstance(best, LatentDistancePotential):
        say(_latent_distance_text(best))
    on_validation = evaluate(best, _loader(sets["validation"]), progress=progress)
    if on_validation.force_uncertainty is not None:
        best = calibrate(best, on_validation)
        say(_calibration_text(best))
    measured_on = "test" if "test" in sets else "validation"
    measured = evaluate(best, _loader(sets[measured_on]), progress=progress)
    ood = evaluate(best, _loader(sets["ood"]), progress=progress) if "ood" in sets else None
    metrics = compute_metrics(measured, ood)
    info = {
        "config": config.to_dict(),
        "data": summarize(stores["train"], chosen["train"]).to_dict(),
        "training": {
            **{k: v for k, v in asdict(result).items() if k != "history"},
            "frames": len(sets["train"]),
            "validation_frames": len(sets["validation"]),
        },
        "metrics": {k: v for k, v in metrics.items() if np.isfinite(v)},
        "measured_on": measured_on,
        "versions": {name: version(name) for name in ("torch", "lightning", "numpy", "ase")},
    }
    write_report(measured, metrics, run_dir, ood=ood, model_info=_for_report(info))
    # Last: where there is a model, all is there.
    save_model(best, run_dir / "model.eip", info)
    return TrainingRun(run_dir, run_dir / "model.eip", result, metrics, measured_on)


def _say_first(
    config: Config,
    stores: Mapping[str, FrameStore],
    chosen: Mapping[str, Int[np.ndarray, "frames"]],
    say: Say,
) -> None:
    """What a person should know of the frames before hours go into them."""
    given = config.data.element_energies or {}
    symbols = [chemical_symbols[z] for z in stores["train"].isolated_atoms]
    taken = ", ".join(symbol for symbol in symbols if symbol not in given)
    if taken:
        say(
            f"E0 of {taken} are the energies of isolated atoms (config_type=IsolatedAtom), which "
            "are no training frames; data.labels.keep_isolated_atoms: true makes them such."
        )
    sets = {name: (stores.get(name, stores["train"]), which) for name, which in chosen.items()}
    for doubt in find_doubts(sets):
        warnings.warn(doubt, DataWarning, stacklevel=2)


def _network(
    config: Config, store: FrameStore, indices: Int[np.ndarray, "frames"], say: Say
) -> Potential:
    """With fresh weights, for the elements and energies of the training frames."""
    given = {atomic_numbers[s]: e for s, e in (config.data.element_energies or {}).items()}
    given = store.isolated_atoms | given
    has = {label: bool(store.has(label)[indices].all()) for label in ("energy", "forces")}
    if has["energy"]:
        energies = fit_element_energies(store, indices, given=given)
    else:
        elements = summarize(store, indices).elements
        energies = {z: given.get(z, 0.0) for z in map(atomic_numbers.__getitem__, elements)}
        say("The frames have no energies: those that the potential gives mean differences only.")
    model = config.model
    scale = (
        force_scale(store, indices, model.force_scale)
        if has["forces"]
        else energy_scale(store, indices, energies)
    )
    network = model.model_dump(include=NETWORK_KEYS)
    if model.backbone == "cartesian_ace":
        dataset = GraphDataset(store, indices, cutoff=model.cutoff)
        network["mean_neighbors"] = dataset.mean_neighbors()
        network["feature_limit"] = FEATURE_LIMIT
    with seeded(config.training.seed):
        return new_network(
            model.uncertainty,
            model.members,
            elements=sorted(energies),
            element_energies=energies,
            force_scale=scale,
            **network,
        ).to(getattr(torch, model.dtype))


#: Of `eip.config.ModelConfig`, what `eip.uncertainty.network.NetworkPotential` is made of.
NETWORK_KEYS = {"backbone", "channels", "interactions", "radial_functions", "cutoff", "zbl"}


def _member_configs(config: Config) -> list[Config]:
    """A training run for each member of an ensemble, from weights of its own."""
    members = config.model.members or MEMBERS["ensemble"]
    return [
        plain_config(
            config, config.training.seed * members + k, config.run_dir / "members" / str(k)
        )
        for k in range(members)
    ]


def plain_config(config: Config, seed: int, run_dir: Path) -> Config:
    """The same training without an uncertainty."""
    return config.model_copy(
        update={
            "run_dir": run_dir,
            "model": config.model.model_copy(update={"uncertainty": "none", "members": None}),
            "training": config.training.model_copy(update={"seed": seed}),
        }
    )


def train_members(
    configs: Sequence[Config], parallel: int, progress: bool, say: Say
) -> list[Path] | None:
    """Trains each where no model.eip is, several at once if wanted; None where one was interrupted.

    A run that was stopped goes on where it was.

    Raises:
        InputError: if a run folder is of another configuration.
    """
    if launched() is not None:
        raise InputError(
            "several networks are trained one after the other, or side by side by "
            "training.parallel; the processes of a launcher (srun, torchrun) train one together"
        )
    missing = [c for c in configs if not is_trained(c.run_dir)]
    for config in configs:
        if config.run_dir.is_dir():
            with run_of(config, "train", resume=True):
                pass  # it is of this configuration
    done = len(configs) - len(missing)
    if parallel > 1 and len(missing) > 1:
        if not _train_at_once(missing, parallel, lambda k: say(_said(done + k, configs))):
            return None
    else:
        for config in missing:
            if not _train_member(config, progress):
                return None
            done += 1
            say(_said(done, configs))
    return [c.run_dir / "model.eip" for c in configs]


def _said(done: int, configs: Sequence[Config]) -> str:
    return f"{done} of {len(configs)} networks are trained."


def _train_at_once(configs: Sequence[Config], parallel: int, tell: Callable[[int], None]) -> bool:
    """Trains in processes of their own, which end with this one; False if one was interrupted."""
    threads = max(1, torch.get_num_threads() // parallel)
    before = set(active_children())
    with ProcessPoolExecutor(
        min(parallel, len(configs)),
        mp_context=get_context("spawn"),
        initializer=_begin_process,
        initargs=(os.getpid(), threads),
    ) as pool:
        running = [pool.submit(_train_member, c, False) for c in configs]
        done = 0
        try:
            for future in as_completed(running):
                if not future.result():
                    break
                done += 1
                tell(done)
        finally:
            if done < len(configs):
                # Each leaves its state on disk; waiting for their ends could take days.
                pool.shutdown(wait=False, cancel_futures=True)
                for child in set(active_children()) - before:
                    child.terminate()
    return done == len(configs)


def _begin_process(parent: int, threads: int) -> None:
    die_with(parent)
    heed_termination()
    torch.set_num_threads(threads)


def _train_member(config: Config, progress: bool) -> bool:
    return train_model(config, resume=True, progress=progress).model is not None


def is_trained(run_dir: Path) -> bool:
    """Whether a training is over, its report included, which earlier versions wrote last."""
    return all((run_dir / name).is_file() for name in ("model.eip", "metrics.json"))


def _assembled(paths: Sequence[Path]) -> tuple[Potential, TrainingResult]:
    """One network, or an ensemble of several, with what their training took together."""
    networks = [bare_network(load_model(path)) for path in paths]
    trained = [read_model_info(path)["info"]["training"] for path in paths]
    result = TrainingResult(
        ending="finished",
        epochs=max(t["epochs"] for t in trained),
        best_epoch=max(t["best_epoch"] for t in trained),
        best_loss=float(np.mean([t["best_loss"] for t in trained])),
        seconds=sum(t["seconds"] for t in trained),
        history=[],
    )
    return (networks[0] if len(networks) == 1 else EnsemblePotential(networks)), result


def bare_network(potential: Potential) -> Potential:
    """Without what was fitted afterwards; of an ensemble, its first member."""
    while True:
        match potential:
            case WrappedPotential():
                potential = potential.potential
            case EnsemblePotential():
                potential = potential.members[0]
            case _:
                return potential


def _interrupted() -> TrainingResult:
    return TrainingResult("interrupted", 0, 0, float("nan"), 0.0, [])


#: Where a run goes on may change; what makes its weights may not.
_FREE_KEYS = frozenset(
    f"training.{key}" for key in ("device", "devices", "num_workers", "parallel")
)
#: Where, in the folder of a run, what is worth keeping lies: all but this can be had again.
_RESULTS = {
    "train": ("model.eip", "checkpoints/*.ckpt", "members/*/model.eip",
              "members/*/checkpoints/*.ckpt"),
    "learn": ("labels/*/label.npz", "generation-*/model/model.eip",
              "generation-*/model/checkpoints/*.ckpt"),
}  # fmt: skip
_MAKES = {
    "train": ("config.yaml", "train.csv", "checkpoints", "tensorboard", "members"),
    "learn": ("config.yaml", "ledger.db*", "labels", "generation-*", "time.json", "data"),
}
#: Seconds; processes that train members end soon after the one that was killed.
_PATIENCE = 30.0


def run_of(
    config: Config, verb: str, *, resume: bool, free: frozenset[str] = frozenset()
) -> AbstractContextManager[RunFolder]:
    """The run folder of a configuration, see `eip.run_folder.working_in`.

    Args:
        verb: "train" or "learn".
        free: keys that a run that goes on may have changed, beside where it runs.
    """
    folder, root = config.run_dir, type(config)

    def earlier() -> dict[str, Any] | None:
        kept = folder / "config.yaml"
        return _asked(load_config(kept, root=root)) if kept.is_file() else None

    smallest = {"data": {"train": ["x"]}}
    if issubclass(root, LearningConfig):
        smallest["learn"] = {"starts": ["x"]}
    return working_in(
        folder,
        verb,
        _asked(config),
        resume=resume,
        result=lambda: any(True for name in _RESULTS[verb] for _ in folder.glob(name)),
        may_change=_FREE_KEYS | free,
        defaults=_asked(parse_config(smallest, root=root)),
        earlier=earlier,
        makes=_MAKES[verb],
        scratch=(*_MAKES["train"], "data") if verb == "train" else ("data",),
        remedy="choose another run_dir",
        patience=_PATIENCE if resume else 0.0,
    )


def _asked(config: Config) -> dict[str, Any]:
    """A configuration as far as it makes the result, wherever its files are.

    Of frames it is only said whether there are any: what they hold is compared by
    `eip.data.kept.kept_frames`.
    """
    values = _flat(config.to_dict())
    del values["run_dir"]
    for key in ("train", "validation", "test", "ood"):
        if isinstance(files := values[f"data.{key}"], list):
            values[f"data.{key}"] = "files" if files else "none"
    if isinstance(config, LearningConfig):
        values["learn.starts"] = [file_identity(path) for path in config.learn.starts]
        values["learn.labeler_options"] = with_files(config.learn.labeler_options)
    return values


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("element_energies", "labeler_options"):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


#: How to train where a label is not there.
_WITHOUT = {
    "energy": "train on forces alone with training.energy_weight: 0 (energies then mean "
    "differences only)",
    "forces": "train on energies alone with training.force_weight: 0 and model.uncertainty: none",
    "stress": "train without it with training.stress_weight: 0",
}


def _read_sets(config: Config, folder: Path, begun: bool) -> dict[str, FrameStore]:
    """Each set of frames that the configuration names, on disk."""
    data = config.data
    files = {"train": data.train, "test": data.test, "ood": data.ood}
    if isinstance(data.validation, list):
        files["validation"] = data.validation
    # First of all of them: a name that is misspelt should not be found after an hour.
    for name, paths in files.items():
        for path in paths:
            if not path.exists() and not (folder / name).is_dir():
                raise InputError(f"{path}: no such file (data.{name})")
    stores = {}
    for name, paths in files.items():
        if not paths:
            continue
        weights = {
            "energy": config.training.energy_weight,
            "forces": config.training.force_weight,
            "stress": config.training.stress_weight if name in ("train", "validation") else 0,
        }
        needed = [label for label, weight in weights.items() if weight]
        try:
            with _without_news(needed):
                stores[name] = kept_frames(
                    paths, data.label_keys(), folder / name, needed, begun=begun
                )
        except MissingLabel as error:
            raise InputError(f"{error}, or {_WITHOUT[error.label]}") from error
    return stores


def _open(
    paths: Sequence[str | Path],
    labels: Labels,
    needed: Sequence[str],
    folder: Path | None = None,
) -> FrameStore:
    with _without_news(needed):
        return open_frames(paths, labels, folder, needed)


@contextmanager
def _without_news(needed: Sequence[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        if "stress" not in needed:  # then it is no news that some frames have none
            warnings.filterwarnings("ignore", "stress is missing", LabelWarning)
        yield


def _split(config: Config, stores: dict[str, FrameStore]) -> dict[str, Int[np.ndarray, "frames"]]:
    """The frames of each set, as indices into its store; drawn validation frames into train's."""
    chosen = {name: np.arange(len(store)) for name, store in stores.items()}
    wanted = config.data.validation
    if not isinstance(wanted, list):
        chosen["train"], chosen["validation"] = split_indices(
            len(stores["train"]),
            wanted,
            config.data.split_seed,
            config.data.split,
            stores["train"].groups,
        )
    return chosen


def _dataset(
    store: FrameStore, potential: Potential, indices: Int[np.ndarray, "frames"] | None = None
) -> GraphDataset:
    return GraphDataset(
        store,
        indices,
        cutoff=potential.cutoff,
        dtype=potential.dtype,
        elements=potential.elements,
    )


def _loader(dataset: GraphDataset) -> Any:
    return make_loader(dataset, max_atoms=1000, shuffle=False, seed=0)


#: Frames that fits after training look at, at most.
_MOST_FRAMES = 2000


def _some_batches(dataset: GraphDataset, potential: Potential) -> Iterator[Batch]:
    """On the potential's device; of a large set a part, drawn with a fixed seed."""
    if len(dataset) > _MOST_FRAMES:
        rng = np.random.default_rng(0)
        part = np.sort(rng.choice(dataset.indices, _MOST_FRAMES, replace=False))
        dataset = _dataset(dataset.store, potential, part)
    for batch in _loader(dataset):
        yield batch.to(potential.device)


def _latent_distance_text(potential: LatentDistancePotential) -> str:
    return (
        f"σ goes with the evidence to the power {potential.sigma_exponent:.2g}, with the distance "
        f"from the training atoms to the power {potential.distance_exponent:.2g}, and with that of "
        f"the neighbors to the power {potential.neighborhood_exponent:.2g}."
    )


def _calibration_text(potential: CalibratedPotential) -> str:
    c = potential.calibration
    by_element = ", ".join(f"{chemical_symbols[z]} {f:.3g}" for z, f in c.element_factors.items())
    return (
        f"Calibrated on {c.n_frames} frames: σ is scaled by {c.factor:.3g}"
        + (f" ({by_element})" if by_element else "")
        + " and is an error bar in eV/Å from here on."
    )


def _plot_training(run_dir: Path) -> None:
    log = run_dir / "train.csv"
    if not log.is_file():
        return
    plots.save_figure(plots.training_curves(_read_csv(log)), run_dir / "training.png")


def _read_csv(path: Path) -> dict[str, list[float]]:
    """Columns of numbers; an empty cell is NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {k: [float(row[k] or "nan") for row in rows] for k in reader.fieldnames or ()}


def _for_report(info: dict[str, Any]) -> dict[str, Any]:
    return {
        "measured on": f"{info['measured_on']} frames",
        "model": info["config"]["model"],
        "data": info["data"],
        "training": info["training"],
        "versions": info["versions"],
    }


# --- evaluation and calibration ------------------------------------------------------------------


def evaluate_model(
    model: str | Path,
    files: Sequence[str | Path],
    out_dir: str | Path,
    *,
    ood: Sequence[str | Path] = (),
    labels: Labels | None = None,
    device: str | None = None,
    progress: bool = True,
    say: Say = nobody,
) -> dict[str, float]:
    """Predicts labelled frames; writes metrics.json, predictions.xyz, plots and report.html.

    Frames may have energies or forces alone (a scan, say): what needs the other is null.

    Args:
        labels: keys and units of the files; None: those of the model's training data.

    Raises:
        InputError: if the model or a file cannot be read or they do not fit together.
    """
    potential, info = load_model(model, device=device), read_model_info(model)
    labels = labels or _labels_of(info)
    evaluations = []
    for paths in (files, ood):
        if not paths:
            continue
        store = _open(paths, labels, ())
        if not (store.has("energy").any() or store.has("forces").any()):
            # Says which keys were looked for, and which are there.
            _open(paths, labels, ("energy",))
        say(summarize(store).table())
        evaluations.append(
            evaluate(potential, _loader(_dataset(store, potential)), progress=progress)
        )
    metrics = compute_metrics(*evaluations)
    write_report(
        evaluations[0],
        metrics,
        out_dir,
        ood=evaluations[1] if len(evaluations) > 1 else None,
        model_info={"file": str(model), **info.get("info", {}).get("training", {})},
    )
    return metrics


def predict_store(
    model: str | Path,
    store: FrameStore,
    indices: Int[np.ndarray, "frames"] | None = None,
    *,
    device: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Predictions beside labels, in memory; all frames where ``indices`` is None.

    Raises:
        InputError: if the model cannot be read, or an element is unknown to it.
    """
    potential = load_model(model, device=device)
    return evaluate(potential, _loader(_dataset(store, potential, indices)), progress=progress)


def calibrate_model(
    model: str | Path,
    files: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    method: str = "per_element",
    labels: Labels | None = None,
    device: str | None = None,
    progress: bool = True,
    say: Say = nobody,
) -> Path:
    """Fits a calibration on labelled frames and writes it into the model, or into a copy.

    A calibration that the model has already is replaced. The frames must not be those that the
    model was trained on: there its errors are too small.

    Raises:
        InputError: as `evaluate_model`, and if the potential gives no force uncertainty.
    """
    methods = get_args(CalibrationMethod)
    if method not in methods:
        raise InputError(f"unknown calibration method '{method}': {did_you_mean(method, methods)}")
    potential, info = load_model(model, device=device), read_model_info(model)
    if isinstance(potential, CalibratedPotential):
        potential = potential.potential
    store = _open(files, labels or _labels_of(info), ("forces",))
    say(summarize(store).table())
    found = evaluate(potential, _loader(_dataset(store, potential)), progress=progress)
    calibrated = calibrate(potential, found, method=cast(CalibrationMethod, method))
    say(_calibration_text(calibrated))
    target = Path(out or model)
    calibrated_on = [str(Path(f).resolve()) for f in files]
    kept = {**info.get("info", {}), "calibrated_on": calibrated_on}
    # The size of σ was measured with the calibration that is gone.
    kept["metrics"] = {k: v for k, v in kept.get("metrics", {}).items() if _is_free_of_scale(k)}
    save_model(calibrated, target, kept)
    return target


def _is_free_of_scale(key: str) -> bool:
    return key.startswith(("n_", "force_", "energy_mae", "mean_error"))


def _labels_of(info: dict[str, Any]) -> Labels:
    """Keys and units that the model's training data had."""
    return Labels(**info.get("info", {}).get("config", {}).get("data", {}).get("labels", {}))


# --- dynamics ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UDDChoice:
    """Parameters of the bias as far as the user gave them; the rest is proposed from the model."""

    A: float | None = None
    B: float | None = None
    C: float | None = None
    D: float | None = None
    max_bias_force: float | None = None
    limiter: str = "global"


def run_md(
    model: str | Path,
    start: str | Path,
    settings: DynamicsSettings,
    out_dir: str | Path,
    *,
    frame: int = 0,
    udd: UDDChoice | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: bool = True,
    say: Say = nobody,
) -> DynamicsSummary:
    """Dynamics from a frame of a file, with a live error bar; biased where ``udd`` is given.

    Raises:
        InputError: if model, file or settings are wrong, or the run folder is in use.
    """
    potential = load_model(model, device=device)
    frames = [atoms for _, atoms in read_structures(start)]
    try:
        atoms = frames[frame]
    except IndexError:
        raise InputError(f"{start} has {len(frames)} frames, so none with index {frame}") from None
    out_dir = Path(out_dir)
    bias = None
    if udd is not None:
        bias = _bias(potential, atoms, frames, settings, udd, out_dir, resume, say)
    summary = run_dynamics(
        atoms, potential, settings, out_dir, resume=resume, udd=bias, progress=progress
    )
    name = "UDD" if udd else "MD"
    plot_dynamics(
        {name: (out_dir, summary.ending)}, out_dir / "dynamics.png", settings.max_uncertainty
    )
    return summary


def plot_dynamics(
    runs: Mapping[str, tuple[Path, str]], path: Path, threshold: float | None = None
) -> None:
    """Energy, temperature and σ of runs over time, laid over each other.

    Args:
        runs: by name, the folder and the ending.
        threshold: σ that stops a run, eV/Å.
    """
    columns = {name: log_of(folder) for name, (folder, _) in runs.items()}
    endings = {name: ending for name, (_, ending) in runs.items()}
    figure = plots.dynamics(columns, threshold=threshold, endings=endings)
    plots.save_figure(figure, path)


def log_of(folder: Path) -> dict[str, list[float]]:
    """Columns of the log of a run of dynamics (`eip.simulation.records.LOG_COLUMNS`); time: fs."""
    log = _read_csv(folder / "log.csv")
    return {"time": log.pop("time_fs", []), **log}


def analyze_runs(
    runs: Sequence[str | Path],
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
        runs: folders of `run_md`, or files that ASE reads.
        kind: see `eip.analysis.kinds.Kind`, or "auto".
        labels: names of the runs; by default the last part of each path.
        bins: cells along each order parameter.
        every: each so-manieth frame.
        skip_ps: what comes earlier is left out.
        cutoff: of radial distribution functions, Å.

    Returns:
        What is in analysis.json.

    Raises:
        InputError: if a trajectory is missing or has no such order parameters.
    """
    if bins < 1:
        raise InputError(f"bins expects a number from 1, got {bins}")
    if not 0.0 < cutoff <= 100.0:
        raise InputError(f"cutoff expects Å, more than 0 and up to 100, got {cutoff}")
    if not 0.0 <= skip_ps < math.inf:
        raise InputError(f"skip_ps expects ps from 0, got {skip_ps}")
    named = label_runs([Path(run) for run in runs], None if labels is None else list(labels))
    logs = {name: log_of(path) for name, path in named.items() if (path / "log.csv").is_file()}
    return write_analysis(
        named,
        kind,
        Path(out_dir),
        logs=logs,
        bins=bins,
        every=every,
        skip_fs=1000.0 * skip_ps,
        cutoff=cutoff,
    )


def _bias(
    potential: Potential,
    atoms: Atoms,
    frames: Sequence[Atoms],
    settings: DynamicsSettings,
    udd: UDDChoice,
    out_dir: Path,
    resume: bool,
    say: Say,
) -> UDDParameters:
    """What the user gave, the rest proposed; a run that goes on has it in its folder."""
    if udd.limiter not in get_args(Limiter):
        raise InputError(f"unknown limiter: {did_you_mean(udd.limiter, get_args(Limiter))}")
    limiter = cast(Limiter, udd.limiter)
    kept = out_dir / "udd.json"
    if resume and kept.is_file():
        chosen = json.loads(kept.read_text(encoding="utf-8"))
        return UDDParameters(**{k: chosen[k] for k in ("A", "B", "C", "D", "limiter")})
    if udd.D is not None and udd.max_bias_force is not None:
        raise InputError("give either D or the largest bias force: one follows from the other")
    given = {k: getattr(udd, k) for k in "ABCD" if getattr(udd, k) is not None}
    if set(given) == set("ABCD"):
        parameters = UDDParameters(**given, limiter=limiter)
    else:
        alike = [f for f in frames if sorted(f.numbers) == sorted(atoms.numbers)]
        proposal = propose_udd(
            potential,
            alike[:: max(1, len(alike) // 20)],
            settings.temperature,
            limiter=limiter,
        )
        say(proposal.explain())
        parameters = replace(proposal.parameters, **given)
        if udd.max_bias_force is not None:
            p = parameters
            parameters = UDDParameters.from_max_force(p.A, p.B, p.C, udd.max_bias_force, p.limiter)
        if parameters != proposal.parameters:
            say(f"With what was given in place of the proposal: {_udd_text(parameters)}")
    return parameters


def _udd_text(p: UDDParameters) -> str:
    return f"A {p.A:.4g} eV, B {p.B:.4g}, C {p.C:.4g}, D {p.D:.4g} eV/Å, limiter {p.limiter}"


# --- information ---------------------------------------------------------------------------------


def summarize_files(
    paths: Sequence[str | Path], labels: Labels | None = None
) -> tuple[DataSummary, list[str]]:
    """Elements, sizes, labels and ranges of files of frames, and what looks wrong in them."""
    store = open_frames(paths, labels)
    return summarize(store), find_doubts({"frames": (store, None)})


def is_model(path: str | Path) -> bool:
    """Whether a file is a model by its name or by its first bytes (safetensors)."""
    path = Path(path)
    if path.suffix == ".eip":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    # A header's length, then the header, which is JSON.
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 10**8


def describe_model(path: str | Path) -> dict[str, Any]:
    """What a model file says of itself, for a person or as JSON.

    Raises:
        InputError: if it is no readable model file.
    """
    header = read_model_info(path)
    potential, calibration = header["potential"], None
    kinds, around = [], {}
    while "elements" not in potential["settings"]:
        settings = dict(potential["settings"])
        kinds.append(potential["kind"])
        calibration = settings.pop("calibration", calibration)
        several = settings.pop("potentials", None)
        if several is not None:
            around["members"] = len(several)
        potential = settings.pop("potential", None) or (several or [None])[0]
        if potential is None:
            raise InputError(f"{path}: the model file describes no network")
        around |= settings
    kinds = [k for k in (*kinds, potential["kind"]) if k != "calibrated"]
    settings, info = dict(potential["settings"]), header["info"]
    energies = settings.pop("element_energies", {})
    elements = [chemical_symbols[z] for z in settings.pop("elements", [])]
    out: dict[str, Any] = {
        "kind": " of ".join(kinds),
        "elements": elements,
        "element energies (eV)": {chemical_symbols[int(z)]: e for z, e in energies.items()},
        "units": "eV, Å, eV/Å, eV/Å³",
        "network": {**settings, "dtype": header["dtype"]},
        "uncertainty": around,
        "calibration": "none: σ ranks atoms, its size means little",
        "training": info.get("training", {}),
        "training data": info.get("data", {}),
        f"measured on {info.get('measured_on', 'nothing')} frames": {
            k: v for k, v in info.get("metrics", {}).items() if not k.endswith("_ood")
        },
        "written by": header["written_by"],
        "format": header["format"],
    }
    if calibration is not None:
        out["calibration"] = {
            "method": calibration["method"],
            "factor": calibration["factor"],
            "element factors": {
                chemical_symbols[int(z)]: c for z, c in calibration["element_factors"].items()
            },
            "frames": calibration["n_frames"],
            "created": calibration["created"],
        }
    return {key: value for key, value in out.items() if value}
