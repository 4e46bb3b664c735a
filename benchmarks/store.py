"""Frames on disk: converting, memory, opening, random access, training; other formats beside ours.

make bench-env                          # once: the other formats' environment among the peers'
python benchmarks/store.py              # some minutes, on a quiet machine
python benchmarks/store.py --only memory --gigabytes 1 20
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report
from rich.console import Console

ATOMS = 30
WORKERS = report.HERE / "workers"
OTHERS = report.HERE / ".envs/stores/bin/python"
FORMATS = ("npy", "arrow", "hdf5", "zarr", "lmdb", "aselmdb")


def positions(rng: np.random.Generator, frames: int) -> np.ndarray:
    """On a loose grid, Å."""
    grid = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), -1) * 2.25
    places = np.argsort(rng.random((frames, 64)), axis=1)[:, :ATOMS]
    return grid[places] + rng.uniform(0.0, 0.6, (frames, ATOMS, 3))


def write_xyz(path: Path, frames: int) -> None:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    rng = np.random.default_rng(0)
    images = []
    for where in positions(rng, frames):
        atoms = Atoms(rng.choice([1, 6, 8, 14], ATOMS), where, cell=[9, 9, 9], pbc=True)
        forces, stress = rng.normal(size=(ATOMS, 3)), rng.normal(size=6)
        energy = float(rng.normal(-1e4))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        images.append(atoms)
    write(path, images)


def converting(folder: Path, rounds: int, frames: int = 20_000) -> dict[str, Any]:
    """Frames/s of one core from extended xyz, in turn with ASE's reader, which converts nothing."""
    from ase.io import iread

    from eip.data.convert import convert

    source = folder / "frames.xyz"
    write_xyz(source, frames)
    rates: dict[str, list[float]] = {"convert": [], "ase_read_only": []}
    for round_ in range(rounds):
        start = time.perf_counter()
        convert([source], folder / f"store{round_}")
        rates["convert"].append(frames / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in iread(source, ":"):
            pass
        rates["ase_read_only"].append(frames / (time.perf_counter() - start))
    return {
        "frames": frames,
        "atoms": ATOMS,
        "frames_per_s": {name: statistics.median(of) for name, of in rates.items()},
        "all": rates,
    }


_CONVERT = """
import json, resource, sys, time
from eip.data.convert import convert

start = time.perf_counter()
done = convert([sys.argv[1]], sys.argv[2])
frames = len(done.store)
print(json.dumps({
    "frames": frames,
    "frames_per_s": frames / (time.perf_counter() - start),
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
}))
"""


def memory(folder: Path, gigabytes: Sequence[float]) -> list[dict[str, Any]]:
    """Peak resident memory of a process that converts files of these sizes."""
    write_xyz(folder / "piece.xyz", 2000)
    piece = (folder / "piece.xyz").read_bytes()
    rows = []
    for size in gigabytes:
        source, out = folder / "large.xyz", folder / "large"
        with source.open("wb") as file:
            for _ in range(max(1, round(size * 1e9 / len(piece)))):
                file.write(piece)
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT, source, out], check=True, capture_output=True
        )
        rows.append({"gigabytes": source.stat().st_size / 1e9, **json.loads(done.stdout)})
        source.unlink()
        shutil.rmtree(out)
    return rows


_OPEN = """
import json, sys, time
from eip.data import FrameStore

start = time.perf_counter()
store = FrameStore(sys.argv[1])
store[len(store) // 2]
print(json.dumps(time.perf_counter() - start))
"""


def access(folder: Path, rounds: int, frames: int = 1_600_000) -> dict[str, Any]:
    """Opening in a fresh process, first frame included; then frames in random order."""
    from eip.data import Frame, FrameStore
    from eip.data.store import StoreWriter

    rng = np.random.default_rng(0)
    piece = [
        Frame(
            numbers=rng.choice([1, 6, 8, 14], ATOMS),
            positions=where,
            cell=np.eye(3) * 9.0,
            pbc=np.ones(3, dtype=bool),
            energy=float(rng.normal(-1e4)),
            forces=rng.normal(size=(ATOMS, 3)),
            stress=rng.normal(size=(3, 3)),
            source=f"made.xyz#{i}",
        )
        for i, where in enumerate(positions(rng, 4000))
    ]
    path = folder / "many"
    path.mkdir()
    with StoreWriter(path) as writer:
        for _ in range(frames // len(piece)):
            writer.append(piece)
        writer.finish()
    command = [sys.executable, "-c", _OPEN, path]
    opening = [
        float(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    store = FrameStore(path)
    store[0]
    rates = []
    for round_ in range(rounds):
        indices = np.random.default_rng(round_).integers(0, len(store), 50_000).tolist()
        start = time.perf_counter()
        for index in indices:
            store[index]
        rates.append(len(indices) / (time.perf_counter() - start))
    return {
        "frames": len(store),
        "gigabytes": store.bytes / 1e9,
        "open_s": statistics.median(opening),
        "random_frames_per_s": statistics.median(rates),
        "all": {"open_s": opening, "random_frames_per_s": rates},
    }


def training(folder: Path, rounds: int) -> dict[str, Any]:
    """Epochs from the store against epochs from the same columns in memory, in turn."""
    import torch

    from eip.data import FrameStore, GraphDataset, make_loader, open_frames, write_store
    from eip.training.loss import Loss
    from eip.training.settings import TrainingSettings
    from eip.uncertainty.evidential import EvidentialPotential

    torch.set_num_threads(1)
    data = report.HERE.parent / "examples/data"
    write_store(iter(open_frames(data / "ethanol_300K.xyz")), folder / "ethanol")
    on_disk, in_memory = FrameStore(folder / "ethanol"), FrameStore(folder / "ethanol")
    in_memory[0]
    in_memory._columns = {name: np.array(c) for name, c in in_memory._columns.items()}
    in_memory._open = None
    potential = EvidentialPotential(
        elements=on_disk.elements,
        element_energies={z: 0.0 for z in on_disk.elements},
        force_scale=1.0,
        channels=64,
    ).train()
    optimizer = torch.optim.AdamW(potential.parameters())
    loss = Loss.of(TrainingSettings())

    def epoch(store: FrameStore) -> float:
        loader = make_loader(GraphDataset(store, cutoff=5.0), batch_size=10, shuffle=True, seed=0)
        start = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad()
            loss(potential(batch.graph, differentiable="everything"), batch).total.backward()
            optimizer.step()
        return time.perf_counter() - start

    epoch(on_disk)
    times: dict[str, list[float]] = {"store": [], "memory": []}
    for round_ in range(2 * rounds):
        pair = [("store", on_disk), ("memory", in_memory)]
        for name, store in pair if round_ % 2 else pair[::-1]:
            times[name].append(epoch(store))
    ratio = statistics.median(a / b for a, b in zip(times["store"], times["memory"], strict=True))
    return {"seconds": times, "store_over_memory": ratio}


def formats(rounds: int, frames: int = 50_000, reads: int = 10_000) -> dict[str, Any]:
    """Each in a fresh process; medians."""
    if not OTHERS.exists():
        return {"absent": f"{OTHERS}: make bench-env"}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name in FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [OTHERS, WORKERS / "formats_worker.py", name, str(frames), str(reads), folder],
                    check=True,
                    capture_output=True,
                )
            found.setdefault(name, []).append(json.loads(done.stdout))
    return {
        name: {
            key: value if isinstance(value, str) else statistics.median(run[key] for run in runs)
            for key, value in runs[0].items()
        }
        for name, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("converting", "memory", "access", "training", "formats")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", nargs="+", type=float, default=[0.25, 2.0])
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    arguments = parser.parse_args()
    file = arguments.out / "store.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    content |= report.circumstances()
    rounds = arguments.rounds
    measure: dict[str, Callable[[Path], Any]] = {
        "converting": lambda folder: converting(folder, rounds),
        "memory": lambda folder: memory(folder, arguments.gigabytes),
        "access": lambda folder: access(folder, rounds),
        "training": lambda folder: training(folder, rounds),
        "formats": lambda _: formats(rounds),
    }
    console = Console()
    for part in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            content[part] = measure[part](Path(folder))
        console.print(part, content[part])
        report.write("store", content, arguments.out)
    console.print(file)


if __name__ == "__main__":
    main()
