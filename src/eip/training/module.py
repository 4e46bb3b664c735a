"""One step of training and of validation, as Lightning wants it."""

from __future__ import annotations

import logging
import math
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from eip.data.dataset import Batch
from eip.potential import Potential
from eip.training.loss import WHOLE, BatchShare, Loss
from eip.training.optimization import decay_groups, warmup_cosine
from eip.training.settings import TrainingSettings

T = TypeVar("T")

#: Of the epochs, those at the end in which energies may count more.
FINAL_PART = 0.2


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient became NaN or infinite; the message names the step's frames."""


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
        self.epochs = settings.epochs_of(steps_per_epoch)
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
        if final is not None and self.current_epoch >= (1.0 - FINAL_PART) * self.epochs:
            self.training_loss = replace(self.loss, energy_weight=final)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self._frames = batch.sources
        loader: Any = self.trainer.train_dataloader
        own = torch.tensor([batch.graph.n_frames, batch.graph.n_atoms], dtype=torch.float64)
        if loader.batch_sampler.is_padding(index):
            own.zero_()
        whole = self._sum_over_processes(own)
        share = BatchShare(*(self.trainer.world_size * own / whole).tolist())
        loss = self._evaluate(batch, share)[0]
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
        own = float(not loader.batch_sampler.is_padding(index))
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

    def _evaluate(
        self, batch: Batch, share: BatchShare = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
        loss = criterion(prediction, batch, share).total
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
                self.epochs * self.steps_per_epoch,
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
