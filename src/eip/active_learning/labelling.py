"""Labels of structures, computed by workers; what is whole on disk is not computed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rich.console import Console
from rich.progress import track

from eip.active_learning.executors import Pool
from eip.active_learning.labelers import (
    Labeler,
    LabelFailure,
    LabelLimits,
    bare_copy,
    check_label,
    make_labeler,
)
from eip.active_learning.ledger import content_key
from eip.data.structures import keep_beside
from eip.errors import InputError
from eip.files import json_text, locked, replacing, write_whole

_RESULTS = ("energy", "forces", "stress")
_RECORD = "labeler.json"


def label_one(labeler: Labeler, atoms: Atoms, folder: Path) -> None:
    """Computes a label in a worker and keeps it; what is there whole is not computed again."""
    kept = folder / "label.npz"
    if kept.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    labelled = labeler.label(atoms, folder)
    results = {k: v for k, v in labelled.calc.results.items() if k in _RESULTS}
    arrays: dict[str, Any] = {k: np.asarray(v, dtype=np.float64) for k, v in results.items()}
    with replacing(kept) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(content_key(atoms)), **arrays)


def read_label(atoms: Atoms, folder: Path) -> Atoms:
    """The structure with what `label_one` kept of it.

    Raises:
        InputError: if the label is another structure's.
    """
    with np.load(folder / "label.npz", allow_pickle=False) as stored:
        if str(stored["key"]) != content_key(atoms):
            raise InputError(f"{folder}/label.npz is the label of another structure")
        results = {name: stored[name] for name in stored.files if name in _RESULTS}
    # Not atoms.copy(): labels of another method that it carries would stand beside these.
    out = bare_copy(atoms)
    keep_beside(out, atoms)
    energy = float(results.pop("energy"))
    out.calc = SinglePointCalculator(out, energy=energy, **results)
    return out


def write_frames(frames: Sequence[Atoms], path: Path) -> None:
    """Extended XYZ with energy and forces alone: stress is not in every method's labels."""
    plain = []
    for atoms in frames:
        frame = Atoms(
            numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
        )
        frame.calc = SinglePointCalculator(
            frame,
            energy=atoms.get_potential_energy(),
            forces=atoms.get_forces(apply_constraint=False),
        )
        plain.append(frame)
    with replacing(path) as temporary:
        write(temporary, plain, format="extxyz")


@dataclass(frozen=True)
class Labelling:
    """What `label_frames` came to.

    Attributes:
        labelled: how many frames were written.
        failed: by name, why a frame has no label.
        scratch: where each calculation's files are.
    """

    labelled: int
    failed: dict[str, str]
    scratch: Path


def label_frames(
    structures: Mapping[str, Atoms],
    out: Path,
    labeler: str,
    options: Mapping[str, Any],
    *,
    executor: str = "processes",
    workers: int = 1,
    retries: int = 2,
    limits: LabelLimits | None = None,
    progress: bool = True,
    say: Callable[[object], None] = lambda text: None,
) -> Labelling:
    """Labels structures by a reference method and writes them to an extended XYZ file.

    Charge and multiplicity in a structure's info (see `electrons_of`) go to the method; all of
    its info, arrays and constraints is in the file, labels that it had before are not.

    Calculations are kept in ``OUT.labels/``; a later call with the same arguments goes on with
    what is missing, tries again what failed, and writes the file anew.

    Args:
        structures: by a name that a message can give, as "frames.xyz#3"; in the file's order.
        labeler, options: see `make_labeler`.
        executor, workers, retries: see `Pool`.
        limits: of labels that are believed.
        say: hears why a frame is left out, as it happens.

    Raises:
        InputError: if the file is there and no calculations of it; if those that are there are of
            another method; if a structure has a charge or multiplicity that the method cannot
            take; if no label could be made; whatever `make_labeler` raises.
    """
    made, limits = make_labeler(labeler, **options), limits or LabelLimits()
    scratch = out.with_name(out.name + ".labels")
    record = json.loads(json_text({"labeler": labeler, "options": dict(options)}))
    kept = scratch / _RECORD
    if kept.is_file():
        before = json.loads(kept.read_text())
        if before != record:
            raise InputError(
                f"{scratch} holds labels by {before}, not by {record}: remove it, or name another "
                "output"
            )
    elif out.exists():
        raise InputError(f"{out} is there already: remove it, or name another output")
    for name, atoms in structures.items():
        try:
            made.check(atoms)
        except InputError as refused:
            raise InputError(f"{name}: {refused}") from refused
    keys = {name: content_key(atoms) for name, atoms in structures.items()}
    names = {key: name for name, key in reversed(keys.items())}
    tasks = {key: (made, structures[name], scratch / key) for key, name in names.items()}
    begun = scratch.exists()
    scratch.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    labels: dict[str, Atoms] = {}
    try:
        with locked(scratch), Pool(executor, workers, retries=retries) as pool:
            write_whole(kept, json_text(record))
            found = pool.run(label_one, tasks)
            console = Console(stderr=True)
            for outcome in track(
                found,
                f"Labelling with {made.name}",
                total=len(tasks),
                console=console,
                transient=True,
                disable=not progress,
            ):
                key, error = outcome.key, outcome.error
                if isinstance(error, InputError):
                    raise error  # not this structure's fault: the next would fare the same
                if error is None:
                    label = read_label(structures[names[key]], scratch / key)
                    disbelief = check_label(label, limits)
                    if disbelief is None:
                        labels[key] = label
                        continue
                    reasons[key] = f"label not believed: {disbelief}"
                else:
                    said = error.reason if isinstance(error, LabelFailure) else str(error)
                    reasons[key] = f"not labelled: {said}"
                say(f"{names[key]}: {reasons[key]} ({scratch / key})")
    except BlockingIOError:
        raise InputError(f"another process labels to {out}") from None
    except InputError:
        if not begun and not any(scratch.glob("*/label.npz")):  # there is nothing to go on from
            shutil.rmtree(scratch)
        raise
    if not labels:
        raise InputError(
            f"no label could be made of {len(structures)} frames; the first: "
            f"{next(iter(reasons.values()))}"
        )
    # The same geometry twice is computed once, and each keeps what it says of itself.
    written = [
        read_label(structures[name], scratch / key) for name, key in keys.items() if key in labels
    ]
    with replacing(out) as temporary:
        write(temporary, written, format="extxyz")
    failed = {name: reasons[key] for name, key in keys.items() if key in reasons}
    return Labelling(len(written), failed, scratch)
