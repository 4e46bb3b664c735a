"""Exponents of a product of powers under which errors are most likely: pure mathematics."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

#: Degrees of freedom of the Student-t that errors are taken to follow: their tails are heavy.
_DEGREES = 6.0


def fit_exponents(
    logarithms: Float[np.ndarray, "atoms factors"],
    squared_error: Float[np.ndarray, "atoms"],
    numbers: Int[np.ndarray, "atoms"],
) -> tuple[float, ...]:
    """The exponent of each factor that makes the errors most likely; none is negative.

    Args:
        logarithms: of the factors whose powers are multiplied.
        squared_error: |f_true − f_pred|², (eV/Å)².
        numbers: atomic numbers; each element has a scale of its own.
    """
    of_element = (numbers[:, None] == np.unique(numbers)).astype(float)
    design = np.column_stack([logarithms, of_element])
    floor = 1e-12 * squared_error.mean() + 1e-300

    def mean_nll(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_scale = design @ weights
        share = (squared_error + floor) * np.exp(-2.0 * log_scale) / _DEGREES
        nll = 3.0 * log_scale + 0.5 * (_DEGREES + 3.0) * np.log1p(share)
        slope = 3.0 - (_DEGREES + 3.0) * share / (1.0 + share)
        return float(nll.mean()), design.T @ slope / len(slope)

    count, elements = logarithms.shape[1], of_element.shape[1]
    from scipy.optimize import minimize  # not with every model that is loaded

    size = 0.5 * np.log(squared_error.mean() / 3 + floor)
    start = np.concatenate([np.ones(count), np.full(elements, size)])
    bounds = [(0.0, 4.0)] * count + [(None, None)] * elements
    found = minimize(mean_nll, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return tuple(float(exponent) for exponent in found[:count])
