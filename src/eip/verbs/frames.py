"""The frames that a configuration names, on disk, split, and as graphs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from eip.config import Config
from eip.data import (
    FrameStore,
    GraphDataset,
    Labels,
    LabelWarning,
    make_loader,
    open_frames,
    split_indices,
)
from eip.data.dataset import Batch
from eip.data.kept import kept_frames
from eip.data.labels import RememberedLabels
from eip.errors import InputError, MissingLabel
from eip.potential import Potential

#: How to train where a label is not there.
_WITHOUT = {
    "energy": "train on forces alone with training.energy_weight: 0 (energies then mean "
    "differences only)",
    "forces": "train on energies alone with training.force_weight: 0 and model.uncertainty: none",
    "stress": "train without it with training.stress_weight: 0",
}


def read_sets(config: Config, folder: Path, begun: bool) -> dict[str, FrameStore]:
    """Each set of frames that the configuration names, on disk."""
    data = config.data
    files = {"train": data.train, "test": data.test, "ood": data.ood}
    if isinstance(data.validation, list):
        files["validation"] = data.validation
    # First of all of them: a name that is misspelt should not be found after an hour.
    for name, paths in files.items():
        for path in paths:
            if not path.exists() and not (folder / name).is_dir():
                raise InputError(f"{path}: no such file (data.{name})")
    stores = {}
    for name, paths in files.items():
        if not paths:
            continue
        weights = {
            "energy": config.training.energy_weight,
            "forces": config.training.force_weight,
            "stress": config.training.stress_weight if name in ("train", "validation") else 0,
        }
        needed = [label for label, weight in weights.items() if weight]
        try:
            with _no_stress_warning(needed):
                stores[name] = kept_frames(
                    paths, data.label_keys(), folder / name, needed, begun=begun
                )
        except MissingLabel as error:
            raise InputError(f"{error}, or {_WITHOUT[error.label]}") from error
    return stores


def open_labelled(
    paths: Sequence[str | Path],
    labels: Labels,
    needed: Sequence[str],
    folder: Path | None = None,
) -> FrameStore:
    """Labelled frames; see `eip.data.open_frames`."""
    with _no_stress_warning(needed):
        return open_frames(paths, labels, folder, needed)


@contextmanager
def _no_stress_warning(needed: Sequence[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        if "stress" not in needed:
            warnings.filterwarnings("ignore", "stress is missing", LabelWarning)
        yield


def split(config: Config, stores: dict[str, FrameStore]) -> dict[str, Int[np.ndarray, "frames"]]:
    """The frames of each set, as indices into its store; drawn validation frames into train's."""
    chosen = {name: np.arange(len(store)) for name, store in stores.items()}
    wanted = config.data.validation
    if not isinstance(wanted, list):
        chosen["train"], chosen["validation"] = split_indices(
            len(stores["train"]),
            wanted,
            config.data.split_seed,
            config.data.split,
            stores["train"].groups,
        )
    return chosen


def dataset_for(
    store: FrameStore, potential: Potential, indices: Int[np.ndarray, "frames"] | None = None
) -> GraphDataset:
    """Graphs of frames as a potential takes them; all frames where ``indices`` is None.

    Raises:
        InputError: if an element is unknown to the potential.
    """
    return GraphDataset(
        store,
        indices,
        cutoff=potential.cutoff,
        dtype=potential.dtype,
        elements=potential.elements,
    )


def loader(dataset: GraphDataset) -> Any:
    """Batches in order, to predict."""
    return make_loader(dataset, max_atoms=1000, shuffle=False, seed=0)


#: Frames that fits after training look at, at most.
_MOST_FRAMES = 2000


def some_batches(dataset: GraphDataset, potential: Potential) -> Iterator[Batch]:
    """On the potential's device; of a large set a part, drawn with a fixed seed."""
    if len(dataset) > _MOST_FRAMES:
        rng = np.random.default_rng(0)
        part = np.sort(rng.choice(dataset.indices, _MOST_FRAMES, replace=False))
        dataset = dataset_for(dataset.store, potential, part)
    for batch in loader(dataset):
        yield batch.to(potential.device)


def config_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model's training, as far as its file says it."""
    return dict(info.get("info", {}).get("config", {}))


def labels_of(info: Mapping[str, Any]) -> Labels:
    """Keys and units that the model's training data had, for files that declare none."""
    return RememberedLabels(**config_of(info).get("data", {}).get("labels", {}))
