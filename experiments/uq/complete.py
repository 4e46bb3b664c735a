"""A network that experiments/accuracy/run.py trained, as `eip train` would have completed it.

    python experiments/uq/complete.py acac MODEL --out tensor.eip
    python experiments/uq/complete.py acac MODEL --method gmm --out gmm.eip
    python experiments/uq/complete.py acac MODEL MODEL MODEL MODEL --method ensemble --out four.eip

run.py measures what evidence alone is worth. This adds, from the same split, the repulsion of
nuclei below the closest approaches of the training frames, the latent distance with its guard, and
the calibration on the validation frames; for evidence as a method, or for another one that reads
the same network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from eip.data import GraphDataset, make_loader
from eip.evaluation import calibrate, evaluate
from eip.model_file import load_model, save_model
from eip.models.energy import EnergyModel
from eip.models.short_range import ShortRangeSettings
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.latent_distance import fit_latent_distance
from eip.uncertainty.mixture import fit_mixture
from eip.uncertainty.readout_ensemble import fit_llpr
from eip.verbs.frames import dataset_for
from eip.verbs.networks import bare_network

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "accuracy"))
from run import SPLITS, Split  # noqa: E402

#: Training frames that the distance is fitted to, at most.
MOST = 1000
#: With the exponents of its distance fitted, as `eip train` does for evidence.
FITTED = ("evidence",)


def network(path: Path, split: Split):
    found = bare_network(load_model(path, device="cpu"))
    frames = dataset_for(split.store, found, split.train)
    begins = ShortRangeSettings.of_frames(frames.closest_approaches(), len(frames))
    for module in found.modules():
        if isinstance(module, EnergyModel):
            module.begin_at(begins)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=list(SPLITS))
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--method", default="evidence",
                        choices=["evidence", "as it is", "gmm", "llpr", "ensemble"])  # fmt: skip
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--frames", type=Path, default=Path("runs/uq/frames"), help="cache")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = SPLITS[arguments.family](arguments.data, arguments.frames)
    networks = [network(path, split) for path in arguments.models]

    def batches(indices: np.ndarray) -> list:
        chosen = np.asarray(indices)[:: max(1, -(-len(indices) // MOST))]
        frames = GraphDataset(split.store, chosen, cutoff=networks[0].cutoff)
        return list(make_loader(frames, max_atoms=1500, shuffle=False, seed=0))

    known = [batch.graph for batch in batches(split.train)]
    held_out = batches(split.validation)
    first = networks[0]
    if arguments.method == "gmm":
        made = fit_mixture(first, known, first.energy_model.force_scale)
    elif arguments.method == "llpr":
        made = fit_llpr(first, known, 8)
    elif arguments.method == "ensemble":
        made = EnsemblePotential(networks)
    else:
        made = first
    wrapped = fit_latent_distance(
        made,
        known,
        [(batch.graph, batch.forces) for batch in held_out],
        exponents=arguments.method in FITTED,
    )
    wrapped = calibrate(wrapped, evaluate(wrapped, held_out, progress=False))
    save_model(wrapped, arguments.out, {})


if __name__ == "__main__":
    main()
