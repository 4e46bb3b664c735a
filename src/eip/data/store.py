"""Frames on disk as memory-mapped columns: any size, any order, exact to the last bit.

A store is a directory of ``.npy`` columns, by atom (numbers, positions, forces) and by frame (the
rest), and ``store.json`` with its version and its sources. It is written beside its final name
and renamed when it is whole, so what has the name is complete.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt8

from eip.data.checks import LabelTally, check_require
from eip.data.frame import LABELS, Frame
from eip.data.labels import Labels
from eip.data.readers import stream_frames
from eip.errors import InputError

VERSION = 1
_PER_ATOM: dict[str, tuple[str, tuple[int, ...]]] = {
    "numbers": ("|u1", ()),
    "positions": ("<f8", (3,)),
    "forces": ("<f8", (3,)),
}
_PER_FRAME: dict[str, tuple[str, tuple[int, ...]]] = {
    "offsets": ("<i8", ()),  # frames + 1 entries
    "cell": ("<f8", (3, 3)),
    "pbc": ("|b1", (3,)),
    "energy": ("<f8", ()),
    "stress": ("<f8", (3, 3)),
    "has_energy": ("|b1", ()),
    "has_forces": ("|b1", ()),
    "has_stress": ("|b1", ()),
    "source": ("<i4", ()),
    "source_frame": ("<i8", ()),
}
_COLUMNS = _PER_ATOM | _PER_FRAME


class FrameStore:
    """Frames in a directory; opening reads nothing but the table of contents.

    A label that a frame lacks is False in ``has_energy``, ``has_forces`` or ``has_stress`` and NaN
    in its column. A store that is pickled (to a worker process) opens its files anew.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: dict[str, np.ndarray] = {}
        self._keep_alive: object | None = None
        file = self.path / "store.json"
        try:
            contents = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path} is not a frame store: it has no store.json") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read: {error}") from error
        if not isinstance(contents, dict) or contents.get("format") != "eip-frames":
            raise InputError(f"{file} is not the table of contents of a frame store")
        if contents.get("version") != VERSION:
            raise InputError(
                f"{self.path} is a frame store of version {contents.get('version')}, this eIP "
                f"reads version {VERSION}; convert the source files again"
            )
        try:
            self._frames, self._atoms = int(contents["frames"]), int(contents["atoms"])
            self.elements: tuple[int, ...] = tuple(int(z) for z in contents["elements"])
            self.sources: tuple[str, ...] = tuple(str(s) for s in contents["sources"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is damaged: {error!r}") from error

    @classmethod
    def open(cls, path: str | Path) -> FrameStore:
        """Opens a store.

        Raises:
            InputError: if there is none, it is damaged, or its version is another.
        """
        return cls(path)

    def __len__(self) -> int:
        return self._frames

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": {}, "_keep_alive": None}

    def column(self, name: str) -> np.ndarray:
        """A column, memory-mapped and read-only."""
        if name not in self._columns:
            file = self.path / f"{name}.npy"
            dtype, rest = _COLUMNS[name]
            rows = self._atoms if name in _PER_ATOM else self._frames + (name == "offsets")
            try:
                array = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{file} cannot be read: {error}") from error
            if array.shape != (rows, *rest) or array.dtype != np.dtype(dtype):
                raise InputError(
                    f"{file} is damaged: {array.dtype} {array.shape}, expected {dtype} "
                    f"{(rows, *rest)}"
                )
            self._columns[name] = array
        return self._columns[name]

    @property
    def n_atoms(self) -> Int64[np.ndarray, "frames"]:
        """Atoms of each frame."""
        return np.diff(self.column("offsets"))

    @property
    def energies(self) -> Float64[np.ndarray, "frames"]:
        """Total energies, eV; NaN where there is none."""
        return self.column("energy")

    def has(self, label: str) -> Bool[np.ndarray, "frames"]:
        """Which frames carry "energy", "forces" or "stress"."""
        return self.column(f"has_{check_require((label,))[0]}")

    def source(self, index: int) -> str:
        """The file and frame number that a frame came from."""
        name = self.sources[self.column("source")[index]]
        number = int(self.column("source_frame")[index])
        return name if number < 0 else f"{name}#{number}"

    def __getitem__(self, index: SupportsIndex) -> Frame:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a store with {len(self)} frames")
        index %= len(self)
        start, end = (int(o) for o in self.column("offsets")[index : index + 2])

        def label(name: str, rows: slice | int) -> Any:
            return self.column(name)[rows] if self.column(f"has_{name}")[index] else None

        energy, forces = label("energy", index), label("forces", slice(start, end))
        stress = label("stress", index)
        return Frame(
            numbers=self.column("numbers")[start:end].astype(np.int64),
            positions=np.array(self.column("positions")[start:end]),
            cell=np.array(self.column("cell")[index]),
            pbc=np.array(self.column("pbc")[index]),
            energy=None if energy is None else float(energy),
            forces=None if forces is None else np.array(forces),
            stress=None if stress is None else np.array(stress),
            source=self.source(index),
        )

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    def blocks(
        self, indices: Int[np.ndarray, "frames"] | None = None, *, atoms: int = 500_000
    ) -> Iterator[Int64[np.ndarray, "block"]]:
        """The indices (all frames where None) in runs of about so many atoms, for passes."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        if len(chosen) == 0:
            return
        cumulative = np.cumsum(self.n_atoms[chosen])
        yield from np.split(chosen, np.flatnonzero(np.diff(cumulative // atoms)) + 1)

    def atoms_of(
        self, indices: Int[np.ndarray, "frames"]
    ) -> tuple[Int64[np.ndarray, "atoms"], Int64[np.ndarray, "atoms"]]:
        """Rows of these frames' atoms in the per-atom columns, and whose (0, 1, …) each is."""
        offsets, count = self.column("offsets")[indices], self.n_atoms[indices]
        frame = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(frame)) - np.repeat(np.cumsum(count) - count, count)
        return offsets[frame] + within, frame

    def numbers_of(
        self, indices: Int[np.ndarray, "frames"]
    ) -> tuple[UInt8[np.ndarray, "atoms"], Int64[np.ndarray, "atoms"]]:
        """Atomic numbers of these frames, and whose (0, 1, …) each is."""
        rows, frame = self.atoms_of(indices)
        return np.asarray(self.column("numbers")[rows]), frame


def write_store(frames: Iterable[Frame], path: str | Path) -> FrameStore:
    """Writes frames, one at a time, to a new store.

    Raises:
        InputError: if the path exists, or there are no frames. Nothing is left behind then, nor
            when the frames' source fails.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} exists already; a store is never written over")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        contents = _write_columns(frames, temporary)
        if contents["frames"] == 0:
            raise InputError(f"{path}: there are no frames to write")
        (temporary / "store.json").write_text(json.dumps(contents, indent=1), encoding="utf-8")
        try:
            temporary.rename(path)
        except OSError:
            # Another process that converted the same files was first: theirs is as good.
            if not (path / "store.json").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FrameStore(path)


def _write_columns(frames: Iterable[Frame], folder: Path) -> dict[str, Any]:
    writers = {name: _Column(folder / f"{name}.npy", *kind) for name, kind in _COLUMNS.items()}
    sources: dict[str, int] = {}
    elements: set[int] = set()
    count = atoms = 0
    try:
        writers["offsets"].append(0)
        for frame in frames:
            count, atoms = count + 1, atoms + len(frame)
            elements.update(np.unique(frame.numbers).tolist())
            name, number = _split_source(frame.source)
            nothing = np.full((len(frame), 3), np.nan)
            row = {
                "numbers": frame.numbers,
                "positions": frame.positions,
                "forces": nothing if frame.forces is None else frame.forces,
                "offsets": atoms,
                "cell": frame.cell,
                "pbc": frame.pbc,
                "energy": np.nan if frame.energy is None else frame.energy,
                "stress": np.full((3, 3), np.nan) if frame.stress is None else frame.stress,
                **{f"has_{label}": frame.has(label) for label in LABELS},
                "source": sources.setdefault(name, len(sources)),
                "source_frame": number,
            }
            for key, value in row.items():
                writers[key].append(value)
    finally:
        for writer in writers.values():
            writer.close()
    return {
        "format": "eip-frames",
        "version": VERSION,
        "units": {"energy": "eV", "length": "Ang"},
        "frames": count,
        "atoms": atoms,
        "elements": sorted(elements),
        "sources": list(sources),
    }


def _split_source(source: str) -> tuple[str, int]:
    name, separator, number = source.rpartition("#")
    # Only what is written back the same way ("a#007" is not) may be split.
    if separator and number.isascii() and number.isdigit() and str(int(number)) == number:
        value = int(number)
        if value < 2**63:
            return name, value
    return source, -1


class _Column:
    """A ``.npy`` file that grows; its header, whose length is fixed, is filled in at the end."""

    def __init__(self, path: Path, dtype: str, rest: tuple[int, ...]) -> None:
        self._dtype, self._rest, self._values = np.dtype(dtype), rest, 0
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 (close() closes it)
        self._header(0)
        self._start = self._file.tell()

    def _header(self, rows: int) -> None:
        # NumPy pads the header so that the first axis can grow to any length in place.
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (rows, *self._rest),
            },
        )

    def append(self, values: Any) -> None:
        array = np.ascontiguousarray(values, dtype=self._dtype)
        self._file.write(array.tobytes())
        self._values += array.size

    def close(self) -> None:
        self._file.seek(0)
        self._header(self._values // int(np.prod(self._rest, dtype=np.int64)))
        if self._file.tell() != self._start:
            raise RuntimeError("the .npy header changed its length")
        self._file.close()


def open_frames(
    paths: str | Path | Sequence[str | Path],
    labels: Labels | None = None,
    cache_dir: str | Path | None = None,
    require: Sequence[str] = (),
) -> FrameStore:
    """The frames of files, one file after the other, as a store.

    Files are converted once: the store in ``cache_dir`` is named by the files' paths, sizes and
    times of change and by the labels, and found again. Without ``cache_dir`` it is temporary and
    lives as long as the object. A path that is a store itself is opened.

    Args:
        require: labels that each frame must have, of "energy", "forces", "stress".

    Raises:
        InputError: whatever `readers.read_frames` raises; if there are no paths.

    Warns:
        LabelWarning: if energy or stress is there in some frames only.
    """
    require = check_require(require)
    labels = labels or Labels()
    files = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not files:
        raise InputError("open_frames needs at least one file, got none")
    if len(files) == 1 and (files[0] / "store.json").exists():
        store = FrameStore(files[0])
    else:
        keep_alive = None
        if cache_dir is None:
            keep_alive = tempfile.TemporaryDirectory(prefix="eip-frames-")
            cache_dir = keep_alive.name
        path = Path(cache_dir) / f"{files[0].stem}-{_fingerprint(files, labels)}"
        if (path / "store.json").exists():
            store = FrameStore(path)
        else:
            store = write_store(_convert(files, labels, require), path)
        store._keep_alive = keep_alive
    _check_labels(store, require)
    return store


def _convert(files: list[Path], labels: Labels, require: tuple[str, ...]) -> Iterator[Frame]:
    # The tally is not finished here: what it would warn of is warned of from the store, so that
    # a store from the cache is warned of too.
    tally = LabelTally(require)
    for file in files:
        stored = (file / "store.json").exists()
        for frame in FrameStore(file) if stored else stream_frames(file, labels):
            tally.add({label: frame.has(label) for label in LABELS}, frame.source)
            yield frame


def _check_labels(store: FrameStore, require: tuple[str, ...]) -> None:
    has = {label: store.has(label) for label in LABELS}
    mixed = any(column.any() and not column.all() for column in has.values())
    if not mixed and all(has[label].all() for label in require):
        return
    tally = LabelTally(require)
    for index in range(len(store)):
        tally.add({label: bool(has[label][index]) for label in LABELS}, store.source(index))
    tally.finish()


def _fingerprint(files: list[Path], labels: Labels) -> str:
    """Of the files as they are on disk, cheap however large they are."""
    parts: list[Any] = [VERSION, asdict(labels)]
    for file in files:
        inside = sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]
        for part in inside:
            try:
                state = os.stat(part)
            except OSError:
                continue  # the reader says what is wrong with it, better than we could here
            parts.append([str(part), str(part.resolve()), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
