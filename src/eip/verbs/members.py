"""Several trainings: the members of an ensemble, the methods of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from eip.config import Config
from eip.errors import InputError
from eip.executors import Pool
from eip.training.processes import launched
from eip.uncertainty.methods import method
from eip.verbs.frames import read_sets
from eip.verbs.messages import Log
from eip.verbs.runs import is_trained, run_of

#: Trains one, with or without progress bars; False where it was interrupted. Of a module, so that
#: another process finds it.
TrainOne = Callable[[Config, bool], bool]


def member_configs(config: Config) -> list[Config]:
    """A training run for each member of an ensemble, from weights of its own."""
    members = config.model.members or method(config.model.uncertainty).members
    return [
        plain_config(
            config, config.training.seed * members + k, config.run_dir / "members" / str(k)
        )
        for k in range(members)
    ]


def plain_config(config: Config, seed: int, run_dir: Path) -> Config:
    """The same training without an uncertainty."""
    return config.model_copy(
        update={
            "run_dir": run_dir,
            "model": config.model.model_copy(update={"uncertainty": "none", "members": None}),
            "training": config.training.model_copy(update={"seed": seed}),
        }
    )


def train_members(
    configs: Sequence[Config], train: TrainOne, parallel: int, progress: bool, log: Log
) -> list[Path] | None:
    """Trains each where no model.eip is, several at once if wanted; None where one was interrupted.

    A run that was stopped goes on where it was.

    Raises:
        InputError: if a run folder is of another configuration, or of other frames.
    """
    if launched() is not None:
        raise InputError(
            "several networks are trained one after the other, or side by side by "
            "training.parallel; the processes of a launcher (srun, torchrun) train one together"
        )

    def tell(done: int) -> None:
        log(f"{done} of {len(configs)} networks are trained.")

    missing = [c for c in configs if not is_trained(c.run_dir)]
    for config in configs:
        check_same(config)
    done = len(configs) - len(missing)
    if parallel > 1 and len(missing) > 1:
        if not _train_at_once(missing, train, parallel, lambda k: tell(done + k)):
            return None
    else:
        for config in missing:
            if not train(config, progress):
                return None
            done += 1
            tell(done)
    return [c.run_dir / "model.eip" for c in configs]


def check_same(config: Config) -> None:
    """Of a run that is there: was it asked for this, and of these frames?

    Raises:
        InputError: if not.
    """
    if config.run_dir.is_dir():
        with run_of(config, "train", resume=True) as run:
            if is_trained(run.path):
                read_sets(config, run.path / "data", begun=True)


def _train_at_once(
    configs: Sequence[Config], train: TrainOne, parallel: int, tell: Callable[[int], None]
) -> bool:
    """Trains in processes of their own, which end with this one; False if one was interrupted."""
    threads = max(1, torch.get_num_threads() // parallel)
    tasks = {str(config.run_dir): (config, False) for config in configs}
    with Pool("processes", min(parallel, len(configs)), threads=threads) as pool:
        for done, outcome in enumerate(pool.run(train, tasks), start=1):
            if outcome.error is not None:
                raise outcome.error
            if not outcome.value:
                return False  # the others are stopped, too: each has its state on disk
            tell(done)
    return True
