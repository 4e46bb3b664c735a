"""What it brings that walkers share each call of the model:

    python benchmarks/walkers.py MODEL --structure FILE

Time of one step of one walker in whole runs of dynamics, on one thread: integrator, monitors, log
and trajectory are in it. One walker alone, or W at a time by `eip.simulation.Together`, as
`eip learn` runs them (`learn.together`). Rounds take all variants in turn, so that what else the
machine does hits all; figures are medians of rounds, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
from ase import Atoms
from ase.io import read
from rich.console import Console

import eip
from eip.potential import Potential
from eip.simulation import DynamicsSettings, Together, UDDParameters, propose_udd, run_dynamics


def timed(
    potential: Potential, atoms: Atoms, walkers: int, udd: UDDParameters | None, steps: int
) -> float:
    """Milliseconds of a walker-step: whole runs, with all that they write."""
    with tempfile.TemporaryDirectory() as folder:
        together = Together() if walkers > 1 else None
        runs = [
            partial(
                run_dynamics,
                atoms,
                potential,
                DynamicsSettings(steps=steps, timestep_fs=0.5, temperature=300.0, seed=seed),
                Path(folder) / str(seed),
                udd=udd,
                progress=False,
                together=together,
            )
            for seed in range(walkers)
        ]
        begun = time.perf_counter()
        if together is None:
            runs[0]()
        else:
            together.run(runs)
        return 1e3 * (time.perf_counter() - begun) / (steps * walkers)


def measure(
    potential: Potential, atoms: Atoms, counts: list[int], rounds: int, steps: int
) -> dict[str, Any]:
    """Milliseconds of a walker-step of MD and of UDD, and how much faster sharing is."""
    biases = {"md": None, "udd": propose_udd(potential, atoms, 300.0).parameters}
    variants = [(kind, count) for kind in biases for count in (1, *counts)]
    times: dict[tuple[str, int], list[float]] = {variant: [] for variant in variants}
    for index in range(rounds + 1):
        for kind, count in variants if index % 2 == 0 else variants[::-1]:
            found = timed(potential, atoms, count, biases[kind], steps)
            if index:  # the first round is for caches
                times[kind, count].append(found)
    return {
        "atoms": len(atoms),
        "periodic": bool(atoms.pbc.all()),
        **{
            kind: {
                "ms_per_walker_step": {
                    count: round(statistics.median(times[kind, count]), 4) for count in (1, *counts)
                },
                "rounds_ms": {
                    count: [round(value, 4) for value in times[kind, count]]
                    for count in (1, *counts)
                },
                "speedup": {
                    count: round(
                        statistics.median(
                            a / b for a, b in zip(times[kind, 1], times[kind, count], strict=True)
                        ),
                        3,
                    )
                    for count in counts
                },
            }
            for kind in biases
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--structure", type=Path, required=True)
    parser.add_argument("--walkers", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = report.circumstances()
    atoms, potential = read(given.structure, 0), eip.load(given.model)
    content = {
        "circumstances": began,
        "eip": eip.__version__,
        "threads": 1,
        "rounds": given.rounds,
        "steps": given.steps,
        **measure(potential, atoms, given.walkers, given.rounds, given.steps),
        "load_average_at_the_end": report.circumstances()["load_average"],
    }
    for kind in ("md", "udd"):
        Console().print(kind, content[kind]["ms_per_walker_step"], content[kind]["speedup"])
    Console().print(str(report.write("walkers", content, given.out)))


if __name__ == "__main__":
    main()
