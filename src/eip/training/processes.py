"""Several processes that train one potential: who they are, and which goes first.

Either the trainer starts one for each device of this machine, or a launcher has started them
already, on one machine or many: ``srun eip train config.yaml`` or ``torchrun … -m eip train …``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]

T = TypeVar("T")

#: Of the work of rank 0 before training: conversion of millions of frames included.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Launch:
    """Processes that a launcher has started.

    Attributes:
        rank: of this one, 0 to world − 1.
        world: how many there are.
        nodes: machines that they run on, each with as many.
        environment: how they find each other.
    """

    rank: int
    world: int
    nodes: int
    environment: ClusterEnvironment


def launched() -> Launch | None:
    """What launcher this process was started by with others; None if it is alone.

    A Slurm job that runs one process is alone, however many tasks the job asked for.
    """
    environment: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
        nodes = environment.world_size() // int(os.environ["LOCAL_WORLD_SIZE"])
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and SLURMEnvironment.detect():
        environment = SLURMEnvironment(auto_requeue=False)
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    else:
        return None
    world = environment.world_size()
    return Launch(environment.global_rank(), world, nodes, environment) if world > 1 else None


def rank_zero_first(launch: Launch | None, work: Callable[[], T]) -> T:
    """Does the work in rank 0, then in the others, which find it done on disk."""
    if launch is None:
        return work()
    environment = launch.environment
    # Beside the port at which training itself will meet.
    port, is_zero = environment.main_port + 1, launch.rank == 0
    store = TCPStore(environment.main_address, port, launch.world, is_zero, _PATIENCE)
    if not is_zero:
        store.wait(["outcome"])
        done = store.get("outcome") == b"done"
        store.set(f"seen by {launch.rank}", "")
        if not done:
            raise SystemExit(1)  # rank 0 says what is wrong
        return work()
    outcome = "failed"
    try:
        found = work()
        outcome = "done"
    finally:
        store.set("outcome", outcome)
        # The store lives here: all must have read it.
        store.wait([f"seen by {rank}" for rank in range(1, launch.world)])
    return found
