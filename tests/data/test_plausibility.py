"""What a chemist would see at once is said, and sound sets are left in peace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eip.data import Frame, FrameStore, write_store
from eip.data.electrons import Electrons
from eip.data.plausibility import find_doubts

Make = Callable[..., Frame]


@pytest.fixture
def sound(make: Make) -> list[Frame]:
    rng = np.random.default_rng(0)
    frames = [make(numbers=[8, 1, 1, 6], seed=i, periodic=True, stress=True) for i in range(40)]
    return [
        replace(f, energy=-1e4 + rng.normal(), stress=1e-3 * f.stress)
        for f in frames
        if f.stress is not None
    ]


def doubts(frames: list[Frame], path: Path) -> list[str]:
    return find_doubts({"frames": (write_store(frames, path), None)})


def test_sound_frames(sound: list[Frame], tmp_path: Path) -> None:
    assert doubts(sound, tmp_path / "a") == []
    unlabelled = [replace(f, energy=None, forces=None, stress=None) for f in sound]
    assert doubts(unlabelled, tmp_path / "b") == []
    assert doubts(sound[:1], tmp_path / "c") == []


def test_stress_a_hundred_times_too_large(sound: list[Frame], tmp_path: Path) -> None:
    """A stress in GPa, taken for one in eV/Å³."""
    wrong = [replace(f, stress=160 * f.stress) for f in sound]  # type: ignore[operator]
    (text,) = doubts(wrong, tmp_path / "s")
    assert text.startswith("the stress of 40 of 40 frames is too large for the cell")
    assert "stress_unit" in text and "GPa" in text
    # Some frames at high pressure are none of it; one in kbar is.
    dense = [replace(f, stress=20 * f.stress) for f in sound[-5:]]  # type: ignore[operator]
    assert doubts([*sound[:-5], *dense], tmp_path / "u") == []
    wrong[-1] = replace(wrong[-1], stress=10 * wrong[-1].stress)
    (text,) = doubts([*sound[:-1], wrong[-1]], tmp_path / "t")
    assert "1 of 40 frames" in text and sound[-1].source in text


def test_a_force_far_beyond_the_rest(sound: list[Frame], tmp_path: Path) -> None:
    forces = sound[7].forces
    assert forces is not None
    sound[7] = replace(sound[7], forces=forces + np.array([[50.0, 0, 0]]))
    (text,) = doubts(sound, tmp_path / "s")
    assert text.startswith("1 frames have forces beyond 20 times") and "made.xyz#7" in text


def test_charges_that_differ(sound: list[Frame], tmp_path: Path) -> None:
    ions = [replace(f, electrons=Electrons(-1, 1)) for f in sound]
    assert doubts(ions, tmp_path / "a") == []
    (text,) = doubts([*ions[:3], *sound[3:]], tmp_path / "b")
    assert text.startswith("frames have different charges (3 of -1, 37 of +0)")


def test_energies_that_no_chemistry_explains(sound: list[Frame], tmp_path: Path) -> None:
    sound[3] = replace(sound[3], energy=-1e4 / 27.2)  # Hartree among eV
    (text,) = doubts(sound, tmp_path / "s")
    assert text.startswith("energies of 1 compositions differ by more") and "HHCO" not in text
    assert "H2CO has -2500" in text and "made.xyz#3" in text


def test_frames_twice(sound: list[Frame], tmp_path: Path) -> None:
    copy = replace(
        sound[5], positions=np.round(sound[5].positions, 6), source="other.xyz#0", energy=-1e4 + 3
    )
    (text,) = doubts([*sound, copy], tmp_path / "s")
    assert text == (
        "1 frames are there twice: other.xyz#0 is made.xyz#5, 1 of them with another energy"
    )
    # A displacement of dynamics, another element, another cell are other frames.
    positions = sound[5].positions + 2e-3 * np.eye(4, 3)
    swapped = sound[5].numbers[[1, 0, 2, 3]]
    others = [
        replace(sound[5], positions=positions, source="b#1"),
        replace(sound[5], numbers=swapped, source="b#2"),
        replace(sound[5], cell=1.001 * sound[5].cell, source="b#3"),
    ]
    assert doubts([*sound, *others], tmp_path / "t") == []


def test_frames_in_two_sets(sound: list[Frame], tmp_path: Path) -> None:
    copies = [replace(frame, source=f"test.xyz#{i}") for i, frame in enumerate(sound[:3])]
    train, test = write_store(sound, tmp_path / "a"), write_store(copies, tmp_path / "b")
    assert find_doubts({"train": (train, None), "test": (test, None)}) == [
        "3 of the test frames are train frames too: test.xyz#0 is made.xyz#0"
    ]
    # A validation set that was drawn from the training frames has none of them.
    split = {"train": (train, np.arange(30)), "validation": (train, np.arange(30, 40))}
    assert find_doubts(split) == []


def test_any_blocks_are_the_same(
    sound: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [*sound, replace(sound[0], source="again#0")]
    store = write_store(frames, tmp_path / "s")
    whole = find_doubts({"frames": (store, None)})
    blocks = FrameStore.blocks
    monkeypatch.setattr(FrameStore, "blocks", lambda self, which: blocks(self, which, atoms=7))
    assert find_doubts({"frames": (store, None)}) == whole != []
