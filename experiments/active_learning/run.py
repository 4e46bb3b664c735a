"""What uncertainty saves: force error on a broad test set against labels, by strategy.

    python experiments/active_learning/run.py --seeds 0 1 2        # all strategies
    python experiments/active_learning/run.py --strategies random udd --seeds 0
    python experiments/active_learning/run.py --backbone painn --table

Methyl ethyl ether, GFN2-xTB as the reference. Test set: MD with GFN2-xTB itself at 800 K from the
trans and the gauche conformer. Each strategy starts from the same 20 rattled frames and asks for 20
labels a generation. What is done is not done again. Figures land in results_BACKBONE.json beside
this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import write
from reference import dynamics

from eip.active_learning.ledger import Ledger
from eip.analysis import torsion_entropy
from eip.config import LearningConfig
from eip.verbs.comparison_tables import summary
from eip.verbs.learn import learn

HERE = Path(__file__).parent

#: What differs between the strategies: of `learn` and of `model`.
STRATEGIES: dict[str, dict[str, dict[str, Any]]] = {
    "random": {"learn": {"selection": "random", "udd": False}},
    "md": {"learn": {"udd": False}},
    "udd": {},
    "udd, ensemble of 4": {"model": {"uncertainty": "ensemble"}},
    "DP-GEN's rule, ensemble of 4": {
        "model": {"uncertainty": "ensemble"},
        "learn": {"selection": "window", "udd": False},
    },
    "hover": {"learn": {"push": 1.0, "hover": 3.0, "push_interval": 2}},
}
#: What was measured with each network: how it is trained.
BACKBONES: dict[str, dict[str, Any]] = {
    "cartesian_ace": {"epochs": 150},
    "painn": {"epochs": 150, "selection": "loss", "variance_weight": 0.0},
}


def ether() -> Atoms:
    atoms = molecule("CH3CH2OCH3")
    for name in set(atoms.arrays) - {"numbers", "positions"}:
        del atoms.arrays[name]
    return atoms


def torsions(atoms: Atoms) -> tuple[list[int], list[int]]:
    """Indices of C–C–O–C and of one H–C–C–O."""
    distances = atoms.get_all_distances()
    bonded = {
        i: [j for j in range(len(atoms)) if j != i and distances[i, j] < 1.65]
        for i in range(len(atoms))
    }
    (oxygen,) = [i for i in bonded if atoms.numbers[i] == 8]
    carbons = [i for i in bonded[oxygen] if atoms.numbers[i] == 6]
    middle = next(c for c in carbons if any(atoms.numbers[j] == 6 for j in bonded[c]))
    other = next(c for c in carbons if c != middle)
    end = next(j for j in bonded[middle] if atoms.numbers[j] == 6)
    hydrogen = next(j for j in bonded[end] if atoms.numbers[j] == 1)
    return [end, middle, oxygen, other], [hydrogen, end, middle, oxygen]


def conformers() -> list[Atoms]:
    trans = ether()
    first, _ = torsions(trans)
    gauche = trans.copy()
    distances = trans.get_all_distances()
    # The methyl group behind the oxygen turns with its hydrogens.
    group = [first[3], *(j for j in range(len(trans)) if trans.numbers[j] == 1
                         and distances[first[3], j] < 1.3)]  # fmt: skip
    gauche.set_dihedral(*first, 70, indices=group)
    return [trans, gauche]


def test_set(folder: Path) -> Path:
    """Frames of hot MD with the reference method, every 40 fs."""
    path = folder / "test.xyz"
    if path.exists():
        return path
    frames = [
        frame
        for k, start in enumerate(conformers())
        for frame in dynamics(
            start, 800.0, 100, np.random.default_rng(k), every=40, timestep_fs=1.0
        )
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write(path, frames)
    return path


def config_of(
    folder: Path, backbone: str, strategy: str, seed: int, test: Path, start: Path
) -> LearningConfig:
    changes = STRATEGIES[strategy]
    return LearningConfig.model_validate(
        {
            "run_dir": str((folder / strategy / f"seed{seed}").absolute()),
            "data": {"test": [str(test.absolute())]},
            "model": {"backbone": backbone, "channels": 32, **changes.get("model", {})},
            "training": BACKBONES[backbone],
            "learn": {
                "starts": [str(start.absolute())],
                "initial": 20,
                "labels": 20,
                "generations": 6,
                "temperatures": [500.0],
                "length_ps": 3.0,
                "candidate_ratio": 0.0,
                "executor": "serial",
                "together": 8,
                "seed": 100 * seed,
                **changes.get("learn", {}),
            },
        },
        context={"base": Path(".")},
    )


def entropy(frames: list[Atoms], indices: list[int]) -> float:
    """Of a torsion's histogram, over that of a uniform one: 0 to 1."""
    return torsion_entropy(np.array([atoms.get_dihedral(*indices) for atoms in frames]))


def measure(
    folder: Path, backbone: str, strategy: str, seed: int, test: Path, start: Path
) -> dict[str, Any]:
    config = config_of(folder / backbone, backbone, strategy, seed, test, start)
    begun = (config.run_dir / "config.yaml").is_file()
    result = learn(config, resume=begun, progress=False)
    ledger = Ledger(config.run_dir / "ledger.db")
    chosen = [c.atoms for c in ledger.candidates("used", "labelled") if c.generation >= 0]
    first, second = torsions(ether())
    return {
        "labels": [g.labels for g in result.generations],
        "force_mae": [g.metrics["force_mae"] for g in result.generations],
        "stable_ps": [g.stable_ps for g in result.generations],
        "entropy_ccoc": entropy(chosen, first),
        "entropy_hcco": entropy(chosen, second),
        "overhead_fraction": result.overhead_fraction,
        "seconds": result.seconds,
    }


def labels_to_reach(curve: dict[str, Any], error: float) -> float:
    """By linear interpolation; NaN if it was never reached."""
    labels, found = curve["labels"], np.minimum.accumulate(curve["force_mae"])
    for k in range(len(found)):
        if found[k] <= error:
            if k == 0:
                return float(labels[0])
            share = (found[k - 1] - error) / (found[k - 1] - found[k])
            return float(labels[k - 1] + share * (labels[k] - labels[k - 1]))
    return float("nan")


_FINAL = ("force_mae", "stable_ps", "entropy_ccoc", "entropy_hcco", "overhead_fraction")


def last(runs: dict[str, Any], key: str) -> list[float]:
    """Of each run, the figure of its last generation."""
    return [r[key][-1] if isinstance(r[key], list) else r[key] for r in runs.values()]


def columns(runs: dict[str, Any]) -> list[tuple[float, ...]]:
    """Lengths of stable MD by generation, over the seeds."""
    return list(zip(*(r["stable_ps"] for r in runs.values()), strict=False))


def report(curves: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Tables over the seeds that there are."""
    out: dict[str, Any] = {"curves": curves, "labels_to_reach": {}, "final": {}}
    final = [runs["force_mae"][-1] for runs in curves.get("random", {}).values()]
    for strategy, runs in curves.items():
        out["final"][strategy] = {key: summary(last(runs, key)) for key in _FINAL}
        if final:
            needed = [labels_to_reach(r, float(np.mean(final))) for r in runs.values()]
            reached = [n for n in needed if np.isfinite(n)]
            if reached:
                out["labels_to_reach"][strategy] = {
                    **summary(reached), "not_reached": len(needed) - len(reached),
                }  # fmt: skip
    out["stability_ps"] = {
        strategy: [float(np.mean(step)) for step in columns(runs)]
        for strategy, runs in curves.items()
    }
    out["overhead_fraction"] = float(
        np.mean([r["overhead_fraction"] for runs in curves.values() for r in runs.values()])
    )
    return out


def show(results: dict[str, Any]) -> None:
    for strategy, runs in results["curves"].items():
        print(strategy)
        for seed, run in runs.items():
            pairs = zip(run["labels"], run["force_mae"], strict=True)
            print(f"  seed {seed}:", ", ".join(f"{n}: {1000 * e:.1f}" for n, e in pairs))
        if strategy in results["labels_to_reach"]:
            needed = results["labels_to_reach"][strategy]
            print(f"  labels to reach the final error of random: {needed['mean']:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/active_learning"))
    parser.add_argument("--backbone", choices=list(BACKBONES), default="cartesian_ace")
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=[*STRATEGIES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only show what there is")
    arguments = parser.parse_args()
    results_file = HERE / f"results_{arguments.backbone}.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {"curves": {}}
    if not arguments.table:
        test = test_set(arguments.out)
        start = arguments.out / "ether.xyz"
        if not start.exists():
            write(start, conformers())
        for seed in arguments.seeds:
            for strategy in arguments.strategies:
                found = measure(arguments.out, arguments.backbone, strategy, seed, test, start)
                results["curves"].setdefault(strategy, {})[str(seed)] = found
                results = report(results["curves"])
                results_file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
                print(strategy, seed, [round(1000 * e, 1) for e in found["force_mae"]], flush=True)
    show(results)


if __name__ == "__main__":
    main()
