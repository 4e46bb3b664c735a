from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eip.data import (
    Frame,
    GraphDataset,
    collate,
    make_loader,
    write_store,
)
from eip.errors import InputError
from eip.neighbors import build_graph

Make = Callable[..., Frame]


def test_batches_equal_the_graph_of_all(tmp_path: Path, make: Make) -> None:
    frames = [make(n, n, periodic=n > 3, source=f"f#{n}") for n in (3, 1, 5, 4)]
    data = GraphDataset(write_store(frames, tmp_path / "s"), cutoff=4.0, dtype=torch.float64)
    batch = collate([data[i] for i in (2, 0, 1)])
    whole = build_graph([frames[i].to_atoms() for i in (2, 0, 1)], 4.0)
    for name in ("numbers", "positions", "cell", "frame", "centers", "neighbors", "shifts"):
        torch.testing.assert_close(getattr(batch.graph, name), getattr(whole, name))
    assert batch.sources == ("f#5", "f#3", "f#1") and batch.indices == (2, 0, 1)
    assert batch.energy is not None and batch.forces is not None and batch.stress is None
    assert batch.energy.tolist() == [frames[i].energy for i in (2, 0, 1)]
    np.testing.assert_array_equal(batch.forces[5:8], frames[0].forces)


def test_energies_stay_float64(tmp_path: Path, make: Make) -> None:
    store = write_store([make(3, 0)], tmp_path / "s")
    batch = GraphDataset(store, cutoff=4.0)[0]
    assert batch.energy is not None and batch.forces is not None
    assert batch.energy.dtype == torch.float64 and batch.energy.item() == store[0].energy
    assert batch.forces.dtype == torch.float32
    moved = batch.to("cpu", torch.float16)
    assert moved.energy is not None and moved.forces is not None
    assert moved.energy.item() == store[0].energy
    assert moved.forces.dtype == torch.float16
    assert batch.graph.positions.dtype == moved.graph.positions.dtype == torch.float64
    assert moved.sources == batch.sources


def test_a_label_is_there_for_all_frames_or_none(tmp_path: Path, make: Make) -> None:
    frames = [make(2, i, periodic=True, stress=i != 1) for i in range(3)]
    store = write_store(frames, tmp_path / "s")
    assert GraphDataset(store, cutoff=3.0).labels == ("energy", "forces")
    assert GraphDataset(store, cutoff=3.0)[0].stress is None
    part = GraphDataset(store, np.array([2, 0]), cutoff=3.0, dtype=torch.float64)
    assert part.labels == ("energy", "forces", "stress")
    batch = collate([part[0], part[1]])
    assert batch.stress is not None and frames[2].stress is not None
    np.testing.assert_array_equal(batch.stress[0], frames[2].stress)


def test_an_element_that_the_potential_does_not_know(tmp_path: Path, make: Make) -> None:
    frames = [make(numbers=[1, 8], source="a#0"), make(numbers=[1, 26], source="a#1")]
    store = write_store(frames, tmp_path / "s")
    with pytest.raises(
        InputError, match=r"a#1 holds Fe, which the potential was not made for; it knows H, O"
    ):
        GraphDataset(store, cutoff=3.0, elements=(8, 1))
    assert len(GraphDataset(store, np.array([0]), cutoff=3.0, elements=(1, 8))) == 1
    assert len(GraphDataset(store, cutoff=3.0, elements=(1, 8, 26))) == 2
    with pytest.raises(InputError, match="no frames are left"):
        GraphDataset(store, np.array([], dtype=np.int64), cutoff=3.0)
    with pytest.raises(InputError, match="indices run from 1 to 2, the store has 2 frames"):
        GraphDataset(store, np.array([1, 2]), cutoff=3.0)


def test_loader_arguments(tmp_path: Path, make: Make) -> None:
    data = GraphDataset(write_store([make(2, 0)], tmp_path / "s"), cutoff=3.0)
    for arguments in ({}, {"batch_size": 1, "max_atoms": 1}):
        with pytest.raises(InputError, match="give one of batch_size, max_atoms and max_edges"):
            make_loader(data, shuffle=False, seed=0, **arguments)


def test_batches_by_edges(tmp_path: Path, make: Make) -> None:
    store = write_store(
        (make(1 + i % 7, i, periodic=i % 2 == 0) for i in range(30)), tmp_path / "s"
    )
    data = GraphDataset(store, np.arange(3, 30), cutoff=3.0)
    limit = int(np.percentile(data.count_edges(), 90))
    batches = list(make_loader(data, max_edges=limit, shuffle=True, seed=0))
    assert all(b.graph.n_edges <= limit or b.graph.n_frames == 1 for b in batches)
    assert sum(b.graph.n_frames for b in batches) == len(data) > len(batches)
    assert sum(b.graph.n_edges for b in batches) == data.count_edges().sum()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader(tmp_path: Path, make: Make, num_workers: int) -> None:
    store = write_store((make(1 + i % 4, i) for i in range(20)), tmp_path / "s")
    data = GraphDataset(store, np.arange(2, 20), cutoff=3.0)
    loader = make_loader(data, max_atoms=9, shuffle=True, seed=3, num_workers=num_workers)
    state = torch.get_rng_state()
    first = [batch.indices for batch in loader]
    again = [batch.indices for batch in loader]
    loader.batch_sampler.set_epoch(1)
    second = [batch.indices for batch in loader]
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again != second
    assert sorted(i for b in first for i in b) == list(range(2, 20))
    assert sorted(i for b in second for i in b) == list(range(2, 20))


def test_closest_approaches(tmp_path: Path, make: Make) -> None:
    frames = [make(n, n, periodic=n == 4, source=f"f#{n}") for n in (3, 1, 5, 4)]
    chosen = np.array([0, 2, 3])
    found = GraphDataset(write_store(frames, tmp_path / "s"), chosen, cutoff=4.0)
    expected: dict[tuple[int, int], list[float]] = {}
    met: dict[tuple[int, int], set[int]] = {}
    for i in chosen:
        graph = build_graph(frames[i].to_atoms(), 4.0)
        for one, other, r in zip(
            graph.numbers[graph.centers].tolist(),
            graph.numbers[graph.neighbors].tolist(),
            graph.edge_vectors().norm(dim=1).tolist(),
            strict=True,
        ):
            pair = min(one, other), max(one, other)
            expected.setdefault(pair, []).append(r)
            met.setdefault(pair, set()).add(int(i))
    approaches = found.closest_approaches()
    assert approaches.keys() == expected.keys()
    for pair, (distance, frames_with) in approaches.items():
        assert distance == pytest.approx(min(expected[pair]), rel=1e-12)
        assert frames_with == len(met[pair])
