"""One process against two that train the same potential together: throughput and loss curves.

    python benchmarks/devices.py            # interleaved, on a quiet machine of two cores

A process has one thread. Epochs are counted from the second on, so that what spawning and compiling
take is left out; the data are those of the examples, repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import report
from rich.console import Console

DATA = report.HERE.parent / "examples/data"

CONFIG = """
run_dir: {run_dir}
data:
  train: {train}
  validation: 20
  test: {test}
model: {{channels: 64}}
training: {{epochs: {epochs}, batch_size: {batch}, devices: {devices}, device: cpu, num_workers: 0}}
"""


def train(
    devices: int, data: Path, folder: Path, epochs: int, batch: int
) -> tuple[float, list[float]]:
    """Median atoms/s of the epochs from the second on; validation losses."""
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(
        CONFIG.format(
            run_dir=folder / "run",
            train=data,
            test=DATA / "water_300K_test.xyz",
            epochs=epochs,
            batch=batch,
            devices=devices,
        )
    )
    subprocess.run(
        [sys.executable, "-m", "eip", "train", str(config), "--no-progress"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with (folder / "run/train.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    return statistics.median(throughputs(folder / "run")[1:]), losses


def throughputs(run: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((run / "tensorboard").rglob("events.*")).parent))
    events.Reload()
    return [scalar.value for scalar in events.Scalars("atoms_per_second")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=8, help="120 frames, so many times")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    arguments = parser.parse_args()
    content = report.circumstances()
    rates: dict[int, list[float]] = {1: [], 2: []}
    curves: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.xyz"
        data.write_bytes((DATA / "water_300K.xyz").read_bytes() * arguments.repeat)
        for round_ in range(arguments.rounds):
            for devices in rates:
                rate, curves[devices] = train(
                    devices,
                    data,
                    Path(folder) / f"{round_}-{devices}",
                    arguments.epochs,
                    arguments.batch_size,
                )
                rates[devices].append(rate)
    ratio = statistics.median(b / a for a, b in zip(rates[1], rates[2], strict=True))
    apart = [abs(b - a) for a, b in zip(curves[1], curves[2], strict=True)]
    content |= {
        "atoms_per_second": {str(k): v for k, v in rates.items()},
        "ratio": ratio,
        "loss_curves": {str(k): v for k, v in curves.items()},
        "difference_of_losses": apart,
        "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
    }
    console = Console()
    report.show(
        console,
        "training: two processes over one",
        ["", "atoms/s"],
        [[f"{k} process(es)", f"{statistics.median(v):,.0f}"] for k, v in rates.items()],
    )
    console.print(f"ratio {ratio:.2f}; losses apart by {', '.join(f'{d:.1e}' for d in apart)}")
    console.print(report.write("devices", json.loads(json.dumps(content)), arguments.out))


if __name__ == "__main__":
    main()
