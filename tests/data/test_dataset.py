from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.data import (
    Frame,
    FrameBatchSampler,
    GraphDataset,
    collate,
    make_loader,
    split_indices,
    subset,
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


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=80).map(np.array)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 120), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_batches_by_atoms(
    n_atoms: np.ndarray, limit: int, seed: int, epoch: int, shuffle: bool
) -> None:
    def sampler(epoch: int) -> FrameBatchSampler:
        return FrameBatchSampler(n_atoms, limit, seed=seed, epoch=epoch, shuffle=shuffle)

    batches = list(sampler(epoch))
    drawn = [i for batch in batches for i in batch]
    assert sorted(drawn) == list(range(len(n_atoms)))
    assert all(len(b) == 1 or n_atoms[b].sum() <= limit for b in batches) and all(batches)
    assert len(sampler(epoch)) == len(batches)
    later = sampler(epoch + 7)
    # The training loop and the schedule of the learning rate take the first epoch's for all.
    assert len(later) == len(batches)
    later.set_epoch(epoch)
    assert list(later) == batches == list(later)
    if not shuffle:
        assert drawn == sorted(drawn)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 100), st.integers(0, 5))
def test_batches_by_frames(n_atoms: np.ndarray, size: int, seed: int) -> None:
    batches = list(FrameBatchSampler(np.ones_like(n_atoms), size, seed=seed))
    assert sorted(i for b in batches for i in b) == list(range(len(n_atoms)))
    assert {len(b) for b in batches[:-1]} <= {size} and 1 <= len(batches[-1]) <= size


@pytest.mark.parametrize("varied", [False, True])
def test_epochs_and_seeds_differ(varied: bool) -> None:
    n_atoms = np.arange(1, 51) if varied else np.ones(50, dtype=np.int64)
    limit = 100 if varied else 7
    draws = {
        (seed, epoch): tuple(map(tuple, FrameBatchSampler(n_atoms, limit, seed=seed, epoch=epoch)))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(draws.values())) == 4
    # Not the same batches in another order either.
    assert len({batch for draw in draws.values() for batch in draw}) > 3 * len(draws[0, 0])


def test_batches_by_size_are_full() -> None:
    n_atoms = np.random.default_rng(0).lognormal(3.0, 0.8, 2000).astype(int) + 1
    sampler = FrameBatchSampler(n_atoms, 1000)
    assert len(sampler) <= 1.02 * n_atoms.sum() / 1000
    loads = [n_atoms[batch].sum() for batch in sampler]
    assert min(loads) > 0.95 * max(loads)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 120), st.integers(1, 5), st.booleans())
def test_several_processes_share_the_batches(
    n_atoms: np.ndarray, limit: int, devices: int, split: bool
) -> None:
    alone = list(FrameBatchSampler(n_atoms, limit, seed=3))
    with pytest.MonkeyPatch.context() as patch:
        parts, stand_ins = [], []
        for rank in range(devices):
            patch.setattr("eip.data.dataset.process_rank", lambda rank=rank: rank)
            sampler = FrameBatchSampler(n_atoms, limit, devices=devices, split=split, seed=3)
            parts.append(list(sampler))
            stand_ins.append([sampler.stands_in(step) for step in range(len(sampler))])
    # All take as many steps, with a frame in each, and each frame counts once.
    assert len({len(own) for own in parts}) == 1 and all(all(own) for own in parts)
    steps = [
        [i for own, no in zip(parts, stand_ins, strict=True) if not no[step] for i in own[step]]
        for step in range(len(parts[0]))
    ]
    assert sorted(i for step in steps for i in step) == list(range(len(n_atoms)))
    if split:
        assert [sorted(step) for step in steps] == [sorted(batch) for batch in alone]
    else:
        assert len(steps) == -(-len(alone) // devices)
        assert all(len(b) == 1 or n_atoms[b].sum() <= limit for own in parts for b in own)


def test_sampler_arguments(tmp_path: Path, make: Make) -> None:
    data = GraphDataset(write_store([make(2, 0)], tmp_path / "s"), cutoff=3.0)
    for arguments in ({}, {"batch_size": 1, "max_atoms": 1}):
        with pytest.raises(InputError, match="give one of batch_size, max_atoms and max_edges"):
            make_loader(data, shuffle=False, seed=0, **arguments)
    with pytest.raises(InputError, match="size of a batch must be at least 1, got 0"):
        FrameBatchSampler(np.ones(3, dtype=np.int64), 0)


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


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.data(), st.integers(0, 9), st.sampled_from(["random", "last"]))
def test_splits(n: int, data: st.DataObject, seed: int, mode: str) -> None:
    validation = data.draw(st.integers(1, n - 1) | st.floats(0.01, 0.5))
    train, held = split_indices(n, validation, seed, mode)
    assert sorted([*train, *held]) == list(range(n)) and len(train) and len(held)
    assert (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
    if isinstance(validation, int):
        assert len(held) == validation
    if mode == "last":
        assert train.max() < held.min()
    again = split_indices(n, validation, seed, mode)
    assert (again[0] == train).all() and (again[1] == held).all()


def test_split_arguments() -> None:
    with pytest.raises(InputError, match="validation=10 of 10 frames leaves none to train on"):
        split_indices(10, 10, 0)
    for bad in (0, 1.0, -3, 1.5, True):
        with pytest.raises(InputError, match="validation must be a fraction between 0 and 1"):
            split_indices(10, bad, 0)
    with pytest.raises(InputError, match="mode must be"):
        split_indices(10, 2, 0, "first")


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 100), st.integers(0, 5))
def test_subsets_lie_in_each_other(n: int, seed: int) -> None:
    indices = np.arange(n) * 3
    parts = [subset(indices, size, seed) for size in (1, 0.3, 0.6, n - 1, 1.0)]
    for small, large in itertools.pairwise(parts):
        assert len(small) > len(large) or set(small) <= set(large)
    assert parts[-1].tolist() == indices.tolist()
    with pytest.raises(InputError, match=rf"asks for more than the {n} frames"):
        subset(indices, n + 1, seed)
