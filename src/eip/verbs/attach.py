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
from jaxtyping import Float, Int

from eip import evaluation
from eip.data import (
    FrameStore,
    GraphDataset,
    Labels,
    force_scale,
    open_energies_of,
    split_indices,
    summarize,
)
from eip.data.dataset import Batch
from eip.data.store import write_store
from eip.errors import InputError
from eip.model_file import save_model
from eip.models.backbone import Layers
from eip.models.settings import BackboneSettings, backbone_settings
from eip.potential import Potential
from eip.training.heads import known_of, train_head
from eip.uncertainty.attached import POWERS, AttachedPotential
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.latent_distance import fit_latent_distance
from eip.verbs.arguments import as_paths
from eip.verbs.energies import LARGE, energy_gap
from eip.verbs.evaluate import without_energies
from eip.verbs.finetune import finetuned, finite
from eip.verbs.frames import dataset_for, open_labelled
from eip.verbs.messages import Log, calibration_text, latent_distance_text, sentence, silent

#: Labelled frames that it takes; of more, so many are drawn.
FEWEST, MOST = 50, 1000
#: Of the frames, those that are held out.
_HELD_OUT = 0.25


def attach(
    backbone: str | Mapping[str, Any] | BackboneSettings,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    finetune: str | None = None,
    shift_energies: bool = False,
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
    and forces stay what they were; that energies are of another level of theory than the labels is
    said. The model file names package, version and weights of the network, and holds no copy of
    them.

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
        shift_energies: adds a constant for each element to the network's energies, which brings
            them to the labels' level of theory. Fine-tuning does so where frames have energies.
        labels: keys and units of the files.
        seed: of what is drawn.
        device: cpu or cuda; by default a GPU if there is one.
        progress: shows progress bars.

    Raises:
        InputError: if the network's package is missing, or the network does not know an element or
            refuses a structure; if there are fewer than 50 labelled frames, or they cannot be read;
            if it cannot be fine-tuned; if frames lack the energies that others are to be shifted
            to.
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
    with_energies = bool(store.has("energy")[np.concatenate([training, held_out])].all())
    if shift_energies and not with_energies:
        raise InputError(
            f"{', '.join(map(str, paths))}: shift_energies needs an energy of each frame, and some "
            "have none"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    made = attached_to(
        *(settings, (store, training), (store, held_out)),
        seed=seed,
        device=device,
        progress=progress,
        log=log,
    )
    shifted = with_energies and (shift_energies or finetune is not None)
    measured = made.measured
    if with_energies:
        gap = energy_gap(store, training, made.energies)
        if shifted or gap.before > LARGE:
            log(gap.text(settings.name, shifted))
    if shifted:
        open_groups = open_energies_of(store, training)
        if open_groups and finetune is None:  # training says it, too
            log(sentence(open_groups))
        made.network.energy_model.move_energies(gap.shifts)
        measured = gap.moved(measured)
    else:
        measured = without_energies(measured)
    info: dict[str, Any] = {
        # Whether energies are of other labels, `eip evaluate` reads here.
        "config": {
            "data": {"labels": labels.given()},
            "training": {"energy_weight": float(shifted)},
        },
        "data": summarize(store, training).to_dict(),
        "training": {
            "frames": len(training),
            "validation_frames": len(held_out),
            "best_epoch": made.epoch,
        },
        "metrics": finite(evaluation.compute_metrics(measured)),
        "measured_on": "validation",
        "versions": {name: version(name) for name in ("torch", "numpy", "ase")},
    }
    attached: Potential = made.potential
    if finetune is not None:
        with TemporaryDirectory(prefix="eip-") as folder:
            for name, which in (("training", training), ("held_out", held_out)):
                write_store((store[int(i)] for i in which), Path(folder) / name)
            save_model(attached, Path(folder) / "begun.eip", info)
            attached = finetuned(Path(folder), finetune, info, seed, device, progress, log)
    info["training"]["seconds"] = time.monotonic() - began
    save_model(attached, out, info)
    return Path(out)


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
    """A potential with its error bar, measured on the held-out frames that it was calibrated on.

    Attributes:
        network: what is inside.
        energies: of the training frames as the network has them, eV.
        epoch: of the head, the best.
    """

    potential: CalibratedPotential
    network: AttachedPotential
    measured: evaluation.Evaluation
    energies: Float[np.ndarray, "frames"]
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
    known, unseen = (known_of(potential, batches) for batches in (training, held_out))
    error = float(unseen.errors.square().mean().sqrt())
    name = potential.backbone_settings.name
    log(f"The forces of {name} err by {error:.3g} eV/Å (RMSE) on {len(held_out)} held-out frames.")
    epoch = train_head(potential.head, known, unseen, seed=seed, progress=progress)
    labelled = [(batch.graph, batch.forces) for batch in held_out if batch.forces is not None]
    fitted = fit_latent_distance(
        potential, [batch.graph for batch in training], labelled, exponents=POWERS
    )
    log(latent_distance_text(fitted))
    calibrated = evaluation.calibrate(fitted, evaluation.evaluate(fitted, held_out, progress=False))
    log(calibration_text(calibrated))
    measured = evaluation.evaluate(calibrated, held_out, progress=False)
    energies = torch.cat([potential.asked(batch.graph).energy for batch in training])
    return Attached(calibrated, potential, measured, energies.cpu().numpy(), epoch)


def _chosen(
    store: FrameStore, seed: int, log: Log
) -> tuple[Int[np.ndarray, "training"], Int[np.ndarray, "held_out"]]:
    """Frames to train on and others, of other materials where the frames say which they are of."""
    chosen = np.arange(len(store))
    if len(store) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST, replace=False))
        log(f"Of {len(store):,} frames {MOST:,} are drawn.")
    groups = store.groups[chosen]
    several = (groups >= 0).all() and len(np.unique(groups)) > 1
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
