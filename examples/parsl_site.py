"""Where a learning run explores and labels: a site file of Parsl, to be adapted.

    learn:
      executor: parsl:parsl_site.py

It is plain Python that defines `config`, or a function `config()` that makes a parsl.Config
(preferred: Parsl may have to be started a second time, and a Config serves only once). eIP runs it
again at each start. Parsl comes with `pip install 'eip[cluster]'`; what there is to set:
https://parsl.readthedocs.io

Below: a Slurm cluster, and the same on the machine at hand to try it out, chosen by the
environment variable SITE:

    SITE=local eip learn learn.yaml
"""

import os

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import LocalProvider, SlurmProvider

# What a worker needs before it starts: eIP and the reference code must be found, and their threads
# limited. Jobs do not run your login shell, so say it all. The first line is the one that is
# forgotten: the environment must be that in which eIP is installed, on a file system that the
# nodes see. (On the machine where `eip learn` runs, eIP finds Parsl's programs by itself.)
PREPARE = """
source $HOME/eip-env/bin/activate
export OMP_NUM_THREADS=1
"""
# e.g. also:  module load cp2k/2024.3


def slurm() -> HighThroughputExecutor:
    """Jobs of one node with 32 cores, eight workers of four cores each."""
    return HighThroughputExecutor(
        label="slurm",
        max_workers_per_node=8,
        cores_per_worker=4,  # for CP2K with `mpiexec -np 4`, say
        # Workers that hear nothing for so long stop: a learning run that was killed must not keep
        # nodes busy. A worker that is not heard of for so long is lost, and its task begun again.
        heartbeat_period=15,
        heartbeat_threshold=60,
        # Seconds after which a job takes no new tasks, so that its time limit finds it idle:
        # the time limit below less the longest calculation.
        drain_period=10 * 3600,
        # The login node's interface that compute nodes can reach, if Parsl picks another:
        # address=parsl.addresses.address_by_interface("ib0"),
        provider=SlurmProvider(
            partition="standard",
            account="project",
            nodes_per_block=1,
            init_blocks=0,  # a job is sent when there is work …
            min_blocks=0,
            max_blocks=4,  # … four at most, and idle ones are given back after max_idletime
            walltime="12:00:00",
            scheduler_options="#SBATCH --exclusive",
            worker_init=PREPARE,
            launcher=SrunLauncher(),
        ),
    )


def local() -> HighThroughputExecutor:
    """Two workers on this machine, by the same means: what goes wrong shows up here first."""
    return HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        max_workers_per_node=2,
        cores_per_worker=0.5,  # below 1, lest a machine with one core start one worker
        heartbeat_period=2,
        heartbeat_threshold=10,
        provider=LocalProvider(init_blocks=1, max_blocks=1, worker_init="export OMP_NUM_THREADS=1"),
    )


def config() -> Config:
    executor = local() if os.environ.get("SITE") == "local" else slurm()
    return Config(
        executors=[executor],
        # Parsl's log and the workers' messages; look here if tasks wait for ever.
        run_dir="parsl",
        # No retries here: eIP counts what it begins again (learn.retries).
        retries=0,
        max_idletime=300.0,
    )
