"""What labels are expected to cost, by their sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eip.active_learning.price import Price, fitted_price


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 2.0, 3.0])
def test_a_power_law_is_found(exponent: float) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.choice([12, 24, 48, 96], size=40)
    times = 0.01 * sizes**exponent * np.exp(0.2 * rng.normal(size=40))
    price = fitted_price(sizes.tolist(), times.tolist())
    assert (price.exponent, price.labels) == (exponent, 40)
    assert price.seconds == pytest.approx(0.01, rel=0.2)
    np.testing.assert_allclose(price.of(np.array([24])), 0.01 * 24**exponent, rtol=0.2)


def test_what_is_known_before() -> None:
    assert fitted_price([], []) == Price(2.0, None, 0)
    assert Price().of(np.array([3, 4])) is None and str(Price()) == "∝ N^2"
    price = fitted_price([20] * 7, [8.0] * 7)
    assert (price.exponent, price.labels, str(price)) == (2.0, 7, "0.02 s · N^2")
    # Two labels that differ little in size are no reason to think otherwise.
    assert fitted_price([20, 22], [8.0, 16.0]).exponent == 2.0
    assert fitted_price([20, 40] * 20, [8.0, 4.0] * 20).exponent == 0.0


def test_the_first_label_of_a_worker_loads_its_program() -> None:
    sizes = [10] * 10 + [40] * 10
    times = [0.01 * n for n in sizes]
    times[0] = 20.0
    assert fitted_price(sizes, times).exponent == 1.0
    assert fitted_price(sizes, times).seconds == pytest.approx(0.01)


@given(st.integers(1, 900), st.integers(1, 20), st.sampled_from([0.0, 1.0, 2.0, 2.5]))
def test_of_one_size_every_atom_costs_the_same(size: int, count: int, exponent: float) -> None:
    assert (Price(exponent, 0.1).by_atom(np.full(count, size)) == 1.0).all()


def test_an_atom_of_a_large_structure_costs_more() -> None:
    assert Price(2.0).by_atom(np.array([24, 192])).tolist() == [1.0, 8.0]
    assert Price(1.0).by_atom(np.array([24, 192])).tolist() == [1.0, 1.0]
