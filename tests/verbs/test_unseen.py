"""The parts of the training frames on which a fine-tuned network's errors are told."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

from eip.data import Labels, open_frames
from eip.verbs.unseen import FOLDS, folds


@pytest.mark.parametrize("materials", [None, 1, 5])
def test_each_frame_is_left_out_once_and_materials_stay_together(
    materials: int | None, demo_data: Path, tmp_path: Path
) -> None:
    frames = ase.io.read(demo_data / "ethanol_300K.xyz", index=":24")
    if materials is not None:
        for number, atoms in enumerate(frames):
            atoms.info["material"] = number % materials
    ase.io.write(tmp_path / "frames.xyz", frames)
    labels = Labels() if materials is None else Labels(group="material")
    store = open_frames([tmp_path / "frames.xyz"], labels)
    chosen = np.arange(0, 24, 2)
    parts = list(folds(chosen, store, seed=0))
    assert len(parts) == FOLDS and all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == chosen.tolist()
    if materials == 5:
        assert store.groups is not None
        of_parts = [set(store.groups[part].tolist()) for part in parts]
        assert not of_parts[0] & of_parts[1]
    again = list(folds(chosen, store, seed=0))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
