"""Active learning of LiFePO4 that begins with CHGNet: labels until forces are right at 600 K.

    python examples/lithium_hop/run.py --out runs/lithium_hop             # chgnet.eip
    python experiments/backbones/learn.py runs/lithium_hop/chgnet.eip     # → learn.json
    python experiments/backbones/learn.py runs/lithium_hop/chgnet.eip --reference 7net-0

28 atoms, labelled by GFN1-xTB, or by a SevenNet. Each generation fine-tunes CHGNet on all labels so
far and explores by MD and UDD at 600 K. The test is dynamics of the reference itself at 600 K, of
which nothing is trained on. The first row is CHGNet as it is, with no label of this reference.
What was begun is gone on with; more --generations go further, and with none what there is is
measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

import eip
from eip.builders import lifepo4
from eip.config import LearningConfig

HERE = Path(__file__).parent
TEMPERATURE, TIMESTEP = 600.0, 2.0
#: Of the reference's dynamics: steps to forget the start, frames, steps between them.
FORGOTTEN, TESTS, APART = 40, 6, 6
KEPT = ("force_mae", "force_rmse", "spearman_atom", "coverage_80", "mean_uncertainty")
SEVENN = """from sevenn.calculator import SevenNetCalculator


def make():
    return SevenNetCalculator("{name}", device="cpu")
"""


def labeler_of(reference: str, folder: Path) -> dict[str, Any]:
    if reference.endswith("xTB"):
        return {"labeler": "xtb", "labeler_options": {"method": reference}}
    (folder / "reference.py").write_text(SEVENN.format(name=reference))
    return {
        "labeler": "ase",
        "labeler_options": {"calculator": f"{folder.absolute() / 'reference.py'}:make"},
    }


def calculator_of(reference: str) -> Calculator:
    if reference.endswith("xTB"):
        from tblite.ase import TBLite

        return TBLite(method=reference, verbosity=0)
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(reference, device="cpu")


def test_frames(reference: str, path: Path) -> Path:
    """The reference's own dynamics, kept frame by frame, so that it goes on where it was."""
    piece = path.with_suffix(".traj")
    kept = ase.io.read(piece, ":") if piece.is_file() else []
    while len(kept) < TESTS:
        atoms = kept[-1].copy() if kept else lifepo4()
        rng = np.random.default_rng(len(kept))
        if not kept:  # half of it goes into the crystal's vibrations
            MaxwellBoltzmannDistribution(atoms, temperature_K=2 * TEMPERATURE, rng=rng)
        atoms.calc = calculator_of(reference)
        settings = {"temperature_K": TEMPERATURE, "friction": 0.01 / units.fs, "rng": rng}
        Langevin(atoms, TIMESTEP * units.fs, **settings).run(APART if kept else FORGOTTEN)
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        kept.append(atoms)
        ase.io.write(piece, kept)
    if not path.is_file():
        ase.io.write(path, [_without_momenta(atoms) for atoms in kept])
    return path


def _without_momenta(atoms: Atoms) -> Atoms:
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    bare.calc = atoms.calc
    return bare


def config_of(given: argparse.Namespace, folder: Path) -> LearningConfig:
    return LearningConfig.model_validate(
        {
            "run_dir": folder / "run",
            "data": {},
            "model": {"start_from": given.model.absolute()},
            "training": {
                "epochs": given.epochs,
                "learning_rate": 1e-3,
                "batch_size": 2,
                "device": "cpu",
            },
            "learn": {
                **labeler_of(given.reference, folder),
                "starts": [(folder / "start.xyz").absolute()],
                "initial": given.labels,
                "labels": given.labels,
                "generations": given.generations,
                "temperatures": [TEMPERATURE],
                "timestep_fs": TIMESTEP,
                "length_ps": given.ps,
                "frame_interval": 5,
                "candidate_ratio": 0.0,
                "executor": "serial",
            },
        }
    )


def measured(model: Path, test: Path, folder: Path) -> dict[str, float]:
    found = eip.evaluate(model, test, folder, force=True, progress=False)
    return {k: round(found[k], 4) for k in KEPT if np.isfinite(found.get(k, np.nan))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="CHGNet as eip attach made it")
    parser.add_argument("--reference", default="GFN1-xTB", help="or 7net-0, 7net-l3i5")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--labels", type=int, default=8, help="a generation")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--ps", type=float, default=0.1, help="of each run of dynamics")
    parser.add_argument("--work", type=Path, default=Path("runs/lifepo4_learn"))
    given = parser.parse_args()
    folder = given.work / given.reference
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "start.xyz").is_file():
        ase.io.write(folder / "start.xyz", lifepo4())
    test = test_frames(given.reference, folder / "test.xyz")
    rows = [{"labels": 0, **measured(given.model, test, folder / "before")}]
    if given.generations:
        begun = (folder / "run" / "run.json").is_file()
        eip.learn(config_of(given, folder), resume=begun, progress=False, log=print)
    for path in sorted((folder / "run").glob("generation-*")):
        model = path / "model" / "model.eip"
        if model.is_file():
            files = path / "train.xyz", path / "validation.xyz"
            labels = sum(len(ase.io.read(file, ":")) for file in files)
            rows.append({"labels": labels, **measured(model, test, folder / path.name)})
    kept = HERE / "learn.json"
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    forces = np.concatenate([atoms.get_forces() for atoms in ase.io.read(test, ":")])
    done[given.reference] = {
        "epochs": given.epochs,
        "test_frames": TESTS,
        "test_force_rms": round(float(np.sqrt((forces**2).mean())), 4),
        "generations": rows,
    }
    kept.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
