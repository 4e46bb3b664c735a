"""The only training loop: a Lightning module, its callbacks, and a run folder that can resume."""

from __future__ import annotations

import csv
import logging
import math
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    RichProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from eip.data.dataset import Batch, GraphDataset, make_loader
from eip.errors import InputError
from eip.files import replacing
from eip.potential import Potential
from eip.training.checkpoints import (
    KeepCheckpoints,
    SealedCheckpoints,
    newest_checkpoint,
    read_checkpoint,
)
from eip.training.loss import WHOLE, Loss, Shares
from eip.training.processes import Launch, launched
from eip.training.settings import TrainingSettings

T = TypeVar("T")

#: Of the epochs, those at the end in which energies may count more.
FINAL_PART = 0.2


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


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names the step's frames."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from a seed inside, the caller's stream untouched outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


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
        settings: see there.
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
    world = launch.world if launch else settings.devices
    by_size = bool(settings.max_atoms or settings.max_edges)
    train_loader, validation_loader = (
        make_loader(
            dataset,
            batch_size=None if by_size else settings.batch_size,
            max_atoms=settings.max_atoms,
            max_edges=settings.max_edges,
            devices=world,
            shuffle=shuffle,
            seed=settings.seed,
            epoch=epoch,
            num_workers=settings.num_workers,
        )
        for dataset, shuffle in ((training_set, True), (validation_set, False))
    )
    potential.train().requires_grad_(True)
    module = TrainingModule(potential, settings, steps_per_epoch=len(train_loader))
    history = History(run_dir / "train.csv")
    monitor = f"val_{settings.selection}"
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
            max_epochs=settings.epochs,
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
        ending = "finished" if len(losses) >= settings.epochs else "early"
    best_epoch = min(range(len(losses)), key=chosen_by.__getitem__) if losses else -1
    return TrainingResult(
        ending=ending,
        epochs=len(losses),
        best_epoch=best_epoch + 1,
        best_loss=losses[best_epoch] if losses else math.nan,
        seconds=time.monotonic() - started,
        history=history.rows,
    )


class TrainingModule(pl.LightningModule):
    """One step: predict, compare, descend."""

    def __init__(
        self, potential: Potential, settings: TrainingSettings, steps_per_epoch: int
    ) -> None:
        super().__init__()
        self.potential, self.settings = potential, settings
        # Validation's stays the same, whatever that of training is in an epoch.
        self.loss = self.training_loss = Loss.of(settings)
        self.steps_per_epoch = steps_per_epoch
        self._errors: list[dict[str, Tensor]] = []
        self._frames: tuple[str, ...] = ()

    def setup(self, stage: str) -> None:
        # A process that was spawned for its device knows nothing of `quiet`.
        if self.trainer.world_size > 1:
            _ignore_advice()
            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch.to(device)

    def on_train_epoch_start(self) -> None:
        # Lightning tells a sampler its epoch, but not a batch sampler.
        loader: Any = self.trainer.train_dataloader
        loader.batch_sampler.set_epoch(self.current_epoch)
        self._epoch_began, self._atoms_seen = time.monotonic(), 0
        final = self.settings.final_energy_weight
        if final is not None and self.current_epoch >= (1.0 - FINAL_PART) * self.settings.epochs:
            self.training_loss = replace(self.loss, energy_weight=final)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self._frames = batch.sources
        loader: Any = self.trainer.train_dataloader
        own = torch.tensor([batch.graph.n_frames, batch.graph.n_atoms], dtype=torch.float64)
        if loader.batch_sampler.stands_in(index):
            own.zero_()
        whole = self._sum_over_processes(own)
        shares = Shares(*(self.trainer.world_size * own / whole).tolist())
        loss = self._evaluate(batch, shares)[0]
        if not torch.isfinite(loss):
            raise NonFiniteLoss(self._blame(f"the loss is {loss.item()}"))
        self._atoms_seen += int(whole[1])
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            batch_size=int(whole[0]),
            sync_dist=True,
        )
        return loss

    def on_train_epoch_end(self) -> None:
        # Not among the figures of train.csv, which are the same however often a run was resumed.
        seconds = max(time.monotonic() - self._epoch_began, 1e-9)
        figures = {"atoms_per_second": self._atoms_seen / seconds, "memory_mb": peak_memory_mb()}
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=self.current_epoch)

    def _sum_over_processes(self, own: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return own
        found = self.trainer.strategy.reduce(own.to(self.device, copy=True), reduce_op="sum")
        assert isinstance(found, Tensor)
        return found.cpu()

    def validation_step(self, batch: Batch, index: int) -> None:
        loss, errors = self._evaluate(batch)
        loader: Any = self.trainer.val_dataloaders
        own = float(not loader.batch_sampler.stands_in(index))
        sums = {"loss": loss.detach() * batch.graph.n_frames, **errors}
        self._errors.append({key: own * value for key, value in sums.items()})

    def on_validation_epoch_end(self) -> None:
        names = list(self._errors[0])
        own = torch.stack(
            [torch.stack([e[name].double().cpu() for e in self._errors]).sum() for name in names]
        )
        self._errors.clear()
        total = dict(zip(names, self._sum_over_processes(own), strict=True))
        frames, components = total["frames"], 3 * total["atoms"]
        self.log_dict(
            {
                "val_loss": total["loss"] / frames,
                "val_force_mae": total["force_absolute"] / components,
                "val_force_rmse": (total["force_squared"] / components) ** 0.5,
                "val_energy_mae_per_atom": total["energy_per_atom"] / frames,
                "val_uncertainty": total["sigma"] / total["atoms"],
            }
        )

    def _evaluate(self, batch: Batch, shares: Shares = WHOLE) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and summed errors of a batch."""
        graph = batch.graph
        training = self.training
        criterion = self.training_loss if training else self.loss
        prediction = self.potential(
            graph,
            forces=bool(self.loss.force_weight),
            stress=bool(self.loss.stress_weight),
            differentiable="everything" if training else "uncertainty",
        )
        loss = criterion(prediction, batch, shares).total
        if training:
            return loss, {}
        force_error = _error(batch.forces, prediction.forces)
        energy_error = _error(batch.energy, prediction.energy)
        sigma = prediction.force_uncertainty
        return loss, {
            "frames": torch.tensor(float(graph.n_frames)),
            "atoms": torch.tensor(float(graph.n_atoms)),
            "force_absolute": force_error.abs().sum(),
            "force_squared": force_error.square().sum(),
            "energy_per_atom": (energy_error.abs() / graph.atoms_per_frame).sum(),
            "sigma": torch.tensor(math.nan) if sigma is None else sigma.detach().sum(),
        }

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        length = torch.nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
        if not torch.isfinite(length):
            raise NonFiniteLoss(self._blame(f"the loss is finite but its gradient {length.item()}"))

    def _blame(self, what: str) -> str:
        return (
            f"{what} in epoch {self.current_epoch + 1}; the step's frames were "
            f"{', '.join(self._frames)}. Look at their labels, or lower the learning rate."
        )

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.AdamW(
            decay_groups(self, s.weight_decay, s.decayed == "matrices"),
            lr=s.learning_rate,
            amsgrad=s.amsgrad,
            fused=True,
        )
        floor = min(1.0, s.minimum_learning_rate / s.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            warmup_cosine(
                round(s.warmup_epochs * self.steps_per_epoch),
                s.epochs * self.steps_per_epoch,
                1.0 if s.schedule == "constant" else floor,
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _error(label: Tensor | None, predicted: Tensor | None) -> Tensor:
    """NaN where a training does without the one or the other."""
    if label is None or predicted is None:
        return torch.tensor(math.nan)
    return (label - predicted).detach()


def decay_groups(module: torch.nn.Module, decay: float, matrices: bool) -> list[dict[str, Any]]:
    """Weights of a module as an optimizer takes them; with ``matrices`` others do not decay."""
    if not matrices:
        return [{"params": list(module.parameters()), "weight_decay": decay}]
    embeddings = {
        id(p) for m in module.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
    }
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in module.parameters():
        groups[parameter.ndim > 1 and id(parameter) not in embeddings].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay if decays else 0.0}
        for decays, parameters in groups.items()
        if parameters
    ]


def warmup_cosine(warmup: int, total: int, floor: float) -> Callable[[int], float]:
    """Factor on the learning rate at each step: linear rise, then half a cosine down to a floor."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


class Averaging(WeightAveraging):
    """Exponential moving average of the weights, with a shorter memory in the first steps."""

    def __init__(self, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"ema_decay must lie in [0, 1), got {decay}")

        # Of the module: a local function could not go to the processes of other devices.
        super().__init__(use_buffers=False, avg_fn=partial(_average, decay))


def _average(decay: float, averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    n = float(count)
    weight = min(decay, (1.0 + n) / (10.0 + n))
    return torch.lerp(current, averaged, weight)


class History(Callback):
    """One line an epoch, in memory and in train.csv; a resume goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, int | float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch + 1, "learning_rate": rate, **values}
        self.rows = [r for r in self.rows if r["epoch"] < row["epoch"]] + [row]
        if not trainer.is_global_zero:
            return
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


def read_history(path: Path) -> list[dict[str, int | float]]:
    """The rows of a train.csv."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


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


def peak_memory_mb() -> float:
    """Of the GPU where there is one, else of this process, MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _ignore_advice() -> None:
    warnings.filterwarnings("ignore", module="lightning")
    # Of gradients of a single row; a copy of some numbers.
    warnings.filterwarnings("ignore", "Grad strides do not match")


def quiet(function: Callable[[], T]) -> T:
    """Without Lightning's advice on worker counts and loggers, which users of eIP cannot follow."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            _ignore_advice()
            return function()
    finally:
        logger.setLevel(level)
