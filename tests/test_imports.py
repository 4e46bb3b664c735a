"""What is imported when: a question to the command line, or a model, must not wait for the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

SELDOM = {"sklearn", "scipy", "lightning", "matplotlib", "tensorboard", "ijson", "pooch"}
HEAVY = SELDOM | {"torch", "ase", "pydantic", "requests"}
HELP = (
    "import runpy, sys; sys.argv = ['eip', '--help']; runpy.run_module('eip', run_name='__main__')"
)


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import eip", HEAVY),
        (HELP, HEAVY - {"pydantic"}),  # of whose settings the options are made
        ("import eip; eip.load; eip.Calculator", SELDOM),
        ("import eip; eip.load_config", {"torch"} | SELDOM),
        ("from eip.data import read_frames, open_frames", SELDOM - {"scipy"}),
        ("from eip.executors import Pool", HEAVY | {"parsl"}),
        ("from eip.active_learning.labelers import make_labeler; make_labeler('xtb')",
         SELDOM | {"tblite"}),
    ],
)  # fmt: skip
def test_what_is_not_imported(code: str, without: set[str]) -> None:
    asked = f"{code!r}, {sorted(without)!r}"
    script = (
        f"import sys\ncode, without = {asked}\n"
        "try: exec(code, {'__name__': 'user'})\n"
        "except SystemExit: pass\n"
        "print('there:', *[name for name in without if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["there:"]
