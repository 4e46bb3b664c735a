"""Pools: what becomes of tasks, of workers that are killed, and of workers whose parent is."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from eip.errors import InputError
from eip.executors import Outcome, Pool, WorkerFailure
from eip.executors.parsl import _Outgoing

JOBS = '''
"""What the tests let workers do: they import this by its name."""

import os
import signal
import time
from pathlib import Path


class Awkward(Exception):
    """Pickles without complaint, and cannot be read: it wants two arguments and keeps one."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


def double(number):
    return 2 * number


def pid():
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)
    return seconds


def _wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def wait(path):
    """Returns when a file is there."""
    _wait_for(Path(path))


def meet(folder, own, other):
    """Returns its process, once another task is at work at the same time."""
    Path(folder, own).touch()
    _wait_for(Path(folder, other))
    return os.getpid()


def root(number):
    if number < 0:
        raise ValueError(f"no root of {number}")
    return number**0.5


def awkward():
    raise Awkward("trouble", "mill")


def leave():
    raise SystemExit(3)


def unpicklable():
    return lambda: None


def threads():
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def die(log):
    with open(log, "a") as file:
        file.write("begun\\n")
    os.kill(os.getpid(), signal.SIGKILL)


def die_first(log):
    """Is killed the first time, and returns how often it was begun."""
    with open(log, "a") as file:
        file.write("begun\\n")
    if len(Path(log).read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(Path(log).read_text().splitlines())


def die_first_with_who_asked(log):
    with open(log, "a") as file:
        file.write("begun\\n")
    if len(Path(log).read_text().splitlines()) == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return len(Path(log).read_text().splitlines())


def die_or_nap(log, seconds):
    """Dies again and again, or sleeps and returns its process."""
    if seconds is None:
        die(log)
    with open(log, "a") as file:
        file.write("begun\\n")
    time.sleep(seconds)
    return os.getpid()


def announce(folder, name):
    """Says that it has begun, under whose name, and never ends; says that it was stopped."""
    Path(folder, name).write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        Path(folder, f"{name}.tidied").touch()
'''


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "executor_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("executor_jobs")
    sys.modules.pop("executor_jobs", None)


def by_key(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    return {outcome.key: outcome for outcome in outcomes}


def is_running(pid: int) -> bool:
    """False for a zombie too: in a container nobody may collect it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_values_and_errors_are_outcomes(executor: str, jobs: ModuleType) -> None:
    with Pool(executor, 2) as pool:
        found = by_key(pool.run(jobs.root, {"good": (9.0,), "bad": (-1.0,), "fine": (4.0,)}))
        again = by_key(pool.run(jobs.double, {"later": (21,)}))
        left = by_key(pool.run(jobs.leave, {"left": ()}))["left"]
    assert (found["good"].value, found["fine"].value) == (3.0, 2.0)
    assert found["good"].error is None
    assert isinstance(found["bad"].error, ValueError)
    assert str(found["bad"].error) == "no root of -1.0" and found["bad"].value is None
    assert again["later"].value == 42
    assert isinstance(left.error, SystemExit)


def test_seconds_are_those_of_the_function(jobs: ModuleType) -> None:
    for executor in ("serial", "processes"):
        begun = time.monotonic()
        with Pool(executor) as pool:
            (outcome,) = pool.run(jobs.nap, {"a": (0.2,)})
        # Without the start and the end of a worker.
        assert 0.2 <= outcome.seconds < time.monotonic() - begun


def test_outcomes_come_when_they_are_done(jobs: ModuleType, tmp_path: Path) -> None:
    """The first task ends when the others' outcomes are here; held back, they would never be."""
    release, keys = tmp_path / "release", []
    with Pool("processes", 2) as pool:
        tasks = {"slow": (str(release),), "a": (str(tmp_path),), "b": (str(tmp_path),)}
        for outcome in pool.run(jobs.wait, tasks):
            keys.append(outcome.key)
            if len(keys) == 2:
                release.touch()
    assert keys == ["a", "b", "slow"]


def test_processes_work_at_once_and_are_kept(jobs: ModuleType, tmp_path: Path) -> None:
    with Pool("processes", 2) as pool:
        rounds = []
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            tasks = {"a": (str(folder), "a", "b"), "b": (str(folder), "b", "a")}
            rounds.append({outcome.value for outcome in pool.run(jobs.meet, tasks)})
    assert len(rounds[0]) == 2 and os.getpid() not in rounds[0]
    assert rounds[0] == rounds[1]


def test_what_cannot_be_pickled_is_an_error_of_its_task(jobs: ModuleType) -> None:
    with Pool("processes") as pool:
        value = by_key(pool.run(jobs.unpicklable, {"value": ()}))["value"]
        task = by_key(pool.run(jobs.double, {"no": (lambda: None,), "yes": (1,)}))
        odd = by_key(pool.run(jobs.awkward, {"odd": ()}))["odd"]
    assert value.error is not None and value.value is None
    assert task["no"].error is not None and task["yes"].value == 2
    assert type(odd.error) is RuntimeError and str(odd.error) == "Awkward: trouble at mill"


def test_an_error_says_where_it_was_raised(jobs: ModuleType) -> None:
    with Pool("processes") as pool:
        (outcome,) = pool.run(jobs.root, {"bad": (-1.0,)})
    assert outcome.error is not None
    assert "executor_jobs.py" in "".join(outcome.error.__notes__)


def test_a_task_is_begun_again_when_its_worker_is_killed(jobs: ModuleType, tmp_path: Path) -> None:
    with Pool("processes", 2) as pool:
        (outcome,) = pool.run(jobs.die_first, {"a": (str(tmp_path / "log"),)})
    assert (outcome.value, outcome.error) == (2, None)


def test_a_task_that_kills_its_workers_is_given_up_and_harms_no_other(
    jobs: ModuleType, tmp_path: Path
) -> None:
    deadly, quiet = tmp_path / "deadly", tmp_path / "quiet"
    tasks = {"quiet": (str(quiet), 3.0), "deadly": (str(deadly), None), "after": (str(quiet), 0.0)}
    with Pool("processes", 2, retries=2) as pool:
        found = by_key(pool.run(jobs.die_or_nap, tasks))
    assert isinstance(found["deadly"].error, WorkerFailure)
    assert "'deadly' was begun 3 time(s)" in str(found["deadly"].error)
    assert "SIGKILL" in str(found["deadly"].error)
    assert len(deadly.read_text().splitlines()) == 3
    assert found["quiet"].error is None and found["after"].error is None
    assert len(quiet.read_text().splitlines()) == 2  # neither was begun twice


def test_no_retries(jobs: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Pool("processes", retries=0) as pool:
        (outcome,) = pool.run(jobs.die_first, {"a": (str(log),)})
        assert isinstance(outcome.error, WorkerFailure)
        (outcome,) = pool.run(jobs.double, {"b": (1,)})
        assert outcome.value == 2
    assert log.read_text().splitlines() == ["begun"]


def test_threads_of_a_worker(jobs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Pool("processes", threads=2) as pool:
        (outcome,) = pool.run(jobs.threads, {"a": ()})
    assert outcome.value == (2, "2")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores is not None
    with Pool("processes", 2 * cores) as pool:
        (outcome,) = pool.run(jobs.threads, {"a": ()})
    assert outcome.value == (1, "1")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what it puts into the background with SIGINT ignored, tests included."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@linux
def test_an_iterator_that_is_closed_stops_what_runs_and_begins_nothing(
    jobs: ModuleType, tmp_path: Path, interruptible: None
) -> None:
    names = ["a", "b", "c", "d"]
    with Pool("processes", 2) as pool:
        (warm,) = pool.run(jobs.double, {"a": (1,)})
        outcomes = pool.run(
            jobs.announce, {**{n: (str(tmp_path), n) for n in names}, "bad": (lambda: None,)}
        )
        # The one that cannot be pickled comes first; the others begin when more is asked for.
        assert next(outcomes).key == "bad"

        # Ctrl-C, once both workers are busy.
        def interrupt() -> None:
            wait_for(lambda: all((tmp_path / n).exists() for n in "ab"), 300.0)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
        thread.join()
        pids = [int((tmp_path / n).read_text()) for n in "ab"]
        assert not any(is_running(pid) for pid in pids)
        # What was stopped could tidy up; what waited was never begun.
        assert all((tmp_path / f"{n}.tidied").exists() for n in "ab")
        assert not any((tmp_path / n).exists() for n in "cd")
        (outcome,) = pool.run(jobs.double, {"a": (4,)})
        assert (warm.value, outcome.value) == (2, 8)


def test_leaving_the_block_ends_a_run_that_is_still_open(jobs: ModuleType, tmp_path: Path) -> None:
    with Pool("processes", 2) as pool:
        outcomes = pool.run(jobs.nap, {"short": (0.0,), "long": (500.0,), "more": (500.0,)})
        assert next(outcomes).key == "short"
    # The test would run into its time limit if the block waited for the long ones.


PARENT = """
import sys
from eip.executors import Pool

sys.path[:0] = [sys.argv[2]]
import executor_jobs

if __name__ == "__main__":
    folder = sys.argv[3]
    with Pool(sys.argv[1], 2) as pool:
        list(pool.run(executor_jobs.announce, {n: (folder, n) for n in "ab"}))
"""


def start_parent(executor: str, jobs: ModuleType, folder: Path) -> subprocess.Popen[bytes]:
    """A learning run, as it were, whose two workers are at work when this returns."""
    script = folder / "parent.py"
    script.write_text(PARENT)
    modules = str(Path(str(jobs.__file__)).parent)
    parent = subprocess.Popen([sys.executable, str(script), executor, modules, str(folder)])
    try:
        assert wait_for(lambda: all((folder / n).exists() for n in "ab"), 300.0)
    except BaseException:
        parent.kill()
        parent.wait()
        raise
    return parent


@linux
def test_workers_die_with_a_parent_that_is_killed(jobs: ModuleType, tmp_path: Path) -> None:
    parent = start_parent("processes", jobs, tmp_path)
    pids = [int((tmp_path / n).read_text()) for n in "ab"]
    assert all(is_running(pid) for pid in pids)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(is_running(pid) for pid in pids), 100.0)


UNGUARDED = """
from executor_jobs import double
from eip.executors import Pool
print("begun")
with Pool("processes", 2) as pool:
    print(sorted(outcome.value for outcome in pool.run(double, {"a": (1,), "b": (2,)})))
"""
OWN_FUNCTION = """
from eip.executors import Pool
print("begun" if __name__ == "__main__" else "imported")
def triple(number):
    return 3 * number
{guard}
    with Pool("processes", 1) as pool:
        (outcome,) = pool.run(triple, {{"a": (2,)}})
    print(outcome.value, type(outcome.error).__name__, outcome.error)
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (UNGUARDED, ["begun", "[2, 4]"]),
        (
            OWN_FUNCTION.format(guard='if __name__ == "__main__":'),
            ["begun", "imported", "6 NoneType None"],
        ),
        (
            OWN_FUNCTION.format(guard="if True:"),
            [
                "begun",
                "imported",
                "None InputError a task needs something that is defined in your script, so that "
                'each worker imports it: put what it is to do under if __name__ == "__main__"',
            ],
        ),
    ],
    ids=["not imported", "its function", "its function, unguarded"],
)
def test_a_users_script_is_imported_only_where_a_task_needs_it(
    script: str, said: list[str], jobs: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "script.py"
    file.write_text(script)
    paths = [str(Path(str(jobs.__file__)).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-u", str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stdout.splitlines() == said, done.stderr
    assert done.returncode == 0


@linux
def test_a_worker_whose_parent_died_while_it_started_ends(tmp_path: Path) -> None:
    # No process has this one for its parent: to the worker, its parent is gone.
    code = "from eip.signals import die_with; die_with(1 << 22); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("keywords", [{"workers": 0}, {"threads": 0}, {"retries": -1}])
def test_numbers_that_are_too_small(keywords: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(keywords))} must be at least"):
        Pool("processes", **keywords)  # type: ignore[arg-type]


def test_unknown_executors() -> None:
    with pytest.raises(InputError, match="'process' is not known; did you mean 'processes'"):
        Pool("process")


def test_parsl_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.py").write_text("config = None")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'eip\[cluster\]'"):
        Pool(f"parsl:{tmp_path / 'site.py'}")


# --- Parsl -----------------------------------------------------------------------------------

parsl = pytest.mark.skipif(
    importlib.util.find_spec("parsl") is None, reason="Parsl is not installed: eip[cluster]"
)


@pytest.fixture
def site(jobs: ModuleType, tmp_path: Path) -> Path:
    """Parsl on this machine, with the executor that runs on clusters; beats its heart quickly."""
    modules = str(Path(str(jobs.__file__)).parent)
    path = tmp_path / "site.py"
    path.write_text(
        textwrap.dedent(
            f"""
            from parsl.config import Config
            from parsl.executors import HighThroughputExecutor
            from parsl.providers import LocalProvider

            def config():
                provider = LocalProvider(
                    init_blocks=1,
                    max_blocks=1,
                    worker_init="export OMP_NUM_THREADS=1 PYTHONPATH={modules}:$PYTHONPATH",
                )
                here = HighThroughputExecutor(
                    label="here",
                    address="127.0.0.1",
                    provider=provider,
                    max_workers_per_node=2,
                    cores_per_worker=0.5,
                    heartbeat_period=1,
                    heartbeat_threshold=4,
                )
                return Config(executors=[here], run_dir={str(tmp_path / "parsl")!r})
            """
        )
    )
    return path


@parsl
def test_parsl(site: Path, jobs: ModuleType, tmp_path: Path) -> None:
    path = os.environ["PATH"]
    with Pool(f"parsl:{site}", retries=1) as pool:
        found = by_key(pool.run(jobs.root, {"good": (9.0,), "bad": (-1.0,)}))
        assert found["good"].value == 3.0
        assert isinstance(found["bad"].error, ValueError)
        # A worker is killed, as by a node's out-of-memory killer.
        log, deadly = tmp_path / "log", tmp_path / "deadly"
        (outcome,) = pool.run(jobs.die_first, {"a": (str(log),)})
        assert (outcome.value, outcome.error) == (2, None)
        (outcome,) = pool.run(jobs.die_first_with_who_asked, {"a": (str(tmp_path / "asked"),)})
        assert (outcome.value, outcome.error) == (2, None)
        tasks = {"deadly": (str(deadly), None), "quiet": (str(tmp_path / "quiet"), 1.0)}
        found = by_key(pool.run(jobs.die_or_nap, tasks))
        assert isinstance(found["deadly"].error, WorkerFailure)
        assert len(deadly.read_text().splitlines()) == 2
        assert found["quiet"].error is None
        (outcome,) = pool.run(jobs.threads, {"a": ()})
        assert outcome.value == (1, "1")
        # What gives tasks to workers is lost, which Parsl itself never notices.
        if sys.platform.startswith("linux"):
            (before,) = pool.run(jobs.pid, {"a": ()})
            for child in _children(os.getpid()):
                if "interchange" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(child, signal.SIGKILL)
            (after,) = pool.run(jobs.pid, {"a": ()})
            assert after.error is None and after.value != before.value
        # Nothing waits for what is left open.
        outcomes = pool.run(jobs.nap, {"short": (0.0,), "long": (500.0,)})
        assert next(outcomes).key == "short"
    assert os.environ["PATH"] == path


SENT_TO_NOBODY = """
import os, pickle, signal, sys
sys.path.insert(0, sys.argv[1])
import executor_jobs
from eip.executors import Pool
from eip.executors.tasks import answer

if __name__ == "__main__":
    with Pool(f"parsl:{sys.argv[2]}") as pool:
        (before,) = pool.run(executor_jobs.pid, {"a": ()})
        workers = pool._workers()
        os.kill(workers._interchanges()[0].pid, signal.SIGKILL)
        workers.submit(answer, pickle.dumps((executor_jobs.pid, ())), None)
        (after,) = pool.run(executor_jobs.pid, {"a": ()})
        assert after.error is None and after.value != before.value
    print("done")
"""


@parsl
@linux
def test_a_task_sent_to_a_dead_interchange_keeps_nobody_waiting(
    site: Path, jobs: ModuleType, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SENT_TO_NOBODY)
    modules = str(Path(str(jobs.__file__)).parent)
    command = [sys.executable, str(script), modules, str(site)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["done"], done.stderr


def test_the_way_to_an_interchange_is_not_closed_while_something_is_sent() -> None:
    """ZeroMQ would abort the process."""
    sent: list[str] = []
    sending, release = threading.Event(), threading.Event()

    class Queue:
        zmq_socket = SimpleNamespace()

        def put(self, message: str) -> None:
            sending.set()
            release.wait(300.0)
            sent.append(message)

        def close(self) -> None:
            sent.append("closed")

    way = _Outgoing(Queue(), SimpleNamespace(poll=lambda: None))
    sender = threading.Thread(target=way.put, args=("a task",))
    closer = threading.Thread(target=way.close)
    sender.start()
    assert sending.wait(300.0)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive() and not sent
    release.set()
    sender.join(30.0)
    closer.join(30.0)
    assert sent == ["a task", "closed"]
    with pytest.raises(WorkerFailure):
        way.put("another")
    dead = _Outgoing(Queue(), SimpleNamespace(poll=lambda: -9))
    with pytest.raises(WorkerFailure):
        dead.put("a task")
    assert way._queue.zmq_socket.sndtimeo > 0 and sent[2:] == []


@parsl
@linux
def test_parsl_dies_with_a_parent_that_is_killed(
    site: Path, jobs: ModuleType, tmp_path: Path
) -> None:
    parent = start_parent(f"parsl:{site}", jobs, tmp_path)
    pids = [int((tmp_path / n).read_text()) for n in "ab"]
    assert all(is_running(pid) for pid in pids)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(is_running(pid) for pid in pids), 100.0)


@parsl
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "found nothing"),
        ("config = 3", "found int"),
        ("def config():\n    return 'a'", "found str"),
        ("import no_such_module", "ModuleNotFoundError"),
    ],
)
def test_site_files_that_do_not_do(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "site.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        Pool(f"parsl:{path}")
    assert "site.py" in str(raised.value)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
