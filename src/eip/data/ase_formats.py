"""Formats that come as ASE's structures: databases, what else ASE reads, what packages add."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.db import connect
from ase.io.formats import filetype

from eip.data import lammps
from eip.data.convergence import unconverged_steps
from eip.data.electrons import electrons_in
from eip.data.formats import Format
from eip.data.frame import Frame, LabelWarning
from eip.data.labels import Labels
from eip.data.raw import make_frame
from eip.data.scales import Scales, declared_units, scales
from eip.errors import InputError

#: Structures with their numbers in the file, and the units that it declares as a whole; None: by
#: each structure's own entries.
Found = tuple[Iterator[tuple[int, Atoms]], Mapping[str, str] | None]


@dataclass(frozen=True)
class AtomsReader:
    """Reads frames of a format that comes as ASE's structures.

    Attributes:
        structures: see `Found`; the slice says which are wanted.
        labelled: the same where labels are read.
    """

    structures: Callable[[Path, Labels, slice], Found]
    labelled: Callable[[Path, Labels, slice], Found] | None = None

    def __call__(self, path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
        read = self.labelled or self.structures
        return frames_from_ase(path, labels, *read(path, labels, wanted))


def registered_format(made: Format) -> AtomsReader:
    """The reader of another package's format."""

    def stream(path: Path) -> Iterator[Atoms]:
        for atoms in made.structures(path):
            if not isinstance(atoms, Atoms):
                raise InputError(f"{type(made).__name__} gave {atoms!r:.60}, no ase.Atoms")
            yield atoms

    def structures(path: Path, labels: Labels, wanted: slice) -> Found:
        return _selected(path, lambda: stream(path), wanted), made.units or None

    return AtomsReader(structures)


def _selected(
    path: Path, read: Callable[[], Iterator[Any]], wanted: slice
) -> Iterator[tuple[int, Atoms]]:
    """Those that are wanted of all that there are, by number."""

    def guarded() -> Iterator[Atoms]:
        return _guarded(read(), path, itertools.count())

    if any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop)):
        wanted = slice(*wanted.indices(sum(1 for _ in guarded())))
    return itertools.islice(enumerate(guarded()), wanted.start, wanted.stop, wanted.step)


def _with_ase(path: Path, labels: Labels, wanted: slice) -> Found:
    kind = filetype(str(path))
    options: dict[str, Any] = {}
    declared: dict[str, str] = {}
    if kind in (*lammps.DUMPS, lammps.DATA):
        options, declared = lammps.reading_options(path, kind, labels)

    def stream() -> Iterator[Any]:
        return ase.io.iread(
            str(path),
            slice(None),
            format=kind,
            parallel=False,
            do_not_split_by_at_sign=True,
            **options,
        )

    selected = _selected(path, stream, wanted)
    if kind in lammps.DUMPS:
        selected = ((number, _without_energy(image)) for number, image in selected)
    return selected, declared or None


def _labelled_with_ase(path: Path, labels: Labels, wanted: slice) -> Found:
    selected, declared = _with_ase(path, labels, wanted)
    failed = unconverged_steps(path, filetype(str(path)))
    if failed:
        selected = _converged(selected, path, failed, labels.skip_unconverged)
    return selected, declared


read_ase = AtomsReader(_with_ase, _labelled_with_ase)


def _converged(
    selected: Iterator[tuple[int, Atoms]], path: Path, failed: Mapping[int, str], skip: bool
) -> Iterator[tuple[int, Atoms]]:
    """Without the steps whose SCF did not converge, or an InputError at the first of them."""
    left_out = []
    for number, image in selected:
        if number not in failed:
            yield number, image
        elif skip:
            left_out.append(number)
        else:
            raise InputError(
                f"{path}#{number}: the SCF of this step did not converge, {failed[number]}, so it "
                "is no label; --skip-unconverged or data.labels.skip_unconverged leaves such "
                f"steps out ({len(failed)} in this file)"
            )
    if left_out:
        named = ", ".join(f"#{number}" for number in left_out[:10])
        more = ", …" if len(left_out) > 10 else ""
        warnings.warn(
            f"{path}: {len(left_out)} steps whose SCF did not converge are left out: {named}{more}",
            LabelWarning,
            stacklevel=2,
        )


def _without_energy(image: Atoms) -> Atoms:
    """ASE gives a dump with forces the energy 0, which LAMMPS never said."""
    if image.calc is not None:
        image.calc.results.pop("energy", None)
    return image


def _guarded(stream: Iterator[Any], path: Path, numbers: Iterator[int] | range) -> Iterator[Any]:
    """The stream; whatever goes wrong inside it is an InputError with file and frame.

    ASE's readers raise whatever the line they stumble over makes them raise, hence Exception.
    """
    for number in numbers:
        try:
            item = next(stream)
        except StopIteration:
            return
        except InputError as error:
            raise InputError(f"{path}#{number}: {error}") from None
        except Exception as error:
            raise InputError(
                f"{path}#{number} cannot be read: {type(error).__name__}: {error}"
            ) from error
        yield item


def _of_database(path: Path, labels: Labels, wanted: slice) -> Found:
    try:
        database = connect(str(path))
        count, metadata = database.count(), dict(database.metadata)
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ASE database: {error}") from error
    numbers = range(*wanted.indices(count))
    units = metadata.get("_property_unit_dict") or {}
    declared = {"length": str(metadata["_distance_unit"])} if metadata.get("_distance_unit") else {}
    named = {name: str(unit) for name, unit in units.items() if unit}
    declared |= {label: named[keys[0]] for label, keys in labels.candidates(named).items()}
    if len(numbers) == 0:
        return iter(()), declared
    rows = database.select(offset=numbers.start, limit=numbers[-1] + 1 - numbers.start)
    rows = itertools.islice(
        _guarded(rows, path, itertools.count(numbers.start)), 0, None, numbers.step
    )

    def with_labels() -> Iterator[tuple[int, Atoms]]:
        for number, row in zip(numbers, rows, strict=True):
            atoms = row.toatoms()
            # Labels of SchNetPack, ISO17 and others are not results of a calculator but key-value
            # pairs (an energy) and data (forces) of the row.
            atoms.info = {**row.key_value_pairs, **row.data}
            yield number, atoms

    return with_labels(), declared


read_database = AtomsReader(_of_database)


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
    candidates: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}
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
        names = tuple(held)
        if names not in candidates:
            candidates[names] = labels.candidates(names)
        yield make_frame(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            values={
                label: (key, held[key])
                for label, key in labels.choose(held, where, candidates[names]).items()
            },
            scale=known[units],
            source=where,
            electrons=electrons_in(held),
            group=labels.find_group(held, where),
            isolated=labels.is_isolated(held),
        )
