"""`eip attach`: an error bar for a network that was trained elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from eip import evaluation
from eip.config import Config, DataConfig, ModelConfig
from eip.data import (
    FrameStore,
    GraphDataset,
    Labels,
    force_scale,
    open_frames,
    split_indices,
    summarize,
)
from eip.data.dataset import Batch
from eip.data.store import write_store
from eip.errors import InputError
from eip.model_file import load_model, save_model
from eip.models.backbone import Layers
from eip.models.settings import BackboneSettings, backbone_settings
from eip.potential import Potential
from eip.training.heads import Known, train_head
from eip.training.settings import TrainingSettings
from eip.uncertainty.attached import POWERS, AttachedPotential
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.latent_distance import fit_latent_distance
from eip.verbs.arguments import as_paths
from eip.verbs.evaluate import without_energies
from eip.verbs.frames import dataset_for, open_labelled
from eip.verbs.messages import Log, calibration_text, latent_distance_text, silent
from eip.verbs.train import train

#: Labelled frames that it takes; of more, so many are drawn.
FEWEST, MOST = 50, 1000
#: Of fine-tuning: passes over the training frames, and the learning rate.
EPOCHS, RATE = 10, 1e-3
#: Of the frames, those that are held out.
_HELD_OUT = 0.25


def attach(
    backbone: str | Mapping[str, Any] | BackboneSettings,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    finetune: str | None = None,
    labels: Labels | Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    log: Log = silent,
) -> Path:
    """Gives a network that was trained elsewhere an error bar, from labelled frames.

    The network is left as it is and asked once of each frame. A head is trained on what it knows
    of the atoms and on the errors of its forces; σ grows with the distance from these atoms, is
    guarded, and calibrated on a quarter of the frames, which the head is not trained on. Energies
    and forces stay what they were. The model file names package, version and weights of the
    network, and holds no copy of them.

    Fine-tuned, the network is trained on too, as `eip.train` goes on with the weights of a model;
    then the model file holds its weights, and needs of the package its code alone.

    Args:
        backbone: of a network that was trained elsewhere, by its name (chgnet, sevenn), or with
            keys: see `eip.backbones.settings`.
        files: labelled frames, of the method that errors are to be measured by: 50 or more, of
            which 1,000 are drawn where there are more.
        out: where the model is written.
        finetune: trains "all" layers of the network or the "last", for some epochs at a low rate;
            None: none. `eip.train` with ``model.start_from`` takes what is written, and any
            settings.
        labels: keys and units of the files.
        seed: of what is drawn.
        device: cpu or cuda; by default a GPU if there is one.
        progress: shows progress bars.

    Raises:
        InputError: if the network's package is missing, or the network does not know an element or
            refuses a structure; if there are fewer than 50 labelled frames, or they cannot be read;
            if it cannot be fine-tuned.
        InterruptedError: if the user stopped the fine-tuning.
    """
    began = time.monotonic()
    if finetune not in (None, *get_args(Layers)):
        raise InputError(f"finetune should be all or last, got {finetune!r}")
    settings = backbone_settings(backbone).pretrained()
    labels = Labels() if labels is None else Labels.of(labels, "labels")
    paths = as_paths(files)
    store = open_labelled(paths, labels, ("forces",))
    log(summarize(store).table())
    if len(store) < FEWEST:
        raise InputError(
            f"{', '.join(map(str, paths))}: {len(store)} labelled frames are too few for an error "
            f"bar, expected {FEWEST} or more"
        )
    training, held_out = _chosen(store, seed, log)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    made = attached_to(
        *(settings, (store, training), (store, held_out)),
        seed=seed,
        device=device,
        progress=progress,
        log=log,
    )
    info: dict[str, Any] = {
        # That energies are of other labels, `eip evaluate` reads here.
        "config": {"data": {"labels": labels.given()}, "training": {"energy_weight": 0.0}},
        "data": summarize(store, training).to_dict(),
        "training": {
            "frames": len(training),
            "validation_frames": len(held_out),
            "best_epoch": made.epoch,
        },
        "metrics": _finite(evaluation.compute_metrics(made.measured)),
        "measured_on": "validation",
        "versions": {name: version(name) for name in ("torch", "numpy", "ase")},
    }
    attached: Potential = made.potential
    if finetune is not None:
        with TemporaryDirectory(prefix="eip-") as folder:
            for name, which in (("training", training), ("held_out", held_out)):
                write_store((store[int(i)] for i in which), Path(folder) / name)
            save_model(attached, Path(folder) / "begun.eip", info)
            attached = _finetuned(Path(folder), finetune, info, seed, device, progress, log)
    info["training"]["seconds"] = time.monotonic() - began
    save_model(attached, out, info)
    return Path(out)


def _finetuned(
    folder: Path,
    layers: str,
    info: dict[str, Any],
    seed: int,
    device: str,
    progress: bool,
    log: Log,
) -> Potential:
    """What a training makes of begun.eip on the frames beside it; ``info`` becomes its own."""
    stores = [folder / name for name in ("training", "held_out")]
    with_energies = all(open_frames([store]).has("energy").all() for store in stores)
    weight = 1.0 if with_energies else 0.0
    config = Config(
        run_dir=folder / "run",
        data=DataConfig(train=[stores[0]], validation=[stores[1]]),
        model=ModelConfig(start_from=folder / "begun.eip"),
        training=TrainingSettings(
            layers="last" if layers == "last" else "all",
            epochs=EPOCHS,
            learning_rate=RATE,
            energy_weight=weight,
            seed=seed,
            device="cuda" if device.startswith("cuda") else "cpu",
        ),
    )
    run = train(config, progress=progress, log=log)
    if run.model is None:
        raise InterruptedError("stopped while fine-tuning; nothing was written")
    before = info["metrics"]
    log(_before_and_after(before, run.metrics))
    info["config"]["training"] = config.training.to_dict()
    info["training"] |= {
        "finetuned": layers,
        "best_epoch": run.result.best_epoch,
        "metrics_before": before,
    }
    info["metrics"] = _finite(run.metrics)
    return load_model(run.model, device=device)


def _before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What fine-tuning did, by the held-out frames; they chose its epoch, too."""
    parts = []
    for name, key, factor, digits in (
        ("force MAE, meV/Å", "force_mae", 1000.0, 1),
        ("rank correlation of σ", "spearman_atom", 1.0, 3),
        ("AUC of σ", "roc_auc_atom", 1.0, 3),
    ):
        said = (f"{of.get(key, np.nan) * factor:.{digits}f}" for of in (before, after))
        parts.append(f"{name} {' → '.join(said)}")
    return f"By fine-tuning, on the held-out frames: {'; '.join(parts)}."


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if np.isfinite(v)}


#: Frames of a store.
Frames = tuple[FrameStore, Int[np.ndarray, "_"]]


def attached_to(
    settings: BackboneSettings,
    training: Frames,
    held_out: Frames,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
    log: Log = silent,
) -> Attached:
    """`attach` to frames that are open already, and split.

    Raises:
        InputError: as `attach`.
    """
    settings = settings.informed(GraphDataset(*training, cutoff=settings.cutoff))
    elements = sorted(
        {int(z) for store, which in (training, held_out) for z in store.numbers_of(which)[0]}
    )
    potential = AttachedPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=force_scale(*training),
        backbone=settings,
    ).to(device)
    if potential.energy_model.backbone.trainable:
        raise InputError(
            f"the backbone {settings.name} is one that eIP trains; attach is for networks that "
            "were trained elsewhere and have energies of their own"
        )
    potential.eval().requires_grad_(False)
    with potential.remembering():
        known, unseen = (
            _asked(potential, dataset_for(store, potential, which), what, progress)
            for (store, which), what in (
                (training, "Training frames"),
                (held_out, "Held-out frames"),
            )
        )
        return with_error_bar(potential, known, unseen, seed=seed, progress=progress, log=log)


@dataclass(frozen=True)
class Attached:
    """A potential with its error bar, before calibration measured on frames that were held out."""

    potential: CalibratedPotential
    measured: evaluation.Evaluation
    epoch: int


def with_error_bar(
    potential: AttachedPotential,
    training: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    seed: int = 0,
    progress: bool = False,
    log: Log = silent,
) -> Attached:
    """Trains the head, and fits distance, guard and calibration; `attach` without its files.

    Args:
        potential: asked already (`AttachedPotential.remembering`), or every step asks it again.
        training, held_out: with forces; those held out choose epoch, guard and calibration.
    """
    known, unseen = (_known(potential, batches) for batches in (training, held_out))
    error = float(unseen.errors.square().mean().sqrt())
    name = potential.backbone_settings.name
    log(f"The forces of {name} err by {error:.3g} eV/Å (RMSE) on {len(held_out)} held-out frames.")
    epoch = train_head(potential.head, known, unseen, seed=seed, progress=progress)
    labelled = [(batch.graph, batch.forces) for batch in held_out if batch.forces is not None]
    fitted = fit_latent_distance(
        potential, [batch.graph for batch in training], labelled, exponents=POWERS
    )
    log(latent_distance_text(fitted))
    measured = without_energies(evaluation.evaluate(fitted, held_out, progress=False))
    calibrated = evaluation.calibrate(fitted, measured)
    log(calibration_text(calibrated))
    return Attached(calibrated, measured, epoch)


def _chosen(
    store: FrameStore, seed: int, log: Log
) -> tuple[Int[np.ndarray, "training"], Int[np.ndarray, "held_out"]]:
    """Frames to train on and others, of other materials where the frames say which they are of."""
    chosen = np.arange(len(store))
    if len(store) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST, replace=False))
        log(f"Of {len(store):,} frames {MOST:,} are drawn.")
    groups = None if store.groups is None else store.groups[chosen]
    several = groups is not None and (groups >= 0).all() and len(np.unique(groups)) > 1
    mode = "by_group" if several else "random"
    training, held_out = split_indices(len(chosen), _HELD_OUT, seed, mode, groups)
    return chosen[training], chosen[held_out]


def _asked(
    potential: AttachedPotential, dataset: GraphDataset, what: str, progress: bool
) -> list[Batch]:
    """Frames, once the network has been asked of them, one by one."""
    indices: Any = range(len(dataset))
    if progress:
        from rich.console import Console
        from rich.progress import track

        indices = track(indices, what, console=Console(stderr=True), transient=True)
    found = []
    for index in indices:
        batch = dataset[index].to(potential.device, potential.dtype)
        try:
            said = potential.asked(batch.graph)
        except InputError as error:
            raise InputError(f"{batch.sources[0]}: {error}") from error
        assert said.forces is not None
        if not bool(said.forces.isfinite().all()):
            raise InputError(f"{batch.sources[0]}: the network's forces are not finite")
        found.append(batch)
    return found


def _known(potential: AttachedPotential, batches: Sequence[Batch]) -> Known:
    """Of all atoms with a label."""
    columns: list[list[Tensor]] = [[], [], []]
    for batch in batches:
        assert batch.forces is not None
        said = potential.asked(batch.graph)
        assert said.forces is not None and said.features is not None
        errors = batch.forces - said.forces
        labelled = errors.isfinite().all(dim=1)
        for column, values in zip(columns, (said.features, said.forces, errors), strict=True):
            column.append(values[labelled])
    return Known(*(torch.cat(column) for column in columns))
