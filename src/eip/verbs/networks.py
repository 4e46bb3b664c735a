"""The networks that training begins with or is spared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Int

from eip.config import Config
from eip.data import (
    FrameStore,
    GraphDataset,
    energy_scale,
    fit_element_energies,
    force_scale,
    summarize,
)
from eip.model_file import load_model, read_model_info
from eip.models.short_range import ShortRangeSettings
from eip.potential import Potential, WrappedPotential
from eip.training.trainer import TrainingResult, seeded
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.methods import Method, new_network
from eip.verbs.messages import Log, silent


def fresh_network(
    config: Config, store: FrameStore, indices: Int[np.ndarray, "frames"], log: Log = silent
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
        log("The frames have no energies: those that the potential gives mean differences only.")
    model = config.model
    scale = (
        force_scale(store, indices, model.force_scale)
        if has["forces"]
        else energy_scale(store, indices, energies)
    )
    frames = GraphDataset(store, indices, cutoff=model.backbone.cutoff)
    backbone = model.backbone.informed(frames)
    short_range = None
    if model.zbl:
        short_range = ShortRangeSettings.of_frames(frames.closest_approaches(), len(frames))
        log(f"Nuclei repel below the closest approaches of training: {short_range}.")
    with seeded(config.training.seed):
        return new_network(
            model.uncertainty,
            model.members,
            elements=sorted(energies),
            element_energies=energies,
            force_scale=scale,
            backbone=backbone,
            short_range=short_range,
        ).to(getattr(torch, model.dtype))


def assembled(paths: Sequence[Path], of: Method) -> tuple[Potential, TrainingResult]:
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
    return (of.joined(networks) if of.joined else networks[0]), result


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
