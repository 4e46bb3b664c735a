"""Does uncertainty carry a run over a barrier? Formic acid, whose O–H turns over 0.5 eV.

    python experiments/active_learning/barrier.py --seeds 0 1 2          # → barrier.json
    python experiments/active_learning/barrier.py --strategies md udd --seeds 0
    python experiments/active_learning/barrier.py --table

GFN2-xTB is the reference. Each strategy begins with the same 20 rattled frames of the stable (syn)
conformer and asks for 15 labels a generation. Two sets test it: MD of the reference itself at 300 K
within the well ("home"), and, for each angle H–O–C=O from 0 to 180°, three frames relaxed at that
angle and rattled by 0.03 Å ("barrier": those of 60 to 120°; "other side": those beyond). MD at
300 K never comes there within such runs: the reference's own does not either.

    random        MD, frames taken at random
    many          the same, 90 a generation, two generations, runs of 5 ps
    md            MD, frames by uncertainty
    two heats     the same, at 300 and 900 K
    udd           MD and UDD, frames by uncertainty
    memory        the same, pushed seven times as strongly, turning round at a grade of 5, the push
                  averaged over 50 fs
    soft          the same, pushed three times as strongly along what is soft, every other step,
                  turning round at a grade of 3
    displaced     no dynamics: as many frames, rattled by 0.05 and 0.15 Å
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixInternals
from ase.io import iread, write
from ase.optimize import BFGS
from reference import calculator, dynamics, labelled

from eip.active_learning.ledger import Ledger
from eip.config import LearningConfig
from eip.model_file import load_model
from eip.verbs.comparison_tables import summary
from eip.verbs.learn import learn

HERE = Path(__file__).parent
#: H–O–C=O of ASE's formic acid.
TORSION = [3, 0, 1, 2]
INITIAL, LABELS, GENERATIONS = 20, 15, 6
#: What differs between the strategies, of `learn`.
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"selection": "random", "udd": False},
    "many": {
        **{"selection": "random", "udd": False},
        **{"labels": 90, "generations": 3, "length_ps": 5.0},
    },
    "md": {"udd": False},
    "two heats": {"udd": False, "temperatures": [300.0, 900.0]},
    "udd": {},
    "memory": {"push": 2.0, "hover": 5.0, "memory": 50.0},
    "soft": {"push": 1.0, "hover": 3.0, "soft": True, "push_interval": 2},
    "displaced": {"udd": False, "rattle": 0.15},
}
#: Degrees; the barrier's own frames, and those behind it.
PARTS = {"barrier": (60.0, 120.0), "other side": (121.0, 180.0)}


def acid() -> Atoms:
    made = molecule("HCOOH")
    return Atoms(made.numbers, made.positions)


def test_sets(folder: Path) -> dict[str, list[Atoms]]:
    """By name, labelled; each carries its angle."""
    path = folder / "test.xyz"
    if not path.exists():
        frames = [*_home(), *_path()]
        folder.mkdir(parents=True, exist_ok=True)
        write(path, frames)
    frames = list(iread(path))
    sets = {"home": [a for a in frames if a.info["set"] == "home"]}
    for name, (low, high) in PARTS.items():
        sets[name] = [
            a for a in frames if a.info["set"] == "path" and low <= a.info["angle"] <= high
        ]
    return sets


def _home() -> list[Atoms]:
    rng = np.random.default_rng(0)
    frames = list(dynamics(acid(), 300.0, 100, rng, every=80, timestep_fs=0.5))
    for frame in frames:
        frame.info |= {"set": "home", "angle": _angle(frame)}
    return frames


def _path() -> list[Atoms]:
    rng = np.random.default_rng(1)
    atoms, frames = acid(), []
    for angle in range(0, 181, 10):
        atoms.set_dihedral(*TORSION, angle, indices=TORSION[:1])
        atoms.set_constraint(FixInternals(dihedrals_deg=[[angle, TORSION]]))
        atoms.calc = calculator()
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=300)
        for _ in range(3):
            moved = Atoms(atoms.numbers, atoms.positions + rng.normal(scale=0.03, size=(5, 3)))
            frames.append(labelled(moved))
            frames[-1].info |= {"set": "path", "angle": float(angle)}
        atoms.set_constraint()
    return frames


def _angle(atoms: Atoms) -> float:
    """0 (syn) to 180° (anti)."""
    found = atoms.get_dihedral(*TORSION)
    return float(min(found, 360.0 - found))


def config_of(folder: Path, start: Path, seed: int, changes: dict[str, Any]) -> LearningConfig:
    return LearningConfig.model_validate(
        {
            "run_dir": str(folder.absolute()),
            "data": {},
            "model": {"channels": 32},
            "training": {"epochs": 150},
            "learn": {
                "starts": [str(start.absolute())],
                "initial": INITIAL,
                "labels": LABELS,
                "generations": GENERATIONS,
                "temperatures": [300.0],
                "length_ps": 2.0,
                "candidate_ratio": 0.0,
                "max_bond_stretch": None,
                "executor": "serial",
                "seed": 100 * seed,
                **changes,
            },
        },
        context={"base": Path(".")},
    )


def errors(model: Path, sets: dict[str, list[Atoms]]) -> dict[str, float]:
    """Force RMSE of each set, eV/Å."""
    potential = load_model(model)
    out = {}
    for name, frames in sets.items():
        found = potential.predict(frames).forces.double().numpy()
        wanted = np.concatenate([a.get_forces() for a in frames])
        out[name] = float(np.sqrt(np.mean((found - wanted) ** 2)))
    return out


def measure(folder: Path, strategy: str, seed: int, start: Path) -> list[dict[str, Any]]:
    """By generation: labels, errors, the widest angle that was labelled."""
    changes = STRATEGIES[strategy]
    sets = test_sets(folder)
    own = folder / strategy / f"seed{seed}"
    if strategy == "displaced":
        runs = [
            (own / str(k), {"generations": 1, "initial": INITIAL + LABELS * k, **changes})
            for k in (1, 3, GENERATIONS - 1)
        ]
    else:
        runs = [(own, changes)]
    rows: list[dict[str, Any]] = []
    for path, more in runs:
        config = config_of(path, start, seed, more)
        result = learn(config, resume=(path / "config.yaml").is_file(), progress=False)
        every = Ledger(path / "ledger.db").candidates("used", "labelled")
        for g in result.generations:
            known = [c.atoms for c in every if c.generation < g.generation]
            model = path / f"generation-{g.generation:03d}" / "model" / "model.eip"
            rows.append(
                {
                    "labels": g.labels,
                    "widest_angle": max(map(_angle, known)),
                    "stable_ps": g.stable_ps,
                    **errors(model, sets),
                }
            )
    return rows


def labels_to_reach(rows: list[dict[str, Any]], part: str, error: float) -> float:
    """The first generation whose error is no larger; infinite if none."""
    return next((float(r["labels"]) for r in rows if r[part] <= error), float("inf"))


def report(curves: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    final = {
        strategy: {
            key: summary([rows[-1][key] for rows in runs.values()])
            for key in ("home", *PARTS, "widest_angle", "labels")
        }
        for strategy, runs in curves.items()
    }
    needed: dict[str, Any] = {}
    if "random" in final:
        bound = final["random"]["barrier"]["mean"]
        needed = {
            strategy: [labels_to_reach(rows, "barrier", bound) for rows in runs.values()]
            for strategy, runs in curves.items()
        }
    return {"curves": curves, "final": final, "labels_to_randoms_end_on_the_barrier": needed}


def show(results: dict[str, Any]) -> None:
    print("| strategy | labels | home | barrier | other side | widest angle |")
    print("|---|---|---|---|---|---|")
    for strategy, row in results["final"].items():
        cells = [f"{row['labels']['mean']:.0f}"]
        for key in ("home", *PARTS):
            cells.append(f"{1e3 * row[key]['mean']:.0f} ± {1e3 * (row[key]['std'] or 0):.0f}")
        cells.append(f"{row['widest_angle']['mean']:.0f}°")
        print(f"| {strategy} | {' | '.join(cells)} |")
    print(results["labels_to_randoms_end_on_the_barrier"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/barrier"))
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=[*STRATEGIES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only show what there is")
    arguments = parser.parse_args()
    kept = HERE / "barrier.json"
    results = json.loads(kept.read_text()) if kept.exists() else {"curves": {}}
    if not arguments.table:
        start = arguments.out / "acid.xyz"
        start.parent.mkdir(parents=True, exist_ok=True)
        if not start.exists():
            write(start, acid())
        for seed in arguments.seeds:
            for strategy in arguments.strategies:
                found = measure(arguments.out, strategy, seed, start)
                results["curves"].setdefault(strategy, {})[str(seed)] = found
                results = report(results["curves"])
                kept.write_text(json.dumps(results, indent=1) + "\n")
                print(strategy, seed, [round(1e3 * r["barrier"]) for r in found], flush=True)
    show(results)


if __name__ == "__main__":
    main()
