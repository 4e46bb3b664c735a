"""The README's commands are run as they stand, one block after the other, in a copy.

One thing is changed: training is cut to one epoch of a tiny network, by options added to the line.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```", re.DOTALL)
QUICK = "--set training.epochs=1 --set model.channels=8 --set model.interactions=1"
SHORTENED = {
    "train": QUICK,
    "compare": f"{QUICK} --set model.members=2",
    "learn": f"{QUICK} --set learn.initial=8 --set learn.labels=2 --set learn.generations=2"
    " --set learn.length_ps=0.02",
}


def blocks() -> list[tuple[str, str]]:
    return MARKED.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_all_shown_eip_commands_are_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fenced = re.findall(r"```(?:bash|python)\n", text)
    assert len(blocks()) == len(fenced) >= 4


def test_readme_commands(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    for part in ("data", "demo"):
        shutil.copytree(ROOT / "examples" / part, tmp_path / "examples" / part)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for language, code in blocks():
        if language == "bash":
            for verb, quick in SHORTENED.items():
                code = re.sub(rf"^(eip {verb} \S+)", rf"\1 {quick}", code, flags=re.MULTILINE)
            command = ["bash", "-euo", "pipefail", "-c", code]
        else:
            command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for name in ("model.eip", "metrics.json", "train.csv", "report.html", "tensorboard"):
        assert (tmp_path / "runs" / "eip" / name).exists(), name
    assert (tmp_path / "runs" / "compare" / "comparison.md").exists()
    assert (tmp_path / "runs" / "learn" / "learning.md").exists()
