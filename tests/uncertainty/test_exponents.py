"""Exponents that made-up errors were made with are found again."""

from __future__ import annotations

import numpy as np
import pytest

from eip.uncertainty.exponents import fit_exponents


def test_exponents_of_made_up_errors_are_found_again() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    logarithms = rng.normal(size=(n, 3)) * [0.5, 0.4, 0.3]
    numbers = rng.choice([1, 6], size=n)
    scale = np.exp(logarithms @ [0.7, 1.6, 0.0]) * np.where(numbers == 1, 0.02, 0.05)
    error = rng.standard_t(6, size=(n, 3)) * scale[:, None]
    found = fit_exponents(logarithms, np.square(error).sum(axis=1), numbers)
    assert found == pytest.approx((0.7, 1.6, 0.0), abs=0.05)
