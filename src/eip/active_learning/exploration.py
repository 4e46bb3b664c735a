"""Runs of dynamics that look for what the potential does not know; at work in a worker."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread

from eip.active_learning.settings import LearningSettings
from eip.model_file import load_model
from eip.potential import Potential
from eip.run_folder import read_json
from eip.signals import Terminated
from eip.simulation import DynamicsSettings, Together, UDDParameters, propose_udd, run_dynamics
from eip.simulation.proposal import FlatUncertainty

#: Seconds; a worker on another machine outlives its killed parent a while.
_PATIENCE = 150.0
#: How many structures near a start are asked where σ is flat at the start, and Å between them.
_NEAR, _RATTLE = 4, 0.05


@dataclass(frozen=True)
class Walker:
    """A run: a start at a temperature, with or without the bias.

    Attributes:
        name: of its folder, "start0-300K-udd" say.
        start: the structure.
        udd: whether the uncertainty drives it.
        settings: see there.
        push: largest force of the bias, in RMS forces at the start.
        more: of its parameters by name, what is not proposed: hover, memory, soft, interval.
    """

    name: str
    start: Atoms
    udd: bool
    settings: DynamicsSettings
    push: float
    more: dict[str, Any]


def walkers_of(
    starts: Mapping[str, Atoms], settings: LearningSettings, generation: int
) -> list[Walker]:
    """The runs of a generation, those that can share their calls beside each other."""
    s = settings
    steps = round(1000.0 * s.length_ps / s.timestep_fs)
    kinds = {"md": False, "udd": True} if s.udd else {"md": False}
    more = {"hover": s.hover, "memory": s.memory, "soft": s.soft, "interval": s.push_interval}
    out = []
    for (kind, udd), name, temperature, replica in product(
        kinds.items(), starts, s.temperatures, range(s.replicas)
    ):
        dynamics = DynamicsSettings(
            steps=steps,
            temperature=temperature,
            timestep_fs=s.timestep_fs,
            seed=s.seed + 1000 * generation + replica,
            trajectory_interval=s.frame_interval,
            log_interval=s.frame_interval,
            max_bond_stretch=s.max_bond_stretch,
        )
        walker = f"{name}-{temperature:g}K-{kind}" + (f"-{replica}" if replica else "")
        out.append(Walker(walker, starts[name], udd, dynamics, s.push, more))
    return out


@dataclass(frozen=True)
class WalkerOutcome:
    """How a run went.

    Attributes:
        name: of the walker.
        udd: whether it was driven.
        ending, cause, reason: see `eip.simulation.summary.DynamicsSummary`.
        time_ps: how long it lasted, ps.
        mean_uncertainty, max_force_uncertainty: eV/Å.
    """

    name: str
    udd: bool
    ending: str
    cause: str
    reason: str
    time_ps: float
    mean_uncertainty: float | None
    max_force_uncertainty: float | None


def explore(model: Path, walkers: Sequence[Walker], folder: Path) -> list[WalkerOutcome]:
    """Runs walkers, each in a folder of its name; several share their calls of the model.

    A run that was cut short goes on from its checkpoint, a whole one is read.

    Raises:
        InputError: as `eip.simulation.run_dynamics`.
    """
    outcomes = {walker.name: _done(walker, folder / walker.name) for walker in walkers}
    open_ = [walker for walker in walkers if outcomes[walker.name] is None]
    if open_:
        potential = load_model(model)
        biases = _biases(potential, open_, folder)
        together = Together() if len(walkers) > 1 else None
        runs = [
            partial(_run, walker, potential, biases[walker.name], folder / walker.name, together)
            for walker in open_
        ]
        ended = [run() for run in runs] if together is None else together.run(runs)
        outcomes |= {outcome.name: outcome for outcome in ended}
    return [outcome for outcome in outcomes.values() if outcome is not None]


def _done(walker: Walker, folder: Path) -> WalkerOutcome | None:
    """How a run went that has come to its end."""
    kept = folder / "summary.json"
    if not kept.is_file():
        return None
    summary = read_json(kept)
    return None if summary["cause"] == "interrupted" else _outcome(walker, summary)


def _biases(
    potential: Potential, walkers: Sequence[Walker], folder: Path
) -> dict[str, UDDParameters | None]:
    """Of each walker: what its run began with, or what is proposed for its start."""
    proposed: dict[tuple[int, float], UDDParameters | None] = {}
    found: dict[str, UDDParameters | None] = {}
    for walker in walkers:
        begun = folder / walker.name / "udd.json"
        if not walker.udd:
            found[walker.name] = None
        elif begun.is_file():
            values = read_json(begun)
            found[walker.name] = UDDParameters.from_dict(values)
        else:
            key = id(walker.start), walker.settings.temperature  # replicas have one start
            if key not in proposed:
                proposed[key] = _proposed(potential, walker)
            found[walker.name] = proposed[key]
    return found


def _proposed(potential: Potential, walker: Walker) -> UDDParameters | None:
    """By the start, or what is near it where σ is flat there; None where it is flat there, too."""
    for frames in (lambda: [walker.start], lambda: _near(walker.start)):
        with suppress(FlatUncertainty):
            return propose_udd(
                potential,
                frames(),
                walker.settings.temperature,
                fraction=walker.push,
                **walker.more,
            ).parameters
    warnings.warn(
        f"{walker.name} runs without a bias: σ is the same for all structures near its start",
        stacklevel=2,
    )
    return None


def _near(start: Atoms) -> list[Atoms]:
    """Rattled, whatever is held."""
    found = [start.copy() for _ in range(_NEAR)]
    for seed, atoms in enumerate(found):
        atoms.set_constraint()
        atoms.rattle(_RATTLE, seed=seed)
    return found


def _run(
    walker: Walker,
    potential: Potential,
    bias: UDDParameters | None,
    folder: Path,
    together: Together | None,
) -> WalkerOutcome:
    summary = run_dynamics(
        walker.start,
        potential,
        walker.settings,
        folder,
        resume=True,
        udd=bias,
        progress=False,
        patience=_PATIENCE,
        together=together,
    )
    if summary.cause == "interrupted":
        raise Terminated  # it has not ended: whoever asks again goes on with it
    return _outcome(walker, vars(summary))


def _outcome(walker: Walker, summary: dict[str, Any]) -> WalkerOutcome:
    return WalkerOutcome(
        name=walker.name,
        udd=walker.udd,
        ending=summary["ending"],
        cause=summary["cause"],
        reason=summary["reason"],
        time_ps=summary["time_fs"] / 1000.0,
        mean_uncertainty=summary["mean_uncertainty"],
        max_force_uncertainty=summary["max_force_uncertainty"],
    )


def frames_of(folder: Path) -> Iterator[tuple[Atoms, float, float]]:
    """Each frame that a run left, without duplicates.

    Yields:
        The frame, the largest σ of its atoms, eV/Å, and the largest extrapolation grade, 0 where
        the potential gives none.
    """
    steps = set()
    for name in ("trajectory.xyz", "approach.xyz"):
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            continue
        # By ASE, not through `read_structures`: what led to a collapse would be refused there.
        for atoms in iread(path, format="extxyz"):
            step = atoms.info.get("step")
            sigma = atoms.arrays.get("force_uncertainty")
            if sigma is None or (step is not None and step in steps):
                continue
            steps.add(step)
            grade = atoms.arrays.get("extrapolation_grade", np.zeros(1))
            if np.isfinite(sigma).all():
                yield atoms, float(sigma.max()), float(grade.max())
