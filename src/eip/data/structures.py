"""Structures to start from, to label or to analyze: the same door as for reference data.

What a reader refuses of a labelled frame (formats that run what they hold, cells and positions
that cannot be, a count beyond the file) it refuses here, in the same words. But here all that the
file says of a structure beside its labels is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from eip.data.ase_formats import (
    ase_structures,
    database_structures,
    database_units,
    frames_from_ase,
    read_ase,
    read_database,
)
from eip.data.extxyz import ExtxyzReader, read_extxyz
from eip.data.frame import Frame
from eip.data.labels import COMMON_NAMES, Labels
from eip.data.readers import checked, reader_of, slice_of
from eip.data.store import FrameStore, is_store
from eip.errors import InputError

_LABEL_NAMES = frozenset(name.casefold() for names in COMMON_NAMES.values() for name in names)
_LENGTH_UNITS = frozenset({"length_unit", "r_unit"})
_UNITS = _LENGTH_UNITS | {"energy_unit", "e_unit", "forces_unit", "force_unit", "stress_unit"}
_GEOMETRY = frozenset({"numbers", "positions"})


def read_structures(
    path: str | Path, *, index: str | int | slice = ":", labels: Labels | None = None
) -> Iterator[tuple[str, Atoms]]:
    """Streams the structures of a file, of a DeePMD directory or of a store, in Å, checked.

    Args:
        index: which ones, as in ASE: ``":"``, ``"-50:"``, ``7``.
        labels: keys and units of energy, forces and stress, which are then the results of a
            `SinglePointCalculator`, in eV and Å; None: labels are dropped and not looked at.

    Yields:
        The name, ``start.xyz#17``, and the structure with what else the file has of it:
        constraints, momenta and other arrays, and info. Units and labels are not among that: what
        they meant is no more so.

    Raises:
        InputError: as `eip.data.read_frames`, of labels only where they are read.
    """
    path, wanted = Path(path), slice_of(index)
    kept: deque[Atoms] = deque()
    frames = _frames(path, wanted, labels, kept)
    none = True
    for chunk, _ in checked(frames):
        for frame in chunk:
            none = False
            yield frame.source, _structure(frame, kept.popleft() if kept else None, labels)
    if none:
        raise InputError(f"{path}: no frames" + ("" if wanted == slice(None) else f" in {index}"))


def _frames(
    path: Path, wanted: slice, labels: Labels | None, kept: deque[Atoms]
) -> Iterator[Frame]:
    """Frames; of a format that ASE reads, what it made of each is put into ``kept`` beside."""
    if is_store(path):
        store = FrameStore(path)
        return (store[number] for number in range(*wanted.indices(len(store))))
    read = reader_of(path)
    declared = None
    if read is read_extxyz:
        found = ExtxyzReader(path, labels or Labels(), wanted).structures()
    elif read is read_database:
        found = database_structures(path, wanted)
        declared = database_units(path, labels or Labels())
    elif read is read_ase:
        found = ase_structures(path, wanted)
    else:
        return read(path, labels or _NoLabels(), wanted)

    def noted() -> Iterator[tuple[int, Atoms]]:
        for number, atoms in found:
            kept.append(atoms)
            yield number, _geometry(atoms) if labels is None else atoms

    return frames_from_ase(path, labels or Labels(), noted(), declared)


class _NoLabels(Labels):
    """Finds none, so that none is looked at."""

    def find(
        self, label: str, held: Mapping[str, Any], where: str, *, extra: tuple[str, ...] = ()
    ) -> str | None:
        return None


def _geometry(atoms: Atoms) -> Atoms:
    """The structure with nothing but the unit that its lengths are in."""
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {key: value for key, value in atoms.info.items() if key.casefold() in _LENGTH_UNITS}
    return bare


def _structure(frame: Frame, found: Atoms | None, labels: Labels | None) -> Atoms:
    """The frame's geometry, and what else ASE found beside it."""
    atoms = frame.to_atoms()
    if labels is None:
        atoms.calc = None
    if found is None:
        return atoms
    dropped = _LABEL_NAMES | _UNITS
    if labels is not None:
        dropped |= {key for key in (labels.energy, labels.forces, labels.stress) if key}
    for key, array in found.arrays.items():
        if key not in _GEOMETRY and key not in dropped and key.casefold() not in dropped:
            atoms.set_array(key, array)
    atoms.info = {
        key: value
        for key, value in found.info.items()
        if key not in dropped and str(key).casefold() not in dropped
    }
    atoms.set_constraint(found.constraints)
    return atoms
