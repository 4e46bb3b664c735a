"""The pool: tasks out, outcomes back, whatever becomes of the workers."""

from __future__ import annotations

import pickle
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from eip.errors import InputError, did_you_mean
from eip.executors.parsl import Parsl, Site
from eip.executors.processes import Processes
from eip.executors.tasks import LOOK, Outcome, WorkerFailure, Workers, answer, read, timed


@dataclass
class _Begun:
    """The tasks of one `Pool.run`, by key: what they are, and those whose outcome is to come."""

    refused: list[Outcome] = field(default_factory=list)
    payloads: dict[str, bytes] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, Future[bytes]] = field(default_factory=dict)
    finished: queue.SimpleQueue[tuple[str, Future[bytes], float]] = field(
        default_factory=queue.SimpleQueue
    )


class Pool:
    """Runs functions on workers; a context manager, at whose end the workers are gone.

    Workers are started with the first task, and kept from one `run` to the next.

    Args:
        executor: "processes": as many fresh processes of this machine as there are workers, which
            die with this one; "serial": this process, one task after the other; "parsl:site.py":
            wherever that file says. It is Python and defines ``config``, a `parsl.Config`, or a
            function ``config()`` that makes one, and is run anew for each start of Parsl; eIP
            must be importable on the workers.
        workers: processes at once. Parsl's own configuration says how many there are.
        threads: of a worker's numerical libraries; by default this machine's cores shared out
            between the workers, for Parsl what its configuration says. "serial" leaves them as
            they are.
        retries: how often a task is begun again that lost its worker.

    Raises:
        InputError: if the executor is not known, Parsl is not installed, or its file is missing or
            defines no configuration; if workers, threads or retries are too small.
    """

    def __init__(
        self,
        executor: str = "processes",
        workers: int = 1,
        *,
        threads: int | None = None,
        retries: int = 2,
    ) -> None:
        for name, value, least in (
            ("workers", workers, 1),
            ("threads", 1 if threads is None else threads, 1),
            ("retries", retries, 0),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        self.executor, self.workers, self.threads = executor, workers, threads
        self.retries = retries
        self._started: Workers | None = None
        self._site: Site | None = None
        kind, _, where = executor.partition(":")
        if kind == "parsl":
            self._site = Site(where)
        elif executor not in ("processes", "serial"):
            raise InputError(
                f"executor '{executor}' is not known; "
                + did_you_mean(executor, ("processes", "serial", "parsl:site.py"))
            )

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers, and what they may still be doing. A later `run` starts new ones."""
        started, self._started = self._started, None
        if started is not None:
            started.shutdown(cancel_futures=True)

    def run(
        self, function: Callable[..., Any], tasks: Mapping[str, tuple[Any, ...]]
    ) -> Iterator[Outcome]:
        """``function(*task)`` for each task, begun in their order; outcomes as they come.

        Workers begin at once, whether or not anyone asks for outcomes yet ("serial" has no workers:
        it does a task when its outcome is asked for).

        Nothing that the function does ends this: an exception is an outcome, as is a task or a
        value that cannot be pickled. A task whose worker is killed, or whose node is lost, is begun
        again up to ``retries`` times, and then an outcome with a `WorkerFailure`; other tasks are
        not touched by it. If the iterator is closed, or interrupted, tasks that wait are
        not begun and those that run are stopped. One `run` at a time.

        Args:
            function: of a module that workers can import; pickled by its name.
            tasks: arguments by key; they, the values and the exceptions are pickled.

        Raises:
            WorkerFailure: if there is no way to get workers at all.
        """
        if self.executor == "serial":
            return (timed(key, function, task) for key, task in tasks.items())
        begun = _Begun()
        for key, task in tasks.items():
            try:
                begun.payloads[key] = pickle.dumps((function, task), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                begun.refused.append(Outcome(key, error=error))
        for key in begun.payloads:
            self._begin(begun, key)
        return self._outcomes(begun)

    def _begin(self, begun: _Begun, key: str) -> None:
        begun.attempts[key] += 1
        future = self._workers().submit(answer, begun.payloads[key], self.threads)
        begun.waiting[key] = future
        future.add_done_callback(lambda done: begun.finished.put((key, done, time.time())))

    def _outcomes(self, begun: _Begun) -> Iterator[Outcome]:
        try:
            yield from begun.refused
            while begun.waiting:
                lost = self._next(begun)
                if isinstance(lost, Outcome):
                    del begun.waiting[lost.key], begun.payloads[lost.key]
                    yield lost
                    continue
                # All are taken down before the first is begun again: a broken executor is left.
                for key in lost:
                    del begun.waiting[key]
                for key, reason in lost.items():
                    if begun.attempts[key] <= self.retries:
                        self._begin(begun, key)
                        continue
                    del begun.payloads[key]
                    failure = WorkerFailure(
                        f"task '{key}' was begun {begun.attempts[key]} time(s) and lost its worker "
                        f"each time; at last: {reason}"
                    )
                    failure.__cause__ = reason if isinstance(reason, BaseException) else None
                    yield Outcome(key, error=failure)
        finally:
            if begun.waiting:
                self.close()

    def _next(self, begun: _Begun) -> Outcome | dict[str, BaseException | str]:
        """The next outcome, or the tasks that were lost, with the reason of each."""
        while True:
            try:
                key, future, ended = begun.finished.get(timeout=LOOK)
            except queue.Empty:
                reason = self._broken()
                if reason is not None:
                    self._leave()
                    return dict.fromkeys(begun.waiting, reason)
                continue
            if begun.waiting.get(key) is not future:
                continue  # of an executor that has been given up
            try:
                return replace(read(key, future.result()), ended=ended)
            except Exception as error:
                if self._broken() is None:
                    return {key: error}
                self._leave()
                return {**dict.fromkeys(begun.waiting, error), key: error}

    def _workers(self) -> Workers:
        if self._started is None:
            if self._site is None:
                self._started = Processes(self.workers, self.threads)
            else:
                self._started = Parsl(self._site)
        return self._started

    def _broken(self) -> str | None:
        return None if self._started is None else self._started.broken()

    def _leave(self) -> None:
        """Gives up workers that are broken: the next task starts new ones."""
        with suppress(Exception):  # it is broken, it may well not close
            self.close()
