"""The networks that training begins with or is spared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Int

from eip.config import Config, ModelConfig
from eip.data import (
    FrameStore,
    GraphDataset,
    energy_scale,
    fit_element_energies,
    fit_energy_shifts,
    force_scale,
    make_loader,
    summarize,
)
from eip.errors import InputError
from eip.model_file import load_model, read_model_info
from eip.models.short_range import ShortRangeSettings
from eip.potential import Potential, WrappedPotential
from eip.training.trainer import TrainingResult, seeded
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.methods import Method, new_network
from eip.uncertainty.network import NetworkPotential
from eip.verbs.messages import Log, silent


def fresh_network(
    config: Config, store: FrameStore, indices: Int[np.ndarray, "frames"], log: Log = silent
) -> Potential:
    """With fresh weights, for the elements and energies of the training frames; or with those of
    the model that training is to start from.

    Raises:
        InputError: if that model does not fit configuration and frames.
    """
    if config.model.start_from is not None:
        return continued_network(config, config.model.start_from, store, indices, log)
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


def continued_network(
    config: Config,
    path: Path,
    store: FrameStore,
    indices: Int[np.ndarray, "frames"],
    log: Log = silent,
) -> Potential:
    """With the network and the weights of a model. Its elements' energies are moved to the frames'
    level of theory, so that what is left to learn is small.

    Raises:
        InputError: if the model is no network of eIP's own, its backbone is another than is asked
            for, or it lacks an element of the frames.
    """
    model = config.model
    begun = bare_network(load_model(path, device="cpu"))
    if not isinstance(begun, NetworkPotential):
        raise InputError(f"{path} is no network of eIP's own: training cannot start from it")
    has = begun.backbone_settings.to_dict()
    asked = {key: value for key, value in model.backbone.to_dict().items() if value is not None}
    if model.backbone != ModelConfig().backbone and asked.items() - has.items():
        raise InputError(
            f"{path} has the backbone {has}, and model.backbone asks for {asked}: without that key "
            "training goes on with what the model has"
        )
    needed = summarize(store, indices).elements
    known = [chemical_symbols[z] for z in begun.elements]
    if missing := [symbol for symbol in needed if symbol not in known]:
        raise InputError(
            f"{path} is for {', '.join(known)}, and the training frames hold {', '.join(missing)}"
        )
    frames = GraphDataset(store, indices, cutoff=begun.cutoff)
    short_range = None
    if model.zbl:
        short_range = ShortRangeSettings.of_frames(frames.closest_approaches(), len(frames))
        before = begun.settings().get("short_range")
        if before is not None:
            closest = ShortRangeSettings.from_dict(before).closest
            short_range = short_range.with_closest(closest)
        log(f"Nuclei repel below the closest approaches of training: {short_range}.")

    def network(energies: Mapping[int, float]) -> Potential:
        with seeded(config.training.seed):
            made = new_network(
                model.uncertainty,
                model.members,
                elements=list(begun.elements),
                element_energies=energies,
                force_scale=begun.energy_model.force_scale,
                backbone=begun.backbone_settings,
                short_range=short_range,
            )
        return made.to(getattr(torch, model.dtype))

    given = {atomic_numbers[s]: e for s, e in (config.data.element_energies or {}).items()}
    given = {z: e for z, e in (store.isolated_atoms | given).items() if z in begun.elements}
    energies = begun.energy_model.element_energies | given
    found = network(energies)
    fresh = _take_weights(found, begun)
    log(f"Training begins with the weights of {path}{f', but for {fresh}' if fresh else ''}.")
    if bool(store.has("energy")[indices].all()):
        predicted = [
            energy
            for batch in make_loader(frames, max_atoms=2000, shuffle=False, seed=0)
            for energy in found(batch.graph, forces=False).energy.tolist()
        ]
        shifts = fit_energy_shifts(store, indices, np.array(predicted), fixed=given)
        found = network({z: e + shifts.get(z, 0.0) for z, e in energies.items()})
        _take_weights(found, begun)
    return found


def _take_weights(network: Potential, begun: NetworkPotential) -> str:
    """Gives a network those of another that has the same backbone; returns what stays fresh."""
    weights, fresh = dict(begun.named_parameters()), set()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            theirs = weights.get(name)
            if theirs is not None and theirs.shape == weight.shape:
                weight.copy_(theirs)
            else:
                fresh.add(name.split(".")[0])
    return ", ".join(sorted(fresh))


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
