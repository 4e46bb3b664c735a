"""The scripts of examples/lammps, run as they stand, for a few steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eip.engines.lammps import export
from eip.potential import Potential

pytestmark = pytest.mark.engines

GALLERY = Path(__file__).resolve().parents[3] / "examples" / "lammps"
#: What each leaves behind, and says.
SCRIPTS = {
    "nve": (["nve.dump", "nve.restart"], "Loop time"),
    "nvt": (["nvt.dump"], "Loop time"),
    "udd": (["udd.dump"], "Loop time"),
    "stop": (["last.data"], "Fix halt condition for fix-id uncertain met on step 10 "),
}


def test_all_scripts_are_run() -> None:
    assert sorted(SCRIPTS) == sorted(path.stem for path in GALLERY.glob("*.in"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(lammps: Any, trained: Callable[[torch.dtype], Potential], name: str) -> None:
    export(trained(torch.float32), lammps.folder / "model.lmp.eip")
    shutil.copy(GALLERY / "water.data", lammps.folder)
    shutil.copy(lammps.plugin, lammps.folder / "eippair.so")
    script = (GALLERY / f"{name}.in").read_text()
    given = "variable steps index 20\nvariable most index 1e-6\n"
    text = lammps.output(given + script, ranks=2 if name == "nvt" else 1)
    files, said = SCRIPTS[name]
    assert said in text
    for file in files:
        assert (lammps.folder / file).stat().st_size > 0
