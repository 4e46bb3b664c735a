"""Energies along paths that no training frame walks: a dihedral, the transfer of a hydrogen.

    python experiments/accuracy/paths.py RUNS/acac/*/seed*/model.eip

Of each model and path: error of the energies relative to the path's mean, and the barrier beside
the reference's, meV; where the model's energies have an error bar, how much of the differences to
the first frame lies within 80 %, and how large the error is over the error bar. Into paths.json
beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import eip
from eip.data import FrameStore, GraphDataset, make_loader, open_frames
from eip.evaluation import evaluate
from eip.potential import Potential

HERE = Path(__file__).parent
WIDTH = 1.2816  # of 80 % of a Gaussian
PATHS = {"dihedral": "test_dihedral.xyz", "hydrogen transfer": "test_H_transfer.xyz"}


def measure(potential: Potential, store: FrameStore) -> dict[str, float]:
    """meV; what is common to all frames of a path is no error of its shape."""
    frames = GraphDataset(store, cutoff=potential.cutoff)
    loader = make_loader(frames, batch_size=32, shuffle=False, seed=0)
    found = evaluate(potential, loader, progress=False)
    ours, reference = 1e3 * found.energy_pred, 1e3 * found.energy_true
    error = (ours - ours.mean()) - (reference - reference.mean())
    said = {
        "rmse": float(np.sqrt((error**2).mean())),
        "barrier": float(np.ptp(ours)),
        "reference": float(np.ptp(reference)),
    }
    structures = [frame.to_atoms() for frame in store]
    if potential.predict(structures[0], forces=False).energy_deviations is not None:
        sigma = 1e3 * np.asarray(potential.energy_difference(structures).uncertainty)
        off = (ours - reference)[1:] - (ours - reference)[0]
        said["within_80"] = float(np.mean(np.abs(off) <= WIDTH * sigma))
        said["error_over_sigma"] = float(np.sqrt((off**2).mean() / (sigma**2).mean()))
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--cache", type=Path, default=Path("runs/accuracy/frames"))
    arguments = parser.parse_args()
    kept = HERE / "paths.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for model in arguments.models:
        name = f"{model.parent.parent.name}/{model.parent.name}"
        potential = eip.load(model)
        for path, file in PATHS.items():
            store = open_frames(arguments.data / "acac" / file, cache_dir=arguments.cache)
            results.setdefault(name, {})[path] = measure(potential, store)
            said = ", ".join(f"{key} {value:.3g}" for key, value in results[name][path].items())
            print(f"{name}: {path}: {said} meV")
    kept.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
