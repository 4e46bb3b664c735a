"""Liquid water at 300 K (192 atoms, periodic): does a trained potential hold, and does UDD?

    python experiments/accuracy/run.py water --epochs 20 --batch-size 2 --ema-decay 0.999 --seeds 0
    python experiments/water_md/run.py --model runs/accuracy/water/…/seed0/model.eip --steps 2000

Starts from a frame of the test set, NVT (Langevin). Each run continues where it was stopped;
figures of both land in results.json beside this file (keys: eip.simulation.DynamicsSummary).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from eip import load
from eip.data import read_frames
from eip.simulation import DynamicsSettings, propose_udd, run_dynamics

HERE = Path(__file__).parent
KEPT = (
    "ending", "cause", "reason", "steps", "time_fs", "wall_seconds", "mean_temperature",
    "mean_uncertainty", "max_uncertainty", "max_force_uncertainty", "max_bias_force", "bias_work",
    "closest_distance", "udd",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/water_md"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--timestep", type=float, default=1.0, help="fs")
    parser.add_argument("--ensemble", default="langevin")
    parser.add_argument("--runs", nargs="+", choices=["md", "udd"], default=["md", "udd"])
    arguments = parser.parse_args()
    potential = load(arguments.model)
    frames = [frame.to_atoms() for frame in read_frames(arguments.data / "water/data_3")]
    settings = DynamicsSettings(
        ensemble=arguments.ensemble,
        temperature=300.0,
        timestep_fs=arguments.timestep,
        steps=arguments.steps,
        seed=0,
        trajectory_interval=50,
    )
    results_file = HERE / "results.json"
    for name in arguments.runs:
        proposal = propose_udd(potential, frames[:: len(frames) // 8], 300.0)
        if name == "udd":
            print(proposal.explain())
        summary = run_dynamics(
            frames[0],
            potential,
            settings,
            arguments.out / name,
            resume=True,
            udd=proposal if name == "udd" else None,
        )
        values = asdict(summary)
        results = json.loads(results_file.read_text()) if results_file.exists() else {}
        results[name] = {key: values[key] for key in KEPT}
        results[name]["settings"] = values["settings"]
        results_file.write_text(json.dumps(results, indent=1) + "\n")
        print(name, summary.ending, summary.reason)


if __name__ == "__main__":
    main()
