from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from eip.data import (
    Frame,
    fit_element_energies,
    fit_energy_shifts,
    force_rms,
    force_scale,
    summarize,
    write_store,
)
from eip.data.store import FrameStore
from eip.errors import InputError

Make = Callable[..., Frame]
E0 = {1: -13.6, 6: -1029.4, 8: -2041.8}


def with_energies(make: Make, path: Path, compositions: list[list[int]]) -> FrameStore:
    frames = []
    for i, numbers in enumerate(compositions):
        frame = make(numbers=numbers, seed=i)
        object.__setattr__(frame, "energy", sum(E0[z] for z in numbers))
        frames.append(frame)
    return write_store(frames, path)


def residuals(store: FrameStore, energies: dict[int, float]) -> np.ndarray:
    return np.array([f.energy - sum(energies[int(z)] for z in f.numbers) for f in store])


def test_element_energies_are_recovered(tmp_path: Path, make: Make) -> None:
    rng = np.random.default_rng(0)
    compositions = [rng.choice([1, 6, 8], rng.integers(1, 9)).tolist() for _ in range(40)]
    store = with_energies(make, tmp_path / "s", compositions)
    fitted = fit_element_energies(store)
    assert list(fitted) == [1, 6, 8]
    assert fitted == pytest.approx(E0, abs=1e-9)
    # Block by block, in any order, it is the same fit.
    blocks = store.blocks
    store.blocks = lambda indices: blocks(indices, atoms=7)
    assert fit_element_energies(store, np.arange(40)[::-1]) == pytest.approx(E0, abs=1e-9)


def test_energy_shifts_are_those_of_the_elements(tmp_path: Path, make: Make) -> None:
    rng = np.random.default_rng(0)
    compositions = [rng.choice([1, 6, 8], rng.integers(1, 9)).tolist() for _ in range(40)]
    store = with_energies(make, tmp_path / "s", compositions)
    other = {1: -13.0, 6: -1030.0, 8: -2041.8}
    order = rng.permutation(40)
    predicted = np.array([sum(other[z] for z in compositions[i]) for i in order])
    shifts = fit_energy_shifts(store, order, predicted)
    assert shifts == pytest.approx({z: E0[z] - other[z] for z in E0}, abs=1e-6)
    predicted = np.array([sum(E0[z] + 2.0 * (z == 8) for z in compositions[i]) for i in order])
    shifts = fit_energy_shifts(store, order, predicted, fixed=[1])
    assert shifts == pytest.approx({1: 0.0, 6: 0.0, 8: -2.0}, abs=1e-6)
    assert fit_energy_shifts(store, order, predicted, fixed=[1, 6, 8]) == {1: 0.0, 6: 0.0, 8: 0.0}


@pytest.mark.parametrize("compositions", [[[1, 1, 8]] * 5, [[1, 1, 8] * k for k in (1, 2, 5)]])
def test_one_composition_is_absorbed(
    tmp_path: Path, make: Make, compositions: list[list[int]]
) -> None:
    store = with_energies(make, tmp_path / "s", compositions)
    fitted = fit_element_energies(store)
    np.testing.assert_allclose(residuals(store, fitted), 0, atol=1e-8)
    # Of all that absorb it, the one that takes every atom alike.
    assert fitted[1] == pytest.approx(fitted[8], rel=1e-9)


def test_rare_elements_do_not_take_up_noise(tmp_path: Path, make: Make) -> None:
    """89 elements in few frames, with bonding that no sum over elements explains."""
    rng = np.random.default_rng(0)
    true = dict(enumerate(rng.normal(-6.0, 3.0, 89), start=1))
    frames = []
    for i in range(120):
        numbers = np.repeat(rng.integers(1, 90, 4), rng.integers(1, 4, 4)).tolist()
        frame = make(numbers=numbers, seed=i)
        bonding = rng.normal(0.0, 0.5) * len(numbers)
        object.__setattr__(frame, "energy", sum(true[z] for z in numbers) + bonding)
        frames.append(frame)
    store = write_store(frames, tmp_path / "s")

    def error(fitted: dict[int, float]) -> float:
        return float(np.mean([(fitted[z] - true[z]) ** 2 for z in true]))

    counts = np.array([np.bincount(f.numbers, minlength=90)[1:] / len(f.numbers) for f in store])
    plain = np.linalg.lstsq(counts, store.energies / store.n_atoms, rcond=None)[0]
    assert error(fit_element_energies(store)) < 0.8 * error(dict(enumerate(plain, start=1)))


def test_given_energies_are_kept(tmp_path: Path, make: Make) -> None:
    store = with_energies(make, tmp_path / "s", [[1, 1, 8]] * 3)
    assert fit_element_energies(store, given=E0) == {1: E0[1], 8: E0[8]}
    partly = fit_element_energies(store, given={1: -10.0})
    assert partly == pytest.approx({1: -10.0, 8: E0[8] + 2 * (E0[1] + 10.0)})


def test_force_rms(tmp_path: Path, make: Make) -> None:
    frames = [make(n, n) for n in (1, 4, 2)]
    store = write_store(frames, tmp_path / "s")
    forces = [f.forces for f in frames]
    assert force_rms(store) == pytest.approx(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
    assert force_rms(store, np.array([2])) == pytest.approx(np.sqrt(np.mean(forces[2] ** 2)))


def test_statistics_of_missing_labels(tmp_path: Path, make: Make) -> None:
    store = write_store([make(3, 0, energy=False, forces=False)], tmp_path / "s")
    with pytest.raises(InputError, match=r"made\.xyz#0 has no energy \(1 of 1 frames lack it\)"):
        fit_element_energies(store)
    with pytest.raises(InputError, match=r"made\.xyz#0 has no forces"):
        force_rms(store)
    summary = summarize(store)
    assert summary.force_rms is None and summary.energy_per_atom_min is None
    with pytest.raises(InputError, match="no frames were chosen"):
        summarize(store, np.array([], dtype=np.int64))
    zero = make()
    object.__setattr__(zero, "forces", np.zeros((3, 3)))
    with pytest.raises(InputError, match="all forces are exactly zero"):
        force_rms(write_store([zero], tmp_path / "z"))


def test_summary(tmp_path: Path, make: Make) -> None:
    frames = [
        make(numbers=[8, 1, 1], seed=0),
        make(numbers=[6], seed=1, periodic=True, stress=True, source="other.xyz#0"),
    ]
    store = write_store(frames, tmp_path / "s")
    summary = summarize(store)
    assert summary.elements == {"H": 2, "C": 1, "O": 1}
    assert (summary.frames, summary.atoms, summary.atoms_min, summary.atoms_max) == (2, 4, 1, 3)
    assert summary.periodic == {"no": 1, "some": 0, "all": 1}
    assert summary.labels == {"energy": 2, "forces": 2, "stress": 1}
    assert summary.sources == ["made.xyz", "other.xyz"]
    largest = max(np.linalg.norm(f.forces, axis=1).max() for f in frames)
    assert summary.force_max == pytest.approx(largest)
    assert summary.energy_per_atom_max == pytest.approx(frames[0].energy / 3)
    assert json.loads(json.dumps(summary.to_dict())) == summary.to_dict()
    assert summarize(store, np.array([1])).sources == ["other.xyz"]
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(summary.table("training set"))
    text = console.export_text()
    for expected in ("training set", "1 to 3 (4 in all)", "H 2, C 1, O 1", "stress 1"):
        assert expected in text


def test_force_scales(tmp_path: Path, make: Make) -> None:
    frames = [make(4, seed) for seed in range(20)]
    forces = np.concatenate([f.forces for f in frames])
    store = write_store(frames, tmp_path / "s")
    assert force_scale(store) == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert force_scale(store, kind="mean") == pytest.approx(np.abs(forces).mean())
    some = np.array([3, 7])
    chosen = np.concatenate([frames[i].forces for i in some])
    assert force_scale(store, some, "mean") == pytest.approx(np.abs(chosen).mean())
