"""learn.yaml: all of a learning run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from eip.active_learning.settings import LearningSettings
from eip.config.data import DataConfig
from eip.config.training import Config
from eip.settings import Settings
from eip.settings.values import ConfigPath, Files


class Starts(Settings):
    """Where active learning starts."""

    starts: Files = Field(
        description="structures that dynamics starts from; every frame of the files",
        examples=[["start.xyz"]],
        min_length=1,
    )


class LearnConfig(LearningSettings, Starts):
    """Active learning: explore, select, label, train again."""


class LearningDataConfig(DataConfig):
    """Labelled frames to begin with, if there are any, and to test with."""

    train: Files = Field([], description="frames labelled already; empty: learn.initial are made")


class LearningConfig(Config):
    """All of a learning run."""

    run_dir: ConfigPath = Field(
        Path("runs/learn"), validate_default=True, description="folder for everything"
    )
    learn: LearnConfig
    data: LearningDataConfig = LearningDataConfig()

    @model_validator(mode="after")
    def _has_what_it_follows(self) -> LearningConfig:
        if self.model.uncertainty == "none":
            raise ValueError("active learning follows σ, and model.uncertainty is none")
        if self.learn.hover is not None and not self.model.latent_distance:
            raise ValueError(
                "learn.hover is an extrapolation grade, which no potential has with "
                "model.latent_distance false"
            )
        if isinstance(self.data.validation, list) and not self.data.train:
            raise ValueError(
                "data.validation names files, and data.train none: without labelled frames to "
                "begin with a learning run holds back a share of its own (learn.validation)"
            )
        if self.learn.initial == 0 and not (self.data.train or self.model.start_from):
            raise ValueError(
                "nothing to begin with: learn.initial is 0, data.train is empty, and no "
                "model.start_from is named to explore by"
            )
        most = self.learn.max_labels
        if not self.data.train and most is not None and self.learn.initial > most:
            raise ValueError(
                f"learn.max_labels is {most}, and learn.initial asks for {self.learn.initial} "
                "labels before the first training: lower the one or raise the other"
            )
        if self.training.seed != type(self.training).model_fields["seed"].default:
            raise ValueError(
                f"training.seed is {self.training.seed}, but each generation's training has a seed "
                "of its own, which follows learn.seed: set that"
            )
        return self
