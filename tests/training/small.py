"""A training of a second, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eip.data import GraphDataset, fit_element_energies, force_rms
from eip.training.module import TrainingModule
from eip.training.settings import TrainingSettings
from eip.training.trainer import seeded, train
from eip.uncertainty.evidential import EvidentialPotential

ROOT = Path(__file__).parents[2]
ETHANOL = ROOT / "examples/data/ethanol_300K.xyz"
WATER = ROOT / "examples/data/water_300K.xyz"
SETTINGS = TrainingSettings(
    epochs=4,
    batch_size=4,
    ema_decay=0.9,
    warmup_epochs=0.5,
    selection="loss",
    device="cpu",
)


def make_potential(store, head: str = "tensor", seed: int = 0) -> EvidentialPotential:
    with seeded(seed):
        return EvidentialPotential(
            elements=store.elements,
            element_energies=fit_element_energies(store),
            force_scale=force_rms(store),
            head=head,
            channels=8,
            interactions=2,
            cutoff=4.0,
        )


def sets(store, training: int = 12) -> tuple[GraphDataset, GraphDataset]:
    return (
        GraphDataset(store, np.arange(training), cutoff=4.0),
        GraphDataset(store, np.arange(training, training + 4), cutoff=4.0),
    )


def run(store, folder: Path, settings=SETTINGS, resume=False, head="tensor", seed=0):
    potential = make_potential(store, head, seed)
    result = train(potential, *sets(store), settings, folder, resume=resume, progress=False)
    return potential, result


def weights(potential: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in potential.parameters()])


def script_losses(monkeypatch: pytest.MonkeyPatch, losses: Sequence[float]) -> None:
    """Validation losses as given, epoch by epoch, whatever the network does."""
    log = TrainingModule.log_dict

    def scripted(self: TrainingModule, values: dict[str, Any]) -> None:
        loss = torch.tensor(losses[self.current_epoch], dtype=torch.float64)
        log(self, {**values, "val_loss": loss})

    monkeypatch.setattr(TrainingModule, "log_dict", scripted)
