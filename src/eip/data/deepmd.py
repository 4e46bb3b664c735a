"""DeePMD's npy directories: type.raw, type_map.raw, set.*/coord.npy and its labels.

One, or, as DP-GEN leaves them, a folder of many.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eip.data.frame import Frame
from eip.data.labels import Labels
from eip.data.raw import atomic_numbers, demand_real, make_frame
from eip.data.scales import scales
from eip.errors import InputError


def read_deepmd(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
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
        keys = labels.choose(dict.fromkeys(names, ()), str(folder))
        arrays = {label: (key, _load(held[key])) for label, key in keys.items()}
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
                group=labels.find_group({}, f"{path}#{row}"),
            )
        start += count


def systems_in(path: Path) -> list[Path]:
    """DeePMD systems of a folder: what DP-GEN labelled of its own folder, else all below it."""
    if any(path.glob("iter.*")):
        return sorted(s.parent for s in path.glob("iter.*/02.fp/data.*/type.raw"))
    return sorted(system.parent for system in path.rglob("type.raw"))


def read_systems(path: Path, labels: Labels, wanted: slice) -> Iterator[Frame]:
    """The frames of all `systems_in` a folder, one system after the other."""
    systems = systems_in(path)
    counts = [
        sum(len(_load(folder / "coord.npy")) for folder in system.glob("set.*"))
        for system in systems
    ]
    rows = range(*wanted.indices(sum(counts)))
    first = 0
    for system, count in zip(systems, counts, strict=True):
        mine = [row - first for row in rows if first <= row < first + count]
        if mine:
            yield from read_deepmd(system, labels, slice(mine[0], mine[-1] + 1, rows.step))
        first += count


def _deepmd_numbers(path: Path) -> np.ndarray:
    if not (path / "type_map.raw").exists():
        raise InputError(f"{path} has no type_map.raw, so its elements are not known")
    try:
        symbols = (path / "type_map.raw").read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}/type_map.raw: expected chemical symbols, {error}") from error
    elements = atomic_numbers(np.array(symbols, dtype=str), f"{path}/type_map.raw")
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
        # Mapped, so that a shape that the file is too short for is an error, not memory.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a header is a Python literal, and its parsers raise anything
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise InputError(f"{file} should hold an array with a row for each frame")
    demand_real(array.dtype, str(file))
    return array
