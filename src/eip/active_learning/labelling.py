"""Labels of structures, computed by workers; what is whole on disk is not computed again."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from rich.console import Console
from rich.progress import track

from eip.active_learning.labelers import (
    Labeler,
    LabelFailure,
    LabelLimits,
    bare_copy,
    check_label,
    make_labeler,
)
from eip.active_learning.ledger import content_key
from eip.data.electrons import electrons_of
from eip.data.labels import OWN_UNITS
from eip.data.structures import keep_beside
from eip.errors import InputError, full_disk
from eip.executors import Outcome, Pool
from eip.files import (
    json_text,
    load_arrays,
    replacing,
    save_arrays,
    warn_unchecked,
    write_whole,
)
from eip.locks import existing
from eip.run_folder import RECORD, read_json, with_files, working_in

_LABEL = "label.npz"
_RESULTS = ("energy", "forces", "stress")
#: Keys of the frames in the file, by name.
_WRITTEN = "written.json"
#: The record of an earlier version.
_EARLIER = "labeler.json"
#: Bytes; with less a disk is full.
_LEAST_FREE = 2**16


def has_label(folder: Path) -> bool:
    """Whether the calculation in a folder is whole."""
    return (folder / _LABEL).is_file()


def label_one(labeler: Labeler, atoms: Atoms, folder: Path) -> None:
    """Computes a label in a worker and keeps it; what is there whole is not computed again."""
    kept = folder / _LABEL
    if has_label(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        labelled = labeler.label(atoms, folder)
        results = {k: v for k, v in labelled.calc.results.items() if k in _RESULTS}
        arrays: dict[str, Any] = {k: np.asarray(v, dtype=np.float64) for k, v in results.items()}
        save_arrays(kept, {"key": np.array(content_key(atoms)), **arrays})
    except Exception as error:
        # A program that finds no room fails by whatever comes of it: that says nothing of the
        # structure.
        free = shutil.disk_usage(existing(folder)).free
        if (what := full_disk(error)) or free < _LEAST_FREE:
            raise InputError(
                f"there is no room left on the disk of {folder} ({what or error}); make room, then "
                "the same command goes on (learn: with --resume)"
            ) from error
        raise


def read_label(atoms: Atoms, folder: Path) -> Atoms:
    """The structure with what `label_one` kept of it.

    Raises:
        InputError: if the label is damaged, or another structure's.

    Warns:
        UncheckedFile: if it was kept without a checksum.
    """
    kept = folder / _LABEL
    try:
        stored, checked = load_arrays(kept)
        key, energy, _ = str(stored["key"]), float(stored["energy"]), stored["forces"]
        if unknown := stored.keys() - {"key", *_RESULTS}:
            raise ValueError(f"it holds {', '.join(sorted(unknown))}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{kept} cannot be read ({error}): delete it, and it will be computed again"
        ) from error
    if key != content_key(atoms):
        raise InputError(f"{kept} is the label of another structure")
    if not checked:
        warn_unchecked(f"labels in {folder.parent}")
    results = {name: stored[name] for name in _RESULTS if name in stored and name != "energy"}
    # Not atoms.copy(): labels of another method that it carries would stand beside these.
    out = bare_copy(atoms)
    keep_beside(out, atoms)
    out.calc = SinglePointCalculator(out, energy=energy, **results)
    return out


def judged(outcome: Outcome, atoms: Atoms, folder: Path, limits: LabelLimits) -> Atoms | str:
    """The structure with its label, or why it has none: what came of a `label_one`.

    Raises:
        InputError: if that is not this structure's fault, so that the next would fare the same; as
            `read_label`.
    """
    error = outcome.error
    if isinstance(error, InputError):
        raise error
    if error is not None:
        said = (
            error.reason if isinstance(error, LabelFailure) else f"{type(error).__name__}: {error}"
        )
        return f"not labelled: {said}"
    labelled = read_label(atoms, folder)
    disbelief = check_label(labelled, limits)
    return labelled if disbelief is None else f"label not believed: {disbelief}"


#: eV an atom and eV/Å by which two labels of a structure differ at most that are of one method.
_SAME_ENERGY, _SAME_FORCE = 1e-3, 0.02


def check_same_method(
    labeler: Labeler, structures: Iterable[Atoms], scratch: Path, files: Sequence[str]
) -> None:
    """Labels one structure anew: files that the method is made of were edited since.

    Args:
        structures: of which some have labels.
        scratch: with a folder for each calculation, as `label_one` has them.
        files: their names, for the message.

    Raises:
        InputError: if the label is another than it was, or cannot be made any more.
    """
    if not any(map(has_label, scratch.glob("c*"))):
        return
    says = f"{', '.join(files)} changed since the labels in {scratch} were computed"
    remedy = "put that back, or begin anew elsewhere: labels of two methods do not go together"
    named = ((scratch / content_key(atoms), atoms) for atoms in structures)
    known, atoms = next((one for one in named if has_label(one[0])), (None, None))
    if known is None or atoms is None:
        raise InputError(f"{says}, and none of them is of a structure that is there now; {remedy}")
    was = read_label(atoms, known)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".again.") as again:
        try:
            now = labeler.label(atoms, Path(again))
        except LabelFailure as failure:
            raise InputError(
                f"{says}, and {known.name}, which had one, gets none any more ({failure.reason}); "
                + remedy
            ) from failure
    energy = abs(now.get_potential_energy() - was.get_potential_energy()) / len(atoms)
    # Of fixed atoms, too: a label has theirs.
    forces = [label.get_forces(apply_constraint=False) for label in (now, was)]
    force = float(np.abs(forces[0] - forces[1]).max())
    if energy > _SAME_ENERGY or force > _SAME_FORCE:
        raise InputError(
            f"{says}, and with it the method: {known.name}, labelled anew, has an energy that "
            f"differs by {1e3 * energy:.3g} meV/atom and forces that differ by up to "
            f"{1e3 * force:.3g} meV/Å; {remedy}"
        )


def write_frames(frames: Sequence[Atoms], path: Path) -> None:
    """Extended XYZ with energy and forces, stress where all labels have it, and the charge and
    multiplicity that a frame was labelled with.

    A file that holds just this is left as it is.
    """
    names = ["energy", "forces"]
    if all("stress" in atoms.calc.results for atoms in frames):
        names.append("stress")
    plain = []
    for atoms in frames:
        frame = Atoms(
            numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
        )
        frame.calc = SinglePointCalculator(frame, **{n: atoms.calc.results[n] for n in names})
        # Whoever labels these frames anew needs to know.
        own = electrons_of(atoms)
        if not own.is_plain(atoms):
            frame.info |= own.as_info()
        frame.info |= OWN_UNITS
        plain.append(frame)
    text = io.StringIO()
    write(text, plain, format="extxyz")
    if not path.is_file() or path.read_text(encoding="utf-8") != text.getvalue():
        write_whole(path, text.getvalue())


def written_frames(path: Path) -> list[Atoms]:
    """What `write_frames` wrote: nothing there is for a reader to judge."""
    return list(read(path, index=":", format="extxyz"))


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


def _check_ours(out: Path, scratch: Path, keys: Mapping[str, str]) -> None:
    """Raises an InputError if a file holds labels of structures that are not asked for.

    Args:
        keys: of what is asked for, by name.
    """
    kept = scratch / _WRITTEN
    written: dict[str, str] = read_json(kept) if kept.is_file() and out.exists() else {}
    asked = set(keys.values())
    others = [name for name, key in written.items() if key not in asked]
    if others:
        raise InputError(
            f"{out} holds {len(others)} labelled frames of other structures (the first: "
            f"{others[0]}), which would be lost: name another output"
        )


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
        InputError: if the file is there and no calculations of it, or of other structures; if
            those that are there are of another method; if a structure has a charge or
            multiplicity that the method cannot take; if no label could be made; whatever
            `make_labeler` raises.
    """
    made, limits = make_labeler(labeler, **options), limits or LabelLimits()
    scratch = out.with_name(out.name + ".labels")
    begun = (scratch / RECORD).is_file() or (scratch / _EARLIER).is_file()
    if out.exists() and not begun:
        raise InputError(f"{out} is there already: remove it, or name another output")
    for name, atoms in structures.items():
        try:
            made.check(atoms)
        except InputError as refused:
            raise InputError(f"{name}: {refused}") from refused
    keys = {name: content_key(atoms) for name, atoms in structures.items()}
    _check_ours(out, scratch, keys)
    names = {key: name for name, key in reversed(keys.items())}
    tasks = {key: (made, structures[name], scratch / key) for key, name in names.items()}
    reasons: dict[str, str] = {}
    labels: dict[str, Atoms] = {}
    asked = {"labeler": labeler, "options": with_files(options)}
    with (
        working_in(
            scratch,
            "label",
            asked,
            resume=True,
            result=lambda: any(scratch.glob(f"*/{_LABEL}")),
            earlier=lambda: _asked_earlier(scratch),
            makes=("c*",),  # see content_key
            remedy="remove it, or name another output",
            edited=lambda files: check_same_method(
                made, structures.values(), scratch, files["options"]
            ),
        ),
        Pool(executor, workers, retries=retries) as pool,
    ):
        console = Console(stderr=True)
        for outcome in track(
            pool.run(label_one, tasks),
            f"Labelling with {made.name}",
            total=len(tasks),
            console=console,
            transient=True,
            disable=not progress,
        ):
            key = outcome.key
            try:
                label = judged(outcome, structures[names[key]], scratch / key, limits)
            except InputError:
                with suppress(OSError):  # not there, or not empty
                    (scratch / key).rmdir()
                raise
            if isinstance(label, Atoms):
                labels[key] = label
            else:
                reasons[key] = label
                say(f"{names[key]}: {label} ({scratch / key})")
        if not labels:
            raise InputError(
                f"no label could be made of {len(structures)} frames; the first: "
                f"{next(iter(reasons.values()))}"
            )
        # The same geometry twice is computed once, and each keeps what it says of itself.
        written = [
            read_label(structures[name], scratch / key)
            for name, key in keys.items()
            if key in labels
        ]
        for frame in written:
            frame.info |= OWN_UNITS
            if "method" in frame.info:  # of the labels that it had before
                frame.info["method"] = made.name
        with replacing(out) as temporary:
            write(temporary, written, format="extxyz")
        inside = {name: key for name, key in keys.items() if key in labels}
        write_whole(scratch / _WRITTEN, json_text(inside))
    failed = {name: reasons[key] for name, key in keys.items() if key in reasons}
    return Labelling(len(written), failed, scratch)


def _asked_earlier(scratch: Path) -> dict[str, Any] | None:
    kept = scratch / _EARLIER
    return read_json(kept) if kept.is_file() else None
