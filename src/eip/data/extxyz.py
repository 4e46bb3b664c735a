"""Extended xyz in one pass, frame by frame.

The usual frame (species, positions and other columns of numbers; quoted or plain values in the
comment) is read here, with the same conversions as ASE's and so to the same bits. Whatever is not
usual is handed to ASE, a frame at a time: escapes, brackets, atomic numbers in a column, cells as
VEC lines, anything malformed. What a frame means is in either case what ASE takes it for.
"""

from __future__ import annotations

import io
import itertools
import lzma
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, cast

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import open_with_compression

from eip.data.ase_formats import frames_from_ase
from eip.data.frame import LABELS, Frame
from eip.data.labels import BY_FILE, COMMON_NAMES, GROUP_NAMES, Labels, Scales, scales
from eip.data.raw import declared_units, make_frame
from eip.errors import InputError

_UNITS = (
    *("energy_unit", "e_unit", "length_unit", "r_unit"),
    *("forces_unit", "force_unit", "stress_unit"),
)
_PLAIN = "species:S:1:pos:R:3"
_PAIR = re.compile(r"""([^\s"'{}\[\]\\=]+)=(?:"([^"\\]+)"|([^\s"'{}\[\]\\=]+))(?:\s+|$)""")
# No 'nan' nor '1_000': that such things are said to mean the same here is not worth it.
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBERS_ALONE = re.compile(rf"[\s,]*{_NUMBER}(?:[\s,]+{_NUMBER})*[\s,]*", re.ASCII)
_BOOL = {"T": True, "true": True, "True": True, "TRUE": True}
_BOOL |= {"F": False, "false": False, "False": False, "FALSE": False}
# Columns that ASE does not keep under their name, or that say otherwise what the atoms are.
_ODD_COLUMNS = {"Z", "numbers", "symbols", "positions", "move_mask", "initial_charges"}

_NO_CELL, _ALL_OR_NONE = np.zeros((3, 3)), (np.full(3, False), np.full(3, True))


class Position(NamedTuple):
    """Where a frame begins: its number, its first byte, and how many lines are before it."""

    frame: int = 0
    offset: int = 0
    line: int = 0


class _Layout(NamedTuple):
    """The columns of the atoms' lines."""

    width: int
    species: int
    real: tuple[int, ...]
    integer: tuple[int, ...]
    #: First row among the real columns, number of them; by name, "pos" among them.
    parts: Mapping[str, tuple[int, int]]
    names: frozenset[str]


class _Numbers(dict[str, int]):
    """Atomic numbers of symbols as files spell them."""

    def __missing__(self, symbol: str) -> int:
        number = self[symbol] = atomic_numbers[symbol.capitalize()]
        return number


_NUMBERS = _Numbers()


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
        self._label_names = {
            label: frozenset(
                _names(label) if getattr(labels, label) is None else (getattr(labels, label),)
            )
            for label in LABELS
        }
        group = GROUP_NAMES if labels.group is None else (labels.group,)
        self._words = frozenset((*_UNITS, *(() if labels.group == BY_FILE else group)))
        self._numeric = frozenset().union(*self._label_names.values())
        self._scales: dict[tuple[tuple[str, str], ...], Scales] = {}
        self._to_ase: deque[tuple[int, Atoms]] = deque()
        self._by_ase = frames_from_ase(path, labels, iter(self._to_ase.popleft, None))
        self._demanded = False

    def __iter__(self) -> Iterator[Frame]:
        start, stop, step = self._bounds()
        with self._opened() as file:
            if self.position.frame:
                # Keys that the user named must be in the file's first frame: ASE's path asks there.
                for first, _ in itertools.islice(self._blocks(file, Position()), 1):
                    self._read_by_ase(0, first)
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

    def structures(self) -> Iterator[tuple[int, Atoms]]:
        """The frames and their numbers as ASE has them, with all that is no label."""
        start, stop, step = self._bounds()
        with self._opened() as file:
            for block, after in self._blocks(file, Position()):
                number = after.frame - 1
                if stop is not None and number >= stop:
                    return
                if number >= start and (number - start) % step == 0:
                    yield number, self._atoms(number, block)

    def _bounds(self) -> tuple[int, int | None, int]:
        """First frame that is wanted, the one after the last, and the step."""
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
        ahead: bytes | None = None
        try:
            while True:
                header = file.readline() if ahead is None else ahead
                text = header.strip()
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
                atoms = int(text)
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
        if self._demanded:
            frame = self._read_usual(number, block)
            if frame is not None:
                return frame
        return self._read_by_ase(number, block)

    def _read_by_ase(self, number: int, block: Sequence[bytes]) -> Frame:
        self._to_ase.append((number, self._atoms(number, block)))
        self._demanded = True
        return next(self._by_ase)

    def _atoms(self, number: int, block: Sequence[bytes]) -> Atoms:
        try:
            text = b"".join(block).decode().replace("\r\n", "\n")
            atoms = ase.io.read(io.StringIO(text), 0, format="extxyz", parallel=False)
        except Exception as error:  # whatever the line that it stumbles over makes ASE raise
            raise InputError(
                f"{self._path}#{number} cannot be read: {type(error).__name__}: {error}"
            ) from error
        assert isinstance(atoms, Atoms)
        return atoms

    def _read_usual(self, number: int, block: Sequence[bytes]) -> Frame | None:
        """A frame; None if it is not the usual one."""
        try:
            comment, *lines = b"".join(block[1:]).decode().split("\n")
        except UnicodeDecodeError:
            return None
        if lines and not lines[-1]:  # after the last line's end
            lines.pop()
        pairs = _pairs(comment.strip())
        if pairs is None or len(lines) != int(block[0]):
            return None
        layout = _layout(pairs.pop("Properties", _PLAIN))
        if layout is None or not layout.names.isdisjoint(pairs) or not self._may_be(layout):
            return None
        geometry = _geometry(pairs)
        atoms = _columns(lines, layout)
        if geometry is None or atoms is None:
            return None
        numbers, real = atoms
        held: dict[str, Any] = {}
        for key in self._numeric.intersection(pairs):
            if (value := _value(key, pairs[key])) is None:
                return None
            held[key] = value
        for key in self._numeric.intersection(layout.parts):
            first, count = layout.parts[key]
            held[key] = real[:, first : first + count]
        for key in self._words.intersection(pairs):
            held[key] = _word(key, pairs[key])
        where = f"{self._path}#{number}"
        said = declared_units(held)
        units = tuple(said.items())
        if units not in self._scales:
            self._scales[units] = scales(self._labels, said, where)
        values = {}
        for label, names in self._label_names.items():
            found = names.intersection(held)
            key = self._labels.find(label, held, where) if len(found) > 1 else next(iter(found), "")
            if key:
                values[label] = (key, held[key])
        first, count = layout.parts["pos"]
        return make_frame(
            numbers=numbers,
            positions=real[:, first : first + count],
            cell=geometry[0],
            pbc=geometry[1],
            values=values,
            scale=self._scales[units],
            source=where,
            group=self._labels.find_group(held, where),
        )

    def _may_be(self, layout: _Layout) -> bool:
        """Whether what is asked for may stand in such columns."""
        odd = layout.names - layout.parts.keys()
        return self._words.isdisjoint(layout.names) and self._numeric.isdisjoint(odd)


def _names(label: str) -> tuple[str, ...]:
    return COMMON_NAMES[label] + (COMMON_NAMES["virial"] if label == "stress" else ())


def _pairs(comment: str) -> dict[str, str] | None:
    """The values of a comment line as they are written; None if that is not all there is to it."""
    pairs: dict[str, str] = {}
    at = count = 0
    while at < len(comment):
        match = _PAIR.match(comment, at)
        if match is None:
            return None
        key, quoted, plain = match.groups()
        pairs[key] = plain if quoted is None else quoted
        at, count = match.end(), count + 1
    return pairs if len(pairs) == count else None


def _geometry(pairs: dict[str, str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Cell and periodic directions, taken out of the values; to be copied, not changed."""
    lattice, directions = pairs.pop("Lattice", None), pairs.pop("pbc", None)
    cell = _NO_CELL if lattice is None else _cell(lattice)
    pbc = _ALL_OR_NONE[lattice is not None] if directions is None else _directions(directions)
    return None if cell is None or pbc is None else (cell, pbc)


@lru_cache(maxsize=64)
def _cell(text: str) -> np.ndarray | None:
    vectors = _floats(text)
    return np.array(vectors).reshape(3, 3) if vectors and len(vectors) == 9 else None


@lru_cache(maxsize=64)
def _directions(text: str) -> np.ndarray | None:
    words = text.replace(",", " ").split()
    if len(words) != 3 or not all(word in _BOOL for word in words):
        return None
    return np.array([_BOOL[word] for word in words])


def _floats(text: str) -> list[float] | None:
    if _NUMBERS_ALONE.fullmatch(text) is None:
        return None
    return list(map(float, text.replace(",", " ").split()))


def _value(key: str, text: str) -> float | np.ndarray | None:
    """A label of the comment line, in the shape that ASE gives it; None if it is no number."""
    numbers = _floats(text)
    if not numbers:
        return None
    if key in ("stress", "virial"):
        if len(numbers) != 9:
            return None
        matrix = np.array(numbers).reshape(3, 3, order="F")
        if key == "virial":
            return matrix
        return matrix[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return numbers[0] if len(numbers) == 1 else np.array(numbers)


@lru_cache(maxsize=4096)
def _word(key: str, text: str) -> Any:
    return key_val_str_to_dict(f'{key}="{text}"').get(key)


@lru_cache(maxsize=64)
def _layout(properties: str) -> _Layout | None:
    """The columns that a file declares; None if they are not plain ones."""
    fields = properties.split(":")
    if len(fields) % 3 or len(fields) < 6:
        return None
    names, kinds = fields[::3], fields[1::3]
    if not all(re.fullmatch(r"[1-9][0-9]?", count, re.ASCII) for count in fields[2::3]):
        return None
    counts = [int(count) for count in fields[2::3]]
    if len(set(names)) < len(names) or not _ODD_COLUMNS.isdisjoint(names):
        return None
    columns = dict(zip(names, zip(kinds, counts, strict=True), strict=True))
    if columns.get("species") != ("S", 1) or columns.get("pos") != ("R", 3):
        return None
    if not set(kinds) <= set("RISL"):
        return None
    starts = np.cumsum([0, *counts]).tolist()
    spans = {n: range(a, a + c) for n, a, c in zip(names, starts, counts, strict=False)}
    real = [i for name, (kind, _) in columns.items() if kind == "R" for i in spans[name]]
    return _Layout(
        width=starts[-1],
        species=spans["species"][0],
        real=tuple(real),
        integer=tuple(i for n, (kind, _) in columns.items() if kind == "I" for i in spans[n]),
        parts={
            name: (real.index(spans[name][0]), count)
            for name, (kind, count) in columns.items()
            if kind == "R"
        },
        names=frozenset(names),
    )


def _columns(lines: Sequence[str], layout: _Layout) -> tuple[np.ndarray, np.ndarray] | None:
    """Atomic numbers, and the real columns, (atoms, columns); None if a line is not as declared."""
    rows = [line.split() for line in lines]
    if set(map(len, rows)) != {layout.width}:
        return None
    columns = list(zip(*rows, strict=True))
    try:
        numbers = np.array(list(map(_NUMBERS.__getitem__, columns[layout.species])))
        for column in layout.integer:
            np.array(list(map(int, columns[column])), dtype=np.int32)
        words = itertools.chain.from_iterable([columns[column] for column in layout.real])
        real = np.array(list(map(float, words)))
    except (KeyError, ValueError, OverflowError):
        return None
    return numbers, np.ascontiguousarray(real.reshape(len(layout.real), -1).T)
