"""Frames in the forms of other packages: extended xyz under their keys, DeePMD's folders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula
from ase.io.extxyz import write_xyz

from eip.data.convert import Progress, Where, check_sources, chunks
from eip.data.extxyz import Position
from eip.data.frame import LABELS, Frame
from eip.data.labels import GROUP_NAMES, OWN_UNITS, Labels
from eip.errors import InputError, did_you_mean
from eip.files import replacing

#: "extxyz": one file; "deepmd": a folder with a system for each composition, as DP-GEN has them.
Form = Literal["extxyz", "deepmd"]
#: Under which keys a package looks for labels in extended xyz.
KEYS: dict[str, dict[str, str]] = {
    "ase": {label: label for label in LABELS},
    "mace": {label: f"REF_{label}" for label in LABELS},
}
_SUFFIXES = (".xyz", ".extxyz")
# Of DeePMD a set holds so many frames at most, and so many atoms are held in memory before the
# sets are written that they fill.
_FRAMES_OF_A_SET, _ATOMS_HELD = 5000, 2_000_000


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        frames, atoms: how many.
        left_out: frames for which a condition does not hold, and of DeePMD's lone atoms that give
            E0, which its folders have no place for.
        labelled: frames with each label.
        systems: folders of DeePMD; none of extended xyz.
    """

    path: Path
    frames: int
    atoms: int
    left_out: int
    labelled: Mapping[str, int]
    systems: tuple[Path, ...] = ()


@dataclass
class _Count:
    frames: int = 0
    atoms: int = 0
    left_out: int = 0
    labelled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))

    def add(self, frame: Frame) -> None:
        self.frames += 1
        self.atoms += len(frame)
        for label in LABELS:
            self.labelled[label] += frame.has(label)


def form_of(out: Path, to: str | None = None) -> Form | None:
    """The form of an output: as asked for, else by its suffix; None: a store.

    Raises:
        InputError: if there is no such form.
    """
    forms = ("store", *get_args(Form))
    if to is not None and to not in forms:
        raise InputError(f"to: '{to}' is no form of frames, {did_you_mean(to, list(forms))}")
    if to is None:
        return "extxyz" if out.suffix.casefold() in _SUFFIXES else None
    return None if to == "store" else to  # type: ignore[return-value]


def export(
    sources: Sequence[str | Path],
    out: str | Path,
    form: Form,
    labels: Labels | None = None,
    where: Where | None = None,
    *,
    keys: str = "ase",
    tick: Callable[[Progress], None] | None = None,
) -> Exported:
    """Frames of files and of stores as another package reads them; in eV, Å, eV/Å, eV/Å³.

    Args:
        labels: keys and units, of all sources that are not stores.
        where: which frames are taken; all where None.
        keys: of extended xyz, one of `KEYS`.
        tick: is told of progress.

    Raises:
        InputError: if ``out`` exists, a source cannot be read, no frame is left, there are no such
            keys, or a frame is periodic in one or two directions, which DeePMD does not know.
    """
    out, where = Path(out), where or Where()
    if keys not in KEYS:
        raise InputError(f"keys: '{keys}' are nobody's, {did_you_mean(keys, list(KEYS))}")
    if form == "deepmd" and keys != "ase":
        raise InputError(
            f"keys={keys} are of extended xyz; DeePMD's folders have names of their own"
        )
    files = check_sources(sources, out)
    if out.exists():
        raise InputError(f"{out} exists already; it is never written over")
    count = _Count()
    frames = _chosen(files, labels or Labels(), where, form == "extxyz", count, tick)
    systems: tuple[Path, ...] = ()
    if form == "extxyz":
        _write_extxyz(frames, out, KEYS[keys])
    else:
        systems = _write_deepmd(frames, out)
    return Exported(out, count.frames, count.atoms, count.left_out, count.labelled, systems)


def _chosen(
    files: Sequence[Path],
    labels: Labels,
    where: Where,
    lone_atoms: bool,
    count: _Count,
    tick: Callable[[Progress], None] | None,
) -> Iterator[Frame]:
    for number, file in enumerate(files):
        for frames, _ in chunks(file, labels, Position()):
            for frame in frames:
                if lone_atoms if frame.isolated else where(frame):
                    count.add(frame)
                    yield frame
                else:
                    count.left_out += 1
            if tick is not None:
                tick(Progress(str(file), number / len(files) or None, count.frames))
    if not count.frames:
        why = f"for '{' '.join(where.conditions)}'" if where.conditions else "as lone atoms"
        raise InputError(f"there are no frames to write, {count.left_out} were left out {why}")


def _write_extxyz(frames: Iterable[Frame], out: Path, keys: Mapping[str, str]) -> None:
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for frame in frames:
            write_xyz(file, _as_atoms(frame, keys))


def _as_atoms(frame: Frame, keys: Mapping[str, str]) -> Atoms:
    """Labels where a reader of the keys looks for them, rather than in a calculator."""
    atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    atoms.info |= {**frame.electrons.as_info(), **OWN_UNITS}
    if frame.energy is not None:
        atoms.info[keys["energy"]] = frame.energy
    if frame.forces is not None:
        atoms.arrays[keys["forces"]] = frame.forces
    if frame.stress is not None:
        atoms.info[keys["stress"]] = frame.stress.reshape(9)
    if frame.group is not None:
        atoms.info[GROUP_NAMES[0]] = frame.group
    if frame.isolated:
        atoms.info["config_type"] = "IsolatedAtom"
    return atoms


@dataclass
class _System:
    """Frames of one composition, boundary and set of labels, with their atoms by element."""

    folder: Path
    numbers: np.ndarray
    periodic: bool
    labels: tuple[str, ...]
    held: list[tuple[Frame, np.ndarray]] = field(default_factory=list)
    sets: int = 0

    def flush(self) -> None:
        if not self.held:
            return
        folder = self.folder / f"set.{self.sets:03d}"
        folder.mkdir(parents=True)
        arrays = {"coord": [f.positions[order].ravel() for f, order in self.held]}
        if self.periodic:
            arrays["box"] = [f.cell.ravel() for f, _ in self.held]
        if "energy" in self.labels:
            arrays["energy"] = [np.array(f.energy) for f, _ in self.held]
        if "forces" in self.labels:
            arrays["force"] = [
                f.forces[order].ravel() for f, order in self.held if f.forces is not None
            ]
        if "stress" in self.labels:
            arrays["virial"] = [
                -f.stress.ravel() * abs(np.linalg.det(f.cell))
                for f, _ in self.held
                if f.stress is not None
            ]
        for name, rows in arrays.items():
            np.save(folder / f"{name}.npy", np.array(rows, dtype=np.float64))
        self.held.clear()
        self.sets += 1

    def finish(self, elements: Sequence[int]) -> None:
        self.flush()
        types = np.searchsorted(elements, self.numbers)
        (self.folder / "type.raw").write_text("".join(f"{kind}\n" for kind in types))
        symbols = [chemical_symbols[z] for z in elements]
        (self.folder / "type_map.raw").write_text("".join(f"{symbol}\n" for symbol in symbols))
        if not self.periodic:
            (self.folder / "nopbc").touch()


def _write_deepmd(frames: Iterable[Frame], out: Path) -> tuple[Path, ...]:
    """A system for each composition; the folder has its name when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / out.name
        systems = _sorted_by_system(frames, folder)
        # One map for all of them: a training's types are those of its systems together.
        elements = sorted({int(z) for system in systems for z in system.numbers})
        for system in systems:
            system.finish(elements)
        folder.rename(out)
    return tuple(out / system.folder.name for system in systems)


def _sorted_by_system(frames: Iterable[Frame], folder: Path) -> list[_System]:
    systems: dict[tuple[object, ...], _System] = {}
    names: dict[str, int] = {}
    held = 0
    for frame in frames:
        if frame.pbc.any() and not frame.pbc.all():
            raise InputError(
                f"{frame.source}: periodic in {frame.pbc.tolist()}; DeePMD's systems are periodic "
                "in all directions or in none"
            )
        order = np.argsort(frame.numbers, kind="stable")
        numbers, labels = frame.numbers[order], tuple(filter(frame.has, LABELS))
        key = (numbers.tobytes(), bool(frame.pbc.all()), labels)
        system = systems.get(key)
        if system is None:
            formula = Formula.from_list([chemical_symbols[z] for z in numbers]).format("metal")
            names[formula] = names.get(formula, 0) + 1
            name = formula if names[formula] == 1 else f"{formula}-{names[formula]}"
            system = _System(folder / name, numbers, bool(frame.pbc.all()), labels)
            systems[key] = system
        system.held.append((frame, order))
        held += len(frame)
        if len(system.held) == _FRAMES_OF_A_SET:
            held -= len(frame) * len(system.held)
            system.flush()
        if held > _ATOMS_HELD:
            for other in systems.values():
                other.flush()
            held = 0
    return list(systems.values())
