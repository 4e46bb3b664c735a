"""Splits, graphs and batches of stored frames."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from eip.data.frame import LABELS
from eip.data.store import FrameStore
from eip.errors import InputError, unknown_elements
from eip.graph import AtomGraph, batch_graphs
from eip.neighbors import graph_from_arrays

#: Frames, evenly spaced, whose neighbors are counted where a mean will do.
_FRAMES_FOR_A_MEAN = 200


@dataclass(frozen=True)
class Batch:
    """Structures with their labels. A label is there for all frames of a batch or is None.

    Attributes:
        energy: total energies, eV, float64 always: float32 would lose what matters of −17,617 eV.
        forces: eV/Å.
        stress: eV/Å³.
        sources: the file and frame number of each structure.
        indices: the number of each frame in its store.
    """

    graph: AtomGraph
    energy: Float64[Tensor, "frames"] | None
    forces: Float[Tensor, "atoms 3"] | None
    stress: Float[Tensor, "frames 3 3"] | None
    sources: tuple[str, ...]
    indices: tuple[int, ...] = ()

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Batch:
        """The same batch elsewhere; ``dtype`` is that of the labels of forces and stress."""

        def move(value: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
            return None if value is None else value.to(device=device, dtype=dtype)

        return replace(
            self,
            graph=self.graph.to(device),
            energy=move(self.energy, None),
            forces=move(self.forces, dtype),
            stress=move(self.stress, dtype),
        )


class GraphDataset(Dataset[Batch]):
    """Frames of a store as graphs, built when asked for; item i is a `Batch` of one frame.

    A label is handed out if all the chosen frames have it (``labels`` says which), so that each
    batch of a data set has the same ones.

    Args:
        indices: which frames of the store, and in which order; all where None.
        cutoff: Å.
        dtype: of forces and stress.
        elements: atomic numbers that the potential is made for; any where None.

    Raises:
        InputError: if a frame holds an element that is not among ``elements``, or there are no
            frames.
    """

    def __init__(
        self,
        store: FrameStore,
        indices: Int[np.ndarray, "frames"] | None = None,
        *,
        cutoff: float,
        dtype: torch.dtype = torch.float32,
        elements: Sequence[int] | None = None,
    ) -> None:
        self.store, self.cutoff, self.dtype = store, cutoff, dtype
        chosen = np.arange(len(store)) if indices is None else np.array(indices, dtype=np.int64)
        if len(chosen) == 0:
            raise InputError(f"{store.path}: no frames are left for this data set")
        if chosen.min() < 0 or chosen.max() >= len(store):
            raise InputError(
                f"{store.path}: indices run from {chosen.min()} to {chosen.max()}, the store has "
                f"{len(store)} frames"
            )
        self.indices = chosen
        self.labels = tuple(label for label in LABELS if bool(store.has(label)[chosen].all()))
        self._edges: Int64[np.ndarray, "frames"] | None = None
        if elements is not None:
            check_elements(store, chosen, elements)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def n_atoms(self) -> Int64[np.ndarray, "frames"]:
        """Atoms of each frame of the data set."""
        return self.store.n_atoms[self.indices]

    def count_edges(self) -> Int64[np.ndarray, "frames"]:
        """Edges of each frame's graph: one pass over the neighbor lists, done once."""
        if self._edges is None:
            self._edges = np.array([self[i].graph.n_edges for i in range(len(self))])
        return self._edges

    def mean_neighbors(self) -> float:
        """Neighbors of an atom within the cutoff, on average over some frames; at least 1."""
        some = np.unique(np.linspace(0, len(self) - 1, _FRAMES_FOR_A_MEAN).round().astype(int))
        graphs = [self[int(i)].graph for i in some]
        return max(1.0, sum(g.n_edges for g in graphs) / sum(g.n_atoms for g in graphs))

    def __getitem__(self, index: int) -> Batch:
        frame = self.store[self.indices[index]]
        try:
            graph = graph_from_arrays(
                frame.numbers,
                frame.positions,
                frame.cell,
                frame.pbc.tolist(),
                self.cutoff,
            )
        except ValueError as error:
            raise InputError(f"{frame.source}: {error}") from error
        energy = forces = stress = None
        if "energy" in self.labels:
            energy = torch.tensor([frame.energy], dtype=torch.float64)
        if "forces" in self.labels:
            forces = torch.tensor(frame.forces, dtype=self.dtype)
        if "stress" in self.labels and frame.stress is not None:
            stress = torch.tensor(frame.stress[None], dtype=self.dtype)
        return Batch(graph, energy, forces, stress, (frame.source,), (int(self.indices[index]),))


def collate(batches: list[Batch]) -> Batch:
    """Joins batches into one; a label that one of them lacks is None.

    Raises:
        ValueError: if the list is empty.
    """

    def join(name: str) -> Tensor | None:
        values = [getattr(batch, name) for batch in batches]
        return None if any(value is None for value in values) else torch.cat(values)

    return Batch(
        graph=batch_graphs([batch.graph for batch in batches]),
        energy=join("energy"),
        forces=join("forces"),
        stress=join("stress"),
        sources=tuple(source for batch in batches for source in batch.sources),
        indices=tuple(index for batch in batches for index in batch.indices),
    )


class FrameBatchSampler(Sampler[list[int]]):
    """Which frames make a batch; a function of (seed, epoch) alone, and each frame comes once.

    The sum of the sizes of a batch's frames is at most ``limit``, and a frame larger than that is a
    batch of its own. With sizes of 1 a batch has ``limit`` frames; with numbers of atoms or of
    edges, frames of all sizes fill a device alike. Every epoch has the same number of batches: the
    schedule of the learning rate and the training loop count on it.

    With several devices, each process draws the same batches and takes its part of them: with
    ``split`` a share of each, so that a step sees the same frames whatever the number of devices;
    without, every ``devices``-th, so that ``limit`` is what one device holds. A process that has
    none in a step gets a stand-in, whose step `stands_in` tells: all must take the same number of
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

    def stands_in(self, step: int) -> bool:
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


def make_loader(
    dataset: GraphDataset,
    *,
    batch_size: int | None = None,
    max_atoms: int | None = None,
    max_edges: int | None = None,
    devices: int = 1,
    shuffle: bool,
    seed: int,
    epoch: int = 0,
    num_workers: int = 0,
) -> DataLoader[Batch]:
    """Batches of a data set by number of frames, of atoms or of edges (see `FrameBatchSampler`).

    ``batch_size`` frames are those of all devices together, ``max_atoms`` and ``max_edges`` those
    of one. ``loader.batch_sampler.set_epoch(epoch)`` must be called before each epoch that is to be
    drawn anew. No global random state is read or changed.

    Raises:
        InputError: unless exactly one of the three is given, and is at least 1.
    """
    given = {"batch_size": batch_size, "max_atoms": max_atoms, "max_edges": max_edges}
    limits = [value for value in given.values() if value is not None]
    if len(limits) != 1:
        raise InputError(
            f"give one of batch_size, max_atoms and max_edges, got {', '.join(map(str, limits))}"
        )
    if max_edges is not None:
        sizes = dataset.count_edges()
    else:
        sizes = dataset.n_atoms if max_atoms is not None else np.ones(len(dataset), dtype=np.int64)
    sampler = FrameBatchSampler(
        sizes,
        limits[0],
        devices=devices,
        split=batch_size is not None,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Else each pass would draw a seed for workers from the global state.
        generator=torch.Generator().manual_seed(seed),
    )


def check_elements(
    store: FrameStore, indices: Int[np.ndarray, "frames"], elements: Sequence[int]
) -> None:
    """Raises an InputError, naming frame and element, if a frame holds one that is not listed."""
    if set(store.elements) <= set(elements):
        return
    for block in store.blocks(indices):
        numbers, frame = store.numbers_of(block)
        bad = np.flatnonzero(~np.isin(numbers, list(elements)))
        if len(bad):
            source = store.source(int(block[frame[bad[0]]]))
            raise unknown_elements([int(numbers[bad[0]])], elements, source)


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
