"""What the making of each figure has to hand, and the lines of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write

from eip import builders, plots
from eip.active_learning.results import LearningResult
from eip.config import Config, LearningConfig, override, parse_config
from eip.files import replacing
from eip.paper.setups import Setup
from eip.verbs.learn import learn
from eip.verbs.messages import Log
from eip.verbs.runs import is_trained
from eip.verbs.train import train


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: with its unit.
        paper: what the paper says, a number or words; "" if nothing.
        ours: what came out here.
    """

    what: str
    paper: str
    ours: str


@dataclass(frozen=True)
class Job:
    setup: Setup
    data: Path
    folder: Path
    changes: Sequence[str]
    progress: bool
    log: Log

    def values(self, **sections: Any) -> dict[str, Any]:
        """Model and training of the setup, other sections, and the user's changes."""
        values = {
            "model": dict(self.setup.model),
            "training": dict(self.setup.training),
            **sections,
        }
        for change in self.changes:
            override(values, change)
        return values

    def config(self, sets: Mapping[str, Path], run_dir: Path, **training: Any) -> Config:
        values = self.values(data={name: [str(path)] for name, path in sets.items()})
        values["training"].update(training)
        return parse_config({**values, "run_dir": str(run_dir)}, name=str(self.folder))

    def drawn(self, figure: plots.Figure) -> Path:
        return plots.save_figure(figure, self.folder / "reproduction.png")

    def trained(self, config: Config) -> Path:
        """The model of a run, trained as far as it is not."""
        if is_trained(config.run_dir):
            return config.run_dir / "model.eip"
        run = train(config, resume=True, progress=self.progress, log=self.log)
        if run.model is None:
            raise InterruptedError("training was stopped")
        return run.model


def learned(job: Job, values: Mapping[str, Any], starts: Path, run_dir: Path) -> LearningResult:
    """A learning run, gone on with where it was."""
    learning = {**values["learn"], "starts": str(starts)}
    config = parse_config(
        {**values, "learn": learning, "run_dir": str(run_dir)}, root=LearningConfig
    )
    return learn(config, resume=True, progress=job.progress, log=job.log)


def kept_structures(path: Path, make: Callable[[], list[Atoms]]) -> Path:
    """Made once: a run that goes on starts from the same."""
    if not path.is_file():
        frames = make()
        with replacing(path) as temporary:
            write(str(temporary), frames, format="extxyz")
    return path


def starts_of(start: Mapping[str, Any]) -> list[Atoms]:
    if "molecule" in start:
        return [builders.molecule(start["molecule"])]
    if "lifepo4" in start:
        return [builders.lifepo4(start["lifepo4"])]
    if "pdms" in start:
        return [builders.pdms(*start["pdms"])]
    return [builders.water(start["water"], seed=seed) for seed in range(start["boxes"])]


#: What making a figure gives: the table, the plot and every measure.
Made = tuple[list[Row], Path, dict[str, Any]]
