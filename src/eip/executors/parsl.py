"""Parsl, with its interchange tied to the life of this process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from eip.errors import InputError
from eip.executors.processes import Process
from eip.executors.tasks import GRACE, WorkerFailure, Workers, answer

#: Seconds that Parsl has to stop, which asks a batch system.
_PARSL_GRACE = 60.0


class Site:
    """A user's file that says what Parsl is to use."""

    def __init__(self, path: str) -> None:
        if not path:
            raise InputError("executor 'parsl:' names no file; expected parsl:site.py")
        self.path = Path(path)
        if importlib.util.find_spec("parsl") is None:
            raise InputError(
                f"executor 'parsl:{path}' needs Parsl, which is not installed: "
                "pip install 'eip[cluster]'"
            )
        if not self.path.is_file():
            raise InputError(f"{path}: there is no such file; it is to define Parsl's `config`")
        self._unused: Any = self._read()  # now, so that a mistake in it is known at once

    def config(self) -> Any:
        """A `parsl.Config` that was never used: executors cannot be started twice."""
        config, self._unused = self._unused, None
        return self._read() if config is None else config

    def _read(self) -> Any:
        wanted = importlib.import_module("parsl.config").Config
        try:
            config = runpy.run_path(str(self.path)).get("config")
            if callable(config):
                config = config()
        except Exception as error:
            raise InputError(f"{self.path}: {type(error).__name__}: {error}") from error
        if not isinstance(config, wanted):
            raise InputError(
                f"{self.path}: expected `config`, a parsl.Config or a function that makes one, "
                f"found {'nothing' if config is None else type(config).__name__}"
            )
        return config


#: Ends processes when its standard input does, which is when the process that holds it is dead.
_WATCHDOG = """
import os, signal, sys
sys.stdin.buffer.read()
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
"""


class _Outgoing:
    """What HighThroughputExecutor sends its tasks by, made safe against a dead interchange.

    With no interchange to take it, a task would be sent for ever, by a thread that Python waits
    for when it ends; and ZeroMQ aborts the whole process if a socket is closed by one thread while
    another sends, which is what Parsl does when it shuts down.
    """

    def __init__(self, queue: Any, interchange: Any) -> None:
        self._queue, self._interchange = queue, interchange
        # Set by the thread that started Parsl, before anything is sent.
        queue.zmq_socket.sndtimeo = int(1000 * GRACE)
        queue.zmq_socket.linger = 0
        self._lock, self._closed = threading.Lock(), False

    def put(self, message: Any) -> None:
        with self._lock:
            if self._closed or self._interchange.poll() is not None:
                raise WorkerFailure("Parsl's interchange is gone")
            self._queue.put(message)

    def close(self) -> None:
        self._closed = True  # before the lock is had: those who wait for it need not send
        with self._lock:
            self._queue.close()


class Parsl(Workers):
    """Parsl, with its interchange tied to the life of this process."""

    def __init__(self, site: Site) -> None:
        self._path = os.environ.get("PATH")
        # Parsl looks for its programs there, and an environment that is not activated is not in it.
        own = str(Path(sys.executable).parent)
        os.environ["PATH"] = own if self._path is None else own + os.pathsep + self._path
        self._kernel: Any = None
        try:
            self._kernel = importlib.import_module("parsl").DataFlowKernel(site.config())
            pool = importlib.import_module("parsl.concurrent").ParslPoolExecutor
            self._pool = pool(dfk=self._kernel)
        except Exception as error:
            self._restore_path()
            if self._kernel is not None:
                with suppress(Exception):
                    self._kernel.cleanup()
            raise WorkerFailure(
                f"{site.path}: Parsl could not be started: {type(error).__name__}: {error}"
            ) from error
        for executor in self._executors():
            if hasattr(executor, "outgoing_q") and hasattr(executor, "interchange_proc"):
                executor.outgoing_q = _Outgoing(executor.outgoing_q, executor.interchange_proc)
        # Killed, we could tell nobody to stop. Without their interchange, the workers stop after
        # the executor's heartbeat_threshold.
        pids = [str(process.pid) for process in self._interchanges()]
        self._watchdog = subprocess.Popen(
            [sys.executable, "-c", _WATCHDOG, *pids], stdin=subprocess.PIPE, start_new_session=True
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert fn is answer
        return self._pool.submit(answer_apart, *args, **kwargs)

    def _executors(self) -> list[Any]:
        return [e for label, e in self._kernel.executors.items() if label != "_parsl_internal"]

    def _interchanges(self) -> list[Any]:
        found = [getattr(e, "interchange_proc", None) for e in self._executors()]
        return [process for process in found if process is not None]

    def broken(self) -> str | None:
        for process in self._interchanges():
            if process.poll() is not None:  # Parsl does not notice
                return f"Parsl's interchange ended with exit code {process.returncode}"
        executors = self._executors()
        if executors and all(getattr(e, "bad_state_is_set", False) for e in executors):
            return f"Parsl gave up: {executors[0].executor_exception}"
        return None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Parsl cancels nothing; with its blocks, what runs on them ends."""
        if self._kernel is None:
            return
        dead = any(process.poll() is not None for process in self._interchanges())
        if dead:
            for executor in self._executors():
                self._cancel_blocks(executor)
        kernel, self._kernel = self._kernel, None
        # Parsl asks an interchange how to end, and would wait for a dead one's answer for ever.
        closing = threading.Thread(target=kernel.cleanup, daemon=True, name="eip-parsl-cleanup")
        closing.start()
        closing.join(1.0 if dead else _PARSL_GRACE)
        self._watchdog.kill()
        self._watchdog.communicate()
        self._restore_path()

    @staticmethod
    def _cancel_blocks(executor: Any) -> None:
        """Ends an executor's jobs without its interchange."""
        with suppress(Exception):
            executor.set_bad_state_and_fail_all(RuntimeError("its interchange is dead"))
        with suppress(Exception):
            executor.provider.cancel(list(executor.blocks_to_job_id.values()))

    def _restore_path(self) -> None:
        if self._path is None:
            os.environ.pop("PATH", None)
        else:
            os.environ["PATH"] = self._path


def answer_apart(payload: bytes, threads: int | None) -> bytes:
    """`answer` by a process that this worker keeps for it.

    Workers of Parsl share queues, and whoever is killed while it holds the lock of one stops them
    all without a word: so the process that the system kills for want of memory should be another.

    Raises:
        WorkerFailure: if the process is lost.
    """
    global _kept
    if _kept is None or not _kept.is_alive():
        if _kept is not None:
            _kept.close()
        _kept = Process(threads)
    return _kept.ask(payload)


_kept: Process | None = None
