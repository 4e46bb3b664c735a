"""`eip train`: frames → statistics → network → training → calibration → model.eip."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Int
from torch import Tensor

from eip.config import Config, config_yaml
from eip.data import FrameStore, GraphDataset, open_energies_of, summarize
from eip.data.plausibility import DataWarning, find_doubts
from eip.errors import InputError
from eip.evaluation import calibrate, compute_metrics, evaluate, write_report
from eip.files import write_whole
from eip.graph import AtomGraph
from eip.kernels.choice import using
from eip.model_file import read_model_info, save_model
from eip.potential import Potential, layers
from eip.run_folder import read_json
from eip.training import trainer
from eip.training.processes import launched, rank_zero_first
from eip.training.trainer import TrainingResult
from eip.uncertainty.attached import AttachedPotential
from eip.uncertainty.energy_error import MIN_FRAMES, EnergyErrorPotential
from eip.uncertainty.latent_distance import LatentDistancePotential
from eip.uncertainty.methods import fit_after_training, method
from eip.verbs.evaluate import knows_no_energies, without_energies
from eip.verbs.frames import dataset_for, loader, read_sets, some_batches, split
from eip.verbs.members import member_configs, train_members
from eip.verbs.messages import (
    Log,
    calibration_text,
    energy_error_text,
    latent_distance_text,
    sentence,
    silent,
)
from eip.verbs.networks import as_begun, assembled, fresh_network
from eip.verbs.run_logs import plot_training
from eip.verbs.runs import configured, is_trained, run_of
from eip.verbs.unseen import head_of_unseen

#: By which a training is known again, of `TrainingResult`.
_OF_TRAINING = ("ending", "epochs", "best_epoch", "best_loss")


@dataclass(frozen=True)
class TrainingRun:
    """What `train` left behind.

    Attributes:
        model: model.eip; None if training was interrupted, and in all but rank 0 of several
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


def train(
    config: Config | str | Path,
    *,
    networks: Sequence[Path] = (),
    resume: bool = False,
    progress: bool = True,
    log: Log = silent,
) -> TrainingRun:
    """Frames → statistics → network → training → what the method adds → calibration → model.eip.

    The run folder gets config.yaml, data/ (the frames as they were read), train.csv, checkpoints/,
    tensorboard/, training.png, model.eip, and the files of `eip.evaluation.write_report`; of an
    ensemble, members/ with a run folder for each; of a network that others trained, folds/ with
    checkpoints of trainings without a part of the frames.

    Args:
        config: of the training, or its YAML file.
        networks: model files of the same data without an uncertainty, which stand in for the
            training of a method that starts from such (gmm, llpr) or of several (ensemble).
        resume: go on with what is in the run folder.
        progress: shows progress bars.

    Raises:
        InputError: if the run folder is in use, files or labels are wrong, or an element of the
            validation, test or ood frames does not occur in training.
    """
    config = as_begun(configured(config, Config))
    run_dir = config.run_dir
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device is 'cuda', but torch finds no GPU; 'auto' takes the CPU")
    launch = launched()
    rank = launch.rank if launch else 0
    with ExitStack() as stack:
        stack.enter_context(using(config.training.kernels, "training.kernels"))

        def prepare() -> tuple[bool, dict[str, FrameStore]]:
            # Rank 0 holds the folder for all of them.
            begun = rank > 0 or stack.enter_context(run_of(config, "train", resume=resume)).begun
            return begun, read_sets(config, run_dir / "data", begun)

        begun, stores = rank_zero_first(launch, prepare)
        if not begun:
            write_whole(run_dir / "config.yaml", config_yaml(config, run_dir))
        if rank:
            log, progress = silent, False
        return _train(config, stores, networks, rank, progress, log)


def _train(
    config: Config,
    stores: dict[str, FrameStore],
    networks: Sequence[Path],
    rank: int,
    progress: bool,
    log: Log,
) -> TrainingRun:
    """From the frames on; what is on disk of an earlier call is not done again."""
    run_dir, model = config.run_dir, config.model
    chosen = split(config, stores)
    for name, store in stores.items():
        log(summarize(store).table(f"{name} frames"))
    if not rank:
        _show_frames(config, stores, chosen, log)

    def sets_for(potential: Potential) -> dict[str, GraphDataset]:
        # All at once: a strange element among the test frames is found before training.
        return {
            name: dataset_for(stores.get(name, stores["train"]), potential, indices)
            for name, indices in chosen.items()
        }

    of = method(model.uncertainty)
    if of.starts_from == "several" and not networks:
        member = member_configs(config)[0]
        sets_for(fresh_network(member, stores["train"], chosen["train"]))
        found = train_members(
            member_configs(config), train_member, config.training.parallel, progress, log
        )
        if found is None:
            return TrainingRun(run_dir, None, _interrupted(), {}, "nothing")
        networks = found
    if networks:
        potential, result = assembled(networks, of)
        sets = sets_for(potential)
    else:
        potential = fresh_network(config, stores["train"], chosen["train"], log)
        sets = sets_for(potential)
        weights = sum(p.numel() for p in potential.parameters())
        settings = trainer.planned(config.training, sets["train"])
        log(
            f"Training on {len(sets['train'])} frames, validating on {len(sets['validation'])}; "
            f"{settings.epochs:,} epochs, {weights:,} weights."
        )
        result = trainer.train(
            potential,
            sets["train"],
            sets["validation"],
            settings,
            run_dir,
            resume=True,
            progress=progress,
        )
        if not rank:
            plot_training(run_dir)
        if result.ending == "interrupted":
            return TrainingRun(run_dir, None, result, {}, "nothing")
        log(
            f"{result.epochs} epochs in {result.seconds:.0f} s ({result.ending}); the best was "
            f"epoch {result.best_epoch}"
        )
        if isinstance(potential, AttachedPotential) and not head_of_unseen(
            potential, config, stores["train"], sets, progress=progress, log=log
        ):
            return TrainingRun(run_dir, None, _interrupted(), {}, "nothing")
        if rank:
            return TrainingRun(run_dir, None, result, {}, "nothing")

    return _finished(config, stores, chosen, sets, potential, result, progress, log)


def _finished(
    config: Config,
    stores: Mapping[str, FrameStore],
    chosen: Mapping[str, Int[np.ndarray, "frames"]],
    sets: Mapping[str, GraphDataset],
    potential: Potential,
    result: TrainingResult,
    progress: bool,
    log: Log,
) -> TrainingRun:
    """Fits what comes after the weights, measures, and writes report and model."""
    run_dir, model = config.run_dir, config.model
    if (there := _made_before(run_dir, result)) is not None:
        log("All that comes after is there, too.")
        return there
    best = fit_after_training(
        model.uncertainty,
        potential,
        lambda: [batch.graph for batch in some_batches(sets["train"], potential)],
        lambda: [
            (batch.graph, batch.forces)
            for batch in some_batches(sets["validation"], potential)
            if batch.forces is not None
        ],
        energies=lambda: _with_energies(sets["validation"], potential, config, log),
        members=model.members,
        latent_distance=model.latent_distance,
        seed=config.training.seed,
    )
    for layer in layers(best):
        match layer:
            case LatentDistancePotential():
                log(latent_distance_text(layer))
            case EnergyErrorPotential():
                log(energy_error_text(layer))
    on_validation = evaluate(best, loader(sets["validation"]), progress=progress)
    if on_validation.force_uncertainty is not None:
        best = calibrate(best, on_validation)
        log(calibration_text(best))
    measured_on = "test" if "test" in sets else "validation"
    measured = evaluate(best, loader(sets[measured_on]), progress=progress)
    ood = evaluate(best, loader(sets["ood"]), progress=progress) if "ood" in sets else None
    if knows_no_energies(config.to_dict()):
        measured = without_energies(measured)
        ood = None if ood is None else without_energies(ood)
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


def _made_before(run_dir: Path, result: TrainingResult) -> TrainingRun | None:
    """What a run that is over has left, of this very training.

    It is not made again: other runs may know the model by the sum of its file.
    """
    if not is_trained(run_dir):
        return None
    info = read_model_info(run_dir / "model.eip")["info"]
    if any(info["training"][name] != getattr(result, name) for name in _OF_TRAINING):
        return None
    metrics = {
        name: float("nan") if value is None else float(value)
        for name, value in read_json(run_dir / "metrics.json").items()
        if value is None or isinstance(value, int | float)
    }
    return TrainingRun(run_dir, run_dir / "model.eip", result, metrics, info["measured_on"])


def _show_frames(
    config: Config,
    stores: Mapping[str, FrameStore],
    chosen: Mapping[str, Int[np.ndarray, "frames"]],
    log: Log,
) -> None:
    """What a person should know of the frames before hours go into them."""
    given = config.data.element_energies or {}
    symbols = [chemical_symbols[z] for z in stores["train"].isolated_atoms]
    taken = ", ".join(symbol for symbol in symbols if symbol not in given)
    if taken:
        log(
            f"E0 of {taken} are the energies of isolated atoms (config_type=IsolatedAtom), which "
            "are no training frames; data.labels.keep_isolated_atoms: true makes them such."
        )
    sets = {name: (stores.get(name, stores["train"]), which) for name, which in chosen.items()}
    left_open = open_energies_of(*sets["train"])
    if left_open and not knows_no_energies(config.to_dict()):
        log(sentence(left_open))
    for doubt in find_doubts(sets):
        warnings.warn(doubt, DataWarning, stacklevel=2)


def _with_energies(
    dataset: GraphDataset, potential: Potential, config: Config, log: Log
) -> list[tuple[AtomGraph, Tensor]]:
    """Graphs with energies, eV; none where the network has not learned energies."""
    if knows_no_energies(config.to_dict()):
        return []
    batches = some_batches(dataset, potential)
    found = [(batch.graph, batch.energy) for batch in batches if batch.energy is not None]
    if sum(len(energy) for _, energy in found) < MIN_FRAMES:
        log(f"Energies get no error bar: it takes {MIN_FRAMES} validation frames with energies.")
    return found


def train_member(config: Config, progress: bool) -> bool:
    """Trains, or goes on; False where it was interrupted."""
    return train(config, resume=True, progress=progress).model is not None


def _interrupted() -> TrainingResult:
    return TrainingResult("interrupted", 0, 0, float("nan"), 0.0, [])


def _for_report(info: dict[str, Any]) -> dict[str, Any]:
    return {
        "measured on": f"{info['measured_on']} frames",
        "model": info["config"]["model"],
        "data": info["data"],
        "training": info["training"],
        "versions": info["versions"],
    }
