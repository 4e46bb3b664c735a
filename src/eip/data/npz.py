"""npz files, MD17-style and periodic, read row by row."""

from __future__ import annotations

import itertools
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eip.data.frame import Frame
from eip.data.labels import BY_FILE, UNIT_NAMES, Labels
from eip.data.raw import atomic_numbers, demand_real, make_frame
from eip.data.scales import declared_units, scales
from eip.errors import InputError
from eip.units import ENERGY_IN_EV

_NPZ_GEOMETRY = {
    "numbers": ("numbers", "atomic_numbers", "nuclear_charges", "z", "Z", "symbols", "species"),
    "positions": ("positions", "coords", "coordinates", "R"),
    "cell": ("cells", "cell", "lattice", "lattices", "box"),
    "pbc": ("pbc",),
}
_NPZ_LABELS = {"energy": ("energies", "E"), "forces": ("F",), "stress": ("stresses",)}
# The published MD17 files say nowhere that they are in kcal/mol; read as eV they would train a
# potential that is wrong by a factor of 23. Their totals are of all electrons, though, and binding
# is a few per mille of those: the sum of free atoms tells the unit.
_MD17_KEYS = ("z", "nuclear_charges")
_MD17_UNIT = (
    "an MD17-style file that does not declare its energy unit; MD17 and rMD17 are in kcal/mol: "
    "give energy_unit='kcal/mol' (or 'eV' if it was converted)"
)
#: Total energies of free atoms, Hartree, to the digits on which density functionals agree.
_FREE_ATOMS = {1: -0.5, 6: -37.8, 7: -54.6, 8: -75.0}
_UNIT_TOLERANCE = 0.03
#: What reading a damaged or hostile archive raises (an encrypted one a RuntimeError).
_DAMAGE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)
#: Deflate makes a byte of at most so many.
_MOST_INFLATED = 1032
_MOST_NAMED = 10


def read_npz(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise InputError(f"{path} is not an npz file: {error}") from error
    with archive:
        arrays: dict[str, _NpzArray] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                continue
            if name in arrays:
                raise InputError(f"{path} holds two arrays named {name}")
            arrays[name] = _NpzArray(path, archive, member)
        columns: dict[str, _NpzArray] = {}
        for what, names in _NPZ_GEOMETRY.items():
            found = next((name for name in names if name in arrays), None)
            if found is not None:
                columns[what] = arrays[found]
            elif what in ("numbers", "positions"):
                there = ", ".join(sorted(arrays)[:_MOST_NAMED]) or "nothing"
                raise InputError(
                    f"{path} holds no {what}: expected one of the arrays {', '.join(names)}, got "
                    f"{there}{', …' if len(arrays) > _MOST_NAMED else ''}"
                )
        cells = _NPZ_GEOMETRY["cell"]
        for name in arrays:
            # A cell that is not read makes a crystal a molecule.
            if name not in cells and name.casefold() in cells:
                raise InputError(
                    f"{path} holds an array '{name}', which is not read: a cell is expected as "
                    f"{' or '.join(cells)}"
                )
        labels.demand(arrays, str(path))
        shapes = {name: array.shape for name, array in arrays.items()}
        keys = labels.choose(shapes, str(path), labels.candidates(shapes, extra=_NPZ_LABELS))
        columns |= {label: arrays[key] for label, key in keys.items()}
        group_key = labels.group if labels.group != BY_FILE else None
        if group_key is not None and group_key in arrays:
            columns["group"] = arrays[group_key]
        n_frames = _npz_frames(path, columns)
        rows = range(*wanted.indices(n_frames))
        said = {name for names in UNIT_NAMES.values() for name in names}
        units = {key: one.text() for key, one in arrays.items() if key.casefold() in said}
        md17 = any(key in arrays for key in _MD17_KEYS)
        declared = declared_units(units)
        if (
            md17
            and not declared
            and labels.energy_unit is None
            and "energy" in columns
            and n_frames
        ):
            first = range(1)
            energy = next(columns["energy"].rows(first))
            numbers = atomic_numbers(next(columns["numbers"].rows(first)), f"{path}#0")
            declared |= _all_electron_unit(np.ravel(numbers), energy)
        unsure = md17 and not keys.keys().isdisjoint(("energy", "forces"))
        scale = scales(labels, declared, str(path), forbid_default=_MD17_UNIT if unsure else "")
        streams = {name: column.rows(rows) for name, column in columns.items()}
        for row in rows:
            source = f"{path}#{row}"
            values = {name: next(stream) for name, stream in streams.items()}
            cell = values.get("cell", np.zeros((3, 3)))
            pbc = values.get("pbc", np.full(3, "cell" in values))
            if not np.isin(pbc, (0, 1)).all():
                raise InputError(f"{source}: pbc should be true and false, got {pbc.tolist()}")
            yield make_frame(
                numbers=atomic_numbers(values["numbers"], source),
                positions=values["positions"],
                cell=np.diag(cell) if cell.shape == (3,) else cell,
                pbc=pbc,
                values={label: (key, values[label]) for label, key in keys.items()},
                scale=scale,
                source=source,
                group=labels.find_group(
                    {str(group_key): values["group"]} if "group" in values else {}, source
                ),
            )


def _all_electron_unit(numbers: np.ndarray, energy: np.ndarray) -> dict[str, str]:
    """The unit of a molecule's total energy, if it is one of all electrons; else nothing."""
    if energy.size != 1 or not set(numbers.tolist()) <= set(_FREE_ATOMS):
        return {}
    atoms = sum(_FREE_ATOMS[int(z)] for z in numbers) * ENERGY_IN_EV["Hartree"]
    for unit in ("kcal/mol", "eV"):
        if abs(float(energy.item()) * ENERGY_IN_EV[unit] / atoms - 1) < _UNIT_TOLERANCE:
            return {"energy": unit}
    return {}


def _npz_frames(path: Path, columns: Mapping[str, _NpzArray]) -> int:
    """The number of frames; marks the arrays that all frames share. Checks types and shapes.

    Nothing but the headers is read, so that what a file declares is believed or refused before it
    is asked for.
    """
    for column in columns.values():
        column.demand_whole()
    positions = columns["positions"]
    shape = positions.shape
    if len(shape) != 3 or shape[2] != 3:
        raise InputError(f"{positions} has shape {shape}, expected (frames, atoms, 3)")
    if shape[1] == 0:
        raise InputError(f"{positions} has shape {shape}: its frames have no atoms")
    if columns["numbers"].dtype.kind not in "US":
        demand_real(columns["numbers"].dtype, str(columns["numbers"]), "symbols or atomic numbers")
    columns["numbers"].shared = len(columns["numbers"].shape) == 1
    if "cell" in columns:
        columns["cell"].shared = columns["cell"].shape in ((3, 3), (3,)) and (
            columns["cell"].shape != (shape[0], 3) or shape[0] != 3
        )
        if columns["cell"].shape == (3, 3) and shape[0] == 3:
            raise InputError(
                f"{path}: the cell has shape (3, 3) and there are 3 frames, so it may be one cell "
                "or three; give shape (3, 3, 3)"
            )
    if "pbc" in columns:
        columns["pbc"].shared = columns["pbc"].shape == (3,)
        if columns["pbc"].dtype.kind not in "biu":
            raise InputError(f"{columns['pbc']} should hold true and false, or 0 and 1")
    for name, column in columns.items():
        if name not in ("numbers", "pbc", "group"):
            demand_real(column.dtype, str(column))
        if not column.shared and column.shape[:1] != shape[:1]:
            raise InputError(
                f"{column} has shape {column.shape}, expected {shape[0]} frames as "
                f"{positions.name} has"
            )
        rows = [tuple(shape[1] if n is None else n for n in row) for row in _ROWS[name]]
        if (column.shape if column.shared else column.shape[1:]) not in rows:
            allowed = rows if column.shared else [(shape[0], *row) for row in rows]
            raise InputError(
                f"{column} has shape {column.shape}, expected {' or '.join(map(str, allowed))}"
            )
    return int(shape[0])


#: Shapes of what a frame has of each, None being the number of its atoms.
_ROWS: dict[str, tuple[tuple[int | None, ...], ...]] = {
    "numbers": ((None,),),
    "positions": ((None, 3),),
    "cell": ((3, 3), (3,)),
    "pbc": ((3,),),
    "energy": ((), (1,)),
    "forces": ((None, 3),),
    "stress": ((3, 3), (6,), (9,)),
    "virial": ((3, 3), (6,), (9,)),
    "group": ((), (1,)),
}


class _NpzArray:
    """An array inside an npz file, read row by row, so that memory holds one row."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self._path, self._archive, self._member = path, archive, member
        self.name = member.filename.removesuffix(".npy")
        self.shared = False
        try:
            with archive.open(member) as file:
                self.shape, self._fortran, self.dtype = self._header(file)
                self._begin = file.tell()
        except Exception as error:  # a header is a Python literal, and its parsers raise anything
            raise InputError(f"{self} cannot be read: {error}") from error

    def __str__(self) -> str:
        return f"{self._path}: array {self.name}"

    def demand_whole(self) -> None:
        """Raises an InputError if it holds objects, or not what its header says."""
        if self.dtype.hasobject:
            raise InputError(f"{self} holds Python objects; refused")
        member = self._member
        declared = math.prod(self.shape) * self.dtype.itemsize
        if min(self.shape, default=0) < 0 or declared != member.file_size - self._begin:
            raise InputError(
                f"{self} is damaged: its shape {self.shape} of {self.dtype} says {declared:,} "
                f"bytes, and there are {member.file_size - self._begin:,}"
            )
        if member.file_size > _MOST_INFLATED * (member.compress_size + 1):
            raise InputError(
                f"{self} is damaged: {member.compress_size:,} compressed bytes cannot be "
                f"{member.file_size:,}"
            )

    @staticmethod
    def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"npy version {version} is not supported")
        return read(file)

    def text(self) -> str:
        """The word that it holds."""
        self.demand_whole()
        if self.dtype.kind not in "US" or math.prod(self.shape) != 1:
            raise InputError(f"{self} should be a word, got {self.dtype} {self.shape}")
        try:
            (value,) = np.ravel(next(self._whole()))
            return value.decode() if isinstance(value, bytes) else str(value)
        except _DAMAGE as error:
            raise InputError(f"{self} is damaged: {error}") from error

    def rows(self, rows: range) -> Iterator[np.ndarray]:
        """The rows asked for; the array as a whole for each where all frames share it."""
        try:
            if self.shared:
                yield from itertools.repeat(np.asarray(next(self._whole())), len(rows))
            elif self._fortran:  # its rows do not lie together
                array = np.asarray(next(self._whole()))
                yield from (array[row] for row in rows)
            else:
                yield from self._stream(rows)
        except _DAMAGE as error:
            raise InputError(f"{self} is damaged: {error}") from error

    def _whole(self) -> Iterator[Any]:
        with self._archive.open(self._member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            yield array[()] if array.ndim == 0 else array

    def _stream(self, rows: range) -> Iterator[np.ndarray]:
        shape = self.shape[1:]
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        with self._archive.open(self._member) as file:
            self._header(file)
            start, last = file.tell(), -1
            for row in rows:
                if row != last + 1:
                    file.seek(start + row * size)
                data = file.read(size)
                if len(data) < size:
                    raise ValueError(f"it ends inside row {row}")
                last = row
                yield np.frombuffer(data, dtype=self.dtype).reshape(shape)
