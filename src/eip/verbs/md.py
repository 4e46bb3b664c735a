"""`eip md`: dynamics with a live error bar, and a bias to where the potential is uncertain."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase import Atoms

from eip.data import read_structures
from eip.errors import InputError
from eip.kernels.choice import using
from eip.model_file import load_model
from eip.potential import Potential
from eip.run_folder import read_json
from eip.simulation import (
    LARGEST_OVER_D,
    DynamicsSettings,
    DynamicsSummary,
    UDDParameters,
    UDDSettings,
    propose_udd,
    run_dynamics,
    settled,
)
from eip.simulation.settings import usual_limiter
from eip.verbs.messages import Log, silent
from eip.verbs.run_logs import plot_dynamics


def md(
    model: str | Path,
    start: str | Path,
    settings: DynamicsSettings | Mapping[str, Any],
    out_dir: str | Path,
    *,
    frame: int = 0,
    elements: tuple[str, ...] | None = None,
    udd: UDDSettings | Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str | None = None,
    kernels: str | None = None,
    progress: bool = True,
    log: Log = silent,
) -> DynamicsSummary:
    """Dynamics from a frame of a file, with a live error bar; biased where ``udd`` is given.

    What ``udd`` leaves empty is proposed from the model.

    Args:
        start: any format that `eip.data.read_structures` reads.
        settings, udd: of the run and of the bias, or mappings of their keys.
        frame: which one, from 0; -1 is the last.
        elements: of types 1, 2, … of LAMMPS' files.
        resume: go on with what is in the folder.
        kernels: whose kernels, in place of what EIP_KERNELS says; None: as that does.

    Raises:
        InputError: if model, file or settings are wrong, or the run folder is in use.
    """
    settings = DynamicsSettings.of(settings, "settings")
    udd = None if udd is None else UDDSettings.of(udd, "udd")
    if not isinstance(frame, int):
        raise InputError(f"frame should be a whole number, got {frame!r}")
    with using(kernels):
        return _md(
            *(model, start, settings, Path(out_dir), frame, elements, udd),
            *(resume, device, progress, log),
        )


def _md(
    model: str | Path,
    start: str | Path,
    settings: DynamicsSettings,
    out_dir: Path,
    frame: int,
    elements: tuple[str, ...] | None,
    udd: UDDSettings | None,
    resume: bool,
    device: str | None,
    progress: bool,
    log: Log,
) -> DynamicsSummary:
    potential = load_model(model, device=device)
    by_model = settings.max_uncertainty == "auto"
    settings = settled(settings, potential)
    if by_model:
        log(
            f"Stops where σ of the structure passes {settings.uncertainty_bound:.3g} eV/Å, the "
            "largest of the frames that the model was calibrated on."
        )
    atoms = _frame(start, frame, elements)
    bias = None
    if udd is not None:
        frames = (other for _, other in read_structures(start, elements=elements))
        bias = _bias(potential, atoms, frames, settings, udd, out_dir, resume, log)
    summary = run_dynamics(
        atoms, potential, settings, out_dir, resume=resume, udd=bias, progress=progress
    )
    name = "MD" if udd is None else "UDD"
    plot_dynamics(
        {name: (out_dir, summary.ending)}, out_dir / "dynamics.png", settings.uncertainty_bound
    )
    return summary


def _frame(start: str | Path, index: int, elements: tuple[str, ...] | None) -> Atoms:
    """That frame of the file; nothing is read beyond it, unless it is counted from the end."""
    count, last = 0, deque[Atoms](maxlen=max(1, -index))
    for _, atoms in read_structures(start, elements=elements):
        if count == index:
            return atoms
        count += 1
        last.append(atoms)
    if -count <= index < 0:
        return last[0]
    raise InputError(f"{start} has {count} frames, so none with index {index}")


def _bias(
    potential: Potential,
    atoms: Atoms,
    frames: Iterable[Atoms],
    settings: DynamicsSettings,
    udd: UDDSettings,
    out_dir: Path,
    resume: bool,
    log: Log,
) -> UDDParameters:
    """What the user gave, the rest proposed; a run that goes on has it in its folder."""
    kept = out_dir / "udd.json"
    if resume and kept.is_file():
        begun = UDDParameters.from_dict(read_json(kept))
        for name in UDDSettings.model_fields:
            before, now = getattr(begun, name), getattr(udd, name)
            if now is None or name not in udd.model_fields_set:
                continue
            # Of D and the largest force one follows from the other, but for rounding.
            same = isinstance(before, float) and math.isclose(before, now)
            if not (same or before == now):
                raise InputError(
                    f"{out_dir} was begun with another bias: {name} was {before}, now {now}; "
                    "choose another folder"
                )
        return begun
    given = {k: getattr(udd, k) for k in "ABCD" if getattr(udd, k) is not None}
    pushed = udd.model_dump(include={"hover", "memory", "soft", "interval"})
    if set(given) == set("ABCD"):
        limiter = udd.limiter or usual_limiter(udd.hover)
        parameters = UDDParameters(**given, limiter=limiter, **pushed)
    else:
        alike = [f for f in frames if sorted(f.numbers) == sorted(atoms.numbers)]
        proposal = propose_udd(
            potential,
            alike[:: max(1, len(alike) // 20)],
            settings.temperature,
            limiter=udd.limiter,
            **pushed,
        )
        log(proposal.explain())
        parameters = replace(proposal.parameters, **given)
        if udd.max_bias_force is not None:
            parameters = replace(parameters, D=udd.max_bias_force / LARGEST_OVER_D)
        if parameters != proposal.parameters:
            log(f"With what was given in place of the proposal: {_udd_text(parameters)}")
    return parameters


def _udd_text(p: UDDParameters) -> str:
    text = f"A {p.A:.4g} eV, B {p.B:.4g}, C {p.C:.4g}, D {p.D:.4g} eV/Å, limiter {p.limiter}"
    if p.hover is not None:
        text += f", hovering at a grade of {p.hover:g}"
    if p.soft:
        text += ", along what is soft"
    if p.memory is not None:
        text += f", averaged over {p.memory:g} fs"
    return text if p.interval == 1 else f"{text}, every {p.interval} steps"
