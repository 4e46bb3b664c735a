"""How good the energy's error bar is: coverage at home and away, of energies and of differences.

    python experiments/uq/energy.py acac MODEL.eip [MODEL.eip …]
    python experiments/uq/energy.py mptrj MODEL.eip

A model that has no error bar of the energy gets one, from the training and validation frames of its
split (`experiments/accuracy/run.py`). Figures land in energy.json beside this file: {data set:
{model: {frames: {measure: value}}}}, energies in eV. Differences are of pairs of frames drawn with
seed 0; "new compositions" are frames whose composition no training frame has.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from eip.data import FrameStore, GraphDataset, make_loader, open_frames
from eip.model_file import load_model
from eip.potential import Potential, layers
from eip.uncertainty.energy_error import EnergyErrorPotential, fit_energy_error

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "accuracy"))
from run import SPLITS, Split  # noqa: E402

#: Half-width, in σ, of the 80 % interval, and how many pairs of frames.
WIDTH, PAIRS = 1.2816, 4000


def batches(potential: Potential, store: FrameStore, indices: np.ndarray | None):
    dataset = GraphDataset(store, indices, cutoff=potential.cutoff, elements=potential.elements)
    return make_loader(dataset, max_atoms=1500, shuffle=False, seed=0)


def with_error_bar(potential: Potential, split: Split) -> Potential:
    if any(isinstance(layer, EnergyErrorPotential) for layer in layers(potential)):
        return potential
    held_out = batches(potential, split.store, split.validation)
    return fit_energy_error(
        getattr(potential, "potential", potential),  # its calibration is of forces
        [batch.graph for batch in batches(potential, split.store, split.train)],
        [(batch.graph, batch.energy) for batch in held_out],
    )


def compositions(store: FrameStore, indices: np.ndarray | None) -> list[tuple[int, ...]]:
    found = []
    for index in range(len(store)) if indices is None else indices:
        counts = np.bincount(store[int(index)].numbers, minlength=119)
        found.append(tuple((counts // np.gcd.reduce(counts)).tolist()))
    return found


def figures(
    potential: Potential, split: Split, store: FrameStore, indices: np.ndarray | None
) -> dict[str, float]:
    error, sigma, parts, factors = [], [], [], []
    for batch in batches(potential, store, indices):
        if batch.energy is None:
            continue
        said = potential(batch.graph, forces=False)
        error.append(batch.energy - said.energy)
        sigma.append(said.energy_uncertainty)
        parts.append(said.energy_deviations)
        factors.append(said.energy_widening)
    error, sigma, parts, factors = (torch.cat(of).numpy() for of in (error, sigma, parts, factors))
    inside = np.abs(error) <= WIDTH * sigma
    a, b = np.random.default_rng(0).integers(len(error), size=(2, PAIRS))
    a, b = a[a != b], b[a != b]
    # As `Potential.energy_difference` has it.
    apart = np.linalg.norm((parts[a] - parts[b]) * np.maximum(factors[a], factors[b]), axis=1)
    known = set(compositions(split.store, split.train))
    new = np.array([one not in known for one in compositions(store, indices)])
    out = {
        "frames": len(error),
        "rms_error": float(np.sqrt((error**2).mean())),
        "median_uncertainty": float(np.median(sigma)),
        "coverage_80": float(inside.mean()),
        "coverage_80_differences": float((np.abs(error[a] - error[b]) <= WIDTH * apart).mean()),
        "median_uncertainty_differences": float(np.median(apart)),
        "spearman": float(spearmanr(np.abs(error), sigma).statistic),
        "new_compositions": int(new.sum()),
    }
    if new.any():
        out["coverage_80_new_compositions"] = float(inside[new].mean())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=list(SPLITS))
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", help="of the models; by default of their folders")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/uq"))
    arguments = parser.parse_args()
    data, cache = arguments.data, arguments.out / "frames"
    split = SPLITS[arguments.dataset](data, cache)
    sets = {"test": (split.test, split.test_indices)}
    if split.ood is not None:
        sets["ood"] = (split.ood, split.ood_indices)
    if arguments.dataset == "acac":
        for name in ("H_transfer", "dihedral"):
            sets[name] = open_frames(data / f"acac/test_{name}.xyz", cache_dir=cache), None
        aspirin = open_frames(data / "aspirin/rmd17_aspirin_test.xyz", cache_dir=cache)
        sets["aspirin"] = aspirin, np.arange(0, len(aspirin), 18)
    file = HERE / "energy.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for k, path in enumerate(arguments.models):
        potential = with_error_bar(load_model(path, device="cpu"), split)
        name = arguments.names[k] if arguments.names else path.resolve().parent.name
        found = {of: figures(potential, split, *which) for of, which in sets.items()}
        found["left open"] = [group.text() for group in potential.undetermined]
        results.setdefault(arguments.dataset, {})[name] = found
        print(name, json.dumps(found, indent=1))
    file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
