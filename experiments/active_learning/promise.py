"""Is "done" true? Learning runs on model systems whose truth is known, to a target each.

    python experiments/active_learning/promise.py --runs 20       # → promise.json

The truth is effective medium theory (EMT), of clusters of copper, silver, gold and their alloys at
some hundred K; so a hundred frames of a new run of dynamics can be labelled after each learning run
that said it was done. The promise is that a frame of these dynamics errs by no more than the bound
with the stated confidence: kept on average if the share of such frames is no smaller. A run stays
below its target if no smaller a share of its frames does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from ase.io import read, write

import eip
from eip.config import LearningConfig
from eip.simulation import DynamicsSettings, run_dynamics

HERE = Path(__file__).parent
METALS = ("Cu", "Ag", "Au", "Ni", "Pd")
TARGET, CONFIDENCE = 0.05, 0.9
CALCULATOR = "from ase.calculators.emt import EMT\n\n\ndef make():\n    return EMT()\n"


def system(seed: int) -> tuple[Atoms, float]:
    """A cluster of 19 atoms of one or two metals, and a temperature."""
    rng = np.random.default_rng(seed)
    one, other = rng.choice(METALS, 2, replace=False)
    atoms = Octahedron(str(one), 3)
    atoms.symbols[rng.permutation(len(atoms))[: rng.integers(0, 7)]] = str(other)
    return atoms, float(rng.choice([200.0, 300.0, 400.0]))


def learn(seed: int, folder: Path) -> dict:
    atoms, temperature = system(seed)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "start.xyz", atoms)
    (folder / "emt.py").write_text(CALCULATOR)
    result = eip.learn(
        LearningConfig.model_validate(
            {
                "run_dir": folder / "run",
                "data": {"train": []},
                "model": {"backbone": {"name": "painn", "channels": 32, "interactions": 2}},
                "training": {"epochs": 150, "batch_size": 5, "device": "cpu"},
                "learn": {
                    "starts": [folder / "start.xyz"],
                    "labeler": "ase",
                    "labeler_options": {"calculator": f"{folder / 'emt.py'}:make"},
                    "target": TARGET,
                    "confidence": CONFIDENCE,
                    "checks": 10,
                    "initial": 20,
                    "labels": 20,
                    "generations": 8,
                    "temperatures": [temperature],
                    "length_ps": 5.0,
                    "timestep_fs": 2.0,
                    "max_bond_stretch": None,
                    "executor": "serial",
                    "seed": seed,
                },
            }
        ),
        resume=(folder / "run" / "run.json").exists(),
        progress=False,
    )
    last = result.generations[-1]
    found = {
        "system": atoms.get_chemical_formula(),
        "temperature": temperature,
        "reason": result.reason,
        "labels": result.labels,
        "generations": len(result.generations),
        "check": last.check,
    }
    if not result.reason.startswith("done"):
        return found
    fresh = folder / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    settings = DynamicsSettings(
        steps=2500,
        temperature=temperature,
        timestep_fs=2.0,
        seed=seed + 500_000,
        trajectory_interval=25,
    )
    potential = eip.load(result.model)
    run_dynamics(atoms, potential, settings, fresh, progress=False)
    errors = []
    for frame in read(fresh / "trajectory.xyz", index="1:"):
        said = potential.predict([frame]).forces.numpy()
        frame.calc = EMT()
        errors.append(float(np.sqrt(np.mean((said - frame.get_forces()) ** 2))))
    found["fresh_frames"] = len(errors)
    found["within_bound"] = float(np.mean(np.array(errors) <= last.check["bound"]))
    found["within_target"] = float(np.mean(np.array(errors) <= TARGET))
    found["fresh_rmse"] = float(np.sqrt(np.mean(np.square(errors))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/promise"))
    arguments = parser.parse_args()
    kept = HERE / "promise.json"
    found = json.loads(kept.read_text())["runs"] if kept.exists() else {}
    for seed in range(arguments.runs):
        if str(seed) in found:
            continue
        began = time.monotonic()
        found[str(seed)] = learn(seed, (arguments.out / f"run{seed}").resolve())
        print(seed, f"{time.monotonic() - began:.0f} s", found[str(seed)])
        done = [run for run in found.values() if "within_bound" in run]
        summary = {
            "target": TARGET,
            "confidence": CONFIDENCE,
            "runs": len(found),
            "done": len(done),
            "share_within_bound": float(np.mean([r["within_bound"] for r in done] or [np.nan])),
            "runs_within_target": sum(run["within_target"] >= CONFIDENCE for run in done),
        }
        kept.write_text(json.dumps({"summary": summary, "runs": found}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
