"""What the latent distance adds to σ: trained AcAc potentials with and without it.

    python experiments/accuracy/run.py acac --epochs 60 --seeds 0 1 2    # trains them
    python experiments/uq/latent_distance.py

In distribution: AcAc at 300 K. Out of it: AcAc at 600 K, and aspirin (keys with _aspirin), a
molecule that was never seen. Results: {data set: {method: {metric: {mean, std, seeds}}}}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np

from eip.data import GraphDataset, make_loader
from eip.evaluation import calibrate, compute_metrics, evaluate
from eip.model_file import load_model
from eip.uncertainty.latent_distance import fit_latent_distance

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "accuracy"))
from run import SPLITS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--setting", default="tensor-F64-epochs=60")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    cache = arguments.runs / "frames"
    split = SPLITS["acac"](arguments.data, cache)
    aspirin = SPLITS["aspirin"](arguments.data, cache).test

    found: dict[str, list[dict[str, float]]] = {"tensor": [], "tensor × latent distance": []}
    for seed in arguments.seeds:
        model = arguments.runs / "acac" / arguments.setting / f"seed{seed}" / "model.eip"
        trained = load_model(model).potential

        def batches(store, indices, cutoff=trained.cutoff):
            dataset = GraphDataset(store, indices, cutoff=cutoff)
            return make_loader(dataset, max_atoms=1000, shuffle=False, seed=0)

        def validation(batches=batches):
            return batches(split.store, split.validation)

        with_distance = fit_latent_distance(
            trained,
            [batch.graph for batch in batches(split.store, split.train)],
            [(batch.graph, batch.forces) for batch in validation()],
        )
        for method, potential in zip(found, (trained, with_distance), strict=True):
            calibrated = calibrate(potential, evaluate(potential, validation(), progress=False))
            known, hot, other = (
                evaluate(calibrated, batches(store, indices), progress=False)
                for store, indices in (
                    (split.test, None),
                    (split.ood, None),
                    (aspirin, np.arange(0, len(aspirin), 5)),
                )
            )
            unseen = compute_metrics(known, other)
            of_aspirin = {
                key.replace("_ood", "") + "_aspirin": value
                for key, value in unseen.items()
                if key.endswith("_ood") or key in ("ood_ratio", "ood_auc")
            }
            found[method].append(compute_metrics(known, hot) | of_aspirin)

    results = {
        "acac": {
            method: {
                key: {
                    "mean": statistics.fmean(values),
                    "std": statistics.stdev(values) if len(values) > 1 else None,
                    "seeds": len(values),
                }
                for key in runs[0]
                if np.isfinite(values := [r[key] for r in runs]).all()
            }
            for method, runs in found.items()
        }
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    for method, table in results["acac"].items():
        print(method)
        for key in ("force_mae", "spearman_atom", "spearman_atom_ood", "roc_auc_atom",
                    "roc_auc_atom_ood", "coverage_80", "coverage_80_ood", "ood_ratio", "ood_auc",
                    "ood_ratio_aspirin", "ood_auc_aspirin"):  # fmt: skip
            value = table[key]
            print(f"  {key:20s} {value['mean']:.3f} ± {value['std'] or 0:.3f}")


if __name__ == "__main__":
    main()
