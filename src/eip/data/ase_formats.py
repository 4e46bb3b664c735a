"""ASE databases and whatever else ASE reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.db import connect
from ase.io.formats import filetype

from eip.data.frame import LABELS, Frame
from eip.data.labels import COMMON_NAMES, Labels, Scales, scales
from eip.data.raw import declared_units, make_frame
from eip.errors import InputError


def read_ase(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    return frames_from_ase(path, labels, ase_structures(path, wanted))


def ase_structures(path: Path, wanted: slice) -> Iterator[tuple[int, Atoms]]:
    """Structures and their numbers in the file."""
    kind = filetype(str(path))

    def atoms() -> Iterator[Atoms]:
        stream = ase.io.iread(
            str(path), slice(None), format=kind, parallel=False, do_not_split_by_at_sign=True
        )
        return _guarded(stream, path, itertools.count())

    if any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop)):
        wanted = slice(*wanted.indices(sum(1 for _ in atoms())))
    yield from itertools.islice(enumerate(atoms()), wanted.start, wanted.stop, wanted.step)


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
    units = database_units(path, labels)
    return frames_from_ase(path, labels, database_structures(path, wanted), units)


def database_units(path: Path, labels: Labels) -> dict[str, str]:
    """The units that the database's metadata declares (SchNetPack's do)."""
    try:
        metadata = dict(connect(str(path)).metadata)
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ASE database: {error}") from error
    units = metadata.get("_property_unit_dict") or {}
    declared = {"length": str(metadata["_distance_unit"])} if metadata.get("_distance_unit") else {}
    for label in LABELS:
        given = getattr(labels, label)
        names = COMMON_NAMES[label] if given is None else (given,)
        unit = next((units[name] for name in names if units.get(name)), None)
        if unit:
            declared[label] = str(unit)
    return declared


def database_structures(path: Path, wanted: slice) -> Iterator[tuple[int, Atoms]]:
    """Structures and their numbers in the database, counted from 0."""
    try:
        database = connect(str(path))
        count = database.count()
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ASE database: {error}") from error
    numbers = range(*wanted.indices(count))
    if len(numbers) == 0:
        return
    rows = database.select(offset=numbers.start, limit=numbers[-1] + 1 - numbers.start)
    rows = itertools.islice(
        _guarded(rows, path, itertools.count(numbers.start)), 0, None, numbers.step
    )
    for number, row in zip(numbers, rows, strict=True):
        atoms = row.toatoms()
        # Labels of SchNetPack, ISO17 and others are not results of a calculator but key-value
        # pairs (an energy) and data (forces) of the row.
        atoms.info = {**row.key_value_pairs, **row.data}
        yield number, atoms


def frames_from_ase(
    path: Path,
    labels: Labels,
    numbered: Iterator[tuple[int, Atoms]],
    declared: Mapping[str, str] | None = None,
) -> Iterator[Frame]:
    """Frames of numbered structures.

    Args:
        declared: units that the file declares; by each structure's own entries where None.
    """
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
            group=labels.find_group(held, where),
        )
