"""What is published: a source archive, and the wheel that is built from it, on their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "eip"

pytest.importorskip("hatchling", reason="hatchling builds the package")


def build(kind: str, folder: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, as an installer without a wheel would."""
    folder = tmp_path_factory.mktemp("packages")
    archive = build("sdist", ROOT, folder / "sdist")
    with tarfile.open(archive) as file:
        file.extractall(folder / "source", filter="data")
    (unpacked,) = (folder / "source").iterdir()
    return build("wheel", unpacked, folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def outside(
    installed: Path, folder: Path, *command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command that finds eip where the wheel was installed, and nowhere else."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EIP_KERNELS")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(installed), **environment},
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if name.startswith("eip/")}
    ours = {
        f"eip/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == ours
    assert "eip/py.typed" in packed
    assert any(name.endswith(".cpp") for name in packed)


def test_its_metadata_are_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (n for n in file.namelist() if n.endswith("METADATA"))
        metadata = file.read(name).decode()
        (points,) = (n for n in file.namelist() if n.endswith("entry_points.txt"))
        assert "eip = eip.cli:main" in file.read(points).decode()
        assert any(n.endswith("LICENSE") for n in file.namelist())
    assert "Requires-Dist: torch" in metadata
    assert "License-Expression: MIT" in metadata


PREDICTS = """
import eip, torch
from ase.build import molecule
from eip.uncertainty.evidential import EvidentialPotential
assert {installed!r} in eip.__file__, eip.__file__
potential = EvidentialPotential(elements=[1, 8], element_energies={{1: 0.0, 8: 0.0}},
                                force_scale=1.0, channels=16, interactions=1).eval()
found = potential.predict(molecule("H2O"))
assert found.forces.isfinite().all() and found.force_uncertainty.min() > 0
from eip.kernels import variant
print(variant())
"""


def test_it_predicts_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    """With kernels that are compiled there from the sources in the wheel."""
    program = PREDICTS.format(installed=str(installed))
    done = outside(installed, tmp_path, "-c", program, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != "reference"


def test_its_command_line_answers(installed: Path, tmp_path: Path) -> None:
    done = outside(installed, tmp_path, "-m", "eip", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("eip ")


TYPED = """
import eip
from ase import Atoms

potential = eip.load("model.eip")
prediction = potential.predict(Atoms("H2O"))
reveal_type(prediction.energy)
wrong: int = prediction.energy
"""


@pytest.mark.slow
def test_its_types_are_seen_from_outside(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "theirs.py").write_text(TYPED)
    done = outside(
        installed,
        tmp_path,
        "-m",
        "mypy",
        "--cache-dir",
        str(tmp_path),
        "theirs.py",
        MYPYPATH=str(installed),
    )
    assert 'Revealed type is "torch._tensor.Tensor"' in done.stdout, done.stdout
    assert done.stdout.count("error: ") == 1, done.stdout  # the one that is wrong on purpose
    assert "Incompatible types in assignment" in done.stdout
