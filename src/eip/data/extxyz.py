"""Extended xyz in one pass, frame by frame.

A frame is what ASE takes it for, to the same bits, with what `xyz_comment` says of its comment
line; only the columns that are asked for are converted.

The C parser of libAtoms (extxyz 0.4.6) was tried in November 2026: about three times as fast, as
strict about the atoms' columns, but of two energies it takes the last, of ``energy=T`` a truth, of
``lattice=`` nothing; a file without a cell is periodic to it; it names neither file nor frame, and
a column count of 999999999 ends the process. So this one is ours.
"""

from __future__ import annotations

import io
import itertools
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression

from eip.data.electrons import CHARGE_NAMES, MULTIPLICITY_NAMES, electrons_in
from eip.data.frame import Frame
from eip.data.labels import BY_FILE, GROUP_NAMES, ISOLATED_NAMES, UNIT_NAMES, Labels
from eip.data.raw import make_frame
from eip.data.scales import Scales, declared_units, scales
from eip.data.xyz_columns import (
    Layout,
    check_widths,
    columns_of,
    offsets,
    reals,
    species_of,
    vectors_of,
)
from eip.data.xyz_comment import (
    IPIComment,
    all_pairs,
    cell_of,
    directions_of,
    ipi_comment,
    label_of,
    usual_pairs,
)
from eip.errors import InputError

_PLAIN = "species:S:1:pos:R:3"
_GEOMETRY = ("lattice", "pbc", "properties")
_UNITS = frozenset(itertools.chain.from_iterable(UNIT_NAMES.values()))
_COMPRESSED = (".gz", ".bz2", ".xz")
_BOM = b"\xef\xbb\xbf"
#: Bytes of the shortest line of an atom, and digits of a number of atoms that can be.
_SHORTEST, _MOST_DIGITS = len("H 0 0 0\n"), 18
_KINDS_OF_COMMENTS = 1000

_NO_CELL, _ALL_OR_NONE = np.zeros((3, 3)), (np.full(3, False), np.full(3, True))


class Position(NamedTuple):
    """Where a frame begins: its number, its first byte, and how many lines are before it."""

    frame: int = 0
    offset: int = 0
    line: int = 0


class _Kind(NamedTuple):
    """What is to be read of frames whose comments have the same keys and columns."""

    lattice: str | None
    pbc: str | None
    layout: Layout
    #: Keys for each label, best first; those in the comment, and those that are columns.
    labels: Mapping[str, tuple[str, ...]]
    numeric: tuple[str, ...]
    columns: tuple[str, ...]
    words: tuple[str, ...]


def read_extxyz(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    return iter(ExtxyzReader(path, labels, wanted))


class ExtxyzReader:
    """The frames of a file; ``position`` is that of the frame after the one last handed out.

    Args:
        start: a position that a reader of the same file stood at; ``wanted`` counts from frame 0
            all the same.

    Raises:
        InputError: while reading, if the file is not frames from its first line to its last, or a
            frame cannot be read.
    """

    def __init__(
        self,
        path: Path,
        labels: Labels,
        wanted: slice = slice(None),
        start: Position | None = None,
    ) -> None:
        self._path, self._labels, self._wanted = path, labels, wanted
        self.position = start or Position()
        group = GROUP_NAMES if labels.group is None else (labels.group,)
        self._words = frozenset(
            name.casefold()
            for name in (
                *(*ISOLATED_NAMES, *CHARGE_NAMES, *MULTIPLICITY_NAMES),
                *(() if labels.group == BY_FILE else group),
            )
        )
        self._scales: dict[tuple[tuple[str, str], ...], Scales] = {}
        self._kinds: dict[tuple[str, ...], dict[str, _Kind]] = {}
        self._demanded = False

    def __iter__(self) -> Iterator[Frame]:
        start, stop, step = self._bounds()
        with self._opened() as file:
            if self.position.frame:
                # Keys that the user named must be in the file's first frame.
                for first, _ in itertools.islice(self._blocks(file, Position()), 1):
                    self._frame(0, first)
                file.seek(self.position.offset)
            for block, after in self._blocks(file, self.position):
                number = after.frame - 1
                if stop is not None and number >= stop:
                    return
                frame = None
                if number >= start and (number - start) % step == 0:
                    frame = self._frame(number, block)
                self.position = after
                if frame is not None:
                    yield frame

    def structures(self) -> Iterator[tuple[Frame, Atoms]]:
        """The frames, each with what ASE makes of it: what there is beside geometry and labels."""
        start, stop, step = self._bounds()
        with self._opened() as file:
            for block, after in self._blocks(file, Position()):
                number = after.frame - 1
                if stop is not None and number >= stop:
                    return
                if number >= start and (number - start) % step == 0:
                    yield self._frame(number, block), _by_ase(block, f"{self._path}#{number}")

    def _bounds(self) -> tuple[int, int | None, int]:
        """The first frame that is wanted, the one after the last, and the step."""
        wanted = self._wanted
        if any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop)):
            with self._opened() as file:
                wanted = slice(*wanted.indices(sum(1 for _ in self._blocks(file, Position()))))
        return wanted.start or 0, wanted.stop, wanted.step or 1

    def _opened(self) -> BufferedIOBase:
        return cast(BufferedIOBase, open_with_compression(str(self._path), "rb"))

    def _blocks(self, file: BufferedIOBase, at: Position) -> Iterator[tuple[list[bytes], Position]]:
        """The lines of each frame, and the position after it."""
        path, number, offset, line = self._path, at.frame, at.offset, at.line
        size = None if path.suffix in _COMPRESSED else path.stat().st_size
        ahead: bytes | None = None
        try:
            while True:
                header = file.readline() if ahead is None else ahead
                text = header.strip() if offset else header.removeprefix(_BOM).strip()
                if not text:
                    # ASE ends at a blank line and drops what follows without a word.
                    if header and any(rest.strip() for rest in file):
                        raise InputError(
                            f"{path}, line {line + 1}: blank line where frame {number} should start"
                        )
                    return
                if not text.isdigit():
                    raise InputError(
                        f"{path}, line {line + 1}: frame {number} should start with its number of "
                        f"atoms, got '{text[:60].decode(errors='replace')}'"
                    )
                atoms = int(text[:_MOST_DIGITS])
                left = None if size is None else size - offset - len(header)
                if len(text) > _MOST_DIGITS or (left is not None and atoms * _SHORTEST > left + 1):
                    raise InputError(
                        f"{path}: frame {number} is cut off: it should have {text[:60].decode()} "
                        "atoms, more than what is left of the file can hold"
                    )
                block = [header, *itertools.islice(file, atoms + 1)]
                if len(block) < atoms + 2:
                    raise InputError(
                        f"{path}: frame {number} is cut off, {max(len(block) - 2, 0)} of {atoms} "
                        "atoms are there"
                    )
                ahead = file.readline()
                while ahead.lstrip().startswith(b"VEC"):
                    block.append(ahead)
                    ahead = file.readline()
                number, line = number + 1, line + len(block)
                offset += sum(map(len, block))
                yield block, Position(number, offset, line)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise InputError(f"{path}: frame {number} cannot be read: {error}") from error

    def _frame(self, number: int, block: Sequence[bytes]) -> Frame:
        where = f"{self._path}#{number}"
        try:
            comment, _, body = b"".join(block[1:]).decode().partition("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{where} cannot be read: it is no text in UTF-8 ({error})") from None
        lines, count = body.split("\n"), int(block[0].removeprefix(_BOM))
        if count == 0:
            raise InputError(f"{where}: the frame has no atoms")
        vectors, lines = [line for line in lines[count:] if line], lines[:count]
        pairs, kind = self._kind(comment.strip(), where)
        layout = kind.layout
        rows = [line.split() for line in lines]
        check_widths(rows, layout, where)
        columns = list(zip(*rows, strict=not layout.open_end))
        numbers = species_of(columns, layout, where)
        wanted = {"pos": (layout.pos, 3)} | {name: layout.columns[name] for name in kind.columns}
        taken = [i for first, n in wanted.values() for i in range(first, first + n)]
        real = reals([columns[i] for i in taken], body, where)
        held: dict[str, Any] = {}
        for name, at in zip(kind.columns, offsets(wanted), strict=True):
            held[name] = real[:, at : at + layout.columns[name][1]]
        for key in kind.numeric:
            held[key] = _read(label_of, key, pairs[key], where)
        for key in kind.words:
            held[key] = pairs[key]
        ipi = _ipi(comment, where) if comment.lstrip().startswith("#") else None
        cell, pbc = _geometry(pairs, kind, vectors, ipi, where)
        said = declared_units(held)
        if ipi is not None:
            if ipi.unit is None and self._labels.length_unit is None:
                raise InputError(f"{where} does not say the unit of positions; give length_unit")
            said |= {"length": ipi.unit} if ipi.unit is not None else {}
        units = tuple(said.items())
        if units not in self._scales:
            self._scales[units] = scales(self._labels, said, where)
        return make_frame(
            numbers=numbers,
            positions=real[:, :3],
            cell=cell,
            pbc=pbc,
            values={
                label: (key, held[key])
                for label, key in self._labels.choose(held, where, kind.labels).items()
            },
            scale=self._scales[units],
            source=where,
            electrons=electrons_in(held),
            group=self._labels.find_group(held, where),
            isolated=self._labels.is_isolated(held),
        )

    def _kind(self, comment: str, where: str) -> tuple[Mapping[str, str], _Kind]:
        """The values of a comment line, and what is to be read."""
        pairs = usual_pairs(comment)
        if pairs is None:
            listed = all_pairs(comment)
            pairs = dict(listed)
            if len(pairs) < len(listed):
                self._check_twice(listed, where)
        names = tuple(pairs)
        known = self._kinds.get(names)
        if known is None:
            if len(self._kinds) >= _KINDS_OF_COMMENTS:
                self._kinds.clear()
            known = self._kinds[names] = {}
        declared = next((pairs[k] for k in names if k.casefold() == "properties"), None)
        kind = known.get(declared or "")
        if kind is None:
            kind = known[declared or ""] = self._new_kind(names, declared, where)
        if not self._demanded:
            ours = {kind.lattice, kind.pbc}
            columns = kind.layout.columns.keys() - {"species", "pos"}
            self._labels.demand({*names, *columns} - ours, where)
            self._demanded = True
        return pairs, kind

    def _new_kind(self, names: Sequence[str], declared: str | None, where: str) -> _Kind:
        geometry: dict[str, str] = {}
        for name in names:
            fold = name.casefold()
            if fold in _GEOMETRY:
                if fold in geometry:
                    raise InputError(f"{where} has both '{geometry[fold]}' and '{name}'")
                geometry[fold] = name
        try:
            layout = columns_of(_PLAIN if declared is None else declared, declared is None)
        except ValueError as error:
            raise InputError(f"{where}: Properties are '{str(declared)[:80]}', {error}") from None
        labels = dict(self._labels.candidates([*layout.columns, *names]))
        for label in ("energy", "stress", "virial"):  # of the frame, not of its atoms
            if header := tuple(key for key in labels.get(label, ()) if key in names):
                labels[label] = header
        chosen = [key for keys in labels.values() for key in keys]
        return _Kind(
            lattice=geometry.get("lattice"),
            pbc=geometry.get("pbc"),
            layout=layout,
            labels=labels,
            numeric=tuple(key for key in chosen if key in names),
            columns=tuple(key for key in chosen if key not in names),
            words=tuple(k for k in names if k.casefold() in self._words or k.casefold() in _UNITS),
        )

    def _check_twice(self, listed: Sequence[tuple[str, str]], where: str) -> None:
        """Raises an InputError if a key that is read is there twice."""
        seen: dict[str, str] = {}
        matter = {key for keys in self._labels.candidates(dict(listed)).values() for key in keys}
        for key, value in listed:
            fold = key.casefold()
            if key in seen and (
                key in matter or fold in self._words or fold in _GEOMETRY or fold in _UNITS
            ):
                raise InputError(f"{where} has '{key}' twice, '{seen[key]}' and '{value}'")
            seen[key] = value


def _by_ase(block: Sequence[bytes], where: str) -> Atoms:
    """A frame that was read here without a complaint, by ASE's reader."""
    header, comment, *lines = (line.decode() for line in block)
    # What is read here beyond ASE: other cases of keys, numbers as Fortran writes them.
    for key in ("Properties", "Lattice"):
        comment = re.sub(rf"(?i)(^|\s){key}=", rf"\g<1>{key}=", comment)
    body = re.sub(r"(?<=[0-9.])[dD](?=[+-]?[0-9])", "E", "".join(lines))
    text = (header.removeprefix(_BOM.decode()) + comment + body).replace("\r\n", "\n")
    try:
        atoms = ase.io.read(io.StringIO(text), 0, format="extxyz", parallel=False)
    except Exception as error:  # whatever the line that it stumbles over makes ASE raise
        raise InputError(f"{where} cannot be read: {type(error).__name__}: {error}") from error
    assert isinstance(atoms, Atoms)
    if comment.startswith("#"):  # i-PI's, whose words are no keys
        atoms.info = {}
    return atoms


def _geometry(
    pairs: Mapping[str, str],
    kind: _Kind,
    vectors: Sequence[str],
    ipi: IPIComment | None,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Cell and periodic directions."""
    if ipi is not None:
        return ipi.cell, _ALL_OR_NONE[True]
    if vectors:
        return vectors_of(vectors, where)
    if kind.lattice is None:
        cell = _NO_CELL
    else:
        cell = _read(cell_of, kind.lattice, pairs[kind.lattice], where)
    if kind.pbc is None:
        return cell, _ALL_OR_NONE[kind.lattice is not None]
    return cell, _read(directions_of, kind.pbc, pairs[kind.pbc], where)


def _ipi(comment: str, where: str) -> IPIComment | None:
    try:
        return ipi_comment(comment.strip())
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _read(convert: Any, key: str, text: str, where: str) -> Any:
    try:
        return convert(text)
    except ValueError as error:
        _refuse(key, text, str(error), where)


def _refuse(key: str, text: str, expected: str, where: str) -> NoReturn:
    raise InputError(f"{where}: '{key}' is '{text[:60]}', expected {expected}")
