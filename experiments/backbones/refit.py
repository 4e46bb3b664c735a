"""How a head is trained again once its network was fine-tuned: ways that were tried.

    python experiments/backbones/refit.py chgnet --data DIR --seeds 0 1 2    # → refit.json
    python experiments/backbones/refit.py chgnet --data DIR --layers last

Frames as in finetune.py. The network is fine-tuned on all training frames and, from the same start,
without each fold of them; what each network says of frames is kept in --work, and heads are trained
on that. The test frames choose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import torch
from finetune import KEPT, drawn, parser_of
from torch import Tensor

from eip.config import Config
from eip.data import FrameStore, GraphDataset, open_frames, split_indices
from eip.data.dataset import Batch
from eip.evaluation import calibrate, compute_metrics, evaluate
from eip.model_file import load_model, save_model
from eip.models.settings import backbone_settings
from eip.prediction import Prediction
from eip.training import trainer
from eip.training.heads import Known, joined, train_head
from eip.uncertainty.attached import POWERS, AttachedPotential
from eip.uncertainty.latent_distance import fit_latent_distance
from eip.verbs.attach import attached_to
from eip.verbs.finetune import EPOCHS, RATE
from eip.verbs.frames import dataset_for
from eip.verbs.networks import bare_network, fresh_network

HERE = Path(__file__).parent
#: Frames of a store.
Part = np.ndarray


def tuned(
    folder: Path, store: FrameStore, which: Part, held_out: Part, begun: Path, layers: str
) -> Path:
    """A network fine-tuned on frames, whose epoch others choose, with the head beside it."""
    model = folder / "model.eip"
    if not model.is_file():
        settings = {"epochs": EPOCHS, "learning_rate": RATE, "energy_weight": 1.0, "device": "cpu"}
        settings["layers"] = layers
        config = Config(
            run_dir=folder,
            data={"train": [store.path]},
            model={"start_from": begun},
            training=settings,
        )
        network = fresh_network(config, store, which)
        sets = (dataset_for(store, network, part) for part in (which, held_out))
        trainer.train(network, *sets, config.training, folder, resume=True, progress=False)
        save_model(network, model, {})
    return model


def told(potential: AttachedPotential, batches: Sequence[Batch], path: Path) -> list[Prediction]:
    """What a network says of frames, kept."""
    if path.is_file():
        return [Prediction(**said) for said in torch.load(path, weights_only=True)]
    found = [potential.asked(batch.graph) for batch in batches]
    kept = [{k: getattr(said, k) for k in ("energy", "forces", "features")} for said in found]
    torch.save(kept, path)
    return found


def known(
    batches: Sequence[Batch], read: Sequence[Prediction], erred: Sequence[Prediction]
) -> Known:
    """What a head learns from: what one network says of atoms, and another's errors."""
    errors = torch.cat([b.forces - said.forces for b, said in zip(batches, erred, strict=True)])
    return Known(
        torch.cat([said.features for said in read]), torch.cat([s.forces for s in read]), errors
    )


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], tests=40, atoms=8, work="runs/backbones/refit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", default=[2])
    parser.add_argument("--layers", choices=["all", "last"], default="all")
    given = parser.parse_args()
    results = HERE / "refit.json"
    for seed in given.seeds:
        folder = given.work / f"{given.network}-{given.set}-{given.frames}-{seed}"
        frames, tests = drawn(given.data / f"{given.set}.xyz", given, seed)
        table = ways(given.network, folder, frames, tests, seed, given.folds, given.layers)
        done = json.loads(results.read_text()) if results.exists() else {}
        name = f"{given.network}, {given.set}, frames={given.frames}, seed={seed}"
        done[name if given.layers == "all" else f"{name}, {given.layers} layers"] = table
        results.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
        for name, row in table.items():
            print(f"{seed} {name:44s}", *row.values(), flush=True)


def opened(path: Path, frames: list) -> FrameStore:
    ase.io.write(path, frames)
    return open_frames([path], require=("forces",))


def ways(
    network: str,
    folder: Path,
    frames: list,
    tests: list,
    seed: int,
    folds: Sequence[int],
    layers: str,
) -> dict[str, dict[str, float]]:
    folder.mkdir(parents=True, exist_ok=True)
    own = folder if layers == "all" else folder / layers
    store, others = (
        opened(folder / f"{name}.xyz", of) for name, of in (("all", frames), ("test", tests))
    )
    training, held_out = split_indices(len(frames), 0.25, seed)
    begun = folder / "begun.eip"
    if not begun.is_file():
        settings = backbone_settings(network).pretrained()
        made = attached_to(settings, (store, training), (store, held_out), seed=seed)
        save_model(made.potential, begun, {})
    before = load_model(begun, device="cpu")
    start = bare_network(before)
    sets = {
        name: [GraphDataset(of, which, cutoff=start.cutoff)[i] for i in range(len(which))]
        for name, of, which in (
            ("train", store, training),
            ("held_out", store, held_out),
            ("test", others, np.arange(len(tests))),
        )
    }
    path = tuned(own / "all" / "run", store, training, held_out, begun, layers)
    after = bare_network(load_model(path, device="cpu"))
    said = {
        name: {k: told(of, sets[k], where / f"{name}-{k}.pt") for k in sets}
        for name, of, where in (("start", start, folder), ("after", after, own))
    }
    with start.remembering(_pairs(sets, said["start"])):
        rows = {"as it is": _measured(before, sets["test"])}
    beside = {name: value.clone() for name, value in after.head.state_dict().items()}
    of_before = start.head.state_dict()

    unseen = known(sets["held_out"], said["after"]["held_out"], said["after"]["held_out"])

    def row(
        name: str,
        learned: Known | dict[str, Tensor],
        chosen_by: Known = unseen,
        also: Sequence[tuple[Batch, Prediction]] = (),
    ) -> None:
        if isinstance(learned, Known):
            train_head(after.head, learned, chosen_by, seed=seed)
        else:
            after.head.load_state_dict(learned)
        known_also = [(batch.graph, answer) for batch, answer in also]
        with after.remembering([*_pairs(sets, said["after"]), *known_also]):
            rows[name] = _with_head(after, sets, [batch for batch, _ in also])

    row("fine-tuned, head as trained beside it", beside)
    row("head of before", of_before)
    now = said["after"]["train"]
    row("errors of training frames", known(sets["train"], now, now))
    row("errors of before", known(sets["train"], now, said["start"]["train"]))
    halves = [
        known(sets["held_out"][k::2], *(2 * [said["after"]["held_out"][k::2]])) for k in (0, 1)
    ]
    row("errors of held-out frames", halves[0], halves[1])
    for count in folds:
        of_fold = np.random.default_rng(seed).permutation(len(training)) % count
        out: list[Prediction | None] = [None] * len(training)
        for k in range(count):
            run = own / f"{k}-of-{count}" / "run"
            path = tuned(run, store, training[of_fold != k], held_out, begun, layers)
            other = bare_network(load_model(path, device="cpu"))
            left = np.flatnonzero(of_fold == k)
            path = own / f"{k}-of-{count}.pt"
            answers = told(other, [sets["train"][i] for i in left], path)
            for i, answer in zip(left, answers, strict=True):
                out[i] = answer
        row(f"{count} folds", known(sets["train"], out, out))
        row(f"{count} folds, read after", known(sets["train"], now, out))
        also = [
            (
                replace(b, graph=b.graph.with_positions(b.graph.positions.clone())),
                replace(seen, forces=answer.forces),
            )
            for b, seen, answer in zip(sets["train"], now, out, strict=True)
        ]
        learned = known(sets["train"], now, out)
        row(f"{count} folds, read after, calibrated on them, too", learned, also=also)
        both = joined([known(sets["train"], out, out), halves[0]])
        row(f"{count} folds and half the held-out frames", both, halves[1])
    return rows


def _pairs(sets: dict[str, list[Batch]], said: dict[str, list[Prediction]]):
    return [(b.graph, s) for k in sets for b, s in zip(sets[k], said[k], strict=True)]


def _measured(potential, tests: list[Batch]) -> dict[str, float]:
    metrics = compute_metrics(evaluate(potential, tests, progress=False))
    return {k: round(metrics[k], 4) for k in KEPT if k in metrics and np.isfinite(metrics[k])}


def _with_head(
    network: AttachedPotential, sets: dict[str, list[Batch]], also: Sequence[Batch]
) -> dict[str, float]:
    """Measured on the test frames, with distance, guard and calibration fitted anew."""
    labelled = [(b.graph, b.forces) for b in sets["held_out"]]
    graphs = [b.graph for b in sets["train"]]
    fitted = fit_latent_distance(network, graphs, labelled, exponents=POWERS)
    on_held_out = evaluate(fitted, [*sets["held_out"], *also], progress=False)
    return _measured(calibrate(fitted, on_held_out), sets["test"])


if __name__ == "__main__":
    main()
