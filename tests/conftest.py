"""Shapes and types of every signature of eip are checked while the tests run.

EIP_TEST_TYPES=all checks every call; 0 none, where that has been done.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Of the processes that tests start too: two threads that wait for each other on cores with other
# work take many times as long as one, and spin meanwhile. A user's choice stands.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

#: In each test a function's first calls are checked, then each so manieth. A check costs as much as
#: many a small sum does, and a test that differentiates by differences makes 400,000.
FIRST_CALLS, EACH_CALL = 20, 50
TYPES = os.environ.get("EIP_TEST_TYPES", "")

_every_call = jaxtyping.jaxtyped
_calls: dict[int, int] = {}  # of this test, by the function's code


def _now_and_then(plain: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """A function whose calls are checked now and then; what checks it is made at the first."""
    code, checked = id(plain.__code__), None

    @functools.wraps(plain)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal checked
        _calls[code] = calls = _calls.get(code, 0) + 1
        if calls > FIRST_CALLS and calls % EACH_CALL:
            return plain(*arguments, **named)
        if checked is None:
            checked = _every_call(plain, typechecker=typechecker)
        return checked(*arguments, **named)

    return call


def _jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """What the hook writes above every function and class."""

    def decorate(what: Any) -> Any:
        if not inspect.isclass(what):
            return _now_and_then(what, typechecker)
        if dataclasses.is_dataclass(what) and "__init__" in vars(what):
            what.__init__ = _now_and_then(what.__init__, typechecker)
        return what

    return decorate


# Before any test module imports eip; the hook stays for the whole session.
if TYPES != "0":
    if TYPES != "all":
        jaxtyping.jaxtyped = _jaxtyped
    jaxtyping.install_import_hook("eip", "beartype.beartype")

import torch  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def pytest_runtest_setup() -> None:
    _calls.clear()


#: Where two processes share the files (Makefile), those that take minutes begin: at the end one
#: would go on alone.
LONG = (
    *("test_readme.py", "uncertainty/test_methods.py", "cli/test_cli.py", "test_contracts.py"),
    *("active_learning/test_loop.py", "fuzz/test_kills.py", "paper/test_reproduce.py"),
    *("kernels/test_operators.py", "verbs/test_learn.py", "training/test_processes.py"),
    *("active_learning/labelers/test_cp2k.py", "test_demo.py", "test_packaging.py"),
    *("executors/test_executors.py", "active_learning/test_ledger.py", "kernels/test_build.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from eip.kernels import variant

    order = {HERE / name: k for k, name in enumerate(LONG)}
    assert all(path.is_file() for path in order), "a long file of tests has another name now"
    items.sort(key=lambda item: order.get(item.path, len(order)))

    if importlib.util.find_spec("triton") is None:
        skipped = pytest.mark.skip(reason="needs Triton: pip install 'eip[gpu]'")
        for item in items:
            if item.get_closest_marker("triton"):
                item.add_marker(skipped)
    if variant() in ("reference", "triton"):
        skipped = pytest.mark.skip(reason=f"EIP_KERNELS={variant()}: there are no compiled kernels")
        for item in items:
            if item.get_closest_marker("kernels"):
                item.add_marker(skipped)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads would cost more than they bring, and sums would change with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def figures_as_they_stand() -> None:
    """Files that nobody looks at are written without making room for what may overlap: that was
    more than a quarter of what a short training takes. Tests of plots draw in full."""
    from eip import plots

    save = plots.save_figure

    def as_it_stands(figure: plots.Figure, path: str | Path, *, dpi: int = 150) -> Path:
        figure.set_layout_engine(None)
        return save(figure, path, dpi=dpi)

    plots.save_figure = as_it_stands


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Published ab-initio data beside the repository; tests that need it skip without."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the published data sets in ../shared/data, which are not here")
    return folder


@pytest.fixture(scope="session")
def demo_data() -> Path:
    """The project's own labelled frames."""
    return ROOT / "examples" / "data"


class StrangersPackage:
    """A package beside eIP, as `pip install` would leave it, in processes that this starts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._site = folder, folder / "site-packages"

    def __call__(self, name: str, content: str, **entry_points: str) -> None:
        """Installs a module, with entry points by group."""
        about = self._site / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (self._site / f"{name}.py").write_text(content)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        text = "".join(f"[{group}]\n{line}\n" for group, line in entry_points.items())
        (about / "entry_points.txt").write_text(text)

    def run(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Python code, with arguments, where the package is installed; its errors in one line."""
        paths = [str(self._site), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        done.stderr = " ".join(done.stderr.split())
        return done


@pytest.fixture
def package(tmp_path: Path) -> StrangersPackage:
    return StrangersPackage(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command of eip; gives its exit code, stdout and stderr (lines joined)."""
    from eip.cli import main

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, " ".join(captured.err.split())

    return command
