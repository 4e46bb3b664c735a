"""Worker processes and fair comparisons between them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".envs"
PEERS = ("schnetpack", "mace", "nequip")


class WorkerError(RuntimeError):
    """A worker could not do what it was asked, or died."""


def interpreter(name: str) -> Path:
    """The Python of an implementation: ours is the one that runs this."""
    return Path(sys.executable) if name == "eip" else ENVIRONMENTS / name / "bin" / "python"


def installed_peers() -> list[str]:
    """Peers that have their environment (make bench-env makes them)."""
    return [name for name in PEERS if interpreter(name).exists()]


class WorkerProcess:
    """One implementation in a process of its own, with its number of threads fixed at its start."""

    def __init__(
        self,
        name: str,
        threads: int,
        device: str = "cpu",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name, self.threads, self.device = name, threads, device
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [str(interpreter(name)), str(HERE / "workers" / f"{name}_worker.py")],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            text=True,
            pass_fds=[writing],
            env={
                **os.environ,
                "PYTHONPATH": str(HERE),
                "ANSWERS_FD": str(writing),
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                **(environment or {}),
            },
        )
        os.close(writing)
        self._answers = os.fdopen(reading)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            WorkerError: if it is an error, or the process has ended.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise WorkerError(f"{self.name} ended with {code}: {self.log()[-600:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return dict(answer)

    def load(self, elements: Sequence[int]) -> dict[str, Any]:
        return self.ask("load", elements=list(elements), device=self.device, threads=self.threads)

    def log(self) -> str:
        """What the process printed."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()


@contextmanager
def processes(
    names: Sequence[str], threads: int, device: str, elements: Sequence[int]
) -> Iterator[tuple[dict[str, WorkerProcess], dict[str, Any]]]:
    """Loaded workers by name, and what each said of itself; one that fails to load is left out."""
    running = {name: WorkerProcess(name, threads, device) for name in names}
    about: dict[str, Any] = {}
    try:
        for name in names:
            try:
                about[name] = running[name].load(elements)
            except WorkerError as error:
                about[name] = {"error": str(error)}
                running.pop(name).close()
        yield running, about
    finally:
        for process in running.values():
            process.close()


@dataclass
class Job:
    """A calculation to be timed: ``label`` in the results, and the request to its worker."""

    label: str
    worker: WorkerProcess
    request: dict[str, Any]
    rounds: list[list[float]] = field(default_factory=list)
    error: str | None = None

    @property
    def result(self) -> dict[str, Any]:
        """Seconds of a step: median, mean, quartiles, best, and the median of each round."""
        if self.error is not None:
            return {"error": self.error}
        seconds = sorted(s for one in self.rounds for s in one)
        quartiles = (
            statistics.quantiles(seconds, n=4, method="inclusive")
            if len(seconds) > 1
            else [seconds[0]] * 3
        )
        return {
            "median": statistics.median(seconds),
            "mean": statistics.fmean(seconds),
            "quartiles": [quartiles[0], quartiles[2]],
            "best": seconds[0],
            "repeats": len(seconds),
            "rounds": [statistics.median(one) for one in self.rounds],
        }


def compare(
    jobs: Sequence[Job],
    *,
    rounds: int,
    seconds: float,
    least: int = 2,
    limit: float = float("inf"),
) -> dict[str, dict[str, Any]]:
    """Times jobs in turn, round after round, so that all see the same machine.

    Only the worker that is asked computes; the others wait for their next line, at rest. A job that
    fails has its error for a result and is left out of further rounds. After ``limit`` seconds no
    further round begins.
    """
    start = time.monotonic()
    for number in range(rounds):
        if number and time.monotonic() - start > limit:
            break
        # Every other round backwards: nobody always follows the same neighbor's heat.
        for job in jobs if number % 2 == 0 else reversed(jobs):
            if job.error is not None:
                continue
            if sys.stderr.isatty():
                line = f"  round {number + 1} of {rounds}: {job.label}"
                print(f"{line:<78}", end="\r", file=sys.stderr, flush=True)
            try:
                answer = job.worker.ask("time", least=least, seconds=seconds, **job.request)
                job.rounds.append(answer["seconds"])
            except WorkerError as error:
                job.error = str(error)
    for worker in {id(job.worker): job.worker for job in jobs}.values():
        try:
            worker.ask("forget")
        except WorkerError:
            continue
    return {job.label: job.result for job in jobs}


def ratio(results: dict[str, dict[str, Any]], slow: str, fast: str) -> dict[str, Any] | None:
    """Time of one over time of another: of the medians, of the best, and the range over rounds."""
    one, other = results.get(slow, {}), results.get(fast, {})
    if "median" not in one or "median" not in other:
        return None
    by_round = [a / b for a, b in zip(one["rounds"], other["rounds"], strict=True)]
    return {
        "ratio": one["median"] / other["median"],
        "of_best": one["best"] / other["best"],
        "range": [min(by_round), max(by_round)],
    }
