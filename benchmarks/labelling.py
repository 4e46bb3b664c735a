"""Two workers that label against one: the pool and the labels on disk that `eip learn` has.

    python benchmarks/labelling.py          # interleaved, on a quiet machine of two cores

Rattled cells of LiFePO4 (28 atoms, periodic) by GFN1-xTB, about a second a label, one thread each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import report
from rich.console import Console

from eip.active_learning.labelers import make_labeler
from eip.active_learning.labelling import label_one, read_label
from eip.builders import lifepo4
from eip.executors import Pool


def seconds(workers: int, labels: int, folder: Path) -> float:
    """From the first worker's start to the last label on disk."""
    labeler = make_labeler("xtb", method="GFN1-xTB")
    structures = {}
    for seed in range(labels):
        atoms = lifepo4()
        atoms.rattle(0.05, seed=seed)
        structures[str(seed)] = atoms
    tasks = {key: (labeler, atoms, folder / key) for key, atoms in structures.items()}
    start = time.perf_counter()
    with Pool("processes", workers, threads=1) as pool:
        for outcome in pool.run(label_one, tasks):
            if outcome.error is not None:
                raise outcome.error
            read_label(structures[outcome.key], folder / outcome.key)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=24)
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    arguments = parser.parse_args()
    content = report.circumstances()
    times: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(arguments.rounds):
            for workers, taken in times.items():
                where = Path(folder) / f"{round_}-{workers}"
                taken.append(seconds(workers, arguments.labels, where))
    ratio = statistics.median(a / b for a, b in zip(times[1], times[2], strict=True))
    content |= {
        "labels": arguments.labels,
        "seconds": {str(k): v for k, v in times.items()},
        "ratio": ratio,
    }
    console = Console()
    rows = [[f"{k} worker(s)", f"{statistics.median(v):.1f}"] for k, v in times.items()]
    report.show(console, f"{arguments.labels} labels", ["", "s"], rows)
    console.print(f"two workers are {ratio:.2f} times as fast as one")
    console.print(report.write("labelling", content, arguments.out))


if __name__ == "__main__":
    main()
