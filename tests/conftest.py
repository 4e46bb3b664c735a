"""Shapes and types of every signature of eip are checked while the tests run, unless
EIP_TEST_TYPES=0 says that they were: kernels' tests take less than half as long without."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Of the processes that tests start too: two threads that wait for each other on cores with other
# work take many times as long as one, and spin meanwhile. A user's choice stands.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Before any test module imports eip; the hook stays for the whole session.
if os.environ.get("EIP_TEST_TYPES") != "0":
    install_import_hook("eip", "beartype.beartype")

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from eip.kernels import variant

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
