"""Averages with their error: known answers of a harmonic oscillator, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import units

from eip.analysis import average
from eip.analysis.averages import Deviations, member_weights, sampling_error
from eip.errors import InputError

KT = units.kB * 300.0


def oscillator(frames: int = 20_000, seed: int = 0) -> np.ndarray:
    """Positions of E = x²/2 at 300 K, independent of each other."""
    return np.sqrt(KT) * np.random.default_rng(seed).normal(size=frames)


def test_the_potentials_part_is_that_of_a_spring_not_quite_known() -> None:
    """E = k x²/2 with k = 1 ± 0.02: ⟨x²⟩ = kT/k."""
    x = oscillator()
    found = average(x**2, (0.02 * x**2 / 2.0)[:, None], 300.0)
    assert found.value == pytest.approx(KT, rel=0.03)
    assert found.potential_error == pytest.approx(0.02 * KT, rel=0.15)
    assert found.sampling_error == pytest.approx(np.sqrt(2.0) * KT / np.sqrt(len(x)), rel=0.4)
    assert found.error == pytest.approx(np.hypot(found.potential_error, found.sampling_error))
    assert found.effective_frames > 0.9 * len(x) and found.doubt == ""


def test_it_is_the_spread_of_potentials_that_are_run() -> None:
    """⟨x⟩ under a slope that is not known: reweighted, and by the shift that it makes."""
    x = oscillator()
    slope = 0.2 * np.sqrt(KT)
    found = average(x, (slope * x)[:, None], 300.0)
    assert found.potential_error == pytest.approx(slope, rel=0.15)


def test_a_shift_of_all_energies_drops_out() -> None:
    x = oscillator(500)
    parts = np.column_stack([0.02 * x**2, 0.0 * x])
    shifted = parts + np.array([300.0, 4000.0])
    both = [average(x**2, of, 300.0).potential_error for of in (parts, shifted)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_the_mean_energy_is_each_members_own() -> None:
    """By equipartition ⟨k x²/2⟩ = kT/2 whatever k is; a bottom that is not known is not known."""
    x = oscillator()
    energies, spring = x**2 / 2.0, (0.02 * x**2 / 2.0)[:, None]
    of_others = average(energies, spring, 300.0).potential_error
    assert of_others == pytest.approx(0.02 * KT / 2.0, rel=0.15)
    assert average(energies, spring, 300.0, energies=True).potential_error < 0.1 * of_others
    bottom = np.column_stack([spring[:, 0], np.full(len(x), 0.1)])
    found = average(energies, bottom, 300.0, energies=True)
    assert found.potential_error == pytest.approx(0.1, rel=0.15)


def test_arrays_are_averaged_by_entry() -> None:
    x = oscillator(400)
    values = np.stack([x**2, 2.0 * x**2, 0.0 * x], axis=1).reshape(400, 3, 1)
    found = average(values, (0.05 * x**2)[:, None], 300.0)
    assert found.value.shape == found.potential_error.shape == found.sampling_error.shape == (3, 1)
    assert found.potential_error[1, 0] == pytest.approx(2.0 * found.potential_error[0, 0])
    assert found.error[2, 0] == 0.0


def test_too_few_effective_frames_are_said() -> None:
    x = oscillator(1000)
    found = average(x**2, (50.0 * x)[:, None], 300.0)
    assert found.effective_frames < 100
    assert "of 1000 frames carry the weights" in found.doubt and "not to be believed" in found.doubt
    slow = np.repeat(oscillator(5), 200)
    assert "too short" in average(slow, (1e-3 * slow)[:, None], 300.0).doubt


def test_frames_that_are_alike_count_less() -> None:
    x = oscillator(4096)
    error, independent = sampling_error(x)
    repeated, fewer = sampling_error(np.repeat(x[:512], 8))
    assert repeated == pytest.approx(np.sqrt(8.0) * error, rel=0.5)
    assert fewer == pytest.approx(512, rel=0.6) and independent > 1500


def test_weights_add_up_to_one_and_are_the_same_again() -> None:
    parts = np.random.default_rng(0).normal(size=(50, 4)) * 0.01
    weights = member_weights(parts, 300.0, members=7)
    assert weights.shape == (7, 50)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_array_equal(weights, member_weights(parts, 300.0, members=7))
    huge = member_weights(1e6 * parts, 300.0)
    assert np.isfinite(huge).all()


@pytest.mark.parametrize(
    ("values", "parts", "temperature", "message"),
    [
        (np.ones(9), np.ones((10, 2)), 300.0, "a value of each of the 10 frames"),
        (np.ones(10), np.ones(10), 300.0, "[frames, directions]"),
        (np.ones(3), np.ones((3, 2)), 300.0, "needs 8 frames or more"),
        (np.ones(10), np.ones((10, 2)), 0.0, "temperature must be positive"),
        (np.full(10, np.nan), np.ones((10, 2)), 300.0, "values that are finite"),
        (np.ones(10), np.full((10, 2), np.inf), 300.0, "not finite in every frame"),
    ],
)
def test_what_does_not_fit_is_refused(values, parts, temperature, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        average(values, parts, temperature)


@pytest.mark.parametrize(("share", "doubted"), [(0.0, False), (0.05, False), (0.2, True)])
def test_a_run_that_left_what_is_known_is_doubted(share: float, doubted: bool) -> None:
    doubt = Deviations(np.zeros((3, 1)), {}, share).doubt
    assert ("20% of the atoms are beyond what the potential has seen" in doubt) == doubted
    assert bool(doubt) == doubted
