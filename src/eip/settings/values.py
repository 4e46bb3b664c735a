"""Kinds of values that settings have: paths, counts, units, chemical symbols."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from eip.errors import did_you_mean
from eip.plugins import Registry

#: Those of `eip.kernels.choice.VARIANTS`, which a setting can say without PyTorch.
Kernels = Literal["native", "avx512", "avx2", "triton", "reference"]


def _below_config(path: Path, info: Any) -> Path:
    if "\0" in str(path):
        raise ValueError("should be a path, and no path holds a null character")
    base = (info.context or {}).get("base")
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"should be a path ({error})") from None
    # Without the "..", so that errors and tables show the path a person would write.
    return Path(os.path.normpath(Path(base or ".") / path))


def _validation(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)  # "1e-1", which YAML takes for text
        except ValueError:
            return [value]
    if isinstance(value, Path):
        return [value]
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        raise ValueError("should be a fraction (0.1), a number of frames (50) or files")
    if isinstance(value, int | float):
        if not 0 < value < math.inf or (value >= 1 and value != int(value)):
            raise ValueError("should be a fraction between 0 and 1 or a whole number of frames")
        return int(value) if value >= 1 else value
    return value


def _known_unit(kind: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        # Not at the top, as ASE below: settings are read before either is needed.
        from eip.units import UNITS, unit_factor

        if value is not None and unit_factor(kind, str(value)) is None:
            raise ValueError(f"unknown unit: {did_you_mean(str(value), UNITS[kind])}")
        return value

    return BeforeValidator(check)


def _by_symbol(value: Any) -> Any:
    from ase.data import atomic_numbers, chemical_symbols

    if not isinstance(value, dict):
        return value
    out = {}
    for key, energy in value.items():
        if isinstance(key, int) and not isinstance(key, bool) and 0 < key < len(chemical_symbols):
            key = chemical_symbols[key]
        if key not in atomic_numbers or key == "X":
            raise ValueError(
                f"'{key}' is no chemical symbol"
                + (" (put No, nobelium, in quotes)" if key is False else "")
            )
        out[key] = energy
    return out


def _symbols(value: tuple[str, ...]) -> tuple[str, ...]:
    from ase.data import atomic_numbers

    for symbol in value:
        if not atomic_numbers.get(symbol):
            hint = did_you_mean(symbol, list(atomic_numbers)[1:])
            raise ValueError(f"'{symbol}' is no chemical symbol, {hint}")
    return value


def _one_or(several: Any) -> BeforeValidator:
    """A single value stands for a list of one."""
    return BeforeValidator(
        lambda value: [value] if isinstance(value, str | Path | int | float) else value,
        json_schema_input_type=several,
    )


def one_of(registry: Registry) -> AfterValidator:
    """A name that the registry knows; a wrong one is told like that of a fixed choice."""

    def check(name: str) -> str:
        if name not in registry.names():
            choice = {"expected": ", ".join(registry.names())}
            raise PydanticCustomError("literal_error", "should be {expected}", choice)
        return name

    return AfterValidator(check)


#: Relative to the file that names it.
def _perhaps_below_config(value: Any, info: Any) -> Any:
    """Text that names a file beside the configuration, as a path ("calc.py:make" likewise)."""
    base = (info.context or {}).get("base")
    if base is None or not isinstance(value, str):
        return value
    for before, name, after in (("", value, ""), _around_colon(value)):
        if name and not Path(name).is_absolute() and (Path(base) / name).is_file():
            return f"{before}{os.path.abspath(Path(base) / name)}{after}"
    return value


def _around_colon(value: str) -> tuple[str, str, str]:
    """The file of "parsl:site.py" or of "calc.py:make", and what stands before and after it."""
    one, colon, other = value.rpartition(":")
    return (f"{one}{colon}", other, "") if other.endswith(".py") else ("", one, f"{colon}{other}")


#: Text that may name a file, which is looked for beside the configuration first.
PerhapsPath = Annotated[str, AfterValidator(_perhaps_below_config)]
#: Options whose values may name files likewise.
Options = Annotated[
    dict[str, Any],
    AfterValidator(
        lambda given, info: {k: _perhaps_below_config(v, info) for k, v in given.items()}
    ),
]
ConfigPath = Annotated[Path, AfterValidator(_below_config)]
Files = Annotated[list[ConfigPath], _one_or(str | list[str])]
Validation = Annotated[
    int | float | list[ConfigPath],
    BeforeValidator(_validation, json_schema_input_type=float | str | list[str]),
]
EnergyUnit = Annotated[str, _known_unit("energy")]
LengthUnit = Annotated[str, _known_unit("length")]
ForcesUnit = Annotated[str, _known_unit("forces")]
StressUnit = Annotated[str, _known_unit("stress")]
ElementEnergies = Annotated[dict[str, float], BeforeValidator(_by_symbol)]
Symbols = Annotated[tuple[str, ...], AfterValidator(_symbols), _one_or(str | list[str])]
#: K; at least one.
Temperatures = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1), _one_or(float | list[float])
]
#: A number that memory, time or a float cannot hold is a slip.
MOST = 10**9
Count = Annotated[int, Field(le=MOST)]
#: What NumPy and PyTorch both take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
