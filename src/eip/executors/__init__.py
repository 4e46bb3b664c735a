"""Where exploration, labelling and trainings run: this process, others here, or a cluster.

    with Pool("processes", workers=4) as pool:
        for outcome in pool.run(label, {key: (labeler, atoms) for key, atoms in chosen.items()}):
            ...

Each way of running is a `concurrent.futures.Executor`; clusters are Parsl's business (Slurm, PBS,
Kubernetes), which a file of the user describes. What is added here is what an unattended run needs:
an error of the function is an outcome among others, a lost worker costs only what it was doing,
and nobody goes on computing for a run that is dead.
"""

from eip.executors.pool import Pool
from eip.executors.tasks import Outcome, WorkerFailure

__all__ = ["Outcome", "Pool", "WorkerFailure"]
