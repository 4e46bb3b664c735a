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
from eip.uncertainty.attached import AttachedPotential
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.methods import Method, method, new_network
from eip.uncertainty.network import NetworkPotential
from eip.uncertainty.registry import inside
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
    if method(config.model.uncertainty).foreign:
        raise InputError(
            f"model.uncertainty is '{config.model.uncertainty}', which is that of a network that "
            "others trained: name a model of eip attach as model.start_from"
        )
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


def network_to_continue(config: Config, path: Path, potential: Potential) -> NetworkPotential:
    """The network of a model that training is to start from.

    Args:
        path, potential: its file and what is in it.

    Raises:
        InputError: if the model is no network of eIP's own, or its backbone is another than is
            asked for.
    """
    model = config.model
    begun = bare_network(potential)
    if not isinstance(begun, NetworkPotential):
        raise InputError(f"{path} is no network of eIP's own: training cannot start from it")
    has = begun.backbone_settings.to_dict()
    asked = {key: value for key, value in model.backbone.to_dict().items() if value is not None}
    differs = any(has.get(key) != value for key, value in asked.items())
    if model.backbone != ModelConfig().backbone and differs:
        raise InputError(
            f"{path} has the backbone {has}, and model.backbone asks for {asked}: without that key "
            "training goes on with what the model has"
        )
    return begun


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
    begun = network_to_continue(config, path, load_model(path, device="cpu"))
    needed = summarize(store, indices).elements
    known = [chemical_symbols[z] for z in begun.elements]
    if missing := [symbol for symbol in needed if symbol not in known]:
        raise InputError(
            f"{path} is for {', '.join(known)}, and the training frames hold {', '.join(missing)}"
        )
    frames = GraphDataset(store, indices, cutoff=begun.cutoff)
    if isinstance(begun, AttachedPotential):
        return _thawed(config, begun, frames, log)
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
    if "energy" in frames.labels:
        shifts = _energy_shifts(found, frames, given)
        found = network({z: e + shifts.get(z, 0.0) for z, e in energies.items()})
        _take_weights(found, begun)
    return found


def _thawed(
    config: Config, begun: AttachedPotential, frames: GraphDataset, log: Log
) -> AttachedPotential:
    """A network that others trained, with energies moved to the frames' level of theory.

    Nuclei are not made to repel: it was trained on closer pairs than the frames show.
    """
    energies = None
    if "energy" in frames.labels:
        before = begun.energy_model.element_energies
        shifts = _energy_shifts(begun, frames, {})
        energies = {z: e + shifts.get(z, 0.0) for z, e in before.items()}
    found = begun.thawed(energies)
    name = begun.backbone_settings.name
    layers = "last layers" if config.training.layers == "last" else "layers"
    log(f"Training begins with the weights of {config.model.start_from}: the {layers} of {name}.")
    return found.to(getattr(torch, config.model.dtype))


def _energy_shifts(
    potential: Potential, frames: GraphDataset, fixed: Mapping[int, float]
) -> dict[int, float]:
    """By element, eV, what brings a potential's energies to those of frames."""
    predicted = [
        energy
        for batch in make_loader(frames, max_atoms=2000, shuffle=False, seed=0)
        for energy in potential(batch.graph, forces=False).energy.tolist()
    ]
    return fit_energy_shifts(frames.store, frames.indices, np.array(predicted), fixed=fixed)


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


def as_begun(config: Config) -> Config:
    """With the method of the model that training starts from, where it is one of `eip attach`.

    Raises:
        InputError: if that model is not readable, or another method is asked for.
    """
    model = config.model
    if model.start_from is None:
        return config
    described = read_model_info(model.start_from)["potential"]
    while within := inside(described):
        described = within[0]
    if described["kind"] != AttachedPotential.kind:
        return config
    if model.uncertainty not in ("attached", ModelConfig().uncertainty):
        raise InputError(
            f"{model.start_from} is a model of eip attach and keeps its error bar: leave "
            f"model.uncertainty out, which is '{model.uncertainty}'"
        )
    return config.model_copy(update={"model": model.model_copy(update={"uncertainty": "attached"})})


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
