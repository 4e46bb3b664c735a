"""What is refused in reference data, frame by frame, and what is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eip.data.frame import LABELS, Frame, LabelWarning
from eip.errors import InputError, MissingLabel, did_you_mean
from eip.neighbors import find_edges

#: Two atoms closer than this are one atom written twice, Å.
SAME_SPOT = 0.05
# Cells of the neighbor search as small as SAME_SPOT are far more than there are atoms (12 ms for
# 21 atoms); at 1 Å nearly no pair is found and the search costs 0.07 ms.
_SEARCH_RADIUS = 1.0
_FRAMES_NAMED = 10

#: Beyond these a number is none of a structure: Å, eV/Å, eV an atom, eV/Å³. All electrons of the
#: heaviest atom are -1.5e6 eV.
LIMITS = {"positions": 1e7, "cell": 1e7, "forces": 1e6, "energy": 1e8, "stress": 1e5}
#: Cells thinner than this, Å, and more atoms than this in a cube of 1 Å are no matter; searched for
#: neighbors they would take all time and memory.
THINNEST_CELL, MOST_ATOMS = 0.3, 30


def check_frame(frame: Frame) -> None:
    """Raises an InputError, naming file, frame and atom, if a frame cannot be learned from.

    Refused: no atoms, atomic numbers outside 1 … 118, anything that is not finite or beyond
    `LIMITS`, two atoms on one spot (periodic images count), periodic directions without a lattice
    vector, cells thinner and atoms denser than any matter.
    """
    if len(frame) == 0:
        raise InputError(f"{frame.source}: the frame has no atoms")
    wrong = np.flatnonzero((frame.numbers < 1) | (frame.numbers > 118))
    if len(wrong):
        raise InputError(
            f"{frame.source}: atom {wrong[0]} has atomic number {frame.numbers[wrong[0]]}, "
            "expected 1 to 118"
        )
    for name in ("positions", "forces"):
        values = getattr(frame, name)
        if values is not None and not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            raise InputError(
                f"{frame.source}: {name} of atom {bad[0]} are not finite: "
                f"{values[bad[0]].tolist()} ({len(bad)} atoms like it)"
            )
    for name in ("cell", "energy", "stress"):
        values = getattr(frame, name)
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{frame.source}: {name} is not finite: {np.asarray(values).tolist()}")
    _check_sizes(frame)
    if len(frame) == 1 and not frame.pbc.any():
        return
    try:
        centers, neighbors, shifts = find_edges(
            frame.positions, frame.cell, frame.pbc.tolist(), _SEARCH_RADIUS
        )
    except ValueError as error:
        raise InputError(f"{frame.source}: {error}") from error
    if len(centers) == 0:
        return
    vectors = frame.positions[neighbors] - frame.positions[centers] + shifts @ frame.cell
    distances = np.linalg.norm(vectors, axis=1)
    closest = int(distances.argmin())
    if distances[closest] < SAME_SPOT:
        image = " (a periodic image)" if shifts[closest].any() else ""
        raise InputError(
            f"{frame.source}: atoms {centers[closest]} and {neighbors[closest]}{image} are on one "
            f"spot, {distances[closest]:.3g} Å apart"
        )


def _check_sizes(frame: Frame) -> None:
    for name, most in LIMITS.items():
        values = getattr(frame, name)
        if values is None:
            continue
        sizes = np.abs(values) / (len(frame) if name == "energy" else 1)
        if sizes.max() > most:
            atom = f" of atom {np.argmax(sizes) // 3}" if name in ("positions", "forces") else ""
            unit = {"forces": "eV/Å", "energy": "eV an atom", "stress": "eV/Å³"}.get(name, "Å")
            raise InputError(
                f"{frame.source}: {name}{atom} cannot be: {sizes.max():.6g} {unit}, expected less "
                f"than {most:g}"
            )
    periodic = frame.cell[frame.pbc]
    for axis, vector in enumerate(periodic):
        others = np.delete(periodic, axis, axis=0)
        # What is left of a vector without the plane of the others is the cell's thickness.
        if len(others):
            vector = vector - others.T @ np.linalg.lstsq(others.T, vector, rcond=None)[0]
        thickness = float(np.linalg.norm(vector))
        # A vector of no length at all has an error of its own.
        if np.linalg.matrix_rank(periodic) == len(periodic) and thickness < THINNEST_CELL:
            raise InputError(
                f"{frame.source}: the cell is {thickness:.3g} Å thin, expected at least "
                f"{THINNEST_CELL} Å: {frame.cell.tolist()}"
            )
    if len(frame) > MOST_ATOMS:
        positions = frame.positions
        if frame.pbc.all():
            volume = abs(float(np.linalg.det(frame.cell)))
            if volume * MOST_ATOMS < len(frame):
                raise InputError(
                    f"{frame.source}: {len(frame)} atoms in a cell of {volume:.3g} Å³ are more "
                    "than can be"
                )
        _, counts = np.unique(np.floor(positions), axis=0, return_counts=True)
        if counts.max() > MOST_ATOMS and not frame.pbc.any():
            raise InputError(
                f"{frame.source}: {counts.max()} atoms are within 1 Å of each other, on one spot "
                "nearly"
            )


def check_require(require: Sequence[str]) -> tuple[str, ...]:
    """The labels asked for, as a tuple; an InputError if one is no label."""
    for label in require:
        if label not in LABELS:
            raise InputError(f"require: unknown label '{label}', {did_you_mean(label, LABELS)}")
    return tuple(require)


def check_labels(frames: Iterable[Frame], require: Sequence[str] = ()) -> Iterator[Frame]:
    """Passes frames on and watches that they are labelled alike.

    Raises:
        InputError: if a label asked for is missing, or forces are there in some frames only.

    Warns:
        LabelWarning: at the end, if energy or stress is there in some frames only.
    """
    tally = LabelTally(check_require(require))
    for frame in frames:
        if not frame.isolated:  # it gives the energy of its element, and need have no forces
            tally.add({label: frame.has(label) for label in LABELS}, frame.source)
        yield frame
    tally.finish()


class LabelTally:
    """Counts, frame by frame, which labels are there."""

    def __init__(self, require: Sequence[str] = ()) -> None:
        self._require = tuple(require)
        self._frames = 0
        self._first: dict[bool, str] = {}
        self._missing: dict[str, list[str]] = {label: [] for label in LABELS}
        self._n_missing = dict.fromkeys(LABELS, 0)

    def add(self, has: dict[str, bool], source: str) -> None:
        """Raises an InputError if this frame lacks what it must have."""
        for label in self._require:
            if not has[label]:
                raise MissingLabel(
                    f"{source} has no {label}, and {label} must be there; if the file holds them "
                    "under another name, give its key",
                    label,
                )
        self._first.setdefault(has["forces"], source)
        if len(self._first) == 2:
            raise InputError(
                f"forces are there in some frames only: {self._first[True]} has them, "
                f"{self._first[False]} has not; a missing force is never taken for zero "
                "(lone atoms of config_type=IsolatedAtom need none)"
            )
        self._frames += 1
        for label in LABELS:
            if not has[label]:
                self._n_missing[label] += 1
                if len(self._missing[label]) < _FRAMES_NAMED:
                    self._missing[label].append(source)

    def finish(self) -> None:
        """Warns of labels that some frames have and others lack."""
        for label in LABELS:
            missing = self._n_missing[label]
            if 0 < missing < self._frames:
                named = ", ".join(self._missing[label])
                more = ", …" if missing > len(self._missing[label]) else ""
                warnings.warn(
                    f"{label} is missing in {missing} of {self._frames} frames and is left out of "
                    f"data sets that hold one of these: {named}{more}",
                    LabelWarning,
                    stacklevel=3,
                )
