"""Splits, graphs and batches of stored frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
        """The same batch elsewhere; ``dtype`` applies to all but the energies."""

        def move(value: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
            return None if value is None else value.to(device=device, dtype=dtype)

        return replace(
            self,
            graph=self.graph.to(device, dtype),
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
        dtype: of graph, forces and stress.
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
        if elements is not None:
            check_elements(store, chosen, elements)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def n_atoms(self) -> Int64[np.ndarray, "frames"]:
        """Atoms of each frame of the data set."""
        return self.store.n_atoms[self.indices]

    def __getitem__(self, index: int) -> Batch:
        frame = self.store[self.indices[index]]
        try:
            graph = graph_from_arrays(
                frame.numbers,
                frame.positions,
                frame.cell,
                frame.pbc.tolist(),
                self.cutoff,
                self.dtype,
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

    With ``batch_size`` a batch has so many frames (the last one may have fewer); with ``max_atoms``
    as many as fit, in the order drawn, and a frame larger than that is a batch of its own.

    Raises:
        InputError: unless exactly one of the two is given, and is at least 1.
    """

    def __init__(
        self,
        n_atoms: Int[np.ndarray, "frames"],
        *,
        batch_size: int | None = None,
        max_atoms: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        if (batch_size is None) == (max_atoms is None):
            raise InputError(
                f"give either batch_size or max_atoms, got {batch_size} and {max_atoms}"
            )
        size = batch_size if batch_size is not None else max_atoms
        if size is not None and size < 1:
            name = "batch_size" if batch_size is not None else "max_atoms"
            raise InputError(f"{name} must be at least 1, got {size}")
        self._n_atoms = np.asarray(n_atoms)
        self.batch_size, self.max_atoms = batch_size, max_atoms
        self.shuffle, self.seed, self.epoch = shuffle, seed, epoch
        self._drawn: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Frames are drawn anew for each epoch; call it before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        """Batches of this epoch."""
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = (self.epoch, self._draw())
        return self._drawn[1]

    def _draw(self) -> list[list[int]]:
        order = np.arange(len(self._n_atoms))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        if self.batch_size is not None:
            size = self.batch_size
            return [order[i : i + size].tolist() for i in range(0, len(order), size)]
        limit = self.max_atoms or 1
        batches: list[list[int]] = []
        filled = limit
        for index, atoms in zip(order.tolist(), self._n_atoms[order].tolist(), strict=True):
            if filled + atoms > limit:
                batches.append([])
                filled = 0
            batches[-1].append(index)
            filled += atoms
        return batches


def make_loader(
    dataset: GraphDataset,
    *,
    batch_size: int | None = None,
    max_atoms: int | None = None,
    shuffle: bool,
    seed: int,
    epoch: int = 0,
    num_workers: int = 0,
) -> DataLoader[Batch]:
    """Batches of a data set, by number of frames or of atoms (see `FrameBatchSampler`).

    ``loader.batch_sampler.set_epoch(epoch)`` must be called before each epoch that is to be drawn
    anew. No global random state is read or changed.
    """
    sampler = FrameBatchSampler(
        dataset.n_atoms,
        batch_size=batch_size,
        max_atoms=max_atoms,
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


def split_indices(
    n: int,
    validation: float | int,
    seed: int,
    mode: str = "random",
) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "validation"]]:
    """Splits frames 0 … n−1 into training and validation, both ascending.

    Args:
        validation: a fraction between 0 and 1 (at least one frame), or a number of frames.
        mode: "random" (by ``seed`` alone), or "last", the end of the data: frames that follow each
            other in a trajectory are near-duplicates, and a random split then tells too good a
            story.

    Raises:
        InputError: if no frame would be left to train on or to validate with.
    """
    if mode not in ("random", "last"):
        raise InputError(f"mode must be 'random' or 'last', got '{mode}'")
    count = _count(n, validation, "validation")
    if count >= n:
        raise InputError(f"validation={validation} of {n} frames leaves none to train on")
    order = np.arange(n)
    if mode == "random":
        np.random.default_rng(seed).shuffle(order)
    return np.sort(order[: n - count]), np.sort(order[n - count :])


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
