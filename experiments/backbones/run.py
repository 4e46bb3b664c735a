"""What is an error bar worth that `eip attach` gives a potential others trained, on MPtrj?

    python experiments/backbones/run.py chgnet --data DIR --frames 200 --seeds 0 1 2

Frames of the sample are split by material, by seed: a tenth is kept for the test, of the others so
many are attached to. The largest structures are left out (--atoms). A combination that is in
results.json is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import ase.io
import numpy as np

import eip

HERE = Path(__file__).parent
KEPT = ("spearman_atom", "roc_auc_atom", "roc_auc_structure", "coverage_80", "force_mae")


def parts(data: Path, most_atoms: int, frames: int, seed: int) -> dict[str, list]:
    """Frames to attach to, and to measure on at home and away."""
    read = {
        name: [a for a in ase.io.read(data / f"{name}.xyz", index=":") if len(a) <= most_atoms]
        for name in ("mptrj-random-1k", "mpf-TP", "random-TP")
    }
    home = read.pop("mptrj-random-1k")
    materials = np.array([a.info["mptrj_traj_id"] for a in home])
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(materials))
    test = set(order[: len(order) // 10])
    others = [a for a, of in zip(home, materials, strict=True) if of not in test]
    chosen = rng.permutation(len(others))[:frames]
    known = {z for i in chosen for z in others[i].numbers}
    away = {name: [a for a in found if set(a.numbers) <= known] for name, found in read.items()}
    away = {
        name: [found[i] for i in rng.permutation(len(found))[:100]] for name, found in away.items()
    }
    at_home = [a for a, of in zip(home, materials, strict=True) if of in test]
    at_home = [a for a in at_home if set(a.numbers) <= known]
    return {"attached": [others[i] for i in chosen], "mptrj": at_home, **away}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of MPtrj")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/backbones"))
    given = parser.parse_args()
    results = HERE / "results.json"
    done = json.loads(results.read_text()) if results.exists() else {}
    for seed in given.seeds:
        name = f"{given.network}, frames={given.frames}, atoms≤{given.atoms}, seed={seed}"
        if name in done:
            continue
        folder = given.work / name.replace(", ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        sets = parts(given.data, given.atoms, given.frames, seed)
        for part, frames in sets.items():
            ase.io.write(folder / f"{part}.xyz", frames)
        began = time.monotonic()
        model = eip.attach(
            given.network,
            folder / "attached.xyz",
            folder / "my.eip",
            labels={"group": "mptrj_traj_id"},
            seed=seed,
            log=print,
        )
        done[name] = {"attach_seconds": round(time.monotonic() - began)}
        for part in list(sets)[1:]:
            metrics = eip.evaluate(
                model, folder / f"{part}.xyz", folder / part, force=True, log=print
            )
            done[name][part] = {"frames": len(sets[part]), **metrics}
            print(name, part, {k: v for k, v in metrics.items() if k in KEPT})
        results.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
