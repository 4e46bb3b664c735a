"""Where exploration and labelling run: this process, processes of this machine, or a cluster.

    with Pool("processes", workers=4) as pool:
        for outcome in pool.run(label, {key: (labeler, atoms) for key, atoms in chosen.items()}):
            ...

Each way of running is a `concurrent.futures.Executor`; clusters are Parsl's business (Slurm, PBS,
Kubernetes), which a file of the user describes. What is added here is what an unattended run needs:
an error of the function is an outcome among others, a lost worker costs only what it was doing,
and nobody goes on computing for a learning run that is dead.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import multiprocessing
import os
import pickle
import queue
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType
from typing import Any

from eip.errors import InputError, did_you_mean
from eip.signals import die_with

#: What the libraries under NumPy and torch read when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Seconds that a worker which is told to stop has to stop what it started, and clean up.
_GRACE = 5.0
#: The same for all of Parsl, which asks a batch system.
_PARSL_GRACE = 60.0
#: Seconds between two looks at whether what should answer is still there.
_LOOK = 2.0


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
    """

    key: str
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0


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
        self._started: _Workers | None = None
        self._site: _Site | None = None
        kind, _, where = executor.partition(":")
        if kind == "parsl":
            self._site = _Site(where)
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
            for key, task in tasks.items():
                yield _timed(key, function, task)
            return
        payloads: dict[str, bytes] = {}
        for key, task in tasks.items():
            try:
                payloads[key] = pickle.dumps((function, task), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                yield Outcome(key, error=error)
        attempts: Counter[str] = Counter()
        waiting: dict[str, Future[bytes]] = {}
        finished: queue.SimpleQueue[tuple[str, Future[bytes]]] = queue.SimpleQueue()

        def begin(key: str) -> None:
            attempts[key] += 1
            future = waiting[key] = self._workers().submit(_answer, payloads[key], self.threads)
            future.add_done_callback(lambda done: finished.put((key, done)))

        try:
            for key in payloads:
                begin(key)
            while waiting:
                lost = self._next(finished, waiting)
                if isinstance(lost, Outcome):
                    del waiting[lost.key], payloads[lost.key]
                    yield lost
                    continue
                # All are taken down before the first is begun again: a broken executor is left.
                for key in lost:
                    del waiting[key]
                for key, reason in lost.items():
                    if attempts[key] <= self.retries:
                        begin(key)
                        continue
                    del payloads[key]
                    failure = WorkerFailure(
                        f"task '{key}' was begun {attempts[key]} time(s) and lost its worker each "
                        f"time; at last: {reason}"
                    )
                    failure.__cause__ = reason if isinstance(reason, BaseException) else None
                    yield Outcome(key, error=failure)
        finally:
            if waiting:
                self.close()

    def _next(
        self,
        finished: queue.SimpleQueue[tuple[str, Future[bytes]]],
        waiting: Mapping[str, Future[bytes]],
    ) -> Outcome | dict[str, BaseException | str]:
        """The next outcome, or the tasks that were lost, with the reason of each."""
        while True:
            try:
                key, future = finished.get(timeout=_LOOK)
            except queue.Empty:
                reason = self._broken()
                if reason is not None:
                    self._leave()
                    return dict.fromkeys(waiting, reason)
                continue
            if waiting.get(key) is not future:
                continue  # of an executor that has been given up
            try:
                return _read(key, future.result())
            except Exception as error:
                if self._broken() is None:
                    return {key: error}
                self._leave()
                return {**dict.fromkeys(waiting, error), key: error}

    def _workers(self) -> _Workers:
        if self._started is None:
            if self._site is None:
                self._started = _Processes(self.workers, self.threads)
            else:
                self._started = _Parsl(self._site)
        return self._started

    def _broken(self) -> str | None:
        return None if self._started is None else self._started.broken()

    def _leave(self) -> None:
        """Gives up workers that are broken: the next task starts new ones."""
        with suppress(Exception):  # it is broken, it may well not close
            self.close()


class _Workers(Executor):
    """An executor that says when it is beyond help.

    Its ``shutdown(cancel_futures=True)`` stops also what runs, and returns soon.
    """

    def broken(self) -> str | None:
        """Why no task will ever be done again, if so."""
        return None


# --- a task, in its worker -----------------------------------------------------------------------


def _timed(key: str, function: Callable[..., Any], task: tuple[Any, ...]) -> Outcome:
    begun = time.perf_counter()
    try:
        value = function(*task)
    except (Exception, SystemExit) as error:
        return Outcome(key, error=error, seconds=time.perf_counter() - begun)
    return Outcome(key, value, seconds=time.perf_counter() - begun)


def _answer(payload: bytes, threads: int | None) -> bytes:
    """Does a pickled task. It raises nothing: an exception here means that the worker is ill.

    Everything is pickled by ourselves, so that what cannot be is the error of one task.
    """
    if threads is not None:
        _limit_threads(threads)
    try:
        function, task = pickle.loads(payload)
    except Exception as error:
        return _pickled_error(error, 0.0)
    done = _timed("", function, task)
    if done.error is not None:
        return _pickled_error(done.error, done.seconds)
    try:
        return pickle.dumps((done.value, None, done.seconds), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return _pickled_error(error, done.seconds)


def _answer_apart(payload: bytes, threads: int | None) -> bytes:
    """`_answer` by a process that this worker keeps for it.

    Workers of Parsl share queues, and whoever is killed while it holds the lock of one stops them
    all without a word: so the process that the system kills for want of memory should be another.

    Raises:
        WorkerFailure: if the process is lost.
    """
    global _kept
    if _kept is None or not _kept.is_alive():
        if _kept is not None:
            _kept.close()
        _kept = _Process(threads)
        # multiprocessing, at the worker's end, would wait for it.
        Finalize(None, _kept.kill, exitpriority=100)
    return _kept.ask(payload)


_kept: _Process | None = None


def _pickled_error(error: BaseException, seconds: float) -> bytes:
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


def _read(key: str, content: bytes) -> Outcome:
    try:
        value, error, seconds = pickle.loads(content)
    except Exception as unreadable:
        return Outcome(key, error=unreadable)
    return Outcome(key, value, error, seconds)


def _limit_threads(threads: int) -> None:
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    # The variables come too late for a torch that is there already; and nobody who only waits for
    # a reference code should wait for torch to be imported.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


# --- processes of this machine -------------------------------------------------------------------


class _Processes(_Workers):
    """Spawned processes, each driven by a thread of its own.

    Unlike with `ProcessPoolExecutor`, which ends all its processes when one dies, a lost process
    costs the task that it was doing, and it is known which one that was.
    """

    def __init__(self, workers: int, threads: int | None) -> None:
        self._most = workers
        self._limit = threads or max(1, _cores() // workers)
        self._queue: queue.SimpleQueue[tuple[Future[bytes], bytes] | None] = queue.SimpleQueue()
        self._drivers: list[threading.Thread] = []
        self._alive: set[_Process] = set()
        self._closing = False
        # Of a run that ends by an error while its iterator is still held by the traceback:
        # multiprocessing would wait for the processes.
        atexit.register(self._kill)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """``fn`` is `_answer`: that is what the processes do."""
        assert fn is _answer
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
        process: _Process | None = None
        while (item := self._queue.get()) is not None:
            future, payload = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._closing:
                    raise WorkerFailure("the pool was closed")
                if process is None or not process.is_alive():
                    process = self._new(process)
                answer = process.ask(payload)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(answer)
        self._end(process)

    def _new(self, before: _Process | None) -> _Process:
        self._end(before)
        process = _Process(self._limit)
        self._alive.add(process)
        return process

    def _end(self, process: _Process | None) -> None:
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
        deadline = time.monotonic() + _GRACE
        while any(driver.is_alive() for driver in self._drivers):
            if cancel_futures:
                late = time.monotonic() > deadline
                # Again and again: a driver may have been about to begin.
                for process in [process for process in list(self._alive) if process.busy]:
                    process.kill() if late else process.tell_to_stop()
            for driver in self._drivers:
                driver.join(0.05)
        atexit.unregister(self._kill)

    def _kill(self) -> None:
        for process in list(self._alive):
            process.kill()


class _Process:
    """One spawned process that does a task at a time."""

    _starting = threading.Lock()

    def __init__(self, threads: int | None) -> None:
        # Spawned, not forked: threads and locks of torch do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, os.getpid(), threads), name="eip-worker"
        )
        limits = {} if threads is None else dict.fromkeys(_THREAD_VARIABLES, str(threads))
        with self._starting, _environment(limits):
            self._process.start()
        theirs.close()
        self.busy, self._told = False, False

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def ask(self, payload: bytes) -> bytes:
        """The answer to a task.

        Raises:
            WorkerFailure: if the process ends before it has answered.
        """
        self.busy = True
        try:
            self._connection.send_bytes(payload)
            while not self._connection.poll(_LOOK):
                # Its end of the pipe may be held open by what it started.
                if not self._process.is_alive():
                    raise EOFError
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            self.wait(_GRACE)
            raise WorkerFailure(self._end_of_it()) from error
        finally:
            self.busy = False

    def _end_of_it(self) -> str:
        code = self._process.exitcode
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
        self._process.join(max(0.0, seconds))
        self.kill()

    def kill(self) -> None:
        with suppress(Exception):
            if self._process.is_alive():
                self._process.kill()
                self._process.join(_GRACE)

    def close(self) -> None:
        self._connection.close()
        self.wait(_GRACE)


class _Stopped(BaseException):
    """The parent wants the worker to stop: raised where it is, so that `finally` is heeded."""


def _serve(connection: Connection, parent: int, threads: int | None) -> None:
    """What a worker process does until its parent closes the pipe, stops it, or dies."""
    die_with(parent)
    if threads is not None:
        _limit_threads(threads)
    # Ctrl-C reaches all processes of a terminal; the parent decides what it means. A handler of
    # Python, unlike SIG_IGN, is not handed on to programs that a task starts.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, _stop)
    try:
        while True:
            try:
                payload = connection.recv_bytes()
            except (EOFError, OSError):
                return
            answer = _answer(payload, threads)
            with suppress(OSError):
                connection.send_bytes(answer)
    except _Stopped:
        pass


def _stop(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; do not disturb the tidying up
    raise _Stopped


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that the processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _cores() -> int:
    """Cores that this process may use: a batch job or container seldom has them all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- Parsl ---------------------------------------------------------------------------------------


class _Site:
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
        queue.zmq_socket.sndtimeo = int(1000 * _GRACE)
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


class _Parsl(_Workers):
    """Parsl, with its interchange tied to the life of this process."""

    def __init__(self, site: _Site) -> None:
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
        assert fn is _answer
        return self._pool.submit(_answer_apart, *args, **kwargs)

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
