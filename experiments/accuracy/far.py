"""Closer than in training: the same model with its network alone, and with the nuclei's repulsion.

    python experiments/accuracy/far.py acac RUNS/acac/*/seed0/model.eip

Of each model, without and with: how many bonds of some test frames fall towards their short end
(`eip.testing.scan_bonds`), the lowest energy between 0.6 and 0.85 of a bond, eV above its minimum,
errors of forces, meV/Å, and measures of σ, on test and other frames; and by how much training
frames change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import eip
from eip.data import FrameStore, GraphDataset, make_loader
from eip.evaluation import compute_metrics, evaluate
from eip.models.energy import EnergyModel
from eip.models.short_range import ShortRangeSettings
from eip.potential import Potential
from eip.testing import scan_bonds

from run import SPLITS  # isort: skip

#: A bond that falls towards it has a "minimum" below this share of its length.
SHORT = 0.85
ORDER = {"batch_size": 32, "shuffle": False, "seed": 0}
#: What is printed, and times what.
MEASURES = {
    "force_mae": 1000,
    "force_rmse": 1000,
    "spearman_atom": 1,
    "roc_auc_atom": 1,
    "coverage_80": 1,
    "nll": 1,
    "ood_ratio": 1,
}


def measure(potential: Potential, test: FrameStore, other: FrameStore, frames: int) -> str:
    scans = [
        scan for i in range(frames) for scan in scan_bonds(potential, test[i * 100].to_atoms())
    ]
    falls = sum(any(factor < SHORT for factor in scan.false_minima) for scan in scans)
    long = sum(any(factor > SHORT for factor in scan.false_minima) for scan in scans)
    lowest = min(scan.energies[scan.factors < SHORT].min() for scan in scans)
    known, hot = (
        evaluate(potential, make_loader(frames_of(store, potential), **ORDER), progress=False)
        for store in (test, other)
    )
    found = compute_metrics(known, hot)
    said = f"{falls} of {len(scans)} fall, {long} with a second minimum farther out, "
    said += f"lowest {lowest:.1f} eV"
    for name, factor in MEASURES.items():
        if name in found:
            values = (found[key] for key in (name, f"{name}_ood") if key in found)
            said += f"; {name} {' / '.join(f'{factor * value:.3g}' for value in values)}"
    return said


def frames_of(store: FrameStore, potential: Potential) -> GraphDataset:
    return GraphDataset(store, cutoff=potential.cutoff)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_set", choices=list(SPLITS))
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("runs/far"))
    parser.add_argument("--frames", type=int, default=1, help="test frames whose bonds are scanned")
    chosen = parser.parse_args()
    split = SPLITS[chosen.data_set](chosen.data, chosen.cache)
    assert split.ood is not None
    seen = [split.store[i].to_atoms() for i in split.train]
    for path in chosen.models:
        potential = eip.load(path)
        training = GraphDataset(split.store, split.train, cutoff=potential.cutoff)
        begins = ShortRangeSettings.of_frames(training.closest_approaches(), len(training))
        print(f"{path.parent.parent.name}\n  {begins}")
        energies = []
        for settings, name in ((None, "network alone"), (begins, "repulsion")):
            for module in potential.modules():
                if isinstance(module, EnergyModel):
                    module.begin_at(settings)
            energies.append(potential.predict(seen, forces=False).energy)
            said = measure(potential, split.test, split.ood, chosen.frames)
            print(f"  {name}: {said}", flush=True)
        print(f"  training frames change by {torch.dist(*energies, p=torch.inf):.1e} eV")


if __name__ == "__main__":
    main()
