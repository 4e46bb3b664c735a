"""The frames of a figure, drawn from published data and kept as stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eip.data import FrameStore, open_frames, split_indices
from eip.data.store import write_store
from eip.errors import InputError
from eip.evaluation import Evaluation
from eip.paper.setups import DataSets
from eip.verbs.evaluate import predict_store
from eip.verbs.messages import Log, silent

#: Frames of which scatter plots are drawn and their measures taken, at most.
_MOST_FRAMES = 20_000


def draw_sets(
    sets: DataSets, data: Path, folder: Path, fraction: float = 1.0, log: Log = silent
) -> dict[str, Path]:
    """Writes train, validation, test and ood as stores into ``folder``, as far as missing.

    Frames with an element that is not among those trained on are left out: a potential refuses
    them.

    Args:
        fraction: of the training frames that are kept.

    Raises:
        InputError: if a file is missing.
    """
    names = ["train", "validation", "test", *(["ood"] if sets.ood else [])]
    paths = {name: folder / name for name in names}
    if all((path / "store.json").is_file() for path in paths.values()):
        return paths
    cache = folder.parent / "read"
    stores = [open_frames(_find(f, data, sets), cache_dir=cache) for f in sets.known]
    if sets.train is None and len(stores) > 1:
        stores = [open_frames([_find(f, data, sets) for f in sets.known], cache_dir=cache)]
    chosen: dict[str, list[tuple[FrameStore, np.ndarray]]] = {name: [] for name in names}
    for store in stores:
        rest = np.arange(len(store))
        if not isinstance(sets.test, tuple):
            rest, test = split_indices(len(store), sets.test, 0, sets.split, store.groups)
            chosen["test"].append((store, test))
        train, validation = split_indices(
            len(rest), sets.validation, 1, sets.split, store.groups[rest]
        )
        kept = round(fraction * min(len(train), sets.train or len(train)))
        drawn = np.random.default_rng(0).permutation(train)[: max(2, kept)]
        chosen["train"].append((store, rest[np.sort(drawn)]))
        chosen["validation"].append((store, rest[validation]))
    if isinstance(sets.test, tuple):
        store = open_frames([_find(f, data, sets) for f in sets.test], cache_dir=cache)
        chosen["test"].append((store, np.arange(len(store))))
    for file in sets.ood:
        store = open_frames(_find(file, data, sets), cache_dir=cache)
        order = np.random.default_rng(0).permutation(len(store))
        chosen["ood"].append((store, np.sort(order[: sets.ood_frames])))
    known: set[int] = set()
    for store, indices in chosen["train"]:
        known.update(*(store[int(i)].numbers.tolist() for i in indices))
    for name, parts in chosen.items():
        frames = (store[int(i)] for store, indices in parts for i in indices)
        fitting = (frame for frame in frames if known.issuperset(frame.numbers.tolist()))
        if not (paths[name] / "store.json").is_file():
            written = write_store(fitting, paths[name])
            lost = sum(len(indices) for _, indices in parts) - len(written)
            if lost:
                log(f"{name}: {lost} frames with an element that is not trained on are left out")
    return paths


def _find(file: str, data: Path, sets: DataSets) -> Path:
    """The file at its place, or the only one of its name below the data folder."""
    if (data / file).exists():
        return data / file
    found = sorted(data.rglob(Path(file).name)) if data.is_dir() else []
    if len(found) == 1:
        return found[0]
    how = " and ".join(f"eip fetch {name} --to {data}" for name in sets.fetch)
    if found:
        raise InputError(
            f"{data / file}: no such file, and {len(found)} of that name elsewhere: {found[0]}, "
            f"{found[1]}, …"
        )
    raise InputError(f"{data / file}: no such file; to get it: {how}")


def present(sigma: np.ndarray | None) -> np.ndarray:
    assert sigma is not None  # no figure trains a potential without
    return sigma


def predicted(model: Path, path: Path) -> Evaluation:
    store = open_frames(path)
    order = np.random.default_rng(0).permutation(len(store))
    return predict_store(model, store, np.sort(order[:_MOST_FRAMES]))
