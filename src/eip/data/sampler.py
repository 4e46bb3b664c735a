"""Which frames make a batch."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Sampler

from eip.errors import InputError


class FrameBatchSampler(Sampler[list[int]]):
    """Which frames make a batch; a function of (seed, epoch) alone, and each frame comes once.

    The sum of the sizes of a batch's frames is at most ``limit``, and a frame larger than that is a
    batch of its own. With sizes of 1 a batch has ``limit`` frames; with numbers of atoms or of
    edges, frames of all sizes fill a device alike. Every epoch has the same number of batches: the
    schedule of the learning rate and the training loop count on it.

    With several devices, each process draws the same batches and takes its part of them: with
    ``split`` a share of each, so that a step sees the same frames whatever the number of devices;
    without, every ``devices``-th, so that ``limit`` is what one device holds. A process that has
    none in a step gets padding (`is_padding`): all must take the same number of
    steps.

    Args:
        sizes: of each frame.
        limit: largest sum of sizes in a batch.
        devices: processes that share the batches.
        split: see above.
        shuffle: draws the batches anew in each epoch; else frames come as they are.

    Raises:
        InputError: if the limit is below 1.
    """

    def __init__(
        self,
        sizes: Int[np.ndarray, "frames"],
        limit: int,
        *,
        devices: int = 1,
        split: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        if limit < 1:
            raise InputError(f"the size of a batch must be at least 1, got {limit}")
        self._sizes, self.limit = np.asarray(sizes), limit
        self.devices, self.split = devices, split
        self.shuffle, self.seed, self.epoch = shuffle, seed, epoch
        self._drawn: tuple[int, list[list[list[int]]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Frames are drawn anew for each epoch; call it before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        stand_in = int(self._sizes.argmin())
        rank = process_rank()
        return (parts[rank] or [stand_in] for parts in self._steps())

    def __len__(self) -> int:
        """Batches of this epoch for each process."""
        return len(self._steps())

    def is_padding(self, step: int) -> bool:
        """Whether this process has no frames of its own in a step, counted from 0."""
        return not self._steps()[step][process_rank()]

    def _steps(self) -> list[list[list[int]]]:
        """For each step the frames of each process."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            batches, n = self._draw(), self.devices
            if self.split:
                steps = [[batch[rank::n] for rank in range(n)] for batch in batches]
            else:
                batches += [[]] * (-len(batches) % n)
                steps = [batches[i : i + n] for i in range(0, len(batches), n)]
            self._drawn = (self.epoch, steps)
        return self._drawn[1]

    def _draw(self) -> list[list[int]]:
        if not self.shuffle:
            return self._as_they_come(np.arange(len(self._sizes)))
        rng = np.random.default_rng([self.seed, self.epoch])
        if not len(self._sizes) or self._sizes.min() == self._sizes.max():
            order = np.arange(len(self._sizes))
            rng.shuffle(order)
            return self._as_they_come(order)
        for spread in _SPREADS:
            batches = self._balanced(self._count, spread, rng)
            if batches is not None:
                break
        assert batches is not None  # the last spread is the one that the count was found with
        return [batches[i] for i in rng.permutation(len(batches))]

    def _as_they_come(self, order: Int[np.ndarray, "frames"]) -> list[list[int]]:
        batches: list[list[int]] = []
        filled = 0
        for index, size in zip(order.tolist(), self._sizes[order].tolist(), strict=True):
            if not batches or filled + size > self.limit:  # the first may have no edge
                batches.append([])
                filled = 0
            batches[-1].append(index)
            filled += size
        return batches

    @cached_property
    def _count(self) -> int:
        """Batches of an epoch: the fewest that can be drawn at random, and without chance too."""
        n = min(len(self._sizes), -(-int(np.minimum(self._sizes, self.limit).sum()) // self.limit))
        rng = np.random.default_rng(self.seed)
        # As many batches as frames always fit.
        while any(self._balanced(n, spread, rng) is None for spread in (_SPREADS[0], 0.0)):
            n = min(len(self._sizes), n + 1 + n // 200)
        return n

    def _balanced(self, n: int, spread: float, rng: np.random.Generator) -> list[list[int]] | None:
        """Largest first, each frame to the emptiest of n batches; None if one gets too full.

        The order is by size times a random factor of up to exp(± spread).
        """
        sizes = np.maximum(self._sizes, 1)  # a batch with an atom and no edge is not an empty one
        noise = rng.uniform(-spread, spread, len(sizes))
        order = rng.permutation(len(sizes))  # equal sizes in random order
        order = order[np.argsort(-np.log(sizes[order]) + noise, kind="stable")]
        batches: list[list[int]] = [[] for _ in range(n)]
        filled = [(0, i) for i in range(n)]
        for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
            load, i = filled[0]
            if load and load + size > self.limit:
                return None
            batches[i].append(index)
            heapq.heapreplace(filled, (load + size, i))
        return batches


#: How far from the order of sizes batches are drawn; nearer where that fails to fit.
_SPREADS = (0.5, 0.5, 0.25, 0.1, 0.0)


def process_rank() -> int:
    """Of this process among those that train together; 0 if it is alone."""
    distributed = torch.distributed
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if ready else 0
