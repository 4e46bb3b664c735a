"""`eip evaluate`: predictions beside labels, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from eip import evaluation
from eip.data import FrameStore, Labels, summarize
from eip.errors import InputError
from eip.evaluation import Evaluation, compute_metrics, write_report
from eip.evaluation.report import REPORT_FILES
from eip.model_file import load_model, read_model_info
from eip.run_folder import clear, file_identity, working_in
from eip.verbs.arguments import as_paths
from eip.verbs.frames import config_of, dataset_for, labels_of, loader, open_labelled
from eip.verbs.messages import Log, sentence, silent
from eip.verbs.scan import SCAN_FILES
from eip.verbs.scan import scan as scan_potential


def evaluate(
    model: str | Path,
    files: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    *,
    ood: str | Path | Sequence[str | Path] = (),
    labels: Labels | Mapping[str, Any] | None = None,
    scan: bool = False,
    force: bool = False,
    device: str | None = None,
    progress: bool = True,
    log: Log = silent,
) -> dict[str, float]:
    """Predicts labelled frames; writes metrics.json, predictions.xyz, plots and report.html.

    Frames may have energies or forces alone (a scan, say): what needs the other is null. So are
    errors of energies of a model that was trained on forces alone.

    Args:
        labels: keys and units of the files; None: those of the model's training data.
        scan: besides, bonds are stretched and an NVE run is watched, see `eip.verbs.scan`: what the
            potential does where no frame is; writes scans.json and scans.png.
        force: replaces another evaluation that is in the folder.

    Raises:
        InputError: if the model or a file cannot be read or they do not fit together, or the
            folder holds something else.
    """
    files, ood = as_paths(files), as_paths(ood)
    if not files:
        raise InputError("there is nothing to evaluate: expected a file of frames or more")
    potential, info = load_model(model, device=device), read_model_info(model)
    labels = labels_of(info) if labels is None else Labels.of(labels, "labels")
    folder = Path(out_dir)
    asked = {
        "model": file_identity(model),
        "files": [file_identity(file) for file in files],
        "ood": [file_identity(file) for file in ood],
        "labels": labels.given(),
        "scan": scan,
    }
    stores = [_open(paths, labels) for paths in (files, ood) if paths]
    written = (*REPORT_FILES, *SCAN_FILES)
    with working_in(
        folder,
        "evaluate",
        asked,
        resume=True,
        result=lambda: (folder / "metrics.json").is_file(),
        defaults={"scan": False},
        scratch=written,
        of_the_same="replace it with --force (force=True), or ",
        replaced=written if force else (),
    ) as run:
        evaluations = []
        for store in stores:
            log(summarize(store).table())
            frames = loader(dataset_for(store, potential))
            evaluations.append(evaluation.evaluate(potential, frames, progress=progress))
        if knows_no_energies(config_of(info)) and np.isfinite(evaluations[0].energy_true).any():
            log(NO_ENERGIES)
            evaluations = [without_energies(found) for found in evaluations]
        elif potential.undetermined:
            log(sentence(potential.undetermined))
        metrics = compute_metrics(*evaluations)
        clear(folder, written)  # of the model that had this name before, say
        run.settle()
        if scan:
            scan_potential(potential, stores[0], folder, log)
        write_report(
            evaluations[0],
            metrics,
            folder,
            ood=evaluations[1] if len(evaluations) > 1 else None,
            model_info={"file": str(model), **info.get("info", {}).get("training", {})},
        )
    return metrics


def _open(paths: Sequence[str | Path], labels: Labels) -> FrameStore:
    store = open_labelled(paths, labels, ())
    if not (store.has("energy").any() or store.has("forces").any()):
        # Says which keys were looked for, and which are there.
        open_labelled(paths, labels, ("energy",))
    return store


#: Why there are no errors of energies.
NO_ENERGIES = (
    "The model has learned forces alone (training.energy_weight: 0, or eip attach): its energies "
    "mean differences only, so their errors are left out."
)


def knows_no_energies(config: Mapping[str, Any]) -> bool:
    """Whether a model's energies mean differences only, by the configuration of its training."""
    return config.get("training", {}).get("energy_weight", 1.0) == 0


def without_energies(found: Evaluation) -> Evaluation:
    """As if no frame had an energy."""
    return replace(found, energy_true=np.full_like(found.energy_true, np.nan))


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
