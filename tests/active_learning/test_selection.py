"""Selection: windows, unsound geometry, farthest points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.active_learning.price import Price
from eip.active_learning.selection import (
    Window,
    choose,
    descriptors,
    farthest_points,
    unsound,
    window,
)
from eip.active_learning.settings import LearningSettings
from eip.uncertainty.evidential import EvidentialPotential


@pytest.fixture(scope="module")
def potential() -> EvidentialPotential:
    torch.manual_seed(0)
    return EvidentialPotential(
        elements=[1, 6, 8],
        element_energies={1: -13.0, 6: -1000.0, 8: -2000.0},
        force_scale=1.0,
        channels=16,
        interactions=2,
    ).eval()


def rattled(name: str, count: int, size: float = 0.1) -> list[Atoms]:
    out = []
    for seed in range(count):
        atoms = molecule(name)
        atoms.rattle(size, seed=seed)
        out.append(atoms)
    return out


def test_the_window_is_a_share_of_the_forces() -> None:
    frames = rattled("CH3OH", 5)
    rng = np.random.default_rng(0)
    forces = [rng.normal(scale=2.0, size=(6, 3)) for _ in frames]
    for atoms, f in zip(frames, forces, strict=True):
        atoms.calc = SinglePointCalculator(atoms, forces=f)
    rms = np.sqrt(np.mean(np.square(forces)))
    assert window(frames).lower == pytest.approx(0.2 * rms)
    assert window(frames).upper == pytest.approx(rms)
    assert window(frames, 0.1, 0.7) == Window(0.1, 0.7)
    assert window(frames, 3 * rms).upper == pytest.approx(6 * rms)
    held = [Window(0.1, 0.7).holds(s, 0.3) for s in (0.05, 0.1, 0.69, 0.7)]
    assert held == [False, True, True, False]


def test_a_frame_beyond_what_was_seen_is_a_candidate() -> None:
    assert [Window(0.1, 0.7).holds(0.05, grade) for grade in (0.9, 1.1)] == [False, True]
    assert not Window(0.1, 0.7).holds(0.9, 1.1)


def test_what_cannot_be_labelled_is_named() -> None:
    start = molecule("CH3CH2OH")
    assert unsound(start, start, 0.55, 2.0) is None
    close = start.copy()
    close.positions[1] = close.positions[0] + [0.4, 0, 0]
    assert "apart" in unsound(close, start, 0.55, 2.0)
    broken = start.copy()
    broken.positions[3] += [6.0, 0, 0]
    assert "bond between" in unsound(broken, start, 0.55, 2.0)
    assert unsound(broken, start, 0.55, None) is None
    nowhere = start.copy()
    nowhere.positions[0, 0] = np.nan
    assert "finite" in unsound(nowhere, start, 0.55, 2.0)
    crystal = bulk("C", cubic=True)
    swollen = crystal.copy()
    swollen.set_cell(crystal.cell * 1.4, scale_atoms=True)
    assert "volume" in unsound(swollen, crystal, 0.55, None)


def test_a_bond_across_the_cell_is_no_break() -> None:
    start = Atoms("OH", [[0.1, 2.5, 2.5], [0.1 + 0.97, 2.5, 2.5]], cell=[5, 5, 5], pbc=True)
    start.positions -= [0.5, 0, 0]
    wrapped = start.copy()
    wrapped.wrap()
    # Dynamics never wraps; a wrapped copy of the start is measured from the wrapped start.
    assert unsound(wrapped, wrapped, 0.55, 2.0) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_farthest_points_are_diverse(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    known, rows = rng.normal(size=(5, 4)), rng.normal(size=(30, 4))
    chosen = farthest_points(rows, known, count)
    assert len(chosen) == len(set(chosen.tolist())) == count
    # Greedy: each is the one farthest from all before it.
    scale = np.concatenate([known, rows]).std(axis=0)
    seen = list(known / scale)
    for index in chosen:
        gaps = np.array([min(np.linalg.norm(r - s) for s in seen) for r in rows / scale])
        assert gaps[index] == pytest.approx(gaps.max())
        seen.append(rows[index] / scale)


def test_duplicates_are_not_chosen() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(10, 3))
    rows = np.concatenate([known, known[:3], rng.normal(size=(2, 3)) + 5.0])
    chosen = farthest_points(rows, known, 10)
    assert sorted(chosen.tolist()) == [13, 14]


def test_no_known_frames_and_constant_features() -> None:
    rows = np.array([[0.0, 1.0], [1.0, 1.0], [10.0, 1.0]])
    chosen = farthest_points(rows, np.zeros((0, 2)), 3)
    assert sorted(chosen.tolist()) == [0, 1, 2]


def test_descriptors_know_the_surroundings_not_the_order(potential: EvidentialPotential) -> None:
    ethanol, methanol = molecule("CH3CH2OH"), molecule("CH3OH")
    turned = ethanol.copy()
    turned.rotate(40, (1, 2, 3))
    shuffled = ethanol[np.random.default_rng(0).permutation(len(ethanol))]
    rows = descriptors(potential, [ethanol, turned, shuffled, methanol])
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-4)
    np.testing.assert_allclose(rows[2], rows[0], atol=1e-4)
    assert np.abs(rows[3] - rows[0]).max() > 0.05
    water = descriptors(potential, [molecule("H2O"), ethanol])
    assert water.shape == (2, 3 * 32) and (water[0, 32:64] == 0).all()


# Price


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.01, 100.0))
def test_where_all_cost_the_same_the_price_changes_nothing(
    seed: int, count: int, cost: float
) -> None:
    rng = np.random.default_rng(seed)
    known, rows = rng.normal(size=(5, 4)), rng.normal(size=(30, 4))
    sizes = np.full(30, 1 + seed % 300)
    price = Price(2.0, cost)
    chosen = farthest_points(rows, known, count, price.by_atom(sizes), price.of(sizes))
    np.testing.assert_array_equal(chosen, farthest_points(rows, known, count))


def test_each_is_the_one_that_teaches_most_a_second() -> None:
    rng = np.random.default_rng(1)
    known, rows = rng.normal(size=(5, 4)), rng.normal(size=(30, 4))
    by_atom, worth = rng.choice([1.0, 3.0], size=30), rng.choice([0.5, 1.0], size=30)
    chosen = farthest_points(rows, known, 8, by_atom, worth=worth)
    by_atom = by_atom / worth
    scale = np.concatenate([known, rows]).std(axis=0)
    seen = list(known / scale)
    for index in chosen:
        gaps = np.array([min(np.linalg.norm(r - s) for s in seen) for r in rows / scale])
        assert (gaps / by_atom)[index] == pytest.approx((gaps / by_atom).max())
        seen.append(rows[index] / scale)
    assert by_atom[chosen].mean() < by_atom.mean()


def test_labels_of_a_generation_take_no_longer_than_was_said() -> None:
    rng = np.random.default_rng(2)
    known, rows = rng.normal(size=(5, 4)), rng.normal(size=(30, 4))
    seconds = rng.uniform(1.0, 20.0, size=30)
    chosen = farthest_points(rows, known, 30, None, seconds, 60.0)
    assert 1 < len(chosen) < 30 and seconds[chosen].sum() <= 60.0
    # What would still fit was taken.
    left = np.delete(seconds, chosen)
    assert left.min() > 60.0 - seconds[chosen].sum()
    # Never none, or the run would end.
    assert len(farthest_points(rows, known, 30, None, seconds, 1e-3)) == 1


@pytest.mark.parametrize("selection", ["random", "window"])
def test_at_random_within_the_hours(potential: EvidentialPotential, selection: Any) -> None:
    frames = [*rattled("CH3OH", 6), *rattled("H2O", 6)]
    asked = LearningSettings(selection=selection, label_hours=40.0 / 3600.0)
    chosen = choose(frames, [], potential, asked, 0, 12, Price(1.0, 1.0))
    sizes = np.array([len(frames[i]) for i in chosen])
    assert 0 < len(chosen) < 12 and sizes.sum() <= 40
    assert len(choose(frames, [], potential, asked, 0, 12, Price())) == 12


def test_what_errs_more_is_labelled_first_where_it_is_as_new(
    potential: EvidentialPotential,
) -> None:
    frames = [*rattled("CH3OH", 30, 0.05), *rattled("CH3OH", 30, 0.2)]
    chosen = choose(frames, frames[:2], potential, LearningSettings(), 0, 10, Price())
    found = potential.predict(frames)
    assert found.uncertainty is not None
    sigma = found.uncertainty.numpy()
    rows = descriptors(potential, [*frames[:2], *frames])
    plain = farthest_points(rows[2:], rows[:2], 10)
    expected = farthest_points(rows[2:], rows[:2], 10, worth=sigma.astype(np.float64))
    np.testing.assert_array_equal(chosen, expected)
    assert not np.array_equal(chosen, plain)


def test_small_structures_are_labelled_first_where_they_are_as_new(
    potential: EvidentialPotential,
) -> None:
    known = [*rattled("CH3OH", 3), *rattled("CH3CH2OH", 3)]
    frames = [*rattled("CH3OH", 10, 0.2)[3:], *rattled("CH3CH2OH", 10, 0.2)[3:]]
    asked = LearningSettings()

    def share(price: Price) -> float:
        chosen = choose(frames, known, potential, asked, 0, 6, price)
        return float(np.mean([len(frames[i]) == 6 for i in chosen]))

    assert share(Price(6.0)) == 1.0
    assert share(Price(6.0)) >= share(Price(1.0))
