"""The demo from end to end, shortened to see that it works and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "examples" / "demo" / "run.py"


def test_demo_leaves_its_summary(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, str(RUN), "--epochs", "1", "--steps", "5", "--out", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text())
    for key in ("force_mae", "spearman_atom", "roc_auc_atom", "coverage_80", "ood_ratio"):
        assert isinstance(summary[key], float), key
    for name in ("md", "udd"):
        assert (summary[name]["ending"], summary[name]["steps"]) == ("finished", 5)
        assert (out / name / "trajectory.xyz").exists()
    assert (summary["generations"], len(summary["stable_ps"])) == (2, 2)
    assert 8 < summary["labels"] <= 12
    assert (out / "learn" / "learning.png").exists() and (out / "learn" / "ledger.db").exists()
    assert summary["wall_seconds"] > 0
    assert (out / "model.eip").exists()
    assert (out / "evaluation" / "report.html").exists()
    assert "The demo in figures" in done.stdout


def test_demo_removes_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("")
    done = subprocess.run(
        [sys.executable, str(RUN), "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode
    assert "holds something that is not the demo's" in done.stderr
    assert precious.exists()
