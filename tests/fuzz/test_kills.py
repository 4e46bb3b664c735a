"""Killed at any moment, each verb ends as if it had not been; `kills.py` by itself does more."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

#: Of all verbs together, in the slow test.
KILLS = int(os.environ.get("EIP_KILLS", "300"))


@pytest.fixture(scope="module")
def killer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kills", Path(__file__).with_name("kills.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module  # where its data classes look for their types
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs(killer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return killer.Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("verb", ["train", "convert", "md", "learn", "label", "fetch"])
def test_a_few_kills(killer: ModuleType, inputs: Any, tmp_path: Path, verb: str) -> None:
    found = killer.kill_verb(verb, 3, inputs, tmp_path, random.Random(verb))
    assert found.kills >= 3 and found.ended
    assert not found.stuck and not found.different


@pytest.mark.slow
@pytest.mark.timeout(20_000)
def test_many_kills(killer: ModuleType, inputs: Any, tmp_path: Path) -> None:
    for verb in killer.VERBS:
        kills = -(-KILLS // len(killer.VERBS))
        found = killer.kill_verb(verb, kills, inputs, tmp_path, random.Random(verb))
        assert not found.stuck and not found.different, verb
