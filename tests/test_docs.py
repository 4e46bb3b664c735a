"""The pages name what the code has, and link to what is there."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from eip.active_learning.exploration import WalkerOutcome
from eip.active_learning.results import Generation
from eip.config import LearningConfig, load_config
from eip.evaluation import METRIC_KEYS
from eip.evaluation.report import PREDICTION_KEYS
from eip.simulation import DynamicsSummary, UDDParameters
from eip.simulation.records import LOG_COLUMNS
from eip.uncertainty.calibration import Method as CalibrationMethod
from eip.uncertainty.names import METHODS
from eip.verbs.costs import COST_KEYS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def generated(page: str) -> str:
    """A page of the reference that is made from the code."""
    return str(runpy.run_path(str(ROOT / "docs/_reference.py"))[page]())


def test_every_key_of_every_file_is_documented() -> None:
    text = (ROOT / "docs/metrics.md").read_text() + generated("predicted")
    documented = set(re.findall(r"`([a-zA-Z_0-9]+)`", text))
    keys = {key for key in METRIC_KEYS if not key.endswith("_ood")} | set(PREDICTION_KEYS)
    keys |= {field.name for field in fields(DynamicsSummary)} | set(LOG_COLUMNS)
    keys |= {field.name for field in fields(UDDParameters)} | set(COST_KEYS)
    keys |= {f.name for kind in (Generation, WalkerOutcome) for f in fields(kind)}
    assert keys - documented == set()


def test_every_method_is_explained() -> None:
    page = (ROOT / "docs/uncertainty.md").read_text()
    assert [method for method in METHODS.names() if f"| `{method}`" not in page] == []
    assert [method for method in get_args(CalibrationMethod) if f"`{method}`" not in page] == []


def test_configurations_of_learning_runs_are_such(tmp_path: Path) -> None:
    page = (ROOT / "docs/active_learning.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        load_config(path, root=LearningConfig)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
