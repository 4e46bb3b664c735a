"""The comment line of a frame of extended xyz: keys and values, as text and as numbers.

What a line means is what ASE takes it for, where ASE takes it for what is written: numbers are
numbers (no ``1_0``, no ``T`` for 1), directions are T and F, and a word without a value is a word.
Read beside what ASE reads are Fortran's exponents (``-0.47D+03``), a stress or virial of six
numbers, numbers in brackets, and i-PI's comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from ase.geometry import cellpar_to_cell

from eip.units import unit_factor

_PAIR = re.compile(r"""([^\s"'{}\[\]\\=]+)=(?:"([^"\\]+)"|([^\s"'{}\[\]\\=]+))(?:\s+|$)""")
# Whatever ASE takes for a key with its value: parts in quotes or brackets, escapes, bare letters.
_PARTS = "|".join(
    (
        r'"(?:\\.|[^"\\])*(?:"|\Z)',
        r"'(?:\\.|[^'\\])*(?:'|\Z)",
        r"\{(?:\\.|[^}\\])*(?:\}|\Z)",
        r"\[(?:\\.|[^\]\\])*(?:\]|\Z)",
        r"\\.",
        r"""[^\s"'{\[\\=]""",
    )
)
_TOKEN = re.compile(rf"((?:{_PARTS})+)(?:=((?:{_PARTS}|=)*))?", re.DOTALL)
_PART = re.compile(rf"{_PARTS}|=", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

_DIGITS = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_DIGITS_ALONE = re.compile(rf"[\s,]*{_DIGITS}(?:[\s,]+{_DIGITS})*[\s,]*", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?|nan|inf|infinity)",
    re.ASCII | re.IGNORECASE,
)
_FORTRAN = str.maketrans("dD", "ee")
_BETWEEN = str.maketrans(",[]", "   ")
_TRUE, _FALSE = ("t", "true", "1"), ("f", "false", "0")


def usual_pairs(comment: str) -> dict[str, str] | None:
    """Keys and values of ``key=value key="values"``; None if that is not all there is to it."""
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


def all_pairs(comment: str) -> list[tuple[str, str]]:
    """Keys and values of any comment line, in their order; words without a value left out."""
    found = (match.groups() for match in _TOKEN.finditer(comment))
    return [(_bare(key), _bare(value)) for key, value in found if value is not None]


def _bare(text: str) -> str:
    """Without the quotes, brackets and escapes."""
    parts = []
    for part in _PART.findall(text):
        if part[0] in "\"'{[":
            close = {"{": "}", "[": "]"}.get(part[0], part[0])
            part = part[1:-1] if len(part) > 1 and part[-1] == close else part[1:]
        parts.append(_ESCAPE.sub(r"\1", part))
    return "".join(parts)


def numbers_of(words: Sequence[str]) -> list[float]:
    """Numbers as C and Fortran write them.

    Raises:
        ValueError: if one is none; its argument is the position.
    """
    for position, word in enumerate(words):
        if _NUMBER.fullmatch(word) is None:
            raise ValueError(position)
    return [float(word.translate(_FORTRAN)) for word in words]


@lru_cache(maxsize=64)
def cell_of(text: str) -> np.ndarray:
    """Lattice vectors as rows; to be copied, not changed.

    Raises:
        ValueError: if these are not nine numbers.
    """
    return np.array(_numbers(text, 9, "nine numbers")).reshape(3, 3)


@lru_cache(maxsize=64)
def directions_of(text: str) -> np.ndarray:
    """Periodic directions; to be copied, not changed.

    Raises:
        ValueError: if these are not three of T and F, or one for all.
    """
    words = text.casefold().translate(_BETWEEN).split()
    if len(words) not in (1, 3) or not all(word in _TRUE + _FALSE for word in words):
        raise ValueError("three of T and F")
    return np.array([word in _TRUE for word in words] * (3 // len(words)))


def label_of(text: str) -> float | np.ndarray:
    """A number, or several: nine of them as a matrix.

    Raises:
        ValueError: if they are no numbers, saying what was expected.
    """
    if _DIGITS_ALONE.fullmatch(text):
        values = list(map(float, text.replace(",", " ").split()))
    elif text.startswith("_JSON "):
        try:
            array = np.asarray(json.loads(text.removeprefix("_JSON ")))
        except ValueError:
            raise ValueError("numbers") from None
        if array.dtype.kind not in "if":
            raise ValueError("numbers")
        return array.astype(np.float64)
    else:
        values = _numbers(text, None, "a number")
    if len(values) == 1:
        return values[0]
    return np.array(values).reshape((3, 3) if len(values) == 9 else -1)


def _numbers(text: str, count: int | None, expected: str) -> list[float]:
    words = text.translate(_BETWEEN).split()
    if not words or (count is not None and len(words) != count):
        raise ValueError(expected)
    try:
        return numbers_of(words)
    except ValueError:
        raise ValueError(expected) from None


# --- i-PI ----------------------------------------------------------------------------------------

# CELL(abcABC): a b c α β γ, degrees, or CELL{H}: nine numbers, lattice vectors as columns.
_IPI = re.compile(r"#\s*CELL[({\[](\w+)[)}\]]:\s*([^A-Za-z]*(?:[eE][+-]?[0-9][^A-Za-z]*)*)")
_IPI_QUANTITY = re.compile(r"([A-Za-z_]\w*)\{([^}]*)\}")
_IPI_UNITS = {"atomic_unit": "Bohr", "bohr": "Bohr", "nanometer": "nm"}
_IPI_POSITIONS = ("positions", "x_centroid")


class IPIComment(NamedTuple):
    """The cell, in the unit of the positions, and that unit; None where it is not said."""

    cell: np.ndarray
    unit: str | None


def ipi_comment(comment: str) -> IPIComment | None:
    """What i-PI says of a frame; None if the comment is not one of i-PI's.

    Raises:
        ValueError: if it cannot be read, or is not of positions.
    """
    match = _IPI.match(comment)
    if match is None:
        return None
    form, text = match.groups()
    said = _IPI_QUANTITY.findall(comment, match.end())
    units = {name: _IPI_UNITS.get(unit, unit) for name, unit in said}
    cell_unit = units.pop("cell", None)
    for name in units:
        if name not in _IPI_POSITIONS:
            raise ValueError(f"a file of {name} by i-PI, expected positions")
    unit = next(iter(units.values()), None)
    if form == "abcABC":
        cell = cellpar_to_cell(_numbers(text, 6, "six numbers after CELL(abcABC)"))
    else:
        cell = np.array(_numbers(text, 9, f"nine numbers after CELL{{{form}}}")).reshape(3, 3).T
    if unit != cell_unit:
        of_cell = unit_factor("length", cell_unit or "")
        of_positions = unit_factor("length", unit or "")
        if of_cell is None or of_positions is None:
            raise ValueError(
                f"positions in '{unit}' and a cell in '{cell_unit}' by i-PI, expected atomic_unit, "
                "angstrom or nanometer"
            )
        cell = cell * of_cell / of_positions
    return IPIComment(cell, unit)
