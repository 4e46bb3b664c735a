"""Verbs called from Python with what is no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

import eip
from eip.config import Config, LearningConfig
from eip.errors import InputError
from eip.verbs.runs import configured


def test_the_path_of_a_file_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {train: a.xyz}\n")
    found = configured(tmp_path / "config.yaml", Config)
    assert found == configured(str(tmp_path / "config.yaml"), Config) == configured(found, Config)
    with pytest.raises(InputError, match=r"a\.xyz"):
        eip.train(tmp_path / "config.yaml", progress=False)


@pytest.mark.parametrize("given", [None, {"data": {}}, 3])
def test_what_is_none_is_named(given: object) -> None:
    expected = r"expected the path of a YAML file or an eip\.config\.Config, got "
    with pytest.raises(InputError, match=expected + type(given).__name__):
        configured(given, Config)


def test_a_training_is_no_learning(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {train: a.xyz}\n")
    with pytest.raises(InputError, match=r"eip\.config\.LearningConfig, got Config"):
        configured(configured(tmp_path / "config.yaml", Config), LearningConfig)
