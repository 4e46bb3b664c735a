"""How σ should grow beyond the range of held-out atoms: laws and numbers, unknown data by turns.

    python experiments/uq/guard.py acac=MODEL aspirin=MODEL silica=MODEL    # → guard.json, guard.md

MODEL is a model.eip that `experiments/accuracy/run.py` trained on the family's split; several of
one family (`acac=A acac=B`) count together. Each family is at home in its own test frames and away
in what it was not trained on. The ratio is σ̄(away)/σ̄(home) over MAE(away)/MAE(home): 1 is right.

The rule of choice, written down before the figures: a law has one number that is a prior. For a
family it is the one of the grid with the smallest mean of |log ratio| over the away sets that are
called unknown here, *of the other families*; a family's own figures are reported with the number
that the others chose. The number that eIP ships is chosen by all. At home nothing may change, and
the two bases (σ with fitted exponents, and raw σ as MVE, LLPR and ensembles have it) take the same
number. Between laws whose ratios are equally good, that is taken which is right for both bases.
(The form of the law that is added, and its unit, were found on acac, aspirin and silica; only its
number is chosen without the one that is reported.)

Beside it, how well home and away are told apart, atom by atom: the area under the ROC curve of σ
and of the extrapolation grade.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from eip.data import FrameStore, GraphDataset, make_loader, open_frames
from eip.evaluation.metrics import coverage, spearman
from eip.model_file import load_model
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.guard import excess
from eip.uncertainty.latent_distance import (
    LatentDistancePotential,
    fit_latent_distance,
    neighborhood_mean,
)
from eip.verbs.networks import bare_network

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "accuracy"))
from run import SPLITS  # noqa: E402

#: Away sets that are unknown altogether; the others are of the same structures, hotter.
UNKNOWN = {
    "acac": ("aspirin",),
    "aspirin": ("acac",),
    "3bpa": ("acac", "aspirin"),
    "silica": ("abw, oso",),
}
GRID = {
    "bent": (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6),
    "added": (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6),
    "multiplied": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
}
#: Test frames of the families that are molecules.
MOLECULES = {"acac": "acac/test_MD_300K.xyz", "aspirin": "aspirin/rmd17_aspirin_test.xyz"}
#: Frames of a set at most.
MOST = 300

Columns = dict[str, np.ndarray]


def graphs(store: FrameStore, indices: np.ndarray | None, cutoff: float):
    chosen = np.arange(len(store)) if indices is None else np.asarray(indices)
    chosen = chosen[:: max(1, -(-len(chosen) // MOST))]
    return list(
        make_loader(
            GraphDataset(store, chosen, cutoff=cutoff), max_atoms=1500, shuffle=False, seed=0
        )
    )


def columns(wrapped: LatentDistancePotential, batches) -> Columns:
    """Of each atom: raw and fitted σ, shares of the two edges, error, force and element."""
    found: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        graph = batch.graph
        inside = wrapped.potential(graph)
        own = wrapped.squared_distance(inside.features, graph.numbers)
        around = neighborhood_mean(own, graph, wrapped.cutoff)
        squares = torch.stack([own, around])
        edges = torch.tensor([wrapped.guard.edges[int(z)] for z in graph.numbers]).T
        row = {
            "numbers": graph.numbers,
            "raw": inside.force_uncertainty,
            "fitted": wrapped.fitted(inside.force_uncertainty, squares),
            "own": own.sqrt() / edges[0],
            "around": around.sqrt() / edges[1],
            "error": batch.forces - inside.forces,
            "forces": batch.forces,
        }
        for name, values in row.items():
            found.setdefault(name, []).append(values.detach().double().numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


def sets_of(name: str, data: Path, cache: Path) -> tuple[Any, dict[str, tuple[FrameStore, Any]]]:
    split = SPLITS[name](data, cache)
    away = {}
    if name == "acac":
        away["600 K"] = (split.ood, None)
    elif name == "3bpa":
        away["300 to 1200 K"] = (split.ood, None)
    elif name == "silica":
        away["abw, oso"] = (split.ood, split.ood_indices)
    for other in UNKNOWN[name]:
        if other in MOLECULES:
            away[other] = (open_frames(data / MOLECULES[other], cache_dir=cache), None)
    return split, away


def measured(name: str, model: Path, arguments) -> dict[str, Columns]:
    """`validation`, `home` and the away sets; kept in the folder of results."""
    kept = arguments.out / "guard" / f"{name}-{model.parent.parent.name}-{model.parent.name}.npz"
    if kept.exists():
        flat = np.load(kept)
        out: dict[str, Columns] = {}
        for key in flat.files:
            out.setdefault(key.split("|")[0], {})[key.split("|")[1]] = flat[key]
        return out
    network = bare_network(load_model(model, device="cpu"))
    split, away = sets_of(name, arguments.data, arguments.out / "frames")
    held_out = graphs(split.store, split.validation, network.cutoff)
    wrapped = fit_latent_distance(
        network,
        [batch.graph for batch in graphs(split.store, split.train, network.cutoff)],
        [(batch.graph, batch.forces) for batch in held_out],
    )
    out = {"validation": columns(wrapped, held_out)}
    for key, (store, indices) in {"home": (split.test, split.test_indices), **away}.items():
        out[key] = columns(wrapped, graphs(store, indices, network.cutoff))
    known = out["validation"]
    size = {
        z: np.sqrt(np.square(known["forces"][known["numbers"] == z]).mean())
        for z in np.unique(known["numbers"])
    }
    for of in out.values():
        of["forces_size"] = np.array([size[z] for z in of["numbers"]])
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, **{f"{k}|{c}": v for k, of in out.items() for c, v in of.items()})
    return out


def _k(share: np.ndarray) -> np.ndarray:
    return excess(torch.from_numpy(share)).numpy()


def bent(sigma: np.ndarray, of: Columns, strength: float) -> np.ndarray:
    """What eIP does: as `added`, but slower once it is as large as the forces are."""
    share = strength * (_k(of["own"]) + _k(of["around"]))
    return np.hypot(sigma, of["forces_size"] * np.arcsinh(2.0 * share) / 2.0)


def added(sigma: np.ndarray, of: Columns, strength: float) -> np.ndarray:
    """A variance is added, in units of the forces' size; σ is calibrated."""
    return np.hypot(sigma, strength * of["forces_size"] * (_k(of["own"]) + _k(of["around"])))


def multiplied(sigma: np.ndarray, of: Columns, power: float) -> np.ndarray:
    """σ times γ^p beyond γ = 1."""
    return sigma * np.maximum(1.0, np.maximum(of["own"], of["around"])) ** power


LAWS: dict[str, Callable[..., np.ndarray]] = {
    "bent": bent,
    "added": added,
    "multiplied": multiplied,
}


def figures(sets: dict[str, Columns], base: str, law: str, number: float) -> dict[str, Any]:
    """Ratio, coverage of 80 % intervals and Spearman of each set, calibrated on validation."""
    validation = sets["validation"]
    calibration = fit_calibration(
        validation["error"], validation[base], validation["numbers"].astype(int)
    )
    sigmas, grades = {}, {}
    out = {}
    for key, of in sets.items():
        if key == "validation":
            continue
        sigma = calibration.calibrated(of[base], of["numbers"].astype(int))
        sigma = sigmas[key] = LAWS[law](sigma, of, number)
        grade = grades[key] = np.maximum(of["own"], of["around"])
        out[key] = {
            "mean_sigma": float(sigma.mean()),
            "mae": float(np.abs(of["error"]).mean()),
            "coverage_80": coverage(of["error"], sigma, calibration.interval(0.8)),
            "spearman": spearman(np.abs(of["error"]).mean(axis=1), sigma),
            "above_1": float(np.mean(grade > 1)),
        }
    for key, one in out.items():
        one["ratio"] = (one["mean_sigma"] / out["home"]["mean_sigma"]) / (
            one["mae"] / out["home"]["mae"]
        )
        if key != "home":
            for name, values in (("auc_sigma", sigmas), ("auc_grade", grades)):
                both = np.concatenate([values["home"], values[key]])
                one[name] = float(roc_auc_score(np.arange(len(both)) >= len(values["home"]), both))
    return out


def chosen(found: dict[str, list[dict[str, Columns]]], law: str, without: str | None) -> float:
    """By the rule above."""
    losses = []
    for number in GRID[law]:
        of_family = []
        for name, models in found.items():
            if name != without:
                ratios = [
                    figures(sets, base, law, number)[key]["ratio"]
                    for sets in models
                    for base in ("fitted", "raw")
                    for key in UNKNOWN[name]
                ]
                of_family.append(np.abs(np.log(ratios)).mean())
        losses.append(np.mean(of_family))
    return GRID[law][int(np.argmin(losses))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="FAMILY=model.eip")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/uq"))
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Columns]]] = {}
    for given in arguments.models:
        name, path = given.split("=", 1)
        found.setdefault(name, []).append(measured(name, Path(path), arguments))
    results: dict[str, Any] = {"chosen": {}, "sets": {}}
    for law in LAWS:
        results["chosen"][law] = {
            "by all": chosen(found, law, None),
            **{f"for {name}, by the others": chosen(found, law, name) for name in found},
        }
    for name, models in found.items():
        for index, sets in enumerate(models):
            for base in ("fitted", "raw"):
                row = results["sets"].setdefault(f"{name} {index}", {}).setdefault(base, {})
                for law in LAWS:
                    for number in GRID[law]:
                        row[f"{law} {number:g}"] = figures(sets, base, law, number)
    (HERE / "guard.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "guard.md").write_text(table(results))
    print(table(results))


def table(results: dict[str, Any]) -> str:
    lines = [
        "# Beyond the range of held-out atoms\n\n",
        "Written by `guard.py`, which states the rule of choice. Ratio / coverage of 80 % "
        "intervals, calibrated on the validation frames.\n\n",
    ]
    for law, of in results["chosen"].items():
        lines.append(f"{law}: " + "; ".join(f"{k}: {v:g}" for k, v in of.items()) + "\n\n")
    for model, of_base in results["sets"].items():
        for base, row in of_base.items():
            names = list(next(iter(row.values())))
            lines.append(f"\n## {model}, σ {base}\n\n| law | {' | '.join(names)} |\n")
            lines.append("|---" * (len(names) + 1) + "|\n")
            for law, of_set in row.items():
                cells = [f"{v['ratio']:.2f} / {v['coverage_80']:.2f}" for v in of_set.values()]
                lines.append(f"| {law} | {' | '.join(cells)} |\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
