"""A task, what a worker makes of it, and what has workers."""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

#: What the libraries under NumPy and torch read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Seconds that a worker which is told to stop has to stop what it started, and clean up.
GRACE = 5.0
#: Seconds between two looks at whether what should answer is still there.
LOOK = 2.0


class WorkerFailure(RuntimeError):
    """A task had no answer because the process or node that it ran on was lost, time and again."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        key: of the task.
        value: what the function returned; None if it failed.
        error: what the function raised (where it raised it is in the exception's notes), or
            `WorkerFailure`; None if it returned.
        seconds: wall time of the function in its worker; 0 if that is not known.
        ended: when the answer came, seconds since 1970.
    """

    key: str
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    ended: float = field(default_factory=time.time)


class Workers(Executor):
    """An executor that says when it is beyond help.

    Its ``shutdown(cancel_futures=True)`` stops also what runs, and returns soon.
    """

    def broken(self) -> str | None:
        """Why no task will ever be done again, if so."""
        return None


def timed(key: str, function: Callable[..., Any], task: tuple[Any, ...]) -> Outcome:
    begun = time.perf_counter()
    try:
        value = function(*task)
    except (Exception, SystemExit) as error:
        return Outcome(key, error=error, seconds=time.perf_counter() - begun)
    return Outcome(key, value, seconds=time.perf_counter() - begun)


def answer(payload: bytes, threads: int | None) -> bytes:
    """Does a pickled task. It raises nothing: an exception here means that the worker is ill.

    Everything is pickled by ourselves, so that what cannot be is the error of one task.
    """
    if threads is not None:
        limit_threads(threads)
    try:
        function, task = pickle.loads(payload)
    except Exception as error:
        return pickled_error(error, 0.0)
    done = timed("", function, task)
    if done.error is not None:
        return pickled_error(done.error, done.seconds)
    try:
        return pickle.dumps((done.value, None, done.seconds), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickled_error(error, done.seconds)


def pickled_error(error: BaseException, seconds: float) -> bytes:
    trace = "".join(traceback.format_exception(error)).rstrip()
    error.add_note(f"in its worker:\n{trace}")
    try:
        content = pickle.dumps((None, error, seconds), pickle.HIGHEST_PROTOCOL)
        # There and back: an exception whose class wants other arguments than it keeps in `args`
        # is pickled without complaint and cannot be read.
        pickle.loads(content)
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(f"in its worker:\n{trace}")
        return pickle.dumps((None, plain, seconds), pickle.HIGHEST_PROTOCOL)
    return content


def read(key: str, content: bytes) -> Outcome:
    try:
        value, error, seconds = pickle.loads(content)
    except Exception as unreadable:
        return Outcome(key, error=unreadable)
    return Outcome(key, value, error, seconds)


def limit_threads(threads: int) -> None:
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    # The variables come too late for a torch that is there already; and nobody who only waits for
    # a reference code should wait for torch to be imported.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
