"""Checkpoints: the last epoch is on disk, and a damaged one is known for what it is."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eip.training.checkpoints as checkpoints
from eip.data import open_frames
from eip.errors import InputError
from eip.files import UncheckedFile, sealed, unsealed
from eip.training.checkpoints import DamagedCheckpoint, Pace, newest_checkpoint, read_checkpoint
from eip.training.module import TrainingModule

from .small import ETHANOL, run, script_losses, weights

#: The best is the first; nothing gets better after.
WORSE = (1.0, 2.0, 3.0, 4.0)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    return open_frames(ETHANOL, cache_dir=tmp_path_factory.mktemp("frames"))


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))


def die_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    step = TrainingModule.training_step

    def dying(self: Any, batch: Any, index: int) -> Any:
        if self.current_epoch == epoch and index == 1:
            raise Killed
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", dying)


def epoch_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


def test_a_run_that_has_stopped_improving_goes_on_from_its_last_epoch(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_epoch: None
) -> None:
    script_losses(monkeypatch, WORSE)
    whole, expected = run(store, tmp_path / "whole")
    with monkeypatch.context() as patch:
        die_in_epoch(patch, 3)
        with pytest.raises(Killed):
            run(store, tmp_path / "killed")
    folder = tmp_path / "killed/checkpoints"
    assert [epoch_of(folder / f"{name}.ckpt") for name in ("last", "previous", "best")] == [2, 1, 0]
    assert newest_checkpoint(folder) == (folder / "last.ckpt", 3)
    resumed, result = run(store, tmp_path / "killed", resume=True, seed=5)
    assert result.history == expected.history
    assert (result.best_epoch, result.best_loss) == (1, 1.0)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    last = [
        read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "killed")
    ]
    for name, tensor in last[0]["state_dict"].items():
        assert torch.equal(tensor, last[1]["state_dict"][name]), name


@pytest.mark.parametrize("damage", ["truncated", "empty", "altered", "missing"])
def test_a_last_checkpoint_that_cannot_be_read_falls_back_to_the_one_before(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_epoch: None, damage: str
) -> None:
    script_losses(monkeypatch, WORSE)
    with monkeypatch.context() as patch:
        die_in_epoch(patch, 3)
        with pytest.raises(Killed):
            run(store, tmp_path)
    folder = tmp_path / "checkpoints"
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 16
    last.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "altered": content}.get(
            damage, b""
        )
    )
    if damage == "missing":  # killed between two renames
        last.unlink()
        assert newest_checkpoint(folder) == (folder / "previous.ckpt", 2)
    else:
        with pytest.warns(
            DamagedCheckpoint,
            match=r"last\.ckpt cannot be read \(.*going on from previous.ckpt, after epoch 2",
        ):
            assert newest_checkpoint(folder) == (folder / "previous.ckpt", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        die_in_epoch(monkeypatch, 3)
        with pytest.raises(Killed):
            run(store, tmp_path, resume=True)
    # What could not be read has not taken the place of what could.
    assert [epoch_of(folder / f"{name}.ckpt") for name in ("last", "previous")] == [2, 1]


def test_with_no_checkpoint_that_can_be_read_it_says_so(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for name in ("last", "best"):
        (tmp_path / f"{name}.ckpt").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"last\.ckpt .*best\.ckpt .*nothing to go on from"):
        newest_checkpoint(tmp_path)


def test_checkpoints_of_another_run_are_not_taken_for_ones_own(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, tmp_path)
    die_in_epoch(monkeypatch, 0)
    with pytest.raises(Killed):
        run(store, tmp_path)
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_writing_takes_a_share_of_the_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of a second, a checkpoint that takes half of one: every eleventh is written."""
    now = 0.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    pace, written = Pace(), []
    for epoch in range(40):
        now += 1.0
        if pace.due():
            with pace.writing():
                now += 0.5
            written.append(epoch)
    assert written == [0, 10, 20, 30]


def test_the_last_epoch_is_written_whatever_it_takes(
    store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SHARE", 1e-9)
    run(store, tmp_path)
    folder = tmp_path / "checkpoints"
    assert [epoch_of(folder / f"{name}.ckpt") for name in ("last", "previous")] == [3, 0]


# Flipped bits.


@pytest.fixture(scope="module")
def checkpoint(store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        die_in_epoch(patch, 1)
        with pytest.raises(Killed):
            run(store, folder)
    return folder / "checkpoints/last.ckpt"


def test_a_flipped_bit_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    expected = read_checkpoint(checkpoint)["state_dict"]
    rng = np.random.default_rng(0)
    seal = range(len(whole) - 76, len(whole))
    copy = tmp_path / "flipped.ckpt"
    refused = 0
    for place in [*range(40), *rng.integers(0, len(whole), 200), *seal]:
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        copy.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UncheckedFile)
                found = read_checkpoint(copy)["state_dict"]
        except InputError:
            refused += 1
            continue
        assert place in seal  # what is sealed is whole
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert refused >= 240 + 64


def test_a_checkpoint_of_older_date_is_read_with_a_warning(
    store, checkpoint: Path, tmp_path: Path
) -> None:
    """As they were written before checksums: by torch.save, the best loss kept by Lightning."""
    content, was_sealed = unsealed(checkpoint.read_bytes())
    assert was_sealed
    old = torch.load(io.BytesIO(content), weights_only=True)
    old["callbacks"]["ModelCheckpoint{'monitor': 'val_loss'}"] = {
        "monitor": "val_loss", "best_model_score": torch.tensor(1.0), "best_model_path": "/gone",
        "current_score": torch.tensor(1.0), "dirpath": "/gone", "best_k_models": {},
        "kth_best_model_path": "", "kth_value": torch.tensor(1.0), "last_model_path": "",
    }  # fmt: skip
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last", "best"):
        torch.save(old, folder / f"{name}.ckpt")
    with pytest.warns(UncheckedFile, match=r"last\.ckpt: written by an earlier eIP, without a"):
        resumed, result = run(store, tmp_path, resume=True)
    whole, expected = run(store, tmp_path / "whole")
    assert result.history == expected.history
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_a_seal_holds_its_content() -> None:
    assert unsealed(sealed(b"content")) == (b"content", True)
    assert unsealed(b"content") == (b"content", False)
    with pytest.raises(ValueError, match="it is damaged"):
        unsealed(sealed(b"content").replace(b"content", b"c0ntent"))
