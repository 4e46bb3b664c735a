"""What docs/engines.md shows runs, from its first line to its last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io import write

from eip.testing import engine_structures

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/engines.md").read_text(encoding="utf-8")

# Where eIP runs from its sources and was installed before there was this entry point.
_ENTRY_POINT = """
from openmmml import MLPotential
from eip.engines.openmm import EIPPotentialImplFactory
MLPotential.registerImplFactory("eip", EIPPotentialImplFactory())
"""


@pytest.fixture
def folder(tmp_path: Path, model_file: Path) -> Path:
    found = engine_structures((1, 8, 14), 4.0)
    (tmp_path / "model.eip").write_bytes(model_file.read_bytes())
    write(tmp_path / "start.xyz", found["silica"])
    write(tmp_path / "water.pdb", found["water"])
    write(tmp_path / "sheet.xyz", found["a slab along z"])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def finished(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.engines
def test_python_of_the_page(folder: Path) -> None:
    for package in ("torch_sim", "openmm", "openmmml", "metatomic"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'eip[engines]'")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 8
    blocks.insert(0, _ENTRY_POINT)
    code = "\n".join(blocks).replace("steps=200", "steps=1")  # of a network that is not trained
    finished([sys.executable, "-c", code], folder)


def test_commands_of_the_page(folder: Path) -> None:
    commands = re.findall(r"^eip convert .*$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished(["env", f"PATH={path}", "bash", "-euc", "\n".join(commands)], folder)
