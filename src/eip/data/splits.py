"""Which frames train, which validate, and parts of them."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Int, Int64

from eip.errors import InputError


class LeakageWarning(UserWarning):
    """Frames that are not independent lie on both sides of a split."""


#: How validation frames can be drawn from the training frames.
SPLIT_MODES: tuple[str, ...] = ("random", "last", "by_group")


def split_indices(
    n: int,
    validation: float | int,
    seed: int,
    mode: str = "random",
    groups: Int[np.ndarray, "frames"] | None = None,
) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "validation"]]:
    """Splits frames 0 … n−1 into training and validation, both ascending.

    Args:
        validation: a fraction between 0 and 1 (at least one frame), or a number of frames.
        mode: "random" (by ``seed`` alone), or "last", the end of the data: frames that follow each
            other in a trajectory are near-duplicates, and a random split then tells too good a
            story; or "by_group": groups are drawn by ``seed``, each with all of its frames, until
            the number of frames is as near to the one asked for as whole groups allow.
        groups: for "by_group" the group of each frame, as `FrameStore.groups`; −1: none.

    Raises:
        InputError: if no frame would be left to train on or to validate with; if a frame has no
            group, or all have the same.

    Warns:
        LeakageWarning: if a random split cuts through a group.
    """
    if mode not in SPLIT_MODES:
        raise InputError(f"mode must be one of {', '.join(SPLIT_MODES)}, got '{mode}'")
    count = _count(n, validation, "validation")
    if count >= n:
        raise InputError(f"validation={validation} of {n} frames leaves none to train on")
    if mode == "by_group":
        return _split_groups(np.full(n, -1) if groups is None else groups, count, seed)
    order = np.arange(n)
    if mode == "random":
        np.random.default_rng(seed).shuffle(order)
    train, held = np.sort(order[: n - count]), np.sort(order[n - count :])
    if mode == "random" and groups is not None:
        shared = np.intersect1d(groups[train], groups[held])
        if (shared >= 0).any():
            warnings.warn(
                f"{(shared >= 0).sum()} groups (materials) have frames both in training and in "
                "validation, so the validation error flatters; data.split: by_group keeps them "
                "apart",
                LeakageWarning,
                stacklevel=2,
            )
    return train, held


def _split_groups(
    groups: Int[np.ndarray, "frames"], count: int, seed: int
) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "validation"]]:
    without = np.flatnonzero(np.asarray(groups) < 0)
    if len(without):
        raise InputError(
            f"a split by_group needs the group of each frame, and {len(without)} of {len(groups)} "
            f"have none (the first is frame {without[0]}); data.group_key names the key that holds "
            "it, 'file' makes of each file a group"
        )
    names, frames = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise InputError("a split by_group needs two groups at least, and all frames are of one")
    order = np.random.default_rng(seed).permutation(len(names))
    # At least one group on either side.
    sizes = np.cumsum(frames[order])[:-1]
    held = names[order[: int(np.abs(sizes - count).argmin()) + 1]]
    inside = np.isin(groups, held)
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def subset(
    indices: Int[np.ndarray, "frames"], size: float | int, seed: int
) -> Int64[np.ndarray, "chosen"]:
    """A random part of indices, ascending; of one seed, the smaller parts lie in the larger.

    Args:
        size: a fraction above 0 up to 1, or a number of frames.

    Raises:
        InputError: if more are asked for than there are.
    """
    count = (
        len(indices)
        if size == 1.0 and isinstance(size, float)
        else _count(len(indices), size, "size")
    )
    if count > len(indices):
        raise InputError(f"size={size} asks for more than the {len(indices)} frames there are")
    order = np.random.default_rng(seed).permutation(len(indices))
    return np.sort(np.asarray(indices, dtype=np.int64)[order[:count]])


def _count(n: int, part: float | int, name: str) -> int:
    if isinstance(part, int) and not isinstance(part, bool) and part >= 1:
        return part
    if isinstance(part, float) and 0 < part < 1:
        return max(1, round(part * n))
    raise InputError(
        f"{name} must be a fraction between 0 and 1 or a number of frames, at least 1; got {part}"
    )
