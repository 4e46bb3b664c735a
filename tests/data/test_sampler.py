"""Batches: each frame once, none too full, whatever the number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.data import FrameBatchSampler
from eip.errors import InputError

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
            patch.setattr("eip.data.sampler.process_rank", lambda rank=rank: rank)
            sampler = FrameBatchSampler(n_atoms, limit, devices=devices, split=split, seed=3)
            parts.append(list(sampler))
            stand_ins.append([sampler.is_padding(step) for step in range(len(sampler))])
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


def test_a_batch_holds_something() -> None:
    with pytest.raises(InputError, match="size of a batch must be at least 1, got 0"):
        FrameBatchSampler(np.ones(3, dtype=np.int64), 0)
