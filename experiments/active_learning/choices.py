"""Which choice of labels teaches most? One pool, one start; only the choice differs.

    python experiments/active_learning/choices.py --seeds 0 1 2          # → choices.json
    python experiments/active_learning/choices.py --table

Methyl ethyl ether, GFN2-xTB. The pool is the reference's own dynamics at 500 K, from the trans and
the gauche conformer, and as many frames at 800 K (which stand for those that UDD finds); the test
other dynamics at 800 K. From 20 rattled frames, 20 labels a round. Each choice of a round is made
by the potential of all labels before it.

    random          any frame of the pool
    random, 500 K   any of its colder half
    farthest        uncertain frames, each the farthest from all chosen ones in latent space
    window          uncertain frames at random (DP-GEN's rule, with σ of one network)
    largest         those of the largest mean σ
    farthest · σ    the farthest, times its mean σ
    coverage        what most reduces σ² of all atoms of the pool

"begun with GFN1" are no other choices but another beginning: in place of the 20 frames the weights
of a potential of 600 frames of GFN1-xTB (its own dynamics, as the pool's), whose labels cost
nothing beside those of the reference; 10 labels a round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread, write
from reference import dynamics, labelled
from run import conformers
from scipy.spatial.distance import cdist

import eip
from eip.active_learning.selection import descriptors, farthest_points, window
from eip.config import Config
from eip.model_file import load_model
from eip.verbs.comparison_tables import summary

HERE = Path(__file__).parent
CHOICES = (
    "random",
    "random, 500 K",
    "farthest",
    "window",
    "largest",
    "farthest · σ",
    "coverage",
    "random, begun with GFN1",
    "farthest · σ, begun with GFN1",
)
START, ROUND, ROUND_OF_BEGUN = 20, 20, 10
BEGUN = ", begun with GFN1"


def pool_of(
    temperature: float, frames: int, seed: int, method: str = "GFN2-xTB"
) -> Iterator[Atoms]:
    """Of both conformers, every 20 fs."""
    for k, start in enumerate(conformers()):
        rng = np.random.default_rng([seed, k])
        own = dynamics(
            start, temperature, frames // 2, rng, every=20, timestep_fs=1.0, method=method
        )
        for frame in own:
            frame.info["temperature"] = temperature
            yield frame


def sets(folder: Path) -> tuple[list[Atoms], list[Atoms]]:
    """The pool and the test."""
    out = []
    for name, parts in {
        "pool": ((500.0, 300, 1), (800.0, 300, 2)),
        "test": ((800.0, 200, 3),),
    }.items():
        path = folder / f"{name}.xyz"
        if not path.exists():
            write(path, [atoms for part in parts for atoms in pool_of(*part)])
        out.append(list(iread(path)))
    return out[0], out[1]


def first(seed: int) -> list[Atoms]:
    """Rattled starts, as a learning run makes them."""
    rng = np.random.default_rng(100 * seed)
    starts, found = conformers(), []
    for k in range(START):
        atoms = starts[k % 2].copy()
        size = 0.06 if (k // 2) % 2 else 0.02
        atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
        found.append(labelled(atoms))
    return found


def begun(folder: Path) -> Path:
    """The potential of GFN1-xTB, one for all seeds."""
    path = folder / "cheap.xyz"
    if not path.exists():
        parts = ((500.0, 300, 4), (800.0, 300, 5))
        write(path, [a for part in parts for a in pool_of(*part, method="GFN1-xTB")])
    return trained(folder / "cheap", list(iread(path)), 0)


def trained(folder: Path, frames: list[Atoms], seed: int, start: Path | None = None) -> Path:
    model = folder / "model" / "model.eip"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        held_out = np.random.default_rng(seed).permutation(len(frames)) < round(0.15 * len(frames))
        for name, side in {"train": ~held_out, "validation": held_out}.items():
            write(folder / f"{name}.xyz", [frames[i] for i in np.flatnonzero(side)])
        config = Config.model_validate(
            {
                "run_dir": folder / "model",
                "data": {
                    "train": [(folder / "train.xyz").absolute()],
                    "validation": [(folder / "validation.xyz").absolute()],
                },
                "model": {"channels": 32} if start is None else {"start_from": start.absolute()},
                "training": {"epochs": 150, "seed": seed, "device": "cpu"},
            }
        )
        eip.train(config, resume=(folder / "model" / "config.yaml").exists(), progress=False)
    return model


def coverage(potential: Any, pool: list[Atoms], count: int, taken: set[int]) -> list[int]:
    """Greedy: the frame whose atoms stand for the most variance of the pool's atoms that is left.

    A label says of an atom as much of what is not known as a Gaussian of the latent distance, as
    wide as the tenth nearest frame is far. What was labelled before is known to σ already.
    """
    found = potential.predict(pool)
    features, sigma = found.features.double().numpy(), found.force_uncertainty.double().numpy()
    numbers = np.concatenate([atoms.numbers for atoms in pool])
    frame = np.repeat(np.arange(len(pool)), [len(atoms) for atoms in pool])
    kernels, weights = [], []
    for z in np.unique(numbers):
        own, of = features[numbers == z], frame[numbers == z]
        own = (own - own.mean(0)) / np.maximum(own.std(0), 1e-9)
        # Of each atom of the pool to the nearest of its element in each frame.
        begins = np.flatnonzero(np.diff(of, prepend=-1))
        nearest = np.minimum.reduceat(cdist(own, own), begins, axis=1)
        width = np.median(np.partition(nearest, 10, axis=1)[:, 10])
        kernels.append(np.exp(-0.5 * (nearest / width) ** 2))
        weights.append(sigma[numbers == z] ** 2)
    kernel, weight = np.concatenate(kernels), np.concatenate(weights)
    covered = np.zeros(len(kernel))
    chosen: list[int] = []
    for _ in range(count):
        gain = weight @ np.maximum(kernel - covered[:, None], 0)
        gain[[*taken, *chosen]] = -1
        chosen.append(int(gain.argmax()))
        covered = np.maximum(covered, kernel[:, chosen[-1]])
    return chosen


def choose(
    choice: str,
    model: Path,
    pool: list[Atoms],
    known: list[Atoms],
    taken: set[int],
    seed: int,
    start: list[Atoms],
    count: int,
) -> list[int]:
    """Which frames of the pool are labelled next."""
    rng = np.random.default_rng([seed, len(known)])
    left = np.array([i for i in range(len(pool)) if i not in taken])
    if choice.startswith("random"):
        if "500" in choice:
            left = np.array([i for i in left if pool[i].info["temperature"] == 500.0])
        return [int(i) for i in rng.permutation(left)[:count]]
    potential = load_model(model)
    if choice == "coverage":
        return coverage(potential, pool, count, taken)
    found = potential.predict(pool)
    per = np.split(found.force_uncertainty.double().numpy(), np.cumsum([len(a) for a in pool])[:-1])
    largest = np.array([s.max() for s in per])
    mean = np.array([s.mean() for s in per])
    held = left
    if start:
        bounds = window(start)
        held = np.array([i for i in left if bounds.lower <= largest[i] < bounds.upper])
        if len(held) < count:
            held = left
    if choice == "window":
        return [int(i) for i in rng.permutation(held)[:count]]
    if choice == "largest":
        return [int(i) for i in held[np.argsort(-mean[held])][:count]]
    rows = descriptors(potential, [*known, *(pool[i] for i in held)])
    parts = rows[len(known) :], rows[: len(known)]
    worth = None if choice == "farthest" else mean[held]
    return [int(held[k]) for k in farthest_points(*parts, count, worth=worth)]


def errors(model: Path, test: list[Atoms]) -> dict[str, float]:
    found = load_model(model).predict(test).forces.double().numpy()
    wrong = found - np.concatenate([a.get_forces() for a in test])
    return {"mae": float(np.abs(wrong).mean()), "rmse": float(np.sqrt((wrong**2).mean()))}


def measure(folder: Path, choice: str, seed: int, rounds: int) -> list[dict[str, Any]]:
    pool, test = sets(folder)
    cheap = begun(folder) if choice.endswith(BEGUN) else None
    start, count = ([], ROUND_OF_BEGUN) if cheap else (first(seed), ROUND)
    known, taken = list(start), set()
    rows = []
    for k in range(rounds + 1):
        own = folder / (f"{choice}" if k else "start") / f"seed{seed}" / str(k)
        model = cheap if cheap and not known else trained(own, known, 100 * seed + k, cheap)
        rows.append({"labels": len(known), **errors(model, test)})
        if k == rounds:
            break
        new = choose(choice.removesuffix(BEGUN), model, pool, known, taken, seed, start, count)
        taken |= set(new)
        known += [pool[i] for i in new]
    return rows


def show(curves: dict[str, Any]) -> None:
    """Force MAE and RMSE by labels, meV/Å, over the seeds that there are."""
    for choice, runs in curves.items():
        longest = max(runs.values(), key=len)
        cells = []
        for k, row in enumerate(longest):
            of = [rows[k] for rows in runs.values() if len(rows) > k]
            mae, rmse = (summary([1e3 * one[key] for one in of]) for key in ("mae", "rmse"))
            cells.append(f"{row['labels']}: {mae['mean']:.0f} / {rmse['mean']:.0f} ({len(of)})")
        print(f"{choice:30s} | {' | '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/choices"))
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=[*CHOICES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only show what there is")
    given = parser.parse_args()
    kept = HERE / "choices.json"
    curves = json.loads(kept.read_text()) if kept.exists() else {}
    if not given.table:
        given.out.mkdir(parents=True, exist_ok=True)
        for seed in given.seeds:
            for choice in given.choices:
                curves.setdefault(choice, {})[str(seed)] = measure(
                    given.out, choice, seed, given.rounds
                )
                kept.write_text(json.dumps(curves, indent=1, ensure_ascii=False) + "\n")
                print(choice, seed, [round(1e3 * r["mae"]) for r in curves[choice][str(seed)]])
    show(curves)


if __name__ == "__main__":
    main()
