"""Graphs and batches of stored frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eip.composition import NUMBERS
from eip.data.frame import LABELS
from eip.data.sampler import FrameBatchSampler
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

    def closest_approaches(self) -> dict[tuple[int, int], tuple[float, int]]:
        """Of each pair of elements the closest approach, Å, and in how many frames they meet.

        Pairs are of atomic numbers, ascending; to meet is to be within the cutoff. One pass over
        the neighbor lists.
        """
        size = NUMBERS
        closest = torch.full((size * size,), torch.inf, dtype=torch.float64)
        frames = torch.zeros(size * size, dtype=torch.long)
        for i in range(len(self)):
            graph = self[i].graph
            ends = graph.numbers[graph.centers], graph.numbers[graph.neighbors]
            lengths = torch.linalg.vector_norm(graph.edge_vectors(), dim=1)
            here = torch.full_like(closest, torch.inf)
            here.scatter_reduce_(0, ends[0] * size + ends[1], lengths, "amin")
            closest = torch.minimum(closest, here)
            frames += here.isfinite()
        # With an edge comes its reverse: both orders of a pair hold the same.
        found = ((int(k) // size, int(k) % size, int(k)) for k in frames.nonzero()[:, 0])
        return {(i, j): (float(closest[k]), int(frames[k])) for i, j, k in found if i <= j}

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
