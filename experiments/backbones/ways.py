"""What could go into an attached error bar, and what each way is worth: by array, in minutes.

    python experiments/backbones/ways.py chgnet --data DIR --frames 200 --seeds 0 1 2

On what `run.py` has asked the network (--work). A way is how many principal components of what the
network knows the head reads, and the law by which σ goes with the distances of an atom (d) and of
its surroundings (D); each is scaled on the held-out frames. There is no guard. Of a way and a set:
Spearman and AUC over atoms, AUC over structures, coverage, growth of σ over growth of the error.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from frozen import SETS, empty, read
from run import sets_of

from eip.evaluation.metrics import coverage, roc, spearman
from eip.training.heads import Known, train_head
from eip.uncertainty.attached import ForceHead
from eip.uncertainty.latent_distance import RIDGE, neighborhood_mean

HERE = Path(__file__).parent


def columns(batches, told) -> dict[str, torch.Tensor]:
    """Of all atoms of frames, one after the other."""
    found = defaultdict(list)
    for number, batch in enumerate(batches):
        said, graph = told[id(batch)], batch.graph
        values = {
            "x": said.features,
            "forces": said.forces,
            "errors": batch.forces - said.forces,
            "numbers": graph.numbers,
            "frame": torch.full_like(graph.numbers, number),
        }
        for name, value in values.items():
            found[name].append(value)
    return {name: torch.cat(values) for name, values in found.items()}


def distance(train, *, pooled: bool):
    """d² of features: from the training atoms of the element, or from all."""
    x, numbers = train["x"].double(), train["numbers"]
    overall, width = x.mean(dim=0), x.shape[1]
    means = {
        z: overall if pooled else x[numbers == z].mean(dim=0) for z in numbers.unique().tolist()
    }
    away = x - torch.stack([means[z] for z in numbers.tolist()])
    covariance = away.T @ away / len(away)
    matrices = {}
    for z in means:
        own = away[numbers == z]
        of = covariance if pooled else (own.T @ own + width * covariance) / (len(own) + width)
        of = of + RIDGE * of.trace() / width * torch.eye(width, dtype=torch.float64)
        matrices[z] = torch.linalg.inv(of)

    def squared(of) -> torch.Tensor:
        found = torch.zeros(len(of["x"]), dtype=torch.float64)
        for z, mean in means.items():
            mine = of["numbers"] == z
            apart = of["x"][mine].double() - mean
            found[mine] = (apart @ matrices[z] * apart).sum(dim=1) / width
        return found

    return squared


def scores(of, sigma: np.ndarray) -> dict[str, float]:
    error = of["errors"].abs().mean(dim=1).double().numpy()
    frame = of["frame"].numpy()
    counts = np.bincount(frame)
    by_frame = [np.bincount(frame, v) / np.maximum(counts, 1) for v in (error, sigma)]
    return {
        "spearman": spearman(error, sigma),
        "auc": roc(error > np.percentile(error, 80), sigma).auc,
        "auc_structures": roc(by_frame[0] > np.percentile(by_frame[0], 80), by_frame[1]).auc,
        "coverage": coverage(of["errors"].double().numpy(), sigma, 0.8),
        "sigma": float(sigma.mean()),
        "error": float(error.mean()),
    }


def around(batches, squares: torch.Tensor, cutoff: float) -> torch.Tensor:
    """D² of d²."""
    graphs = [batch.graph for batch in batches]
    parts = squares.float().split([graph.n_atoms for graph in graphs])
    found = [neighborhood_mean(d, g, cutoff) for d, g in zip(parts, graphs, strict=True)]
    return torch.cat(found).double()


#: Components that the head reads.
HEADS = (1, 4, 8, 16, 64)
#: Powers of d and D, and whether the training atoms of all elements are taken together.
LAWS = (
    *((p, q, False) for p, q in ((0, 0), (0.5, 0), (1, 0), (0, 0.5), (0, 0.7), (0, 1), (1, 1))),
    *((p, q, True) for p, q in ((0.5, 0), (1, 0), (0, 0.5), (0, 1))),
)


def head_sigma(parts, scale: float, seed: int, told: int) -> list[np.ndarray]:
    """σ of each part, of a head trained on the first and chosen on the second."""
    known = [Known(p["x"], p["forces"], p["errors"]) for p in parts]
    head = ForceHead(parts[0]["x"].shape[1], scale, told)
    train_head(head, known[0], known[1], seed=seed)
    with torch.no_grad():
        return [_sigma(head, of.invariants, of.forces).numpy() for of in known]


def _sigma(head: ForceHead, shown: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
    return head(head.components(shown), forces).moments().force_uncertainty.double()


def _row(there: dict[str, float], home: dict[str, float]) -> str:
    growth = (there["sigma"] / home["sigma"]) / (there["error"] / home["error"])
    ranks = f"{there['spearman']:.3f} {there['auc']:.3f} {there['auc_structures']:.3f}"
    return f"{ranks} {there['coverage']:.2f} {growth:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--hot", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/backbones"))
    given = parser.parse_args()
    potential = empty(given.network, [1])
    cutoff = potential.cutoff
    found = read(given.network, given.data, given.work, cutoff)
    told = {id(b): s for v in found.values() for b, s in zip(v[0], v[1], strict=True)}
    rows = defaultdict(list)
    for seed in given.seeds:
        training, held_out, tests = sets_of(found, given.frames, seed, given.hot)
        sets = [training, held_out, *tests.values()]
        parts = [columns(b, told) for b in sets]
        scale = float(torch.cat([b.forces for b in training]).square().mean().sqrt())
        distances = {}
        for pooled in (False, True):
            squared = distance(parts[0], pooled=pooled)
            own = [squared(p).clamp(min=1e-12) for p in parts]
            of_all = [around(b, d, cutoff) for b, d in zip(sets, own, strict=True)]
            distances[pooled] = [[d.sqrt().numpy() for d in ds] for ds in (own, of_all)]
        for components in HEADS:
            sigmas = head_sigma(parts, scale, seed, components)
            for p, q, pooled in LAWS:
                d, of_all = distances[pooled]
                total = [s * d[k] ** p * of_all[k] ** q for k, s in enumerate(sigmas)]
                errors = np.abs(parts[1]["errors"].double().numpy())
                factor = np.quantile(errors / total[1][:, None], 0.8) / 1.2816
                law = f"d^{p} D^{q}" + (", all elements" if pooled else "")
                for test, of, sigma in zip(tests, parts[2:], total[2:], strict=True):
                    rows[f"{components}, {law}", test].append(scores(of, sigma * factor))
    table = {}
    for (name, test), values in rows.items():
        table.setdefault(name, {})[test] = {
            k: round(float(np.mean([v[k] for v in values])), 3) for k in values[0]
        }
    for name, tests in table.items():
        print(f"{name:60s}", " | ".join(_row(t, tests[SETS[0]]) for t in tests.values()))
    results = HERE / "ways.json"
    done = json.loads(results.read_text()) if results.exists() else {}
    done[f"{given.network}, frames={given.frames}, hot={given.hot}, seeds={given.seeds}"] = table
    results.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
