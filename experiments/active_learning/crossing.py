"""How far runs turn a torsion: MD, hotter MD, UDD, UDD with a memory.

    python experiments/active_learning/crossing.py MODEL START --torsion 3 0 1 2 \\
        --runs 300 450 300,0.3 300,1,5 300,2,5,50 300,1,5,,1 300,1,5,,1,3

Each of ``--runs`` is a temperature, K, or a temperature with UDD's largest push (in RMS forces),
the grade to hover at, the memory, fs, whether the push is soft (1) and the steps between two
pushes; what is left out is none. Eight replicas of each share
their calls of the model. Printed as a table, and kept as JSON beside this file.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read

import eip
from eip.files import json_text, write_whole
from eip.potential import Potential
from eip.simulation import (
    DynamicsSettings,
    Together,
    UDDParameters,
    propose_udd,
    run_dynamics,
)

HERE = Path(__file__).parent
STEPS, TIMESTEP_FS = 4000, 0.5


def turned(atoms: Atoms, torsion: list[int]) -> float:
    """Degrees from the torsion at 0, either way."""
    angle = atoms.get_dihedral(*torsion)
    return float(min(angle, 360.0 - angle))


def measure(
    potential: Potential, start: Atoms, torsion: list[int], run: str, replicas: int
) -> dict[str, Any]:
    """Of each replica: how far it came, and what σ said."""
    temperature, *bias = [float(part) if part else None for part in run.split(",")]
    assert temperature is not None
    udd: UDDParameters | None = None
    if bias:
        push, hover, memory, soft, interval = [*bias, *[None] * 4][:5]
        assert push is not None
        more = {
            "hover": hover,
            "memory": memory,
            "soft": bool(soft),
            "interval": int(interval or 1),
        }
        udd = propose_udd(potential, start, temperature, fraction=push, **more).parameters
    together = Together()
    with tempfile.TemporaryDirectory() as folder:
        settings = DynamicsSettings(
            steps=STEPS, timestep_fs=TIMESTEP_FS, temperature=temperature, trajectory_interval=10
        )
        runs = [
            partial(
                run_dynamics,
                *(start, potential, settings.replace(seed=20 + k), Path(folder) / str(k)),
                udd=udd,
                progress=False,
                together=together,
            )
            for k in range(replicas)
        ]
        said = together.run(runs)
        frames = [read(Path(folder) / str(k) / "trajectory.xyz", ":") for k in range(replicas)]
    return {
        "run": run,
        "lasted_ps": [one.time_fs / 1000.0 for one in said],
        "widest_angle": [max(turned(a, torsion) for a in of_run) for of_run in frames],
        "temperature": float(np.mean([one.mean_temperature for one in said])),
        "largest_sigma": [
            float(np.mean([a.arrays["force_uncertainty"].max() for a in of_run]))
            for of_run in frames
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("--torsion", nargs=4, type=int, required=True)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "crossing.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    potential, start = eip.load(given.model), read(given.start, 0)
    rows = []
    for run in given.runs:
        rows.append(measure(potential, start, given.torsion, run, given.replicas))
        angles = ", ".join(f"{angle:.0f}" for angle in sorted(rows[-1]["widest_angle"]))
        print(f"{run:20} {rows[-1]['temperature']:5.0f} K   {angles}°", flush=True)
        write_whole(given.out, json_text(rows))


if __name__ == "__main__":
    main()
