"""`eip calibrate`: the error bar of a model, fitted on frames that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float

from eip import evaluation
from eip.data import FrameStore, Labels, open_frames, summarize
from eip.data.plausibility import DataWarning
from eip.errors import InputError, did_you_mean
from eip.model_file import load_model, read_model_info, save_model
from eip.models.energy import EnergyModel
from eip.models.short_range import ShortRangeSettings
from eip.potential import Potential, layers
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Method
from eip.uncertainty.energy_error import (
    MIN_FRAMES,
    EnergyErrorPotential,
    fit_energy_error,
    network_inside,
)
from eip.uncertainty.latent_distance import (
    LatentDistancePotential,
    fit_latent_distance,
    guarded,
)
from eip.verbs.arguments import as_paths
from eip.verbs.evaluate import knows_no_energies
from eip.verbs.frames import config_of, dataset_for, labels_of, loader, open_labelled, some_batches
from eip.verbs.messages import (
    TRAINING_GIVES,
    Log,
    calibration_text,
    energy_error_text,
    guard_text,
    silent,
)

#: Fewer frames are too alike to tell how large errors are.
_FEW_FRAMES = 10


def calibrate(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    method: str = "per_element",
    trained_on: str | Path | Sequence[str | Path] = (),
    labels: Labels | Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: bool = True,
    log: Log = silent,
) -> Path:
    """Fits a calibration on labelled frames and writes it into the model, or into a copy.

    A calibration that the model has already is replaced; so is the size of the energies' error bar
    where the model has one and ten frames or more have energies. A model with latent distance that
    has no guard (`eip.uncertainty.guard`), of before there were any, is given that of these frames.
    The frames must not be those that the model was trained on: there its errors are too small.

    Args:
        trained_on: the frames that the model was trained on, for one of before potentials were
            given a repulsion: below their closest approaches the network is no longer asked, see
            `eip.models.short_range`. On these frames nothing changes. With them a model without
            latent distance is given a guard as well, and energies get an error bar
            (`eip.uncertainty.energy_error`) where ten of the labelled frames have energies.

    Raises:
        InputError: as `evaluate`, and if the potential gives no force uncertainty, or the frames
            have too few atoms for a guard.
    """
    methods = get_args(Method)
    if method not in methods:
        raise InputError(f"unknown calibration method '{method}': {did_you_mean(method, methods)}")
    potential, info = load_model(model, device=device), read_model_info(model)
    if isinstance(potential, CalibratedPotential):
        potential = potential.potential
    labels = labels_of(info) if labels is None else Labels.of(labels, "labels")
    files, trained_on = as_paths(files), as_paths(trained_on)
    if both := {f.resolve() for f in files} & {f.resolve() for f in trained_on}:
        raise InputError(
            f"{min(both)} is given as frames to calibrate on and as frames that the model was "
            "trained on; an error bar needs others"
        )
    trained = open_frames(trained_on, labels) if trained_on else None
    if trained is not None:
        _repel(potential, trained, trained_on, log)
    store = open_labelled(files, labels, ("forces",))
    log(summarize(store).table())
    had_error_bar = isinstance(potential, EnergyErrorPotential)
    if isinstance(potential, EnergyErrorPotential):
        potential.potential = _guarded(potential.potential, store, trained, log)
    else:
        potential = _guarded(potential, store, trained, log)
        if trained is not None and not knows_no_energies(config_of(info)):
            potential = _with_energy_error(potential, trained, store, log)
    found = evaluation.evaluate(potential, loader(dataset_for(store, potential)), progress=progress)
    calibrated = evaluation.calibrate(potential, found, method=cast(Method, method))
    log(calibration_text(calibrated))
    seen = {Path(f).resolve() for f in config_of(info).get("data", {}).get("train", ())}
    again = [file for file in files if file.resolve() in seen]
    for doubt in _doubts(found.n_frames, found.extrapolation_grade, again):
        warnings.warn(doubt, DataWarning, stacklevel=2)
    if had_error_bar and _energies_again(potential, found):
        log("The energy's error bar is fitted to these frames as well.")
    target = Path(out or model)
    calibrated_on = [str(Path(f).resolve()) for f in files]
    kept = {**info.get("info", {}), "calibrated_on": calibrated_on}
    # The size of σ was measured with the calibration that is gone.
    kept["metrics"] = {k: v for k, v in kept.get("metrics", {}).items() if _is_free_of_scale(k)}
    save_model(calibrated, target, kept)
    return target


def _doubts(
    n_frames: int, grade: Float[np.ndarray, "atoms"] | None, seen: Sequence[Path] = ()
) -> list[str]:
    """Why these frames may be the wrong ones for a calibration.

    Args:
        seen: files that the model was trained on.
    """
    doubts = [
        f"the model was trained on {file}: its errors there are smaller than elsewhere, and the "
        "error bar will be too small; take frames that it has not seen"
        for file in seen
    ]
    if n_frames < _FEW_FRAMES:
        doubts.append(
            f"calibrated on {n_frames} frame{'s' * (n_frames > 1)}: errors within a "
            f"frame are alike, so take {_FEW_FRAMES} or more"
        )
    if grade is not None and (share := float(np.mean(grade > 1.0))) > 0.5:
        doubts.append(
            f"{share:.0%} of the atoms lie beyond what the model has seen (extrapolation grade "
            "above 1): an error bar that is fitted there is too small or too large at home"
        )
    return doubts


def _repel(potential: Potential, store: FrameStore, files: Sequence[Path], log: Log) -> None:
    """Nuclei repel below the closest approaches of frames."""
    named = ", ".join(map(str, files))
    frames = dataset_for(store, potential)
    if missing := set(potential.elements) - set(store.elements):
        symbols = ", ".join(chemical_symbols[z] for z in sorted(missing))
        raise InputError(
            f"--trained-on should be the frames that the model was trained on, and {named} has "
            f"no {symbols}"
        )
    begins = ShortRangeSettings.of_frames(frames.closest_approaches(), len(frames))
    networks = [module for module in potential.modules() if isinstance(module, EnergyModel)]
    for network in networks:
        network.begin_at(begins)
    if not any(network.short_range for network in networks):
        raise InputError(
            "--trained-on is for a network of which eIP trained the weights, and this potential "
            "holds none"
        )
    log(f"Nuclei repel below the closest approaches of {named}: {begins}.")


def _with_energy_error(
    potential: Potential, training: FrameStore, held_out: FrameStore, log: Log
) -> Potential:
    """With an error bar of energies, where there are frames to fit it to."""
    labelled = np.flatnonzero(held_out.has("energy"))
    if network_inside(potential) is None or len(labelled) < MIN_FRAMES:
        return potential
    known = some_batches(dataset_for(training, potential), potential)
    others = some_batches(dataset_for(held_out, potential, labelled), potential)
    fitted = fit_energy_error(
        potential,
        [batch.graph for batch in known],
        [(batch.graph, batch.energy) for batch in others if batch.energy is not None],
    )
    log(energy_error_text(fitted))
    return fitted


def _energies_again(potential: Potential, found: evaluation.Evaluation) -> bool:
    """Whether there is an error bar of energies, and frames to fit it to."""
    for layer in layers(potential):
        if isinstance(layer, EnergyErrorPotential) and found.energy_uncertainty is not None:
            of_element = found.numbers[:, None] == np.array(layer.elements)
            counts = np.zeros((found.n_frames, len(layer.elements)))
            np.add.at(counts, found.frame, of_element)
            errors = found.energy_error[:, 0]
            return layer.recalibrate(errors, found.energy_uncertainty, counts)
    return False


def _guarded(
    potential: Potential, store: FrameStore, trained: FrameStore | None, log: Log
) -> Potential:
    """With a guard, if it has none and these frames can give it one."""
    if isinstance(potential, LatentDistancePotential) and potential.guard is not None:
        return potential
    if not isinstance(potential, LatentDistancePotential) and trained is None:
        log(f"The model has no guard, and these frames alone cannot give it one: {TRAINING_GIVES}.")
        return potential
    batches = some_batches(dataset_for(store, potential), potential)
    labelled = [(batch.graph, batch.forces) for batch in batches if batch.forces is not None]
    if isinstance(potential, LatentDistancePotential):
        given = guarded(potential, labelled)
    else:
        assert trained is not None
        seen = some_batches(dataset_for(trained, potential), potential)
        training = [batch.graph for batch in seen]
        given = fit_latent_distance(potential, training, labelled, exponents=False)
    assert given.guard is not None
    log(f"The model had no guard and has one now. {guard_text(given.guard)}")
    return given


def _is_free_of_scale(key: str) -> bool:
    return key.startswith(("n_", "force_", "energy_mae", "mean_error"))
