"""Does NVE of liquid water conserve energy on the compiled path as it does in plain PyTorch?

    python experiments/water_nve/run.py --model runs/accuracy/water/…/seed0/model.eip
    python experiments/water_nve/run.py --model … --path reference --steps 10000

Both start from the same frame and momenta (300 K, 192 atoms). The drift is the slope of the total
energy over time; the fluctuation, the spread round that line. Runs continue where they stopped;
figures land in results.json beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import numpy as np

from eip import load
from eip.data import read_frames
from eip.kernels import reference_path
from eip.simulation import DynamicsSettings, run_dynamics

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/water_nve"))
    parser.add_argument("--path", choices=["compiled", "reference"], default="compiled")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    arguments = parser.parse_args()
    start = next(iter(read_frames(arguments.data / "water/data_3"))).to_atoms()
    settings = DynamicsSettings(
        ensemble="nve",
        temperature=300.0,
        timestep_fs=arguments.timestep,
        steps=arguments.steps,
        seed=0,
        trajectory_interval=1000,
    )
    path = reference_path() if arguments.path == "reference" else contextlib.nullcontext()
    folder = arguments.out / arguments.path
    with path:
        summary = run_dynamics(start, load(arguments.model), settings, folder, resume=True)
    file = HERE / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    name = f"{arguments.path}, {arguments.model.parent.parent.name}"
    results[name] = {
        "model": str(arguments.model),
        "ending": summary.ending,
        "steps": summary.steps,
        "timestep_fs": arguments.timestep,
        "mean_temperature": summary.mean_temperature,
        "wall_seconds": summary.wall_seconds,
        **drift(folder / "log.csv", len(start)),
        # Over the time that both paths have run.
        "first_picoseconds": {
            str(ps): drift(folder / "log.csv", len(start), ps)
            for ps in (0.5, 1, 2, 5, 10, 20, 50)
            if summary.time_fs >= 1000 * ps
        },
    }
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results[name], indent=1))


def drift(log: Path, atoms: int, picoseconds: float | None = None) -> dict[str, float]:
    """Slope of the total energy and spread round it, both per atom."""
    rows = np.genfromtxt(log, delimiter=",", names=True)
    time, total = rows["time_fs"] / 1000, (rows["energy"] + rows["kinetic"]) / atoms
    if picoseconds is not None:
        time, total = time[time <= picoseconds], total[time <= picoseconds]
    slope, height = np.polyfit(time, total, 1)
    return {
        "drift_meV_per_atom_per_ps": float(1000 * slope),
        "fluctuation_meV_per_atom": float(1000 * (total - slope * time - height).std()),
    }


if __name__ == "__main__":
    main()
