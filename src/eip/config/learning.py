"""learn.yaml: all of a learning run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

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
