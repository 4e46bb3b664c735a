"""config.yaml: all of a training run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from eip.config.data import DataConfig
from eip.config.model import ModelConfig
from eip.settings import Settings
from eip.settings.values import ConfigPath
from eip.training.settings import TrainingSettings
from eip.uncertainty.names import METHODS


class Config(Settings):
    """All of a training run."""

    run_dir: ConfigPath = Field(
        Path("runs/eip"), validate_default=True, description="folder for everything that comes out"
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Config:
        energy, force = self.training.energy_weight, self.training.force_weight
        if not (energy or force):
            raise ValueError("training.energy_weight and training.force_weight are both 0")
        if not force and self.model.uncertainty != "none":
            raise ValueError(
                f"model.uncertainty is '{self.model.uncertainty}', and σ is learned from forces: "
                f"without them (training.force_weight: 0) it must be none"
            )
        # Not before it matters: what methods are is not known without PyTorch.
        if not energy and METHODS.get(self.model.uncertainty).needs_energies:
            raise ValueError(
                f"model.uncertainty is '{self.model.uncertainty}', which is learned from energies: "
                f"training.energy_weight must not be 0"
            )
        return self
