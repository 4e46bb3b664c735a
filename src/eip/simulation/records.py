"""What a run leaves on disk: trajectory, log, last frame, checkpoint.

Whole files are replaced at once; the trajectory and the log grow, and the checkpoint holds how
long they were, so that a continued run cuts off what came after it, half-written lines included.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixConstraint
from ase.io.extxyz import write_xyz

from eip.data.labels import COMMON_NAMES, OWN_UNITS, UNIT_NAMES
from eip.errors import InputError
from eip.files import load_arrays, save_arrays, warn_unchecked
from eip.prediction import Prediction, Quantity, quantities
from eip.run_folder import RECORD
from eip.simulation.annotation import add_predicted

#: Columns of log.csv: eV, Å, eV/Å, fs, K, eV/Å³; empty where a run has no such thing.
LOG_COLUMNS = (
    "step",
    "time_fs",
    "energy",
    "kinetic",
    "temperature",
    "uncertainty",
    "max_force_uncertainty",
    "max_force",
    "energy_bias",
    "bias_work",
    "max_bias_force",
    "closest_distance",
    "drift",
    "volume",
    "pressure",
)

#: 1: the first layout of checkpoint.npz.
CHECKPOINT_FORMAT = 1

_NOT_OF_THE_START = frozenset(
    (
        *(name for names in (COMMON_NAMES | UNIT_NAMES).values() for name in names),
        *(name for of in quantities(Prediction) if not of.internal for name in of.names),
        *(alias for of in quantities(Prediction) for alias in of.aliases),
        *("step", "time_fs", "temperature", "properties", "lattice", "pbc"),
    )
)


@dataclass(frozen=True)
class RunPaths:
    """The files of a run's folder."""

    folder: Path

    @property
    def trajectory(self) -> Path:
        return self.folder / "trajectory.xyz"

    @property
    def log(self) -> Path:
        return self.folder / "log.csv"

    @property
    def last(self) -> Path:
        return self.folder / "last.xyz"

    @property
    def approach(self) -> Path:
        return self.folder / "approach.xyz"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.npz"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def udd(self) -> Path:
        return self.folder / "udd.json"

    @property
    def record(self) -> Path:
        return self.folder / RECORD

    def all(self) -> tuple[Path, ...]:
        return (
            self.trajectory, self.log, self.last, self.approach, self.checkpoint, self.summary,
            self.udd, self.record,
        )  # fmt: skip


def bare(atoms: Atoms) -> Atoms:
    """A copy of geometry, momenta and masses alone."""
    return Atoms(
        # By name: as symbols they would be looked at one by one.
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        momenta=atoms.get_momenta(),
        # Only masses that are not the elements' own: they would be a column of every frame.
        masses=atoms.get_masses() if atoms.has("masses") else None,
    )


def plain_info(atoms: Atoms) -> dict[str, Any]:
    """What a structure says of itself in words and numbers, its labels and predictions not."""
    return {
        key: value
        for key, value in atoms.info.items()
        if isinstance(key, str)
        and isinstance(value, str | bool | int | float | np.generic)
        and key.casefold() not in _NOT_OF_THE_START
    }


def labelled(
    atoms: Atoms,
    results: Mapping[str, Any],
    info: Mapping[str, Any],
    constraints: Sequence[FixConstraint] = (),
    described: Sequence[Quantity] = quantities(Prediction),
) -> Atoms:
    """A frame to be written: unbiased labels, momenta, and what else was predicted.

    Args:
        constraints: of the run. Extended xyz holds those that fix atoms or components of their
            positions, as ``move_mask``: a run that begins from the frame keeps fixed what was.
        described: what the results are.
    """
    frame = bare(atoms)
    # Labels are written as they are: what ASE zeroes for atoms that are held, it zeroes when asked.
    frame.set_constraint(list(constraints))
    labels = {
        name: results[name] for of in described if of.filed for name in of.ase if name in results
    }
    frame.calc = SinglePointCalculator(frame, **labels)
    frame.info |= {**info, **OWN_UNITS}
    add_predicted(frame, results, described)
    return frame


def as_text(frames: Iterable[Atoms]) -> str:
    """Frames in extended XYZ."""
    text = io.StringIO()
    write_xyz(text, list(frames))
    return text.getvalue()


class Recorder:
    """The two files that grow. Every line and frame is flushed when it is written."""

    def __init__(self, paths: RunPaths, lengths: Mapping[str, int] | None = None) -> None:
        """A new record, or with ``lengths`` of the files (see `lengths`) the rest of an old one.

        Raises:
            InputError: if a file of the old record is missing or shorter than it was.
        """
        if lengths is not None:
            for path in (paths.trajectory, paths.log):
                size = path.stat().st_size if path.exists() else 0
                if size < lengths[path.name]:
                    raise InputError(
                        f"cannot continue {paths.folder}: {path.name} has {size} bytes, and had "
                        f"{lengths[path.name]} at the checkpoint"
                    )
                os.truncate(path, lengths[path.name])
        mode = "w" if lengths is None else "a"
        self._trajectory = paths.trajectory.open(mode, encoding="utf-8", newline="")
        self._log = paths.log.open(mode, encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._log, LOG_COLUMNS, lineterminator="\n")
        if lengths is None:
            self._rows.writeheader()
            self._log.flush()

    def log(self, row: Mapping[str, Any]) -> None:
        # float(): NumPy's own would be written with its name.
        plain = {k: repr(float(v)) if isinstance(v, float) else v for k, v in row.items()}
        self._rows.writerow(plain)
        self._log.flush()

    def frame(self, frame: Atoms) -> None:
        self._trajectory.write(as_text([frame]))
        self._trajectory.flush()

    def lengths(self) -> dict[str, int]:
        """Bytes of each file, all of them on disk."""
        sizes = {}
        for handle in (self._trajectory, self._log):
            handle.flush()
            os.fsync(handle.fileno())
            sizes[Path(handle.name).name] = os.fstat(handle.fileno()).st_size
        return sizes

    def close(self) -> None:
        self._trajectory.close()
        self._log.close()


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is: arrays in full precision, all else JSON."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def write(self, path: Path) -> None:
        meta = json.dumps(self.meta | {"format": CHECKPOINT_FORMAT}, allow_nan=False)
        arrays: dict[str, Any] = {"meta": np.array(meta), **self.arrays}
        save_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """
        Raises:
            InputError: if the file is damaged or of a newer version.

        Warns:
            UncheckedFile: if it was written without a checksum.
        """
        try:
            arrays, checked = load_arrays(path)
            meta = json.loads(str(arrays.pop("meta")))
            version = meta["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no readable checkpoint of dynamics: {error}; delete the folder's files "
                f"to start over"
            ) from error
        if version > CHECKPOINT_FORMAT:
            raise InputError(
                f"{path} is a checkpoint of format {version}, this version reads up to "
                f"{CHECKPOINT_FORMAT}: update eip"
            )
        if not checked:
            warn_unchecked(path)
        return cls(arrays, meta)
