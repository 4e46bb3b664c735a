"""Can σ learn from errors on frames that a network has not seen?

    python experiments/uq/unseen.py MODEL --folds 4 --epochs 60      # acetylacetone → unseen.json

Networks of a short training, each without a fold of the training frames, err on that fold. On these
errors a linear head is fitted: log σ from the features that MODEL, of the whole training, has of
the same atoms. How it ranks MODEL's own errors on test frames, alone and with the two latent
distances (exponents fitted on the validation frames, as `eip train` does), beside the trained head,
none at all, and the most that any σ could reach if errors were Gaussian with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from eip.data import FrameStore, GraphDataset, fit_element_energies, force_rms, make_loader
from eip.evaluation.metrics import spearman
from eip.model_file import load_model
from eip.models.settings import backbone_settings
from eip.potential import Potential
from eip.training.trainer import TrainingSettings, seeded, train
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.exponents import fit_exponents
from eip.uncertainty.latent_distance import fit_latent_distance, neighborhood_mean
from eip.verbs.networks import bare_network

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "accuracy"))
from run import SPLITS  # noqa: E402

Columns = dict[str, np.ndarray]
#: Degrees of freedom of the errors' Student-t, as the exponents are fitted.
DEGREES = 6.0


def loader(store: FrameStore, which: np.ndarray | None, potential: Potential):
    frames = GraphDataset(store, which, cutoff=potential.cutoff)
    return make_loader(frames, max_atoms=1500, shuffle=False, seed=0)


def errors_of_fold(split, kept: np.ndarray, left: np.ndarray, epochs: int, folder: Path):
    """Force errors, eV/Å, of the frames left out, atom by atom."""
    done = folder / "errors.npy"
    if done.exists():
        return np.load(done)
    network = backbone_settings("cartesian_ace")
    network = network.informed(GraphDataset(split.store, kept, cutoff=network.cutoff))
    with seeded(0):
        potential = EvidentialPotential(
            elements=split.store.elements,
            element_energies=fit_element_energies(split.store, kept),
            force_scale=force_rms(split.store, kept),
            head="tensor",
            backbone=network,
        )
    sets = (
        GraphDataset(split.store, which, cutoff=potential.cutoff)
        for which in (kept, split.validation)
    )
    train(potential, *sets, TrainingSettings(epochs=epochs), folder, resume=True, progress=False)
    found = [
        (batch.forces - potential(batch.graph).forces).detach().numpy()
        for batch in loader(split.store, left, potential)
    ]
    np.save(done, np.concatenate(found))
    return np.concatenate(found)


def columns(wrapped, store: FrameStore, which: np.ndarray | None) -> Columns:
    """Of each atom: element, error, σ of the trained head, both distances, invariants."""
    found: dict[str, list[np.ndarray]] = {}
    for batch in loader(store, which, wrapped):
        inside = wrapped.potential(batch.graph)
        own = wrapped.squared_distance(inside.features, batch.graph.numbers)
        row = {
            "numbers": batch.graph.numbers,
            "error": batch.forces - inside.forces,
            "raw": inside.force_uncertainty,
            "own": own.sqrt(),
            "around": neighborhood_mean(own, batch.graph, wrapped.cutoff).sqrt(),
            "features": inside.features,
        }
        for name, values in row.items():
            found.setdefault(name, []).append(values.detach().double().numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


def linear_head(known: Columns, errors: np.ndarray, ridge: float):
    """log σ, linear in standardized invariants and free by element, most likely for ``errors``."""
    mean, spread = known["features"].mean(axis=0), known["features"].std(axis=0) + 1e-6
    elements = np.unique(known["numbers"])

    def inputs(of: Columns) -> Float[np.ndarray, "atoms inputs"]:
        own = of["numbers"][:, None] == elements
        return np.concatenate([(of["features"] - mean) / spread, own], axis=1)

    x, square = inputs(known), np.square(errors).sum(axis=1)
    drawn = np.r_[np.full(x.shape[1] - len(elements), ridge), np.zeros(len(elements))]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        level = x @ weights
        share = square * np.exp(-2 * level) / DEGREES
        slope = 3 - (DEGREES + 3) * share / (1 + share)
        value = (3 * level + 0.5 * (DEGREES + 3) * np.log1p(share)).mean()
        return value + 0.5 * (drawn * weights**2).sum(), x.T @ slope / len(slope) + drawn * weights

    start = np.r_[
        np.zeros(x.shape[1] - len(elements)),
        np.full(len(elements), 0.5 * np.log(square.mean() / 3)),
    ]
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return lambda of: np.exp(inputs(of) @ weights)


def together(validation: Columns, parts: Sequence):
    """A product of powers of several σ, most likely for the validation frames' errors, times a
    factor by element."""

    def logs(of: Columns) -> np.ndarray:
        return np.log(np.stack([part(of) for part in parts], axis=1))

    mean = logs(validation).mean(axis=0)
    square = np.square(validation["error"]).sum(axis=1)
    powers = fit_exponents(logs(validation) - mean, square, validation["numbers"].astype(int))

    def product(of: Columns) -> np.ndarray:
        return np.exp((logs(of) - mean) @ np.asarray(powers))

    share = square / product(validation) ** 2
    factors = np.ones(119)
    for z in np.unique(validation["numbers"]).astype(int):
        factors[z] = np.sqrt(share[validation["numbers"] == z].mean())
    return lambda of: factors[of["numbers"].astype(int)] * product(of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--used", type=int, help="of the folds; empty: all")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/unseen"))
    arguments = parser.parse_args()
    split = SPLITS["acac"](arguments.data, arguments.out / "frames")
    network = bare_network(load_model(arguments.model, device="cpu"))
    held_out = [(b.graph, b.forces) for b in loader(split.store, split.validation, network)]
    wrapped = fit_latent_distance(
        network, [b.graph for b in loader(split.store, split.train, network)], held_out
    )
    order = np.random.default_rng(0).permutation(split.train)
    frames, errors = [], []
    for fold in range(arguments.used or arguments.folds):
        left = np.sort(order[fold :: arguments.folds])
        frames.append(left)
        folder = arguments.out / f"epochs{arguments.epochs}-fold{fold}"
        kept = np.setdiff1d(split.train, left)
        errors.append(errors_of_fold(split, kept, left, arguments.epochs, folder))
    known = columns(wrapped, split.store, np.concatenate(frames))
    validation = columns(wrapped, split.store, split.validation)
    sets = {
        "300 K": columns(wrapped, split.test, None),
        "600 K": columns(wrapped, split.ood, None),
    }
    head = linear_head(known, np.concatenate(errors), arguments.ridge)
    trained, own, around = (lambda of, name=n: of[name] for n in ("raw", "own", "around"))
    rows = {
        "trained head": trained,
        "head of unseen errors": head,
        "distances": together(validation, [own, around]),
        "trained head, distances": together(validation, [trained, own, around]),
        "head of unseen errors, distances": together(validation, [head, own, around]),
        "both heads, distances": together(validation, [head, trained, own, around]),
    }
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    for name, sigma in rows.items():
        found[name] = {}
        for key, of in sets.items():
            size = np.linalg.norm(of["error"], axis=1)
            found[name][key] = spearman(size, sigma(of))
            if name == "trained head, distances":
                drawn = sigma(of) * np.linalg.norm(rng.normal(size=(len(size), 3)), axis=1)
                found.setdefault("most, errors Gaussian", {})[key] = spearman(drawn, sigma(of))
        print(name, {key: round(value, 3) for key, value in found[name].items()})
    (HERE / "unseen.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
