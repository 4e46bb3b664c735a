"""The lines of the atoms of extended xyz: their columns, elements and numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers

from eip.data.xyz_comment import numbers_of
from eip.errors import InputError


class Layout(NamedTuple):
    """The columns of the atoms' lines: first of them, how many, by name."""

    width: int
    #: Of symbols, and of atomic numbers; one of them may not be there.
    species: int | None
    numbers: int | None
    pos: int
    columns: Mapping[str, tuple[int, int]]
    #: Whether lines may be longer: where nothing was declared.
    open_end: bool


class _Numbers(dict[str, int]):
    """Atomic numbers of symbols as files spell them."""

    def __missing__(self, symbol: str) -> int:
        number = self[symbol] = atomic_numbers[symbol.capitalize()]
        return number


_NUMBERS = _Numbers()


def offsets(wanted: Mapping[str, tuple[int, int]]) -> list[int]:
    """Where the columns of each but the first begin among those that were taken."""
    return np.cumsum([count for _, count in wanted.values()])[:-1].tolist()


@lru_cache(maxsize=64)
def columns_of(properties: str, open_end: bool) -> Layout:
    """The columns that a file declares; a ValueError says what is wrong with them."""
    fields = properties.split(":")
    if len(fields) % 3:
        raise ValueError("expected name:kind:columns for each, as in species:S:1:pos:R:3")
    columns: dict[str, tuple[int, int]] = {}
    folded: dict[str, tuple[int, int, str]] = {}
    width = 0
    for name, kind, count in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if kind not in ("R", "I", "S", "L") or not re.fullmatch("[1-9][0-9]{0,8}", count, re.ASCII):
            raise ValueError(f"'{name}:{kind}:{count}' should be a name, R, I, S or L, a number")
        if name in columns:
            raise ValueError(f"'{name}' is there twice")
        columns[name] = (width, int(count))
        folded[name.casefold()] = (width, int(count), kind)
        width += int(count)
    species = folded.get("species") or folded.get("symbols")
    numbers = folded.get("z") or folded.get("numbers")
    pos = folded.get("pos") or folded.get("positions")
    if pos is None or pos[1:] != (3, "R"):
        raise ValueError("expected pos:R:3 among them")
    if species is not None and species[1:] != (1, "S"):
        raise ValueError("expected species:S:1 among them")
    if numbers is not None and numbers[1:] != (1, "I"):
        raise ValueError("expected Z:I:1 among them")
    if species is None and numbers is None:
        raise ValueError("expected species:S:1 or Z:I:1 among them")
    for name in ("species", "symbols", "z", "numbers", "pos", "positions"):
        for key in [key for key in columns if key.casefold() == name]:
            del columns[key]
    symbols, number = species and species[0], numbers and numbers[0]
    return Layout(width, symbols, number, pos[0], columns, open_end)


def check_widths(rows: Sequence[Sequence[str]], layout: Layout, where: str) -> None:
    """Raises an InputError if a line is not as declared; before anything is made of its width."""
    widths = set(map(len, rows))
    if widths <= {layout.width} or (layout.open_end and min(widths) >= layout.width):
        return
    for atom, row in enumerate(rows):
        if len(row) < layout.width or (len(row) > layout.width and not layout.open_end):
            raise InputError(
                f"{where} cannot be read: the line of atom {atom} has {len(row)} columns, expected "
                f"{layout.width}: '{' '.join(row)[:60]}'"
            )


def species_of(columns: Sequence[Sequence[str]], layout: Layout, where: str) -> np.ndarray:
    """Atomic numbers, of symbols or of numbers; of both where they agree."""
    found = []
    if layout.species is not None:
        words = columns[layout.species]
        try:
            found.append(np.array(list(map(_NUMBERS.__getitem__, words)), dtype=np.int64))
        except KeyError:
            atom = next(i for i, w in enumerate(words) if w.capitalize() not in atomic_numbers)
            hint = "; deuterium is H to a potential" if words[atom] in ("D", "T") else ""
            raise InputError(
                f"{where}: atom {atom} is '{words[atom]}', which is no element{hint}"
            ) from None
    if layout.numbers is not None:
        words = columns[layout.numbers]
        for atom, word in enumerate(words):
            if not re.fullmatch("-?[0-9]{1,9}", word, re.ASCII):
                raise InputError(f"{where}: atom {atom} is '{word}', expected an atomic number")
        found.append(np.array(list(map(int, words)), dtype=np.int64))
    if (found[0] != found[-1]).any():
        atom = int(np.flatnonzero(found[0] != found[-1])[0])
        raise InputError(
            f"{where}: atom {atom} is element {found[0][atom]} by its symbol and {found[-1][atom]} "
            "by its number"
        )
    return found[-1]


def reals(columns: Sequence[Sequence[str]], text: str, where: str) -> np.ndarray:
    """Columns of numbers, (atoms, columns); ``text`` is that of the lines that they are in."""
    try:
        if "_" in text or not text.isascii():  # float() takes 1_0 and other scripts' digits
            raise ValueError
        real = np.array(list(map(float, itertools.chain.from_iterable(columns))))
    except ValueError:
        words = list(itertools.chain.from_iterable(columns))
        try:
            real = np.array(numbers_of(words))
        except ValueError as error:
            position = int(error.args[0])
            raise InputError(
                f"{where} cannot be read: atom {position % len(columns[0])} has "
                f"'{words[position][:40]}' where a number should be"
            ) from None
    return np.ascontiguousarray(real.reshape(len(columns), -1).T)


def vectors_of(lines: Sequence[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Of lines VEC1, VEC2, VEC3 behind the atoms, as ADF has them; as many as are periodic."""
    cell = np.zeros((3, 3))
    for number, line in enumerate(lines):
        name, *words = line.split()
        try:
            if name != f"VEC{number + 1}" or len(words) != 3 or number > 2:
                raise ValueError
            cell[number] = numbers_of(words)
        except ValueError:
            raise InputError(
                f"{where} cannot be read: '{line[:60]}' should be VEC{number + 1} and three numbers"
            ) from None
    return cell, np.arange(3) < len(lines)
