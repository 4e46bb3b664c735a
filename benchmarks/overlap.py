"""What it brings that labels are computed while the next generation trains (`learn.overlap`):

    python benchmarks/overlap.py

Whole learning runs of a copper cluster, labelled by effective medium theory that sleeps, as a
reference method does that runs on other machines: four workers wait for it and take no core. As
many generations and labels with and without, in turn; seconds in all, how long a label and a
training were waited for, and what the last potential errs by on dynamics of the reference.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from rich.console import Console

import eip
from eip.active_learning.tasks import read_tasks
from eip.config import LearningConfig

CALCULATOR = """
import time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        time.sleep({seconds})

def make():
    return Slow()
"""


def start() -> Atoms:
    atoms = Octahedron("Cu", 3)
    return Atoms(atoms.numbers, atoms.positions)


def fresh(temperature: float, count: int) -> list[Atoms]:
    """Frames of the reference's own dynamics."""
    atoms, rng = start(), np.random.default_rng(5)
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng
    )
    frames = []
    for _ in range(count):
        dynamics.run(200)
        frames.append(Atoms(atoms.numbers, atoms.positions))
    return frames


def learned(folder: Path, overlap: bool, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    folder.mkdir()
    write(folder / "start.xyz", start())
    (folder / "slow.py").write_text(CALCULATOR.format(seconds=given.seconds))
    config = LearningConfig.model_validate(
        {
            "run_dir": folder / "run",
            "model": {"backbone": {"name": "painn", "channels": 32, "interactions": 2}},
            "training": {"epochs": given.epochs, "batch_size": 5, "device": "cpu"},
            "learn": {
                "starts": [folder / "start.xyz"],
                "labeler": "ase",
                "labeler_options": {"calculator": f"{folder / 'slow.py'}:make"},
                "workers": 4,
                "initial": 20,
                "labels": given.labels,
                "generations": given.generations,
                "lower": 1e-6,
                "upper": 1e6,
                "candidate_ratio": 0.0,
                "length_ps": 1.0,
                "timestep_fs": 2.0,
                "temperatures": [400.0],
                "max_bond_stretch": None,
                "overlap": overlap,
                "seed": seed,
            },
        }
    )
    result = eip.learn(config, progress=False)
    tasks = list(read_tasks(folder / "run/tasks.csv"))
    wall = max(task.ended for task in tasks) - min(task.begun for task in tasks)
    errors = []
    potential = eip.load(result.model)
    for frame in fresh(400.0, 20):
        said = potential.predict([frame]).forces.detach().numpy()
        frame.calc = EMT()
        errors.append(np.square(said - frame.get_forces()).mean())
    return {
        "seconds": wall,
        "labels": result.labels,
        "force_rmse": float(np.sqrt(np.mean(errors))),
        "training_s": sum(task.seconds for task in tasks if task.kind == "training"),
        "waited_for_labels_s": result.seconds["labelling"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--labels", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=4.0, help="that a label takes")
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = report.circumstances()
    found: dict[str, list[dict[str, Any]]] = {"one after the other": [], "overlapping": []}
    for seed in range(given.rounds):
        order = list(found) if seed % 2 == 0 else list(found)[::-1]
        for name in order:
            with tempfile.TemporaryDirectory() as folder:
                kept = Path(folder) / "learn"
                found[name].append(learned(kept, name == "overlapping", seed, given))
            Console().print(name, found[name][-1])
    before, after = (
        [round_["seconds"] for round_ in found[name]]
        for name in ("one after the other", "overlapping")
    )
    ratios = [one / other for one, other in zip(before, after, strict=True)]
    content = {
        "circumstances": began,
        "eip": eip.__version__,
        "label_seconds": given.seconds,
        "workers": 4,
        "generations": given.generations,
        "rounds": found,
        "times_as_fast": round(statistics.median(ratios), 3),
        "load_average_at_the_end": report.circumstances()["load_average"],
    }
    Console().print(f"{content['times_as_fast']} times as fast")
    Console().print(str(report.write("overlap", content, given.out)))


if __name__ == "__main__":
    main()
