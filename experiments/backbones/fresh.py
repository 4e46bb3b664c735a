"""Architectures of other packages, trained from nothing with and without the evidential head.

    python experiments/backbones/fresh.py sevenn --data DIR --epochs 20

On acetylacetone: 100 training frames at 300 K, a fifth of which validate, and 100 test frames.
What is in fresh.json is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time

import ase.io
import numpy as np

import eip
from eip.config import Config

HERE = Path(__file__).parent
KEPT = ("force_mae", "energy_mae_per_atom", "spearman_atom", "roc_auc_atom", "coverage_80")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="+", help="painn, cartesian_ace, sevenn, mace")
    parser.add_argument("--data", type=Path, required=True, help="folder with acetylacetone")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--heads", nargs="+", default=["none", "tensor"])
    parser.add_argument("--work", type=Path, default=Path("runs/backbones"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, source, count in (
        ("train", "train_300K.xyz", given.frames),
        ("test", "test_MD_300K.xyz", 100),
    ):
        found = ase.io.read(given.data / source, ":")
        drawn = np.random.default_rng(0).permutation(len(found))[:count]
        files[name] = given.work / f"acac-{name}.xyz"
        ase.io.write(files[name], [found[i] for i in drawn])
    results = HERE / "fresh.json"
    for backbone in given.backbones:
        for head in given.heads:
            label = f"{backbone}, {head}, {given.channels} channels, frames={given.frames}, "
            label += f"epochs={given.epochs}"
            done = json.loads(results.read_text()) if results.exists() else {}
            if label in done:
                continue
            config = Config(
                run_dir=given.work / f"{backbone}-{head}-{given.frames}-{given.epochs}",
                data={"train": [files["train"]], "validation": 0.2, "test": [files["test"]]},
                model={
                    "backbone": {"name": backbone, "channels": given.channels, "cutoff": 4.0},
                    "uncertainty": head,
                },
                training={"epochs": given.epochs, "device": "cpu"},
            )
            began = process_time()
            run = eip.train(config, progress=False)
            if run.model is None:
                raise SystemExit("interrupted")
            found = {k: run.metrics.get(k, np.nan) for k in KEPT}
            done[label] = {k: round(v, 4) for k, v in found.items() if np.isfinite(v)}
            done[label] |= {"cpu_s": round(process_time() - began)}
            results.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
            print(label, done[label], flush=True)


if __name__ == "__main__":
    main()
