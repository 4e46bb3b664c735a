"""Frames of 30 atoms in the formats that a store might have had: one format a process, JSON out.

    python formats_worker.py FORMAT FRAMES READS FOLDER

Numbers, positions, forces (per atom), cell and energy (per frame), exact; written some hundreds at
a time, read one at a time in random order into arrays that can be kept.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np

ATOMS, CHUNK = 30, 256
Columns = dict[str, np.ndarray]
Read = Callable[[int], tuple[np.ndarray, ...]]


def chunks(frames: int) -> Iterator[Columns]:
    rng = np.random.default_rng(0)
    for start in range(0, frames, CHUNK):
        n = min(CHUNK, frames - start)
        yield {
            "numbers": rng.choice([1, 6, 8], (n, ATOMS)).astype(np.uint8),
            "positions": rng.normal(size=(n, ATOMS, 3)),
            "forces": rng.normal(size=(n, ATOMS, 3)),
            "cell": rng.normal(size=(n, 3, 3)),
            "energy": rng.normal(size=n),
        }


def ragged(chunk: Columns) -> Columns:
    """Per-atom columns as if frames had any number of atoms."""
    per_atom = ("numbers", "positions", "forces")
    return {k: v.reshape(-1, *v.shape[2:]) if k in per_atom else v for k, v in chunk.items()}


def npy(frames: int, folder: Path) -> tuple[Callable[[], None], Callable[[], Read]]:
    kinds = {
        "numbers": (np.uint8, ()),
        "positions": (np.float64, (3,)),
        "forces": (np.float64, (3,)),
        "cell": (np.float64, (3, 3)),
        "energy": (np.float64, ()),
    }

    def write() -> None:
        with ExitStack() as stack:
            files = {n: stack.enter_context((folder / f"{n}.bin").open("wb")) for n in kinds}
            for chunk in chunks(frames):
                for name, values in ragged(chunk).items():
                    files[name].write(values.tobytes())
        np.save(folder / "offsets.npy", ATOMS * np.arange(frames + 1))

    def opened() -> Read:
        columns = {
            name: np.asarray(np.memmap(folder / f"{name}.bin", dtype, "r")).reshape(-1, *rest)
            for name, (dtype, rest) in kinds.items()
        }
        return by_offsets(columns, np.load(folder / "offsets.npy", mmap_mode="r"))

    return write, opened


def by_offsets(columns: Columns, offsets: np.ndarray) -> Read:
    """Of columns that are sliced like arrays, whatever is behind them."""

    def read(index: int) -> tuple[np.ndarray, ...]:
        start, end = int(offsets[index]), int(offsets[index + 1])
        return (
            np.array(columns["numbers"][start:end]),
            np.array(columns["positions"][start:end]),
            np.array(columns["forces"][start:end]),
            np.array(columns["cell"][index]),
            np.array(columns["energy"][index]),
        )

    return read


def hdf5(frames: int, folder: Path) -> tuple[Callable[[], None], Callable[[], Read]]:
    import h5py

    def write() -> None:
        with h5py.File(folder / "frames.h5", "w") as file:
            for chunk in chunks(frames):
                for name, values in ragged(chunk).items():
                    if name not in file:
                        shape = (0, *values.shape[1:])
                        file.create_dataset(
                            name, shape, values.dtype, maxshape=(None, *shape[1:]), chunks=True
                        )
                    start = len(file[name])
                    file[name].resize(start + len(values), axis=0)
                    file[name][start:] = values
            file["offsets"] = ATOMS * np.arange(frames + 1)

    def opened() -> Read:
        file = h5py.File(folder / "frames.h5")
        return by_offsets(dict(file), file["offsets"][:])

    return write, opened


def zarr(frames: int, folder: Path) -> tuple[Callable[[], None], Callable[[], Read]]:
    import zarr as library

    def write() -> None:
        group = library.open_group(folder / "frames.zarr", mode="w")
        for number, chunk in enumerate(chunks(frames)):
            for name, values in ragged(chunk).items():
                if number == 0:
                    group.create_array(
                        name,
                        shape=(frames * len(values) // CHUNK, *values.shape[1:]),
                        chunks=(4096, *values.shape[1:]),
                        dtype=values.dtype,
                    )
                start = (
                    number * CHUNK * (ATOMS if name in ("numbers", "positions", "forces") else 1)
                )
                group[name][start : start + len(values)] = values

    def opened() -> Read:
        group = library.open_group(folder / "frames.zarr", mode="r")
        columns = {name: group[name] for name in group.array_keys()}
        return by_offsets(columns, ATOMS * np.arange(frames + 1))

    return write, opened


def arrow(frames: int, folder: Path) -> tuple[Callable[[], None], Callable[[], Read]]:
    import pyarrow as pa

    def write() -> None:
        with pa.OSFile(str(folder / "frames.arrow"), "wb") as sink:
            writer = None
            for chunk in chunks(frames):
                columns = {}
                for name, values in chunk.items():
                    flat = pa.array(values.reshape(-1))
                    width = values[0].size
                    offsets = pa.array(np.arange(0, flat.__len__() + 1, width), pa.int64())
                    columns[name] = (
                        flat if values.ndim == 1 else pa.LargeListArray.from_arrays(offsets, flat)
                    )
                batch = pa.record_batch(columns)
                writer = writer or pa.ipc.new_file(sink, batch.schema)
                writer.write_batch(batch)
            writer.close()

    def opened() -> Read:
        file = pa.ipc.open_file(pa.memory_map(str(folder / "frames.arrow")))
        batches = [file.get_batch(i) for i in range(file.num_record_batches)]

        def read(index: int) -> tuple[np.ndarray, ...]:
            batch, row = batches[index // CHUNK], index % CHUNK

            def values(name: str) -> np.ndarray:
                return batch.column(name)[row].values.to_numpy()

            return (
                values("numbers").copy(),
                values("positions").reshape(-1, 3).copy(),
                values("forces").reshape(-1, 3).copy(),
                values("cell").reshape(3, 3).copy(),
                np.array(batch.column("energy")[row].as_py()),
            )

        return read

    return write, opened


def lmdb(frames: int, folder: Path) -> tuple[Callable[[], None], Callable[[], Read]]:
    """Raw bytes under the frame's number: the least that such a database can do."""
    import lmdb as library

    def write() -> None:
        with library.open(str(folder / "frames.lmdb"), map_size=2**36, subdir=False) as database:
            number = 0
            for chunk in chunks(frames):
                with database.begin(write=True) as transaction:
                    for row in range(len(chunk["energy"])):
                        data = b"".join(chunk[name][row].tobytes() for name in chunk)
                        transaction.put(number.to_bytes(8, "big"), data)
                        number += 1

    def opened() -> Read:
        database = library.open(
            str(folder / "frames.lmdb"), readonly=True, subdir=False, lock=False
        )
        transaction = database.begin(buffers=True)

        def read(index: int) -> tuple[np.ndarray, ...]:
            data = transaction.get(index.to_bytes(8, "big"))
            n = (len(data) - 80) // 49
            real = np.frombuffer(data, np.float64, offset=n).copy()
            return (
                np.frombuffer(data, np.uint8, n).copy(),
                real[: 3 * n].reshape(n, 3),
                real[3 * n : 6 * n].reshape(n, 3),
                real[6 * n : 6 * n + 9].reshape(3, 3),
                real[-1],
            )

        return read

    return write, opened


def aselmdb(frames: int, folder: Path) -> tuple[Callable[[], None], Callable[[], Read]]:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    def write() -> None:
        with connect(str(folder / "frames.aselmdb"), type="aselmdb") as database:
            for chunk in chunks(frames):
                for z, positions, forces, cell, energy in zip(*chunk.values(), strict=True):
                    atoms = Atoms(z, positions, cell=cell, pbc=True)
                    atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces)
                    database.write(atoms)

    def opened() -> Read:
        database = connect(str(folder / "frames.aselmdb"), type="aselmdb", readonly=True)

        def read(index: int) -> tuple[np.ndarray, ...]:
            row = database._get_row(index + 1)
            return row.numbers, row.positions, row.forces, row.cell, np.array(row.energy)

        return read

    return write, opened


FORMATS = {f.__name__: f for f in (npy, arrow, hdf5, zarr, lmdb, aselmdb)}
PACKAGES = {"npy": "numpy", "arrow": "pyarrow", "hdf5": "h5py", "aselmdb": "ase_db_backends"}


def main() -> None:
    name, frames, reads, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    write, opened = FORMATS[name](frames, folder)
    start = time.perf_counter()
    write()
    wrote = time.perf_counter() - start
    start = time.perf_counter()
    read = opened()
    first = read(0)
    opening = time.perf_counter() - start
    expected = next(chunks(frames))
    for found, column in zip(first, expected.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(found), column[0])
    indices = np.random.default_rng(1).integers(0, frames, reads).tolist()
    start = time.perf_counter()
    for index in indices:
        read(index)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(
        json.dumps(
            {
                "write_frames_per_s": frames / wrote,
                "read_frames_per_s": reads / seconds,
                "open_s": opening,
                "bytes_per_frame": size / frames,
                "version": version(PACKAGES.get(name, name)),
            }
        )
    )


if __name__ == "__main__":
    main()
