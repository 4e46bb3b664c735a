"""Frames → a store, some hundreds at a time."""

from __future__ import annotations

import io
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase.data import chemical_symbols

from eip.data.electrons import Electrons
from eip.data.frame import LABELS, Frame
from eip.data.isolated import IsolatedAtoms
from eip.data.store.layout import COLUMNS, PER_ATOM, VERSION, checksums, write_contents
from eip.data.store.reader import FrameStore
from eip.errors import InputError

_NO_STRESS = np.full((3, 3), np.nan)
# Frames are written so many at a time, or so many atoms.
_FRAMES_AT_ONCE, _ATOMS_AT_ONCE = 256, 8192


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
        self._electrons = {Electrons(*said): i for i, said in enumerate(state.get("electrons", ()))}
        self._isolated = IsolatedAtoms(state.get("isolated_atoms", ()))
        self._columns: dict[str, _Column] = {}
        try:
            for name, kind in COLUMNS.items():
                rows = self._rows(name) if state else None
                self._columns[name] = _Column(folder / f"{name}.npy", *kind, rows)
        except BaseException:
            self.close()
            raise
        if not state:
            self._columns["offsets"].append([0])

    def _rows(self, name: str) -> int:
        return self.atoms if name in PER_ATOM else self.frames + (name == "offsets")

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
            "electrons": [[said.charge, said.multiplicity] for said in self._electrons],
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
        groups, sources, electrons = self._groups, self._sources, self._electrons
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
            "electrons": [
                electrons.setdefault(f.electrons, len(electrons)) if f.electrons.as_info() else -1
                for f in frames
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
        sizes = {name: (self._folder / f"{name}.npy").stat().st_size for name in COLUMNS}
        sums = checksums(self._folder, sizes, tick)
        contents = {
            "format": "eip-frames",
            "version": VERSION,
            "units": {"energy": "eV", "length": "Ang"},
            **self.state(),
            "columns": {n: {"bytes": sizes[n], "sha256": sums[n]} for n in sizes},
            **more,
        }
        write_contents(self._folder, contents)
        return contents


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
