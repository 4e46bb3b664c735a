"""Structures to start from, to label or to analyze: the same door as for reference data.

What a reader refuses of a labelled frame (formats that run what they hold, cells and positions
that cannot be, a count beyond the file) it refuses here, in the same words. But here all that the
file says of a structure beside its labels is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from ase import Atoms

from eip.data.ase_formats import AtomsReader, frames_from_ase
from eip.data.extxyz import ExtxyzReader, read_extxyz
from eip.data.frame import Frame
from eip.data.labels import COMMON_NAMES, UNIT_NAMES, Labels
from eip.data.readers import checked, reader_of, slice_of
from eip.data.store import FrameStore, is_store
from eip.errors import InputError

#: What is no more so of a structure in Å without its labels; in any case.
_NOT_KEPT = frozenset(
    name for table in (COMMON_NAMES, UNIT_NAMES) for names in table.values() for name in names
)
_GEOMETRY = frozenset({"numbers", "positions"})


def read_structures(
    path: str | Path,
    *,
    index: str | int | slice = ":",
    labels: Labels | None = None,
    elements: tuple[str, ...] | None = None,
) -> Iterator[tuple[str, Atoms]]:
    """Streams the structures of a file, of a DeePMD directory or of a store, in Å, checked.

    Args:
        index: which ones, as in ASE: ``":"``, ``"-50:"``, ``7``.
        labels: keys and units of energy, forces and stress, which are then the results of a
            `SinglePointCalculator`, in eV and Å; None: labels are dropped and not looked at.
        elements: of LAMMPS' types 1, 2, … where there are no ``labels``.

    Yields:
        The name, ``start.xyz#17``, and the structure with what else the file has of it:
        constraints, momenta and other arrays, and info. Labels that are not read and units are
        not among that.

    Raises:
        InputError: as `eip.data.read_frames`, of labels only where they are read.
    """
    path, wanted = Path(path), slice_of(index)
    if labels is None:
        labels = _NoLabels(elements=elements, keep_isolated_atoms=True)
    beside: deque[Atoms] = deque()
    none = True
    for chunk, _ in checked(_frames(path, wanted, labels, beside)):
        for frame in chunk:
            none = False
            yield frame.source, _structure(frame, beside.popleft() if beside else None, labels)
    if none:
        raise InputError(f"{path}: no frames" + ("" if wanted == slice(None) else f" in {index}"))


class _NoLabels(Labels):
    """Finds none, so that none is looked at."""

    def candidates(
        self, names: Iterable[str], *, extra: Mapping[str, tuple[str, ...]] | None = None
    ) -> dict[str, tuple[str, ...]]:
        return {}


def _frames(path: Path, wanted: slice, labels: Labels, beside: deque[Atoms]) -> Iterator[Frame]:
    """Frames; where ASE reads the format, what it made of each is put into ``beside``."""
    if is_store(path):
        store = FrameStore(path)
        return (store[number] for number in range(*wanted.indices(len(store))))
    read = reader_of(path)
    if read is read_extxyz:
        return _with_atoms(ExtxyzReader(path, labels, wanted).structures(), beside)
    if not isinstance(read, AtomsReader):
        return read(path, labels, wanted)
    found, declared = read.structures(path, labels, wanted)

    def noted() -> Iterator[tuple[int, Atoms]]:
        for number, atoms in found:
            beside.append(atoms)
            yield number, atoms

    return frames_from_ase(path, labels, noted(), declared)


def _with_atoms(pairs: Iterator[tuple[Frame, Atoms]], beside: deque[Atoms]) -> Iterator[Frame]:
    for frame, atoms in pairs:
        beside.append(atoms)
        yield frame


def _structure(frame: Frame, found: Atoms | None, labels: Labels) -> Atoms:
    """The frame's geometry and labels, and what else ASE found beside them."""
    atoms = frame.to_atoms()
    if isinstance(labels, _NoLabels):
        atoms.calc = None  # a store's, whose labels are there unasked
    if found is None:
        return atoms
    keep_beside(atoms, found, {labels.energy, labels.forces, labels.stress})
    return atoms


def keep_beside(atoms: Atoms, found: Atoms, labels: Set[str | None] = frozenset()) -> None:
    """Gives a structure the info, arrays and constraints of another of the same atoms.

    Labels under the usual names and units are not among that, nor what is under ``labels``.
    """
    for key, array in found.arrays.items():
        if key not in _GEOMETRY and key not in labels and key.casefold() not in _NOT_KEPT:
            atoms.set_array(key, array)
    atoms.info = {
        key: value
        for key, value in found.info.items()
        if key not in labels and str(key).casefold() not in _NOT_KEPT
    }
    atoms.set_constraint(found.constraints)
