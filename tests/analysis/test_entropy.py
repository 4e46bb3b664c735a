from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eip.analysis import (
    configurational_entropy,
    coverage_growth,
    entropy_growth,
    histogram_entropy,
    shared_ranges,
    torsion_entropy,
)
from eip.errors import InputError

COUNTS = hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(0, 50)).filter(
    lambda counts: counts.sum() > 0
)
SEEDS = st.integers(0, 10_000)
UNIT = ((0.0, 1.0), (0.0, 1.0))


@given(n=st.integers(1, 2000), each=st.integers(1, 9))
def test_n_cells_alike_have_log_n(n, each):
    assert histogram_entropy(np.full(n, float(each))) == pytest.approx(np.log(n))


@given(counts=COUNTS, factor=st.integers(1, 5), seed=SEEDS)
def test_entropy_has_its_bounds_and_does_not_see_order_size_or_empty_cells(counts, factor, seed):
    value = histogram_entropy(counts)
    assert 0.0 <= value <= np.log(np.count_nonzero(counts)) + 1e-12
    other = np.random.default_rng(seed).permutation(np.append(factor * counts, 0.0))
    assert histogram_entropy(other) == pytest.approx(value, abs=1e-12)


@given(counts=COUNTS, others=COUNTS)
def test_entropies_of_independent_variables_add_up(counts, others):
    both = histogram_entropy(np.outer(counts, others))
    assert both == pytest.approx(histogram_entropy(counts) + histogram_entropy(others), abs=1e-9)


def test_what_is_no_histogram_is_refused():
    for counts in ([], [0.0, 0.0], [1.0, -1.0, 3.0]):
        with pytest.raises(InputError, match="counts"):
            histogram_entropy(np.array(counts))


@pytest.mark.parametrize("bins", [2, 7, 40])
def test_all_cells_alike_are_1_and_one_cell_is_0(bins):
    middles = (np.arange(bins) + 0.5) / bins
    first, second = (grid.ravel() for grid in np.meshgrid(middles, middles))
    assert configurational_entropy(first, second, UNIT, bins) == pytest.approx(1.0)
    same = np.full(50, 0.3)
    assert configurational_entropy(same, same, UNIT, bins) == 0.0
    # A diagonal visits bins cells of bins².
    assert configurational_entropy(middles, middles, UNIT, bins) == pytest.approx(0.5)


def test_many_uniform_samples_come_near_1():
    both = np.random.default_rng(0).uniform(size=(2, 200_000))
    # Less by (cells − 1)/2n nats, of 2 log 40: Miller's bias.
    expected = 1.0 - 1599 / (2 * 200_000) / (2 * np.log(40))
    assert configurational_entropy(*both, UNIT) == pytest.approx(expected, abs=2e-4)


@given(seed=SEEDS, frames=st.integers(1, 12), samples=st.integers(1, 5))
def test_growth_ends_at_the_whole_and_is_that_of_each_beginning(seed, frames, samples):
    first, second = np.random.default_rng(seed).uniform(size=(2, frames, samples))
    growth = entropy_growth(first, second, UNIT, 5)
    covered = coverage_growth(first, second, UNIT, 5)
    for n in range(1, frames + 1):
        a, b = first[:n].ravel(), second[:n].ravel()
        assert growth[n - 1] == pytest.approx(configurational_entropy(a, b, UNIT, 5))
        cells = {(int(x * 5), int(y * 5)) for x, y in zip(a, b, strict=True)}
        assert covered[n - 1] == pytest.approx(len(cells) / 25)
    assert (np.diff(covered) >= 0).all()


@given(seed=SEEDS)
def test_samples_may_come_in_any_order_and_from_any_atom(seed):
    rng = np.random.default_rng(seed)
    both = rng.uniform(size=(2, 60))
    mixed = both[:, rng.permutation(60)]
    assert configurational_entropy(*mixed, UNIT, 6) == configurational_entropy(*both, UNIT, 6)


def test_samples_beyond_the_grid_count_at_its_edge():
    inside = configurational_entropy(np.array([0.01, 0.99]), np.array([0.5, 0.5]), UNIT, 4)
    outside = configurational_entropy(np.array([-3.0, 7.0]), np.array([0.5, 0.5]), UNIT, 4)
    assert inside == outside > 0


@given(seed=SEEDS)
def test_shared_ranges_hold_every_sample_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    pairs = [(rng.normal(size=(3, 4)), rng.normal(size=(3, 4))) for _ in range(3)]
    for which, (low, high) in enumerate(shared_ranges(pairs)):
        values = np.concatenate([pair[which].ravel() for pair in pairs])
        assert low == values.min()
        assert values.max() < high < values.max() + 1e-6
    assert shared_ranges(pairs, ((-180.0, 180.0), None))[0] == (-180.0, 180.0)


def test_a_constant_order_parameter_has_a_range():
    pairs = [(np.ones((2, 2)), np.ones((2, 2)))]
    assert entropy_growth(*pairs[0], shared_ranges(pairs))[-1] == 0.0


def test_what_cannot_have_an_entropy_is_refused():
    one, none = np.ones((1, 1)), np.ones((0, 1))
    with pytest.raises(InputError, match="two order parameters of the same frames"):
        entropy_growth(none, none, UNIT)
    with pytest.raises(InputError, match="at least 2, got 1"):
        coverage_growth(one, one, UNIT, 1)
    with pytest.raises(InputError, match=r"empty: 1.0 to 1.0"):
        entropy_growth(one, one, ((1.0, 1.0), (0.0, 1.0)))


@given(seed=SEEDS, turns=st.integers(-3, 3), bins=st.sampled_from([2, 12, 36]))
def test_whole_turns_of_a_torsion_do_not_matter(seed, turns, bins):
    angles = np.random.default_rng(seed).uniform(-180, 180, 80)
    assert torsion_entropy(angles + 360.0 * turns, bins) == pytest.approx(
        torsion_entropy(angles, bins)
    )


def test_torsions_alike_are_1_one_is_0_and_none_is_refused():
    assert torsion_entropy(np.arange(36) * 10.0 + 5.0) == pytest.approx(1.0)
    assert torsion_entropy(np.array([60.0, 61.0])) == 0.0
    with pytest.raises(InputError, match="needs samples"):
        torsion_entropy(np.array([]))
