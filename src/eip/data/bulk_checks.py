"""Which of many frames need a closer look: what `checks.check_frame` refuses is among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from eip.data.checks import LIMITS, SAME_SPOT
from eip.data.frame import Frame

# Space is cut into boxes four times as wide as the closest two atoms may come, in four ways, each
# moved against the last by a quarter of a box along all axes. The walls of two ways are further
# apart than such two atoms, so that along each axis they are parted in one way at most: in one of
# the four they share a box. Boxes are still far narrower than bonds.
_WAYS = 4
_BOX = 1.01 * _WAYS * SAME_SPOT
# Cells thinner than this and coordinates larger than this, Å, are left to the closer look.
_THINNEST = 4 * _BOX
_LARGEST = 1e6
_MOST_BOXES = 2**14


def doubtful(frames: Sequence[Frame]) -> Bool[np.ndarray, "frames"]:
    """Frames that may be wrong; one that is not among them passes `checks.check_frame`."""
    n_atoms = np.array([len(frame) for frame in frames])
    suspects = n_atoms == 0
    if len(frames) == 0 or suspects.all():
        return suspects
    owner = np.repeat(np.arange(len(frames)), n_atoms)
    numbers = np.concatenate([frame.numbers for frame in frames])
    positions = np.concatenate([frame.positions for frame in frames])
    cells = np.array([frame.cell for frame in frames])
    pbc = np.array([frame.pbc for frame in frames])
    bad_atoms = (numbers < 1) | (numbers > 118) | ~_finite(positions)
    labelled = [i for i, frame in enumerate(frames) if frame.forces is not None]
    if labelled:
        forces = np.concatenate([f.forces for f in frames if f.forces is not None])
        sound = (np.abs(forces) < LIMITS["forces"]).all(axis=1)
        suspects[np.repeat(labelled, n_atoms[labelled])[~sound]] = True
    energies = np.array([0.0 if frame.energy is None else frame.energy for frame in frames])
    suspects |= ~(np.abs(energies) < LIMITS["energy"] * n_atoms)
    stressed = [i for i, frame in enumerate(frames) if frame.stress is not None]
    if stressed:
        stresses = np.array([frame.stress for frame in frames if frame.stress is not None])
        suspects[stressed] |= ~(np.abs(stresses) < LIMITS["stress"]).all(axis=(1, 2))
    suspects[owner[bad_atoms]] = True
    periodic = pbc.all(axis=1)
    suspects |= pbc.any(axis=1) & ~periodic  # slabs and wires
    suspects |= ~np.isfinite(cells).all(axis=(1, 2))
    sound = periodic & ~suspects
    suspects[sound] = ~(_heights(cells[sound]) >= _THINNEST).all(axis=1)
    suspects[owner[~(np.abs(positions) < _LARGEST).all(axis=1)]] = True
    suspects |= ~(np.abs(cells) < _LARGEST).all(axis=(1, 2))
    for chosen, crowded in ((periodic, _crowded_cells), (~periodic, _crowded)):
        which = np.flatnonzero(chosen & ~suspects)
        atoms = np.isin(owner, which)
        renumbered = np.searchsorted(which, owner[atoms])
        suspects[which[crowded(positions[atoms], renumbered, cells[which])]] = True
    return suspects


def _finite(values: Float64[np.ndarray, "atoms 3"]) -> Bool[np.ndarray, "atoms"]:
    return np.isfinite(values).all(axis=1)


def _heights(cells: Float64[np.ndarray, "frames 3 3"]) -> Float64[np.ndarray, "frames 3"]:
    """Distances between the opposite faces of cells; not a number where there is no volume."""
    normals = np.cross(cells[:, [1, 2, 0]], cells[:, [2, 0, 1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        volume = np.abs((cells[:, 0] * normals[:, 0]).sum(axis=1))
        return volume[:, None] / np.linalg.norm(normals, axis=2)


def _crowded_cells(
    positions: Float64[np.ndarray, "atoms 3"],
    owner: Int64[np.ndarray, "atoms"],
    cells: Float64[np.ndarray, "frames 3 3"],
) -> Int64[np.ndarray, "some"]:
    """Frames, periodic in all directions, in which two atoms share a box."""
    boxes = np.clip(_heights(cells) // _BOX, 1, _MOST_BOXES)
    fractional = np.einsum("ai,aij->aj", positions, np.linalg.inv(cells)[owner])
    fractional -= np.floor(fractional)
    per_atom = boxes[owner]
    return _sharing(
        (np.floor(fractional * per_atom + way / _WAYS) % per_atom for way in range(_WAYS)), owner
    )


def _crowded(
    positions: Float64[np.ndarray, "atoms 3"],
    owner: Int64[np.ndarray, "atoms"],
    cells: Float64[np.ndarray, "frames 3 3"],
) -> Int64[np.ndarray, "some"]:
    """Frames without periodic directions in which two atoms share a box."""
    # Far boxes that come to count as one bring a closer look, nothing worse.
    return _sharing(
        (np.floor(positions / _BOX + way / _WAYS) % _MOST_BOXES for way in range(_WAYS)), owner
    )


def _sharing(
    ways: Iterable[Float64[np.ndarray, "atoms 3"]], owner: Int64[np.ndarray, "atoms"]
) -> Int64[np.ndarray, "some"]:
    found = [np.zeros(0, dtype=np.int64)]
    for way in ways:
        box = way.astype(np.int64)
        keys = owner
        for axis in range(3):
            keys = keys * _MOST_BOXES + box[:, axis]
        keys = np.sort(keys)
        found.append(keys[1:][keys[1:] == keys[:-1]] // _MOST_BOXES**3)
    return np.unique(np.concatenate(found))
