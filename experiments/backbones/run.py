"""What is an error bar worth that `eip attach` gives a potential others trained, on MPtrj?

    python experiments/backbones/run.py chgnet --data DIR --frames 50 200 400 --seeds 0 1 2

The network is asked once of each frame of the sample and of two sets away from it (--work keeps
what it says); heads are trained on that. By seed a fifth of the materials is kept for the test, and
of the other frames so many are attached to, a quarter of which `eip attach` holds out. Structures
of more than --atoms are left out. A combination that is in results.json is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from frozen import SETS, ask, empty, read

from eip.data import split_indices
from eip.data.dataset import Batch
from eip.evaluation import compute_metrics, evaluate
from eip.verbs.attach import with_error_bar
from eip.verbs.evaluate import without_energies

HERE = Path(__file__).parent
#: What the table shows, of home and, with "_ood", away.
KEPT = ("spearman_atom", "roc_auc_atom", "spearman_structure", "roc_auc_structure", "coverage_80")
ALSO = ("force_mae", "mean_uncertainty", "extrapolating", "n_frames", "n_atoms")


def sets_of(
    found: dict, frames: int, seed: int, hot: int
) -> tuple[list[Batch], list[Batch], dict[str, list[Batch]]]:
    """Training and held-out frames, and those to measure on, by set.

    Args:
        hot: of the frames attached to, those that are of mpf-TP; they are not measured on.
    """
    batches, _, materials = found[SETS[0]]
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(materials))
    is_test = np.isin(materials, order[: len(order) // 5])
    chosen = rng.permutation(np.flatnonzero(~is_test))[: frames - hot]
    attached = [batches[i] for i in chosen]
    groups = materials[chosen]
    tests = {SETS[0]: [b for b, of in zip(batches, is_test, strict=True) if of]}
    for name in SETS[1:]:
        own = [found[name][0][i] for i in rng.permutation(len(found[name][0]))]
        taken = hot if name == "mpf-TP" else 0
        attached += own[:taken]
        groups = np.concatenate([groups, groups.max(initial=0) + 1 + np.arange(taken)])
        tests[name] = own[taken:]
    training, held_out = split_indices(len(attached), 0.25, seed, "by_group", groups)
    known = {int(z) for b in attached for z in b.graph.numbers}
    tests = {
        name: [b for b in frames_of if set(b.graph.numbers.tolist()) <= known]
        for name, frames_of in tests.items()
    }
    tests = {name: frames_of for name, frames_of in tests.items() if frames_of}
    return [attached[i] for i in training], [attached[i] for i in held_out], tests


def measured(network: str, found: dict, frames: int, seed: int, hot: int) -> dict:
    """By set the measures of a potential that was attached to so many frames."""
    training, held_out, tests = sets_of(found, frames, seed, hot)
    elements = sorted({int(z) for b in (*training, *held_out) for z in b.graph.numbers})
    forces = np.concatenate([b.forces.numpy() for b in training])
    potential = empty(network, elements, float(np.sqrt(np.square(forces).mean())))
    known = [
        (batch.graph, said)
        for frames_of, of_them, _ in found.values()
        for batch, said in zip(frames_of, of_them, strict=True)
    ]
    with potential.remembering(known):
        made = with_error_bar(potential, training, held_out, seed=seed)
        home, *away = (
            without_energies(evaluate(made.potential, test, progress=False))
            for test in tests.values()
        )
    result = {SETS[0]: _some(compute_metrics(home), "")}
    for name, there in zip(list(tests)[1:], away, strict=True):
        metrics = compute_metrics(home, there)
        result[name] = _some(metrics, "_ood") | {
            k: round(metrics[k], 4) for k in ("ood_ratio", "ood_auc")
        }
    return result | {"best_epoch": made.epoch}


def _some(metrics: dict[str, float], suffix: str) -> dict[str, float]:
    return {k: round(metrics[k + suffix], 4) for k in (*KEPT, *ALSO)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of MPtrj")
    parser.add_argument("--frames", type=int, nargs="+", default=[200])
    parser.add_argument("--hot", type=int, default=0, help="of them, frames of mpf-TP")
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--away", type=int, default=100, help="frames of each set away")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/backbones"))
    given = parser.parse_args()
    ask(given.network, given.data, given.work, given.atoms, given.away)
    cutoff = empty(given.network, [1]).cutoff
    found = read(given.network, given.data, given.work, cutoff)
    results = HERE / "results.json"
    for frames in given.frames:
        for seed in given.seeds:
            name = f"{given.network}, frames={frames}, seed={seed}"
            name += f", hot={given.hot}" if given.hot else ""
            done = json.loads(results.read_text()) if results.exists() else {}
            if name not in done:
                done[name] = measured(given.network, found, frames, seed, given.hot)
                results.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
            print(name, json.dumps(done[name], ensure_ascii=False))


if __name__ == "__main__":
    main()
