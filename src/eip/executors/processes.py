"""Processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_preparation_data, prepare
from typing import Any

from eip.errors import InputError
from eip.executors.tasks import (
    GRACE,
    LOOK,
    THREAD_VARIABLES,
    WorkerFailure,
    Workers,
    answer,
    limit_threads,
    pickled_error,
)
from eip.signals import Terminated, die_with, heed_termination


class Processes(Workers):
    """Fresh processes, each driven by a thread of its own, over a pipe of its own.

    A lost process costs the task that it was doing, and it is known which one that was; all others
    go on, and none outlives this one. Libraries were tried in November 2026 and keep less: with
    loky 3.5, as with `ProcessPoolExecutor`, a killed worker ends the tasks of all; a pool of pebble
    5.2 broke when a worker was killed that had nothing to do; and workers of both went on
    computing when their parent was killed.
    """

    def __init__(self, workers: int, threads: int | None) -> None:
        if _main.imported_now:
            raise InputError(
                "a task needs something that is defined in your script, so that each worker "
                'imports it: put what it is to do under if __name__ == "__main__"'
            )
        self._most = workers
        self._limit = threads or max(1, _cores() // workers)
        self._queue: queue.SimpleQueue[tuple[Future[bytes], bytes] | None] = queue.SimpleQueue()
        self._drivers: list[threading.Thread] = []
        self._alive: set[Process] = set()
        self._closing = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """``fn`` is `answer`: that is what the processes do."""
        assert fn is answer
        future: Future[bytes] = Future()
        self._queue.put((future, args[0]))
        if len(self._drivers) < self._most:
            # A thread that lasts as long as the pool, because Linux takes a process's "parent" to
            # be the thread that started it. A daemon, so that it never keeps Python from ending.
            driver = threading.Thread(target=self._drive, daemon=True, name="eip-worker")
            self._drivers.append(driver)
            driver.start()
        return future

    def _drive(self) -> None:
        process: Process | None = None
        while (item := self._queue.get()) is not None:
            future, payload = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._closing:
                    raise WorkerFailure("the pool was closed")
                if process is None or not process.is_alive():
                    process = self._new(process)
                done = process.ask(payload)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(done)
        self._end(process)

    def _new(self, before: Process | None) -> Process:
        self._end(before)
        process = Process(self._limit)
        self._alive.add(process)
        return process

    def _end(self, process: Process | None) -> None:
        if process is not None:
            process.close()
            self._alive.discard(process)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closing = cancel_futures
        while cancel_futures:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                item[0].cancel()
        for _ in self._drivers:
            self._queue.put(None)
        if not wait:
            return
        deadline = time.monotonic() + GRACE
        while any(driver.is_alive() for driver in self._drivers):
            if cancel_futures:
                late = time.monotonic() > deadline
                # Again and again: a driver may have been about to begin.
                for process in [process for process in list(self._alive) if process.busy]:
                    process.kill() if late else process.tell_to_stop()
            for driver in self._drivers:
                driver.join(0.05)


def _cores() -> int:
    """Cores that this process may use: a batch job or container seldom has them all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: What a new process does first. Not multiprocessing's way, by which each would import the user's
#: script, and a script without ``if __name__ == "__main__"`` would begin all over again.
_BEGIN = """
import sys
from multiprocessing.connection import Connection
from multiprocessing.spawn import prepare
connection = Connection(int(sys.argv[1]))
about, *rest = connection.recv()
prepare(about)
from eip.executors.processes import serve
serve(connection, *rest)
"""


class Process:
    """A process that does a task at a time, in the folder and with the paths of this one."""

    def __init__(self, threads: int | None) -> None:
        limits = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._connection, theirs = multiprocessing.Pipe()
        # Not forked: threads and locks of torch do not survive that.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **limits},
        )
        theirs.close()
        about = get_preparation_data("eip-worker")
        del about["authkey"]  # a secret, which no pipe here asks for
        script = {key: about.pop(key) for key in list(about) if key.startswith("init_main")}
        with suppress(OSError):  # it is dead already: the first task will be told
            self._connection.send((about, script, os.getpid(), threads))
        self.busy, self._told = False, False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, payload: bytes) -> bytes:
        """The answer to a task.

        Raises:
            WorkerFailure: if the process ends before it has answered.
        """
        self.busy = True
        try:
            self._connection.send_bytes(payload)
            while not self._connection.poll(LOOK):
                # Its end of the pipe may be held open by what it started.
                if not self.is_alive():
                    raise EOFError
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            self.wait(GRACE)
            raise WorkerFailure(self._end_of_it()) from error
        finally:
            self.busy = False

    def _end_of_it(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = " (by the system, for want of memory?)" if name == "SIGKILL" else ""
            return f"a worker process was killed by {name}{why}"
        return f"a worker process ended with exit code {code}; what it said is above"

    def tell_to_stop(self) -> None:
        if not self._told:
            self._told = True
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Until it has ended, or else ends it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        if self.is_alive():
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)

    def close(self) -> None:
        self._connection.close()
        self.wait(GRACE)


# --- in the process ------------------------------------------------------------------------------


class _Main:
    """The user's script, imported when a task names something in it."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.imported_now = False

    def import_for(self, payload: bytes) -> None:
        if self.about and b"__main__" in payload:
            about, self.about = self.about, {}
            self.imported_now = True
            try:
                prepare(about)
            finally:
                self.imported_now = False


_main = _Main()


def serve(connection: Connection, script: dict[str, Any], parent: int, threads: int | None) -> None:
    """What a worker process does until its parent closes the pipe, stops it, or dies."""
    die_with(parent)
    os.set_inheritable(connection.fileno(), False)
    if threads is not None:
        limit_threads(threads)
    # Ctrl-C reaches all processes of a terminal; the parent decides what it means. A handler of
    # Python, unlike SIG_IGN, is not handed on to programs that a task starts.
    signal.signal(signal.SIGINT, lambda *_: None)
    heed_termination()  # raised where it is, so that `finally` is heeded
    _main.about = script
    try:
        while True:
            try:
                payload = connection.recv_bytes()
            except (EOFError, OSError):
                return
            try:
                _main.import_for(payload)
            except (Exception, SystemExit) as error:
                done = pickled_error(error, 0.0)
            else:
                done = answer(payload, threads)
            with suppress(OSError):
                connection.send_bytes(done)
    except Terminated:
        pass
