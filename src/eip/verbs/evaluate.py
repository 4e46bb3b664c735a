"""`eip evaluate`: predictions beside labels, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from eip import evaluation
from eip.data import FrameStore, Labels, summarize
from eip.evaluation import Evaluation, compute_metrics, write_report
from eip.model_file import load_model, read_model_info
from eip.verbs.frames import dataset_for, labels_of, loader, open_labelled
from eip.verbs.messages import Log, silent


def evaluate(
    model: str | Path,
    files: Sequence[str | Path],
    out_dir: str | Path,
    *,
    ood: Sequence[str | Path] = (),
    labels: Labels | None = None,
    device: str | None = None,
    progress: bool = True,
    log: Log = silent,
) -> dict[str, float]:
    """Predicts labelled frames; writes metrics.json, predictions.xyz, plots and report.html.

    Frames may have energies or forces alone (a scan, say): what needs the other is null.

    Args:
        labels: keys and units of the files; None: those of the model's training data.

    Raises:
        InputError: if the model or a file cannot be read or they do not fit together.
    """
    potential, info = load_model(model, device=device), read_model_info(model)
    labels = labels or labels_of(info)
    evaluations = []
    for paths in (files, ood):
        if not paths:
            continue
        store = open_labelled(paths, labels, ())
        if not (store.has("energy").any() or store.has("forces").any()):
            # Says which keys were looked for, and which are there.
            open_labelled(paths, labels, ("energy",))
        log(summarize(store).table())
        evaluations.append(
            evaluation.evaluate(potential, loader(dataset_for(store, potential)), progress=progress)
        )
    metrics = compute_metrics(*evaluations)
    write_report(
        evaluations[0],
        metrics,
        out_dir,
        ood=evaluations[1] if len(evaluations) > 1 else None,
        model_info={"file": str(model), **info.get("info", {}).get("training", {})},
    )
    return metrics


def predict_store(
    model: str | Path,
    store: FrameStore,
    indices: Int[np.ndarray, "frames"] | None = None,
    *,
    device: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Predictions beside labels, in memory; all frames where ``indices`` is None.

    Raises:
        InputError: if the model cannot be read, or an element is unknown to it.
    """
    potential = load_model(model, device=device)
    return evaluation.evaluate(
        potential, loader(dataset_for(store, potential, indices)), progress=progress
    )
