"""Splits: every frame on one side, the same again for the same seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.data import split_indices, subset
from eip.errors import InputError


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
