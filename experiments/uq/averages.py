"""Does the band of an average hold? Twenty potentials of half of the data against one of all.

    python experiments/uq/averages.py --repeats 20       # → averages.json

A cluster of 13 copper and 6 gold atoms at 500 K, labelled by effective medium theory. A potential
of all frames and twenty of a random half each run the same canonical dynamics; of each run the mean
potential energy, the mean distance of two gold atoms and the radius of gyration, with the
potential's part of the error by reweighting and the sampling part (`eip.analysis.averages`). The
band holds 80 % if errors are Gaussian: ±1.28 standard deviations, of which the sampling part is
that of both runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Octahedron
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

import eip
from eip.analysis.averages import average, deviations_of
from eip.config import Config
from eip.simulation import DynamicsSettings, run_dynamics

HERE = Path(__file__).parent
TEMPERATURE, FRAMES, STEPS = 500.0, 200, 40_000
WIDTH = 1.2816  # of 80 % of a Gaussian


def cluster() -> Atoms:
    atoms = Octahedron("Cu", 3)
    atoms.symbols[np.random.default_rng(0).permutation(len(atoms))[:6]] = "Au"
    return atoms


def reference(path: Path) -> Path:
    """Frames of EMT's own dynamics, 0.25 ps apart."""
    if path.exists():
        return path
    atoms = cluster()
    atoms.calc = EMT()
    rng = np.random.default_rng(1)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * TEMPERATURE, rng=rng)
    dynamics = Langevin(
        atoms, 2.5 * units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, rng=rng
    )
    dynamics.run(2000)
    frames = []
    for _ in range(FRAMES):
        dynamics.run(100)
        kept = atoms.copy()
        kept.calc = SinglePointCalculator(
            kept, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
        )
        frames.append(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, frames)
    return path


def quantities(frames: list[Atoms]) -> dict[str, np.ndarray]:
    gold = np.flatnonzero(frames[0].numbers == 79)
    first, second = np.triu_indices(len(gold), 1)
    positions = np.array([atoms.positions for atoms in frames])
    apart = positions[:, gold[first]] - positions[:, gold[second]]
    centred = positions - positions.mean(axis=1, keepdims=True)
    return {
        "energy, eV": np.array([atoms.get_potential_energy() for atoms in frames]),
        "Au-Au distance, Å": np.linalg.norm(apart, axis=2).mean(axis=1),
        "radius of gyration, Å": np.sqrt((centred**2).sum(axis=2).mean(axis=1)),
    }


def measured(name: str, frames: list[Atoms], folder: Path, seed: int) -> dict[str, dict]:
    """Trains on frames, runs, averages."""
    kept = folder / name / "averages.json"
    if kept.exists():
        return json.loads(kept.read_text())
    (folder / name).mkdir(parents=True, exist_ok=True)
    write(folder / name / "train.xyz", frames)
    config = Config.model_validate(
        {
            "run_dir": folder / name / "run",
            "data": {"train": [folder / name / "train.xyz"], "validation": 0.25},
            "model": {"backbone": {"name": "painn", "channels": 32, "interactions": 2}},
            "training": {"epochs": 60, "seed": seed, "device": "cpu"},
        }
    )
    begun = (folder / name / "run/run.json").exists()
    run = eip.train(config, progress=False, resume=begun)
    potential = eip.load(run.model)
    settings = DynamicsSettings(
        steps=STEPS,
        temperature=TEMPERATURE,
        timestep_fs=2.5,
        seed=seed,
        trajectory_interval=40,
    )
    run_dynamics(cluster(), potential, settings, folder / name / "md", resume=True, progress=False)
    sampled = read(folder / name / "md/trajectory.xyz", index="50:")
    parts = deviations_of(potential, sampled).parts
    found = {}
    for quantity, values in quantities(sampled).items():
        one = average(values, parts, TEMPERATURE)
        found[quantity] = {
            "value": float(one.value),
            "potential_error": float(one.potential_error),
            "sampling_error": float(one.sampling_error),
            "effective_frames": one.effective_frames,
            "doubt": one.doubt,
        }
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/averages"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    frames = read(reference(out / "reference.xyz"), index=":")
    whole = measured("all", frames, out, 0)
    repeats = []
    for repeat in range(1, arguments.repeats + 1):
        half = np.random.default_rng(repeat).permutation(len(frames))[: len(frames) // 2]
        repeats.append(measured(f"half{repeat}", [frames[i] for i in half], out, repeat))
        print(repeat, repeats[-1])
    summary = {}
    for quantity, true in whole.items():
        errors = [
            np.sqrt(
                one[quantity]["potential_error"] ** 2
                + one[quantity]["sampling_error"] ** 2
                + true["sampling_error"] ** 2
            )
            for one in repeats
        ]
        off = [abs(one[quantity]["value"] - true["value"]) for one in repeats]
        summary[quantity] = {
            "within": sum(o <= WIDTH * e for o, e in zip(off, errors, strict=True)),
            "of": len(repeats),
            "rms_difference": float(np.sqrt(np.mean(np.square(off)))),
            "rms_error": float(np.sqrt(np.mean(np.square(errors)))),
            "doubted": sum(bool(one[quantity]["doubt"]) for one in repeats),
        }
        print(quantity, summary[quantity])
    content = {"summary": summary, "all": whole, "halves": repeats}
    (HERE / "averages.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
