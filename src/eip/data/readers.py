"""Files → frames in eV and Å, one after the other; nothing holds a file as a whole.

Read are extended xyz, ASE databases (SchNetPack's with them) and whatever else ASE reads, npz
files of two styles (MD17: one molecule, ``z R E F`` or ``nuclear_charges coords energies forces``;
periodic: ``symbols positions cells energies forces``), and DeePMD's npy directories.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.db import connect
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression
from ase.stress import voigt_6_to_full_3x3_stress
from ase.utils import string2index

from eip.data.checks import check_frame, check_labels
from eip.data.frame import Frame
from eip.data.labels import Labels, Scales, scales
from eip.errors import InputError, did_you_mean

_Numbered = Iterator[tuple[int, Frame]]
_DATABASES = ("db", "json", "aselmdb")
# These formats unpickle or run what the file holds.
_UNSAFE = ("trj", "bundletrajectory", "py")


def read_frames(
    path: str | Path,
    labels: Labels | None = None,
    *,
    index: str | int | slice = ":",
    require: Sequence[str] = (),
) -> Iterator[Frame]:
    """Streams the frames of a file or of a DeePMD directory, in eV and Å, checked.

    Args:
        labels: keys and units of the labels.
        index: which frames, as in ASE: ``":"``, ``"-50:"``, ``7``.
        require: labels that each frame must have, of "energy", "forces", "stress".

    Raises:
        InputError: if the file is missing, empty, damaged or of no known format; if a key or unit
            is unknown; if a label is missing that is required or that only some frames have
            (forces); if a frame holds something that cannot be (see `checks.check_frame`). The
            message names file and frame.

    Warns:
        LabelWarning: at the end, if energy or stress is there in some frames only.
    """
    return check_labels(stream_frames(path, labels, index=index), require)


def stream_frames(
    path: str | Path, labels: Labels | None = None, *, index: str | int | slice = ":"
) -> Iterator[Frame]:
    """`read_frames` without its check that frames are labelled alike."""
    path, labels, wanted = Path(path), labels or Labels(), _slice(index)
    read = _reader(path)
    none = True
    for frame in read(path, labels, wanted):
        check_frame(frame)
        none = False
        yield frame
    if none:
        raise InputError(f"{path}: no frames" + (f" in {index}" if index != ":" else ""))


def _slice(index: str | int | slice) -> slice:
    given = index
    if isinstance(index, str):
        try:
            index = string2index(index)
        except ValueError:
            index = ""
    if isinstance(index, int):
        index = slice(index, index + 1 or None)
    if not isinstance(index, slice) or (index.step is not None and index.step < 1):
        raise InputError(f"index '{given}' is not understood, expected '3', ':100' or '-50:' say")
    return index


def _reader(path: Path) -> Callable[[Path, Labels, slice], Iterator[Frame]]:
    """The function that reads this path; an InputError if there is none."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, siblings) if siblings else ""
        hint = f", {near}" if near.startswith("did") else ""
        raise InputError(f"{path} does not exist{hint}")
    if path.is_dir():
        if (path / "type.raw").exists():
            return _read_deepmd
        systems = sorted(p.parent.name for p in path.glob("*/type.raw"))
        hint = f"; give the systems in it: {', '.join(systems)}" if systems else ""
        raise InputError(f"{path} is a directory without type.raw, so not a DeePMD system{hint}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    if path.suffix == ".npz":
        return _read_npz
    try:
        kind = filetype(str(path))
    except (UnknownFileTypeError, OSError, ValueError) as error:
        raise InputError(f"{path} is of no format that eIP or ASE reads: {error}") from error
    if kind in _UNSAFE:
        raise InputError(f"{path} is of format '{kind}', which runs what the file holds; refused")
    if kind in _DATABASES:
        return _read_database
    if kind == "extxyz":
        return _read_extxyz
    return _read_ase


# --- ASE ---------------------------------------------------------------------------------------


def _read_extxyz(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    numbers = range(*wanted.indices(_count_xyz(path)))
    if len(numbers) == 0:
        return
    window = slice(numbers.start, numbers[-1] + 1, numbers.step)
    stream = _iread(path, "extxyz", window)
    yield from _from_ase(path, labels, zip(numbers, _guarded(stream, path, numbers), strict=True))


def _count_xyz(path: Path) -> int:
    """Frames of an xyz file; an InputError if it is not frames from its first line to its last.

    ASE ends at the first blank line, so without this pass a blank line drops the rest silently.
    """
    frames = line_number = 0
    with open_with_compression(str(path), "r") as file:
        try:
            for line in file:
                line_number += 1
                text = line.strip()
                if not text or (frames and text.startswith("VEC")):
                    if not text and any(rest.strip() for rest in file):
                        raise InputError(
                            f"{path}, line {line_number}: blank line where frame {frames} should "
                            "start"
                        )
                    continue
                if not text.isdigit():
                    raise InputError(
                        f"{path}, line {line_number}: frame {frames} should start with its number "
                        f"of atoms, got '{text[:60]}'"
                    )
                atoms = int(text)
                read = sum(1 for _ in itertools.islice(file, atoms + 1))
                line_number += read
                if read < atoms + 1:
                    raise InputError(
                        f"{path}: frame {frames} is cut off, {max(read - 1, 0)} of {atoms} atoms "
                        "are there"
                    )
                frames += 1
        except (UnicodeDecodeError, EOFError, OSError) as error:
            raise InputError(f"{path}: frame {frames} cannot be read: {error}") from error
    return frames


def _read_ase(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    kind = filetype(str(path))

    def atoms() -> Iterator[Atoms]:
        return _guarded(_iread(path, kind, slice(None)), path, itertools.count())

    numbered = enumerate(atoms())
    selected: Iterator[tuple[int, Atoms]]
    if any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop)):
        wanted = slice(*wanted.indices(sum(1 for _ in atoms())))
    selected = itertools.islice(numbered, wanted.start, wanted.stop, wanted.step)
    yield from _from_ase(path, labels, selected)


def _iread(path: Path, kind: str, window: slice) -> Iterator[Atoms]:
    return ase.io.iread(
        str(path), window, format=kind, parallel=False, do_not_split_by_at_sign=True
    )


def _guarded(stream: Iterator[Any], path: Path, numbers: Iterator[int] | range) -> Iterator[Any]:
    """The stream; whatever goes wrong inside it is an InputError with file and frame.

    ASE's readers raise whatever the line they stumble over makes them raise, hence Exception.
    """
    for number in numbers:
        try:
            item = next(stream)
        except StopIteration:
            return
        except Exception as error:
            raise InputError(
                f"{path}#{number} cannot be read: {type(error).__name__}: {error}"
            ) from error
        yield item


def _read_database(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    try:
        database = connect(str(path))
        count, metadata = database.count(), dict(database.metadata)
    except Exception as error:
        raise InputError(f"{path} cannot be read as an ASE database: {error}") from error
    numbers = range(*wanted.indices(count))
    if len(numbers) == 0:
        return
    units = metadata.get("_property_unit_dict") or {}
    declared = {
        key: str(unit)
        for key, unit in (
            ("energy", units.get(labels.energy or "energy")),
            ("forces", units.get(labels.forces or "forces")),
            ("stress", units.get(labels.stress or "stress")),
            ("length", metadata.get("_distance_unit")),
        )
        if unit
    }
    rows = database.select(offset=numbers.start, limit=numbers[-1] + 1 - numbers.start)
    rows = itertools.islice(
        _guarded(rows, path, itertools.count(numbers.start)), 0, None, numbers.step
    )

    def with_labels() -> Iterator[tuple[int, Atoms]]:
        for number, row in zip(numbers, rows, strict=True):
            atoms = row.toatoms()
            # Labels of SchNetPack and others are not results of a calculator but data of the row.
            atoms.info = {**row.key_value_pairs, **row.data}
            yield number, atoms

    yield from _from_ase(path, labels, with_labels(), declared)


def _from_ase(
    path: Path,
    labels: Labels,
    numbered: Iterator[tuple[int, Atoms]],
    declared: Mapping[str, str] | None = None,
) -> Iterator[Frame]:
    first = True
    known: dict[tuple[tuple[str, str], ...], Scales] = {}
    for number, atoms in numbered:
        where = f"{path}#{number}"
        # The calculator's own results, not atoms.get_forces(): that one zeroes the forces of
        # atoms that a constraint holds.
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        held = {**atoms.info, **atoms.arrays, **results}
        held = {key: value for key, value in held.items() if value is not None}
        if first:
            labels.demand(held.keys() - {"numbers", "positions"}, where)
            first = False
        said = dict(declared) if declared is not None else _declared(held)
        units = tuple(said.items())
        if units not in known:
            known[units] = scales(labels, said, where)
        yield make_frame(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            values={
                label: (key, held[key])
                for label in ("energy", "forces", "stress")
                if (key := labels.find(label, held, where)) is not None
            },
            scale=known[units],
            source=where,
        )


def _declared(held: Mapping[str, Any]) -> dict[str, str]:
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


# --- npz ---------------------------------------------------------------------------------------

_NPZ_GEOMETRY = {
    "numbers": ("numbers", "atomic_numbers", "nuclear_charges", "z", "Z", "symbols", "species"),
    "positions": ("positions", "coords", "coordinates", "R"),
    "cell": ("cells", "cell", "lattice", "lattices", "box"),
    "pbc": ("pbc",),
}
_NPZ_LABELS = {"energy": ("energies", "E"), "forces": ("F",), "stress": ("stresses",)}
# The published MD17 files say nowhere that they are in kcal/mol; read as eV they would train a
# potential that is wrong by a factor of 23.
_MD17_KEYS = ("z", "nuclear_charges")
_MD17_UNIT = (
    "an MD17-style file that does not declare its energy unit; MD17 and rMD17 are in kcal/mol: "
    "give energy_unit='kcal/mol' (or 'eV' if it was converted)"
)


def _read_npz(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is not an npz file: {error}") from error
    with archive:
        arrays = {
            name.removesuffix(".npy"): _NpzArray(path, archive, name)
            for name in archive.namelist()
            if name.endswith(".npy")
        }
        columns: dict[str, _NpzArray] = {}
        for what, names in _NPZ_GEOMETRY.items():
            found = next((name for name in names if name in arrays), None)
            if found is not None:
                columns[what] = arrays[found]
            elif what in ("numbers", "positions"):
                raise InputError(
                    f"{path} holds no {what}: expected one of the arrays {', '.join(names)}, got "
                    f"{', '.join(sorted(arrays))}"
                )
        labels.demand(arrays, str(path))
        keys = {}
        for label in ("energy", "forces", "stress"):
            shapes = {name: array.shape for name, array in arrays.items()}
            key = labels.find(label, shapes, str(path), extra=_NPZ_LABELS[label])
            if key is not None:
                keys[label], columns[label] = key, arrays[key]
        n_frames = _npz_frames(path, columns)
        rows = range(*wanted.indices(n_frames))
        units = {k: v.text() for k, v in arrays.items() if k.endswith("_unit") and not v.shape}
        md17 = any(key in arrays for key in _MD17_KEYS)
        scale = scales(
            labels, _declared(units), str(path), forbid_default=_MD17_UNIT if md17 else ""
        )
        streams = {name: column.rows(rows) for name, column in columns.items()}
        for row in rows:
            source = f"{path}#{row}"
            values = {name: next(stream) for name, stream in streams.items()}
            cell = values.get("cell", np.zeros((3, 3)))
            pbc = values.get("pbc", np.full(3, "cell" in values))
            yield make_frame(
                numbers=_atomic_numbers(values["numbers"], source),
                positions=values["positions"],
                cell=np.diag(cell) if cell.shape == (3,) else cell,
                pbc=pbc,
                values={label: (key, values[label]) for label, key in keys.items()},
                scale=scale,
                source=source,
            )


def _npz_frames(path: Path, columns: Mapping[str, _NpzArray]) -> int:
    """The number of frames; marks the arrays that all frames share. Checks that shapes agree."""
    shape = columns["positions"].shape
    if len(shape) != 3 or shape[2] != 3:
        raise InputError(f"{path}: positions have shape {shape}, expected (frames, atoms, 3)")
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
    for name, column in columns.items():
        if not column.shared and column.shape[:1] != shape[:1]:
            raise InputError(
                f"{path}: {name} has shape {column.shape}, expected {shape[0]} frames as positions"
            )
    return int(shape[0])


class _NpzArray:
    """An array inside an npz file, read row by row, so that memory holds one row."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, member: str) -> None:
        self._path, self._archive, self._member = path, archive, member
        self.shared = False
        try:
            with archive.open(member) as file:
                self.shape, self._fortran, self._dtype = self._header(file)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: array {member} cannot be read: {error}") from error

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
        value = next(self._whole())
        return value.decode() if isinstance(value, bytes) else str(value)

    def rows(self, rows: range) -> Iterator[np.ndarray]:
        """The rows asked for; the array as a whole for each where all frames share it."""
        if self._dtype.hasobject:
            raise InputError(f"{self._path}: array {self._member} holds Python objects; refused")
        try:
            if self.shared:
                yield from itertools.repeat(np.asarray(next(self._whole())), len(rows))
            elif self._fortran:  # its rows do not lie together
                array = np.asarray(next(self._whole()))
                yield from (array[row] for row in rows)
            else:
                yield from self._stream(rows)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{self._path}: array {self._member} is damaged: {error}") from error

    def _whole(self) -> Iterator[Any]:
        with self._archive.open(self._member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            yield array[()] if array.ndim == 0 else array

    def _stream(self, rows: range) -> Iterator[np.ndarray]:
        shape = self.shape[1:]
        size = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
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
                yield np.frombuffer(data, dtype=self._dtype).reshape(shape)


def _atomic_numbers(values: np.ndarray, source: str) -> np.ndarray:
    """Atomic numbers of symbols, or the numbers themselves."""
    if values.dtype.kind not in "US":
        return values
    symbols = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
    for position, symbol in enumerate(symbols):
        if symbol not in atomic_numbers:
            raise InputError(f"{source}: atom {position} is '{symbol}', which is no element")
    return np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)


# --- DeePMD ------------------------------------------------------------------------------------


def _read_deepmd(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    numbers = _deepmd_numbers(path)
    periodic = not (path / "nopbc").exists()
    sets = sorted(path.glob("set.*"))
    if not sets:
        raise InputError(f"{path} holds no set.* directories, expected DeePMD's npy format")
    counts = [len(_load(folder / "coord.npy")) for folder in sets]
    rows = range(*wanted.indices(sum(counts)))
    start = 0
    for folder, count in zip(sets, counts, strict=True):
        held = {file.stem: file for file in folder.glob("*.npy")}
        names = held.keys() - {"coord", "box"}
        labels.demand(names, str(folder))
        if (folder / "real_atom_types.npy").exists():
            raise InputError(f"{folder} is of DeePMD's mixed type, which is not supported")
        arrays = {
            label: (key, _load(held[key]))
            for label in ("energy", "forces", "stress")
            if (key := labels.find(label, dict.fromkeys(names, ()), str(folder))) is not None
        }
        coord = _load(folder / "coord.npy")
        if periodic and "box" not in held:
            raise InputError(
                f"{folder} has no box.npy; a system that is not periodic says so by a file nopbc"
            )
        box = _load(held["box"]) if periodic else None
        for name, array in (*arrays.values(), ("box", box)):
            if array is not None and len(array) != count:
                raise InputError(
                    f"{folder}/{name}.npy holds {len(array)} frames, coord.npy {count}"
                )
        scale = scales(labels, {}, str(folder))
        for row in range(start, start + count):
            if row not in rows:
                continue
            local = row - start
            yield make_frame(
                numbers=numbers,
                positions=coord[local],
                cell=box[local] if box is not None else np.zeros((3, 3)),
                pbc=np.full(3, periodic),
                values={label: (key, array[local]) for label, (key, array) in arrays.items()},
                scale=scale,
                source=f"{path}#{row}",
            )
        start += count


def _deepmd_numbers(path: Path) -> np.ndarray:
    if not (path / "type_map.raw").exists():
        raise InputError(f"{path} has no type_map.raw, so its elements are not known")
    symbols = (path / "type_map.raw").read_text().split()
    elements = _atomic_numbers(np.array(symbols, dtype=str), f"{path}/type_map.raw")
    try:
        types = np.array((path / "type.raw").read_text().split(), dtype=np.int64)
    except ValueError as error:
        raise InputError(f"{path}/type.raw: expected integers, {error}") from error
    if len(types) and (types.min() < 0 or types.max() >= len(elements)):
        raise InputError(
            f"{path}/type.raw names type {types.max()}, type_map.raw has {len(elements)} types"
        )
    return elements[types]


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


# --- common ------------------------------------------------------------------------------------


def make_frame(
    *,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    values: Mapping[str, tuple[str, Any]],
    scale: Scales,
    source: str,
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
    )


def _shaped(value: Any, shape: tuple[int, ...], key: str, source: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
        if array.size != np.prod(shape, dtype=np.int64):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"{source}: '{key}' has shape {np.shape(value)}, expected "
            f"{shape if shape else 'one number'}"
        ) from None
    return array.reshape(shape)
