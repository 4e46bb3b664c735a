"""A store as frames and columns, memory-mapped."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt8

from eip.data.checks import check_require
from eip.data.electrons import UNSAID, Electrons
from eip.data.frame import Frame
from eip.data.isolated import IsolatedAtoms
from eip.data.store.layout import COLUMNS, INDICES, PER_ATOM, SUM, checksums, read_contents
from eip.errors import InputError
from eip.files import json_text, warn_unchecked, write_whole

_READ = tuple(name for name in COLUMNS if name not in INDICES)
#: Which columns were compared with their checksums, and when.
_MARK = ".verified"


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
        contents = read_contents(self.path)
        if "store" in contents:  # a reference to a store elsewhere
            self._folder = Path(contents["store"])
            contents = read_contents(self._folder)
        file = self._folder / "store.json"
        self._sum: str | None = contents.get(SUM)
        try:
            self._frames, self._atoms = int(contents["frames"]), int(contents["atoms"])
            self.elements: tuple[int, ...] = tuple(int(z) for z in contents["elements"])
            self.sources: tuple[str, ...] = tuple(str(s) for s in contents["sources"])
            self.group_names: tuple[str, ...] = tuple(str(g) for g in contents.get("groups", ()))
            self.electrons: tuple[Electrons, ...] = tuple(
                Electrons(*said) for said in contents.get("electrons", ())
            )
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
            if name in INDICES and not self._said(name):  # nobody will ask
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
            found = checksums(self._folder, sizes, tick)
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
        there = [name for name in COLUMNS if (self._folder / f"{name}.npy").is_file()]
        sizes = {name: (self._folder / f"{name}.npy").stat().st_size for name in there}
        return checksums(self._folder, sizes, None)

    def verify_once(self) -> FrameStore:
        """`verify`, unless the same files were found whole before; gives the store itself.

        Raises:
            InputError: if a column is not what was written.

        Warns:
            UncheckedFile: if it was written before there were checksums.
        """
        if not self._about or self._sum is None:
            warn_unchecked(self._folder)
            if not self._about:
                return self
        state = {"contents": self._sum}
        for name in self._about:
            found = (self._folder / f"{name}.npy").stat()
            state[name] = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        mark = self._folder / _MARK
        with suppress(OSError, ValueError):
            if json.loads(mark.read_text(encoding="utf-8")) == state:
                return self
        self.verify()
        with suppress(OSError):  # a store of somebody else: it is read again next time
            write_whole(mark, json_text(state))
        return self

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
            dtype, rest = COLUMNS[name]
            rows = self._atoms if name in PER_ATOM else self._frames + (name == "offsets")
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
        return self._index("group")

    @property
    def said_electrons(self) -> Int64[np.ndarray, "frames"]:
        """What each frame says of its electrons, as an index into ``electrons``; −1: nothing."""
        return self._index("electrons")

    def _said(self, name: str) -> tuple[Any, ...]:
        """The table that a column is an index into."""
        return self.group_names if name == "group" else self.electrons

    def _index(self, name: str) -> Int64[np.ndarray, "frames"]:
        if not self._said(name):  # nor has a store of older date the column
            return np.full(len(self), -1)
        return self.column(name).astype(np.int64)

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
        said = int(self.column("electrons")[index]) if self.electrons else -1
        return Frame(
            numbers=numbers[start:end].astype(np.int64),
            positions=positions[start:end].copy(),
            cell=cell[index].copy(),
            pbc=pbc[index].copy(),
            energy=float(energy[index]) if has_energy[index] else None,
            forces=forces[start:end].copy() if has_forces[index] else None,
            stress=stress[index].copy() if has_stress[index] else None,
            source=name if number < 0 else f"{name}#{number}",
            electrons=self.electrons[said] if said >= 0 else UNSAID,
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
