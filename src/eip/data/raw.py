"""Raw arrays of a file → a frame in eV and Å."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import atomic_numbers as number_of_symbol
from ase.stress import voigt_6_to_full_3x3_stress

from eip.data.frame import Frame
from eip.data.labels import Scales
from eip.errors import InputError


def make_frame(
    *,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    values: Mapping[str, tuple[str, Any]],
    scale: Scales,
    source: str,
    group: str | None = None,
) -> Frame:
    """A frame in eV and Å from raw arrays; ``values`` holds (key, value) for each label there is.

    Raises:
        InputError: if a shape is wrong, naming the frame and the key.
    """
    n = len(numbers)
    periodic = np.array(pbc, dtype=bool).reshape(3)
    length = scale.length
    lattice = _shaped(cell, (3, 3), "cell", source) * length
    if not periodic.any():  # a dummy box means nothing
        lattice = np.zeros((3, 3))
    energy = forces = stress = None
    if "energy" in values:
        key, value = values["energy"]
        energy = float(_shaped(value, (), key, source)) * scale.energy
    if "forces" in values:
        key, value = values["forces"]
        forces = _shaped(value, (n, 3), key, source) * scale.forces
    if "stress" in values and periodic.all():
        key, value = values["stress"]
        if np.size(value) == 6:
            value = voigt_6_to_full_3x3_stress(np.ravel(value))
        stress = _shaped(value, (3, 3), key, source)
        if "virial" in key.lower():
            volume = abs(np.linalg.det(lattice))
            if volume == 0:
                raise InputError(f"{source}: the cell has no volume: {lattice.tolist()}")
            stress = -stress * scale.energy / volume
        else:
            stress = stress * scale.stress
    return Frame(
        numbers=np.array(numbers, dtype=np.int64),
        positions=_shaped(positions, (n, 3), "positions", source) * length,
        cell=lattice,
        pbc=periodic,
        energy=energy,
        forces=forces,
        stress=stress,
        source=source,
        group=group,
    )


def _shaped(value: Any, shape: tuple[int, ...], key: str, source: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
        if array.size != math.prod(shape):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"{source}: '{key}' has shape {np.shape(value)}, expected "
            f"{shape if shape else 'one number'}"
        ) from None
    return array.reshape(shape)


def demand_real(dtype: np.dtype, what: str, expected: str = "real numbers") -> None:
    """Raises an InputError unless an array of this type holds real numbers.

    Complex ones would lose a part of themselves, text be read as numbers where it can.
    """
    if dtype.kind not in "fiu":
        found = {"c": "complex numbers", "b": "true and false", "U": "text", "S": "text"}
        raise InputError(
            f"{what} holds {found.get(dtype.kind, f'values of type {dtype}')}, expected {expected}"
        )


def atomic_numbers(values: np.ndarray, source: str) -> np.ndarray:
    """Atomic numbers of symbols, or the numbers themselves."""
    if values.dtype.kind not in "US":
        if values.dtype.kind == "f" and not (values == np.floor(values)).all():
            raise InputError(f"{source}: atomic numbers should be whole, got {values.tolist()[:5]}")
        return values
    symbols = [
        v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.ravel()
    ]
    for position, symbol in enumerate(symbols):
        if symbol not in number_of_symbol:
            raise InputError(f"{source}: atom {position} is '{symbol}', which is no element")
    return np.array([number_of_symbol[symbol] for symbol in symbols], dtype=np.int64)


def declared_units(held: Mapping[str, Any]) -> dict[str, str]:
    """The units that a file declares beside its labels."""
    names = {
        "energy": ("energy_unit", "e_unit"),
        "length": ("length_unit", "r_unit"),
        "forces": ("forces_unit", "force_unit"),
        "stress": ("stress_unit",),
    }
    return {
        kind: str(held[key])
        for kind, keys in names.items()
        for key in keys
        if key in held and isinstance(held[key], str)
    }
