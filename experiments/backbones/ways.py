"""What could go into an attached error bar, and what each way is worth: by array, in minutes.

    python experiments/backbones/ways.py chgnet --data DIR --frames 200 --seeds 0 1 2

On what `run.py` has asked the network (--work). A way is the columns that the head reads and the
law by which σ goes with the distances; each is calibrated on the held-out frames. No guard.
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
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.latent_distance import RIDGE, neighborhood_mean

HERE = Path(__file__).parent


def columns(batches, told, cutoff: float) -> dict[str, torch.Tensor]:
    """Of all atoms of frames, one after the other."""
    found = defaultdict(list)
    for number, batch in enumerate(batches):
        said, graph = told[id(batch)], batch.graph
        square = said.forces.square().sum(dim=1)
        values = {
            "x": said.features,
            "forces": said.forces,
            "errors": batch.forces - said.forces,
            "numbers": graph.numbers,
            "frame": torch.full_like(graph.numbers, number),
            "around": neighborhood_mean(square, graph, cutoff).clamp(min=1e-8).log()[:, None] / 2,
            "all": square.mean().clamp(min=1e-8).log().expand(len(square), 1) / 2,
        }
        for name, value in values.items():
            found[name].append(value)
    return {name: torch.cat(values) for name, values in found.items()}


def distance(train, *, pooled: bool, shrink: float):
    """d² of features; of an element, whose mean is drawn to that of all as by so many atoms."""
    x, numbers = train["x"].double(), train["numbers"]
    overall, width = x.mean(dim=0), x.shape[1]
    means = {}
    for z in numbers.unique().tolist():
        own = x[numbers == z]
        means[z] = (own.sum(dim=0) + shrink * overall) / (len(own) + shrink)
        if pooled:
            means[z] = overall
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


INPUTS = {
    "nothing": (),
    "features": ("x",),
    "features, force around": ("x", "around"),
    "force around": ("around",),
    "features, force around and of all": ("x", "around", "all"),
}


def head_sigma(inputs, parts, scale: float, seed: int, heads: int, hidden: int) -> list:
    """σ of each part; of several heads the mean of its logarithm."""
    shown = [
        torch.cat([p[i] for i in inputs], dim=1).float() if inputs else torch.zeros(len(p["x"]), 1)
        for p in parts
    ]
    known = [Known(s, p["forces"], p["errors"]) for s, p in zip(shown, parts, strict=True)]
    found = []
    for number in range(heads):
        head = ForceHead(shown[0].shape[1], scale, hidden)
        train_head(head, known[0], known[1], seed=100 * seed + number)
        with torch.no_grad():
            found.append(
                [
                    head(s, p["forces"]).moments().force_uncertainty.double().log()
                    for s, p in zip(shown, parts, strict=True)
                ]
            )
    return [torch.stack(logs).mean(dim=0).exp() for logs in zip(*found, strict=True)]


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
        parts = [columns(b, told, cutoff) for b in (training, held_out, *tests.values())]
        scale = float(torch.cat([b.forces for b in training]).square().mean().sqrt())
        laws = {"": [torch.ones(len(p["x"]), dtype=torch.float64) for p in parts]}
        for name, how in {
            "d": {"pooled": False, "shrink": 0.0},
            "d, means drawn to all": {"pooled": False, "shrink": 10.0},
            "d of all elements": {"pooled": True, "shrink": 0.0},
        }.items():
            squared = distance(parts[0], **how)
            ds = [squared(p).clamp(min=1e-12).sqrt() for p in parts]
            laws[name] = ds
            if name != "d, means drawn to all":
                laws[f"√({name})"] = [d.sqrt() for d in ds]
        ways = [(n, 1, 64) for n in INPUTS] + [
            ("features", 5, 64),
            ("features, force around", 5, 64),
            ("features, force around", 5, 16),
        ]
        for inputs, heads, hidden in ways:
            sigmas = head_sigma(INPUTS[inputs], parts, scale, seed, heads, hidden)
            for law, factors in laws.items():
                total = [(s * f).numpy() for s, f in zip(sigmas, factors, strict=True)]
                fitted = fit_calibration(
                    parts[1]["errors"].double().numpy(), total[1], parts[1]["numbers"].numpy()
                )
                name = f"{inputs} | {heads} × {hidden} | {law}"
                for test, of, sigma in zip(tests, parts[2:], total[2:], strict=True):
                    by = np.array([fitted.factor_of(int(z)) for z in of["numbers"]])
                    rows[name, test].append(scores(of, sigma * by))
    table = {}
    for (name, test), values in rows.items():
        table.setdefault(name, {})[test] = {
            k: round(float(np.mean([v[k] for v in values])), 3) for k in values[0]
        }
    for name, tests in table.items():
        print(f"{name:60s}", " | ".join(_row(t, tests[SETS[0]]) for t in tests.values()))
    (given.work / given.network / f"ways-{given.frames}-{given.hot}.json").write_text(
        json.dumps(table, indent=1, ensure_ascii=False)
    )


if __name__ == "__main__":
    main()
