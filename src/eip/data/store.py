"""Frames on disk as memory-mapped columns: any size, any order, exact to the last bit.

A store is a directory of ``.npy`` columns, by atom (numbers, positions, forces) and by frame (the
rest), and ``store.json`` with its version, its sources, the columns' sizes and checksums, and a
checksum of itself. It is written beside its final name and renamed when it is whole, so what has
the name is complete. ``store.json`` is compared with its checksum whenever it is read, the columns
with theirs when `open_frames` first opens them; which files were found whole is kept beside them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import operator
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, SupportsIndex

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float64, Int, Int64, UInt8

from eip.data.checks import LabelTally, check_require
from eip.data.frame import LABELS, Frame
from eip.data.isolated import IsolatedAtoms
from eip.data.labels import Labels
from eip.data.readers import stream_frames
from eip.errors import InputError
from eip.files import json_text, to_json, warn_unchecked, write_whole

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
    "group": ("<i4", ()),  # into the table of groups; -1: none
}
_COLUMNS = _PER_ATOM | _PER_FRAME
# A store of older date has no groups.
_READ = tuple(name for name in _COLUMNS if name != "group")
_NO_STRESS = np.full((3, 3), np.nan)
#: The checksum of store.json in itself; which columns were compared with theirs, and when.
_SUM, _MARK = "sha256", ".verified"
# Frames are written so many at a time, or so many atoms; checksums read blocks of so many bytes.
_FRAMES_AT_ONCE, _ATOMS_AT_ONCE, _BLOCK = 256, 8192, 2**18


def _contents(folder: Path) -> dict[str, Any]:
    """The table of contents of a store, of a version that can be read."""
    file = folder / "store.json"
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is not a frame store: it has no store.json") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(contents, dict) or contents.get("format") != "eip-frames":
        raise InputError(f"{file} is not the table of contents of a frame store")
    if contents.get("version") != VERSION:
        raise InputError(
            f"{folder} is a frame store of version {contents.get('version')}, this eIP "
            f"reads version {VERSION}; convert the source files again"
        )
    if _SUM in contents and contents[_SUM] != _sum(contents):
        raise InputError(f"{file} is damaged: its checksum is not that of what was written")
    return contents


def _write_contents(folder: Path, contents: Mapping[str, Any]) -> None:
    contents = {**contents, _SUM: _sum(contents)}
    write_whole(folder / "store.json", json_text(contents))


def _sum(contents: Mapping[str, Any]) -> str:
    """Checksum of a table of contents."""
    plain = {key: value for key, value in contents.items() if key != _SUM}
    return hashlib.sha256(json.dumps(to_json(plain), sort_keys=True).encode()).hexdigest()


def is_store(path: str | Path) -> bool:
    """Whether a path is a store, by its table of contents."""
    return (Path(path) / "store.json").is_file()


class FrameStore:
    """Frames in a directory; opening reads nothing but the table of contents.

    A label that a frame lacks is False in ``has_energy``, ``has_forces`` or ``has_stress`` and NaN
    in its column. A store that is pickled (to a worker process) opens its files anew.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: dict[str, np.ndarray] = {}
        self._open: tuple[np.ndarray, ...] | None = None
        self._keep_alive: object | None = None
        self._folder = self.path
        contents = _contents(self.path)
        if "store" in contents:  # a reference to a store elsewhere
            self._folder = Path(contents["store"])
            contents = _contents(self._folder)
        file = self._folder / "store.json"
        self._sum: str | None = contents.get(_SUM)
        try:
            self._frames, self._atoms = int(contents["frames"]), int(contents["atoms"])
            self.elements: tuple[int, ...] = tuple(int(z) for z in contents["elements"])
            self.sources: tuple[str, ...] = tuple(str(s) for s in contents["sources"])
            self.group_names: tuple[str, ...] = tuple(str(g) for g in contents.get("groups", ()))
            self._isolated = IsolatedAtoms(contents.get("isolated_atoms", ()))
            self._about: dict[str, Any] = dict(contents.get("columns", {}))
            for name, about in self._about.items():
                self._check_size(name, int(about["bytes"]))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is damaged: {error!r}") from error

    def _check_size(self, name: str, expected: int) -> None:
        file = self._folder / f"{name}.npy"
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            if name == "group" and not self.group_names:  # nobody will ask
                return
            raise InputError(f"{file} is missing, so this store is not whole") from None
        if size != expected:
            raise InputError(
                f"{file} cannot be read: it has {size} bytes, expected {expected}; it was cut off "
                "or changed since it was written"
            )

    def verify(self, tick: Callable[[int, int], None] | None = None) -> None:
        """Compares every column with its checksum: reads the whole store.

        Args:
            tick: is told how many bytes have been read, and of how many.

        Raises:
            InputError: if a column is not what was written, or the store has no checksums.
        """
        if not self._about:
            raise InputError(f"{self.path} has no checksums: it was written by an earlier eIP")
        sizes = {name: int(about["bytes"]) for name, about in self._about.items()}
        try:
            found = _checksums(self._folder, sizes, tick)
        except OSError as error:
            raise InputError(f"{self._folder} cannot be read: {error}") from error
        for name, about in self._about.items():
            if found[name] != about["sha256"]:
                raise InputError(
                    f"{self._folder / name}.npy is altered: its sha256 is {found[name]}, "
                    f"{about['sha256']} when it was written"
                )

    def checksums(self) -> dict[str, str]:
        """The sha256 of each column, by its name: as it was written, where that was kept."""
        if self._about:
            return {name: str(about["sha256"]) for name, about in self._about.items()}
        there = [name for name in _COLUMNS if (self._folder / f"{name}.npy").is_file()]
        sizes = {name: (self._folder / f"{name}.npy").stat().st_size for name in there}
        return _checksums(self._folder, sizes, None)

    def verify_once(self) -> None:
        """`verify`, unless the same files were found whole before.

        Raises:
            InputError: if a column is not what was written.

        Warns:
            UncheckedFile: if it was written before there were checksums.
        """
        if not self._about or self._sum is None:
            warn_unchecked(self._folder)
            if not self._about:
                return
        state = {"contents": self._sum}
        for name in self._about:
            found = (self._folder / f"{name}.npy").stat()
            state[name] = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        mark = self._folder / _MARK
        with suppress(OSError, ValueError):
            if json.loads(mark.read_text(encoding="utf-8")) == state:
                return
        self.verify()
        with suppress(OSError):  # a store of somebody else: it is read again next time
            write_whole(mark, json_text(state))

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
        return {**self.__dict__, "_columns": {}, "_open": None, "_keep_alive": None}

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(file.stat().st_size for file in self._folder.iterdir())

    def column(self, name: str) -> np.ndarray:
        """A column, memory-mapped and read-only."""
        if name not in self._columns:
            file = self._folder / f"{name}.npy"
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
            # As np.memmap each look-up would cost microseconds; it is the same memory.
            self._columns[name] = np.asarray(array)
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

    @property
    def groups(self) -> Int64[np.ndarray, "frames"]:
        """The group of each frame, as an index into ``group_names``; −1 where it has none."""
        if not self.group_names:  # nor has a store of older date the column
            return np.full(len(self), -1)
        return self.column("group").astype(np.int64)

    def source(self, index: int) -> str:
        """The file and frame number that a frame came from."""
        name = self.sources[self.column("source")[index]]
        number = self.column("source_frame")[index]
        return name if number < 0 else f"{name}#{number}"

    def __getitem__(self, index: SupportsIndex) -> Frame:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a store with {len(self)} frames")
        index %= len(self)
        if self._open is None:
            self._open = tuple(self.column(name) for name in _READ)
        numbers, positions, forces, offsets, cell, pbc, energy, stress, *rest = self._open
        has_energy, has_forces, has_stress, source, source_frame = rest
        start, end = offsets[index : index + 2].tolist()
        name, number = self.sources[source[index]], source_frame[index]
        group = int(self.column("group")[index]) if self.group_names else -1
        return Frame(
            numbers=numbers[start:end].astype(np.int64),
            positions=positions[start:end].copy(),
            cell=cell[index].copy(),
            pbc=pbc[index].copy(),
            energy=float(energy[index]) if has_energy[index] else None,
            forces=forces[start:end].copy() if has_forces[index] else None,
            stress=stress[index].copy() if has_stress[index] else None,
            source=name if number < 0 else f"{name}#{number}",
            group=self.group_names[group] if group >= 0 else None,
        )

    @property
    def isolated_atoms(self) -> dict[int, float]:
        """Energies of isolated atoms that the files gave, eV, by atomic number (theory §1: E0)."""
        return self._isolated.energies

    def with_isolated(self) -> Iterator[Frame]:
        """The isolated atoms, then all frames: what another store is to be made of."""
        yield from self._isolated
        yield from self

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
    """Writes frames, some hundreds at a time, to a new store.

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
        with StoreWriter(temporary) as writer:
            for chunk in _chunks(frames):
                writer.append(chunk)
            if writer.frames == 0:
                raise InputError(f"{path}: there are no frames to write{writer.but_isolated()}")
            writer.finish()
        try:
            temporary.rename(path)
        except OSError:
            # Another process that converted the same files was first: theirs is as good.
            if not (path / "store.json").exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FrameStore(path)


def _chunks(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    chunk: list[Frame] = []
    atoms = 0
    for frame in frames:
        chunk.append(frame)
        atoms += len(frame)
        if len(chunk) == _FRAMES_AT_ONCE or atoms >= _ATOMS_AT_ONCE:
            yield chunk
            chunk, atoms = [], 0
    if chunk:
        yield chunk


class StoreWriter:
    """Columns that grow in a folder, which is a store once `finish` has been called.

    Args:
        state: what `state` said of the same folder: what was appended since is cut off, and the
            writer goes on from there.

    Raises:
        InputError: if the folder holds less than the state says.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.frames, self.atoms = int(state.get("frames", 0)), int(state.get("atoms", 0))
        self._folder = folder
        self._elements: set[int] = set(state.get("elements", ()))
        self._sources = {name: i for i, name in enumerate(state.get("sources", ()))}
        self._groups = {name: i for i, name in enumerate(state.get("groups", ()))}
        self._isolated = IsolatedAtoms(state.get("isolated_atoms", ()))
        self._columns: dict[str, _Column] = {}
        try:
            for name, kind in _COLUMNS.items():
                rows = self._rows(name) if state else None
                self._columns[name] = _Column(folder / f"{name}.npy", *kind, rows)
        except BaseException:
            self.close()
            raise
        if not state:
            self._columns["offsets"].append([0])

    def _rows(self, name: str) -> int:
        return self.atoms if name in _PER_ATOM else self.frames + (name == "offsets")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; the folder is no store for that."""
        for column in self._columns.values():
            column.close()

    def state(self) -> dict[str, Any]:
        """What is needed, beside the folder itself, to go on from here; for JSON."""
        return {
            "frames": self.frames,
            "atoms": self.atoms,
            "elements": sorted(self._elements),
            "sources": list(self._sources),
            "groups": list(self._groups),
            **({"isolated_atoms": self._isolated.entries} if len(self._isolated) else {}),
        }

    def but_isolated(self) -> str:
        """The end of an error about a store without frames."""
        if not len(self._isolated):
            return ""
        energies = ", ".join(
            f"{chemical_symbols[z]} {e:.6f} eV" for z, e in self._isolated.energies.items()
        )
        return f": all are isolated atoms ({energies}); name the file beside one of frames"

    def append(self, frames: Sequence[Frame]) -> None:
        """Writes frames behind those that are there; of isolated atoms their energies alone.

        Raises:
            InputError: as `IsolatedAtoms.add`.
        """
        for frame in frames:
            if frame.isolated:
                self._isolated.add(frame)
        frames = [frame for frame in frames if not frame.isolated]
        if not frames:
            return
        sizes = np.array([len(frame) for frame in frames])
        numbers = np.concatenate([frame.numbers for frame in frames])
        origins = [_split_source(frame.source) for frame in frames]
        groups, sources = self._groups, self._sources
        rows: dict[str, Any] = {
            "numbers": numbers,
            "positions": np.concatenate([frame.positions for frame in frames]),
            "forces": np.concatenate(
                [np.full((len(f), 3), np.nan) if f.forces is None else f.forces for f in frames]
            ),
            "offsets": self.atoms + np.cumsum(sizes),
            "cell": [frame.cell for frame in frames],
            "pbc": [frame.pbc for frame in frames],
            "energy": [np.nan if f.energy is None else f.energy for f in frames],
            "stress": [_NO_STRESS if f.stress is None else f.stress for f in frames],
            **{f"has_{label}": [frame.has(label) for frame in frames] for label in LABELS},
            "source": [sources.setdefault(name, len(sources)) for name, _ in origins],
            "source_frame": [number for _, number in origins],
            "group": [
                -1 if f.group is None else groups.setdefault(f.group, len(groups)) for f in frames
            ],
        }
        for name, values in rows.items():
            self._columns[name].append(values)
        self.frames += len(frames)
        self.atoms += int(sizes.sum())
        self._elements.update(np.unique(numbers).tolist())

    def flush(self) -> None:
        """Until this returns, what was appended may be lost if the machine stops."""
        for column in self._columns.values():
            column.flush()

    def finish(self, tick: Callable[[int, int], None] | None = None, **more: Any) -> dict[str, Any]:
        """Makes the folder a store; ``more`` is kept in its table of contents.

        Args:
            tick: is told how many bytes have been summed up, and of how many.
        """
        for name, column in self._columns.items():
            column.write_header(self._rows(name))
        self.flush()
        self.close()
        sizes = {name: (self._folder / f"{name}.npy").stat().st_size for name in _COLUMNS}
        sums = _checksums(self._folder, sizes, tick)
        contents = {
            "format": "eip-frames",
            "version": VERSION,
            "units": {"energy": "eV", "length": "Ang"},
            **self.state(),
            "columns": {n: {"bytes": sizes[n], "sha256": sums[n]} for n in sizes},
            **more,
        }
        _write_contents(self._folder, contents)
        return contents


def _checksums(
    folder: Path, sizes: Mapping[str, int], tick: Callable[[int, int], None] | None
) -> dict[str, str]:
    """The sha256 of each column."""
    total, done = sum(sizes.values()), 0
    sums = {}
    for name in sizes:
        digest = hashlib.sha256()
        with open(folder / f"{name}.npy", "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                done += len(block)
                if tick is not None:
                    tick(done, total)
        sums[name] = digest.hexdigest()
    return sums


def _split_source(source: str) -> tuple[str, int]:
    name, separator, number = source.rpartition("#")
    # Only what is written back the same way ("a#007" is not) may be split.
    if separator and number.isascii() and number.isdigit() and str(int(number)) == number:
        value = int(number)
        if value < 2**63:
            return name, value
    return source, -1


class _Column:
    """A ``.npy`` file that grows; its header, whose length is fixed, is filled in at the end.

    Args:
        rows: cut an existing file down to so many, and go on; a new file where None.
    """

    def __init__(self, path: Path, dtype: str, rest: tuple[int, ...], rows: int | None) -> None:
        self._dtype, self._rest = np.dtype(dtype), rest
        self._start = len(self._header(0))
        if rows is None:
            self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 (close() closes it)
            self._file.write(self._header(0))
            return
        end = self._start + rows * self._dtype.itemsize * math.prod(rest)
        there = path.stat().st_size if path.exists() else 0
        if there < end:
            raise InputError(f"{path} has {there} bytes where {end} should be")
        self._file = open(path, "r+b")  # noqa: SIM115
        self._file.truncate(end)
        self._file.seek(end)

    def _header(self, rows: int) -> bytes:
        # NumPy pads the header so that the first axis can grow to any length in place.
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (rows, *self._rest),
            },
        )
        return header.getvalue()

    def append(self, values: Any) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def write_header(self, rows: int) -> None:
        header = self._header(rows)
        if len(header) != self._start:
            raise RuntimeError("the .npy header changed its length")
        self._file.seek(0)
        self._file.write(header)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def open_frames(
    paths: str | Path | Sequence[str | Path],
    labels: Labels | None = None,
    cache_dir: str | Path | None = None,
    require: Sequence[str] = (),
) -> FrameStore:
    """The frames of files, one file after the other, as a store.

    Files are converted once: the store in ``cache_dir`` is named by the files' names, sizes, times
    of change and ends and by the labels, and found again. Without ``cache_dir`` it is temporary and
    lives as long as the object. A single path that is a store itself is read where it is, and
    ``cache_dir`` gets a reference to it; several are joined by copying.

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
    if len(files) == 1 and is_store(files[0]) and cache_dir is None:
        store = _verified(files[0])
    else:
        keep_alive = None
        if cache_dir is None:
            keep_alive = tempfile.TemporaryDirectory(prefix="eip-frames-")
            cache_dir = keep_alive.name
        cached = [Path(cache_dir) / name for name in cache_names(files, labels)]
        path = next(filter(is_store, cached), cached[0])
        if is_store(path):
            store = _verified(path)
        elif len(files) == 1 and is_store(files[0]):
            store = _refer(path, files[0])
        else:
            store = write_store(_convert(files, labels, require), path)
        store._keep_alive = keep_alive
    _check_labels(store, require)
    return store


def _verified(path: Path) -> FrameStore:
    store = FrameStore(path)
    store.verify_once()
    return store


def _refer(path: Path, store: Path) -> FrameStore:
    """A store that is nothing but where another one is; what is there now is found again."""
    contents = {
        "format": "eip-frames",
        "version": VERSION,
        "store": str(store.resolve()),
        "holds": _verified(store).checksums(),
    }
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        _write_contents(temporary, contents)
        try:
            temporary.rename(path)
        except OSError:
            if not is_store(path):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FrameStore(path)


def _convert(files: list[Path], labels: Labels, require: tuple[str, ...]) -> Iterator[Frame]:
    # The tally is not finished here: what it would warn of is warned of from the store, so that
    # a store from the cache is warned of too.
    tally = LabelTally(require)
    for file in files:
        read = _verified(file).with_isolated() if is_store(file) else stream_frames(file, labels)
        for frame in read:
            if not frame.isolated:
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


def cache_names(files: Sequence[Path], labels: Labels) -> list[str]:
    """Names of the store of files in a cache: ours, then that of earlier versions."""
    return [f"{files[0].stem}-{print_}" for print_ in fingerprints(files, labels)]


def fingerprints(files: Sequence[Path], labels: Labels) -> list[str]:
    """Of the files as they are on disk, cheap however large they are; wherever they are.

    The first is ours; others are what earlier versions made of the same.
    """
    parts: list[Any] = [VERSION, labels.given()]
    for file in files:
        for part, _, size, changed in states(file):
            parts.append([part.relative_to(file.parent).as_posix(), size, changed, _ends(part)])
    before: list[Any] = [VERSION, labels.fingerprint()]
    for file in files:
        before += [[str(part), *state] for part, *state in states(file)]
    return [_digest(parts), _digest(before)]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _ends(file: Path) -> str:
    """Of the file's first and last bytes: clocks of some file systems tick in seconds."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        digest.update(opened.read(_BLOCK))
        opened.seek(max(0, file.stat().st_size - _BLOCK))
        digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]


def states(file: Path) -> Iterator[tuple[Path, str, int, int]]:
    """Path, resolved path, size and time of change of a file, or of each one in a folder."""
    # Without hidden files: which of a store's columns were found whole is none of its content.
    found = (p for p in file.rglob("*") if p.is_file() and not p.name.startswith("."))
    inside = sorted(found) if file.is_dir() else [file]
    for part in inside:
        try:
            state = os.stat(part)
        except OSError:
            continue  # the reader says what is wrong with it, better than we could here
        yield part, str(part.resolve()), state.st_size, state.st_mtime_ns
