"""Extended xyz, ASE databases and whatever else ASE reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.db import connect
from ase.io.formats import filetype, open_with_compression

from eip.data.frame import Frame
from eip.data.labels import Labels, Scales, scales
from eip.data.raw import declared_units, make_frame
from eip.errors import InputError


def read_extxyz(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    numbers = range(*wanted.indices(_count_xyz(path)))
    if len(numbers) == 0:
        return
    window = slice(numbers.start, numbers[-1] + 1, numbers.step)
    stream = _iread(path, "extxyz", window)
    yield from _from_ase(path, labels, zip(numbers, _guarded(stream, path, numbers), strict=True))


def _count_xyz(path: Path) -> int:
    """Frames of an xyz file; an InputError if it is not frames from its first line to its last.

    ASE ends at the first blank line, so without this pass a blank line drops the rest silently.
    """
    frames = line_number = 0
    with open_with_compression(str(path), "r") as file:
        try:
            for line in file:
                line_number += 1
                text = line.strip()
                if not text or (frames and text.startswith("VEC")):
                    if not text and any(rest.strip() for rest in file):
                        raise InputError(
                            f"{path}, line {line_number}: blank line where frame {frames} should "
                            "start"
                        )
                    continue
                if not text.isdigit():
                    raise InputError(
                        f"{path}, line {line_number}: frame {frames} should start with its number "
                        f"of atoms, got '{text[:60]}'"
                    )
                atoms = int(text)
                read = sum(1 for _ in itertools.islice(file, atoms + 1))
                line_number += read
                if read < atoms + 1:
                    raise InputError(
                        f"{path}: frame {frames} is cut off, {max(read - 1, 0)} of {atoms} atoms "
                        "are there"
                    )
                frames += 1
        except (UnicodeDecodeError, EOFError, OSError) as error:
            raise InputError(f"{path}: frame {frames} cannot be read: {error}") from error
    return frames


def read_ase(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    kind = filetype(str(path))

    def atoms() -> Iterator[Atoms]:
        return _guarded(_iread(path, kind, slice(None)), path, itertools.count())

    numbered = enumerate(atoms())
    selected: Iterator[tuple[int, Atoms]]
    if any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop)):
        wanted = slice(*wanted.indices(sum(1 for _ in atoms())))
    selected = itertools.islice(numbered, wanted.start, wanted.stop, wanted.step)
    yield from _from_ase(path, labels, selected)


def _iread(path: Path, kind: str, window: slice) -> Iterator[Atoms]:
    return ase.io.iread(
        str(path), window, format=kind, parallel=False, do_not_split_by_at_sign=True
    )


def _guarded(stream: Iterator[Any], path: Path, numbers: Iterator[int] | range) -> Iterator[Any]:
    """The stream; whatever goes wrong inside it is an InputError with file and frame.

    ASE's readers raise whatever the line they stumble over makes them raise, hence Exception.
    """
    for number in numbers:
        try:
            item = next(stream)
        except StopIteration:
            return
        except Exception as error:
            raise InputError(
                f"{path}#{number} cannot be read: {type(error).__name__}: {error}"
            ) from error
        yield item


def read_database(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    try:
        database = connect(str(path))
        count, metadata = database.count(), dict(database.metadata)
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ASE database: {error}") from error
    numbers = range(*wanted.indices(count))
    if len(numbers) == 0:
        return
    units = metadata.get("_property_unit_dict") or {}
    declared = {
        key: str(unit)
        for key, unit in (
            ("energy", units.get(labels.energy or "energy")),
            ("forces", units.get(labels.forces or "forces")),
            ("stress", units.get(labels.stress or "stress")),
            ("length", metadata.get("_distance_unit")),
        )
        if unit
    }
    rows = database.select(offset=numbers.start, limit=numbers[-1] + 1 - numbers.start)
    rows = itertools.islice(
        _guarded(rows, path, itertools.count(numbers.start)), 0, None, numbers.step
    )

    def with_labels() -> Iterator[tuple[int, Atoms]]:
        for number, row in zip(numbers, rows, strict=True):
            atoms = row.toatoms()
            # Labels of SchNetPack and others are not results of a calculator but data of the row.
            atoms.info = {**row.key_value_pairs, **row.data}
            yield number, atoms

    yield from _from_ase(path, labels, with_labels(), declared)


def _from_ase(
    path: Path,
    labels: Labels,
    numbered: Iterator[tuple[int, Atoms]],
    declared: Mapping[str, str] | None = None,
) -> Iterator[Frame]:
    first = True
    known: dict[tuple[tuple[str, str], ...], Scales] = {}
    for number, atoms in numbered:
        where = f"{path}#{number}"
        # The calculator's own results, not atoms.get_forces(): that one zeroes the forces of
        # atoms that a constraint holds.
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        held = {**atoms.info, **atoms.arrays, **results}
        held = {key: value for key, value in held.items() if value is not None}
        if first:
            labels.demand(held.keys() - {"numbers", "positions"}, where)
            first = False
        said = dict(declared) if declared is not None else declared_units(held)
        units = tuple(said.items())
        if units not in known:
            known[units] = scales(labels, said, where)
        yield make_frame(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            values={
                label: (key, held[key])
                for label in ("energy", "forces", "stress")
                if (key := labels.find(label, held, where)) is not None
            },
            scale=known[units],
            source=where,
        )
