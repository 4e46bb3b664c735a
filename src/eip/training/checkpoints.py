"""What a training run goes on from: checkpoints that know whether they are whole."""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from eip.errors import InputError
from eip.files import replacing, sealed, unsealed, warn_unchecked
from eip.training.history import History

#: The newest first. Where an epoch takes less time than its checkpoint is worth, the best may be
#: newer than the last.
NAMES = ("last", "previous", "best")

#: Of the time of training, what writing the last checkpoint may take where epochs are short.
SHARE = 0.05


class DamagedCheckpoint(RuntimeWarning):
    """A checkpoint cannot be read, and an earlier one takes its place."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU; nothing in it is unpickled but tensors and plain values.

    Raises:
        InputError: if it cannot be read, or is not what was written.
    """
    try:
        content, checked = unsealed(path.read_bytes())
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all kinds of them for a damaged file
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read ({said[0]})") from error
    if not checked:
        warn_unchecked(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read (it is no checkpoint)")
    return found


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest one that can be read, and how many epochs it has behind it; None: there is none.

    Raises:
        InputError: if there are some, but none can be read.

    Warns:
        DamagedCheckpoint: for each that cannot.
    """
    epochs: dict[Path, int] = {}
    unreadable = []
    for path in (folder / f"{name}.ckpt" for name in NAMES):
        if path.exists():
            try:
                epochs[path] = int(read_checkpoint(path)["epoch"]) + 1
            except InputError as error:
                unreadable.append(str(error))
            except KeyError:
                unreadable.append(f"{path} cannot be read (it is no checkpoint of a training)")
    if not epochs:
        if unreadable:
            raise InputError(
                f"{'; '.join(unreadable)}: there is nothing to go on from; begin anew in another "
                "run folder"
            )
        return None
    newest = max(epochs, key=lambda path: epochs[path])
    for reason in unreadable:
        warnings.warn(
            f"{reason}: going on from {newest.name}, after epoch {epochs[newest]}",
            DamagedCheckpoint,
            stacklevel=3,
        )
    return newest, epochs[newest]


class SealedCheckpoints(CheckpointIO):
    """Writes a checkpoint whole, with its checksum, and reads it by `read_checkpoint`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing(path) as temporary:
            temporary.write_bytes(sealed(content.getvalue()))
            if isinstance(storage_options, Path) and Path(path).exists():
                os.replace(path, storage_options)  # no sooner than the new one is there

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Pace:
    """When the last checkpoint is written again: writing takes `SHARE` of the time at most."""

    def __init__(self) -> None:
        self._wait_until = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._wait_until

    @contextmanager
    def writing(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        ended = time.monotonic()
        self._wait_until = ended + (ended - begun) / SHARE


class KeepCheckpoints(Checkpoint):
    """``last.ckpt`` of every epoch, the one before it, and ``best.ckpt`` of the best one.

    Where writing takes more than `SHARE` of the time, the last is written less often.

    Args:
        folder: of the checkpoints.
        history: the epochs so far.
        resumed: the checkpoint that training goes on from; None: it begins, and what is in the
            folder is another run's.
        monitor: column of the history that is lowest in the best epoch.
    """

    def __init__(
        self, folder: Path, history: History, resumed: Path | None, monitor: str = "val_loss"
    ) -> None:
        self.folder, self.history, self.resumed = folder, history, resumed
        self.monitor = monitor
        # One that could not be read must not take the place of one that could.
        self._whole = resumed is not None and resumed.stem == "last"
        self._pace = Pace()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.resumed is None and trainer.is_global_zero:
            for name in NAMES:
                (self.folder / f"{name}.ckpt").unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        *before, now = (row[self.monitor] for row in self.history.rows)
        if not before or now < min(before):
            trainer.save_checkpoint(self.folder / "best.ckpt")
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        # All processes take part in writing, so one of them decides.
        if trainer.strategy.broadcast(ends or self._pace.due()):
            previous = self.folder / "previous.ckpt" if self._whole else None
            with self._pace.writing():
                trainer.save_checkpoint(self.folder / "last.ckpt", storage_options=previous)
            self._whole = True
