"""Raw arrays of a file → a frame in eV and Å."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import atomic_numbers as number_of_symbol

from eip.data.electrons import UNSAID, Electrons
from eip.data.frame import Frame
from eip.data.labels import stress_matrix
from eip.data.scales import Scales
from eip.errors import InputError

# Stresses that differ by less are one: of files that round, in eV/Å³ (0.16 GPa) and as a share.
_STRESS_SLACK, _STRESS_SHARE = 1e-3, 0.02
_ASYMMETRY = 0.1


def make_frame(
    *,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    values: Mapping[str, tuple[str, Any]],
    scale: Scales,
    source: str,
    electrons: Electrons = UNSAID,
    group: str | None = None,
    isolated: bool = False,
) -> Frame:
    """A frame in eV and Å from raw arrays.

    Args:
        values: (key, value) for each of energy, forces, stress and virial that there is.

    Raises:
        InputError: if a value is no number, a shape is wrong, a unit has to be asked for, a stress
            is not symmetric, or stress and virial contradict each other; naming frame and key.
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
        forces = _shaped(value, (n, 3), key, source) * _known(scale.forces, key, source)
    if ("stress" in values or "virial" in values) and periodic.all():
        stress = _stress(values, lattice, scale, source)
    return Frame(
        numbers=np.array(numbers, dtype=np.int64),
        positions=_shaped(positions, (n, 3), "positions", source) * length,
        cell=lattice,
        pbc=periodic,
        energy=energy,
        forces=forces,
        stress=stress,
        source=source,
        electrons=electrons,
        group=group,
        isolated=isolated,
    )


def _stress(
    values: Mapping[str, tuple[str, Any]], lattice: np.ndarray, scale: Scales, source: str
) -> np.ndarray:
    """In eV/Å³, of what there is of stress and virial."""
    found = []
    if "stress" in values:
        key, value = values["stress"]
        found.append((key, _symmetric(value, _known(scale.stress, key, source), key, source)))
    if "virial" in values:
        key, value = values["virial"]
        if not found and scale.of_stress:
            raise InputError(
                f"{source}: '{key}' is a virial, −V times the stress, and a unit or sign was given "
                "for a stress: name the key of a stress, or leave stress_unit and stress_sign out "
                "(virial_unit in the file says what a virial is in)"
            )
        volume = abs(np.linalg.det(lattice))
        if volume == 0:
            raise InputError(f"{source}: the cell has no volume: {lattice.tolist()}")
        found.append((key, _symmetric(value, -scale.virial / volume, key, source)))
    (key, stress), (other, beside) = found[0], found[-1]
    if len(found) == 2:
        apart = np.abs(stress - beside)
        i, j = np.unravel_index(int(apart.argmax()), (3, 3))
        if apart[i, j] > _STRESS_SLACK + _STRESS_SHARE * np.abs(stress).max():
            raise InputError(
                f"{source}: '{key}' and '{other}' contradict each other: the {'xyz'[i]}{'xyz'[j]} "
                f"component of stress is {stress[i, j]:.6g} eV/Å³ by '{key}' and "
                f"{beside[i, j] + 0.0:.6g} eV/Å³ by '{other}' (stress = −virial/V); name the one "
                f"to read as the key of stress, '{other}' say, or give stress_unit or stress_sign"
            )
    return stress


def _symmetric(value: Any, factor: float, key: str, source: str) -> np.ndarray:
    stress = _shaped(stress_matrix(value), (3, 3), key, source) * factor
    if not np.isfinite(stress).all():
        raise InputError(f"{source}: {key} is not finite: {np.asarray(value).tolist()}")
    apart = np.abs(stress - stress.T).max()
    if apart > _STRESS_SLACK + _ASYMMETRY * np.abs(stress).max():
        raise InputError(
            f"{source}: '{key}' is not symmetric, as a stress is: {np.asarray(value).tolist()}"
        )
    return 0.5 * (stress + stress.T)


def _known(factor: float | str, key: str, source: str) -> float:
    if isinstance(factor, str):
        raise InputError(f"{source}: '{key}': {factor}")
    return factor


def _shaped(value: Any, shape: tuple[int, ...], key: str, source: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal length
        array = np.array(None)
    if array.dtype.kind not in "iuf":
        expected = f"numbers of shape {shape}" if shape else "one number"
        raise InputError(f"{source}: '{key}' is {str(value)[:60]}, expected {expected}")
    if array.size != math.prod(shape):
        raise InputError(
            f"{source}: '{key}' has shape {np.shape(value)}, expected "
            f"{shape if shape else 'one number'}"
        )
    return array.astype(np.float64, copy=False).reshape(shape)


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
