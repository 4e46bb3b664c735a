"""The only training loop: a Lightning module, its callbacks, and a run folder that can resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import DataLoader

from eip.data.dataset import Batch, GraphDataset, make_loader
from eip.errors import InputError
from eip.models.backbone import begin_training
from eip.potential import Potential
from eip.training.checkpoints import (
    KeepCheckpoints,
    SealedCheckpoints,
    newest_checkpoint,
    read_checkpoint,
)
from eip.training.history import History, read_history
from eip.training.module import NonFiniteLoss, TrainingModule, quiet
from eip.training.optimization import Averaging
from eip.training.processes import Launch, launched
from eip.training.settings import TrainingSettings


@dataclass(frozen=True)
class TrainingResult:
    """What training came to; the potential holds the averaged weights of the best epoch.

    ``ending`` is "finished", "early" (patience) or "interrupted" (by the user; can be resumed).
    """

    ending: str
    epochs: int
    best_epoch: int
    best_loss: float
    seconds: float
    history: list[dict[str, int | float]]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, the caller's stream untouched outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def planned(settings: TrainingSettings, training_set: GraphDataset) -> TrainingSettings:
    """With the number of epochs, and of frames in a step, that follow from the training frames."""
    if settings.batch_size is None and not _by_size(settings):
        mean = float(training_set.n_atoms.mean())
        settings = settings.replace(
            batch_size=settings.frames_of_a_step(mean, devices=_processes(settings))
        )
    if settings.epochs is None:
        steps = len(_loader(training_set, settings, shuffle=True))
        settings = settings.replace(epochs=settings.epochs_of(steps))
    return settings


def train(
    potential: Potential,
    training_set: GraphDataset,
    validation_set: GraphDataset,
    settings: TrainingSettings,
    run_dir: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Trains a potential in place and leaves a log of it.

    The run folder gets ``checkpoints/last.ckpt``, ``previous.ckpt`` and ``best.ckpt`` (weights,
    optimizer, averages: what an exact resume needs), ``train.csv`` (a line an epoch, eV and Å) and
    ``tensorboard/``.

    Args:
        potential: with weights initialized; ends with the best averaged ones.
        training_set, validation_set: with the labels whose weights are not 0.
        settings: see there; what is empty in them is as `planned` has it.
        run_dir: made if need be.
        resume: go on from the newest checkpoint that can be read, if there is any; a run that was
            killed and resumed ends as one that was not.
        progress: shows a progress bar.

    Raises:
        InputError: if a needed label is missing, settings contradict each other, or none of the
            checkpoints can be read.
        NonFiniteLoss: if the loss or its gradient is NaN or infinite.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    checkpoints = run_dir / "checkpoints"
    # After a resume, Lightning draws the first batches before it says which epoch it is.
    resumed, epoch = (newest_checkpoint(checkpoints) if resume else None) or (None, 0)
    launch = launched()
    world = _processes(settings)
    settings = planned(settings, training_set)
    train_loader = _loader(training_set, settings, shuffle=True, epoch=epoch)
    validation_loader = _loader(validation_set, settings, shuffle=False, epoch=epoch)
    begin_training(potential, settings.layers)
    module = TrainingModule(potential, settings, steps_per_epoch=len(train_loader))
    history = History(run_dir / "train.csv")
    # Whoever trains on energies alone has no error of forces to choose by.
    monitor = f"val_{settings.selection}" if settings.force_weight else "val_loss"
    callbacks: list[Callback] = [
        KeepCheckpoints(checkpoints, history, resumed, monitor),
        history,
        Averaging(settings.ema_decay),
    ]
    if settings.patience:
        callbacks.append(EarlyStopping(monitor, patience=settings.patience, check_finite=False))
    if progress:
        callbacks.append(RichProgressBar())
    trainer = quiet(
        lambda: pl.Trainer(
            accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
            devices=launch.world // launch.nodes if launch else settings.devices,
            num_nodes=launch.nodes if launch else 1,
            strategy=_strategy(launch, settings.devices),
            plugins=[SealedCheckpoints(), *([launch.environment] if launch else [])],
            max_epochs=module.epochs,
            callbacks=callbacks,
            logger=TensorBoardLogger(run_dir, name="tensorboard", version=""),
            inference_mode=False,  # forces are a gradient, in validation too
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, min(50, len(train_loader))),
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    )
    started = time.monotonic()
    others = set(active_children())
    try:
        with _shared_by_name():
            quiet(
                lambda: trainer.fit(
                    module,
                    train_loader,
                    validation_loader,
                    ckpt_path=resumed,
                    weights_only=True,
                )
            )
    except ProcessRaisedException as error:
        raise _as_raised(error) from error
    except SystemExit:  # so Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
        for child in set(active_children()) - others:  # of other devices
            child.terminate()
    if world > 1 and launch is None:
        history.rows = read_history(history.path)  # the processes that kept it are gone
    best = checkpoints / "best.ckpt"
    if best.exists():
        module.load_state_dict(read_checkpoint(best)["state_dict"])
    potential.eval().requires_grad_(False)
    losses = [row["val_loss"] for row in history.rows]
    chosen_by = [row[monitor] for row in history.rows]
    if trainer.interrupted:
        ending = "interrupted"
    else:
        ending = "finished" if len(losses) >= module.epochs else "early"
    best_epoch = min(range(len(losses)), key=chosen_by.__getitem__) if losses else -1
    return TrainingResult(
        ending=ending,
        epochs=len(losses),
        best_epoch=best_epoch + 1,
        best_loss=losses[best_epoch] if losses else math.nan,
        seconds=time.monotonic() - started,
        history=history.rows,
    )


def _processes(settings: TrainingSettings) -> int:
    launch = launched()
    return launch.world if launch else settings.devices


def _by_size(settings: TrainingSettings) -> bool:
    return bool(settings.max_atoms or settings.max_edges)


def _loader(
    dataset: GraphDataset, settings: TrainingSettings, *, shuffle: bool, epoch: int = 0
) -> DataLoader[Batch]:
    return make_loader(
        dataset,
        batch_size=None if _by_size(settings) else settings.batch_size,
        max_atoms=settings.max_atoms,
        max_edges=settings.max_edges,
        devices=_processes(settings),
        shuffle=shuffle,
        seed=settings.seed,
        epoch=epoch,
        num_workers=settings.num_workers,
    )


def _strategy(launch: Launch | None, devices: int) -> str:
    if launch is not None:
        return "ddp"
    # Spawned, not forked (OpenMP and CUDA forbid it), nor by running the command line again, which
    # is the user's own script where eIP is a library.
    return "ddp_spawn" if devices > 1 else "auto"


@contextmanager
def _shared_by_name() -> Iterator[None]:
    """Tensors go to other processes as files in shared memory.

    As descriptors, torch's default, two views of one tensor cannot be sent together.
    """
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        torch.multiprocessing.set_sharing_strategy(before)


def _as_raised(error: ProcessRaisedException) -> Exception:
    """What a process of another device raised, which comes as text alone."""
    message = str(error).strip().splitlines()[-1]
    for kind in (NonFiniteLoss, InputError):
        _, found, text = message.partition(f"{kind.__name__}: ")
        if found:
            return kind(text)
    return error
