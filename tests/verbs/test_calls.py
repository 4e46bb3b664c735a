"""Verbs called from Python with what is no configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write

import eip
from eip.config import Config, LearningConfig
from eip.errors import InputError
from eip.simulation.settings import DynamicsSettings
from eip.verbs.arguments import as_paths
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


def test_settings_may_be_a_mapping_of_their_keys() -> None:
    assert DynamicsSettings.of({"steps": 7}, "settings") == DynamicsSettings(steps=7)
    with pytest.raises(InputError, match="unknown key 'step': did you mean 'steps'"):
        eip.md("model.eip", "start.xyz", {"step": 7}, "md")
    with pytest.raises(InputError, match="settings should be DynamicsSettings, or a mapping"):
        DynamicsSettings.of(3, "settings")
    with pytest.raises(InputError, match="unknown key 'forse': did you mean 'forces'"):
        eip.convert("frames.xyz", "out", {"forse": "f"})


@pytest.mark.parametrize(
    "call",
    [
        lambda path: eip.label(path, "out.xyz"),
        lambda path: eip.convert(path, "out.store"),
        lambda path: eip.analyze(path, "out"),
    ],
)
def test_a_lone_path_is_not_torn_into_letters(call: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=r"nope\.xyz"):
        call("nope.xyz")


def test_what_is_no_path_is_named() -> None:
    assert as_paths("a.xyz") == as_paths([Path("a.xyz")]) == [Path("a.xyz")]
    for given in (3, [3]):
        with pytest.raises(InputError, match="expected a path or several, got"):
            as_paths(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ensemble": "nvt"}, "has several for nvt: langevin, bussi"),
        ({"pressure": 1.0}, "pressure is of the ensemble npt alone, but the ensemble is 'langevin"),
    ],
)
def test_what_contradicts_itself_is_said(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DynamicsSettings.of(values, "settings")


def test_frames_of_two_stores_are_all_labelled(tmp_path: Path) -> None:
    """A store names frames by the file that they came from, which two may share."""
    for folder, count in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        frames = []
        for seed in range(count):
            atoms = molecule("CH4")
            atoms.rattle(0.05, seed=seed + 10 * count)
            frames.append(atoms)
        write(tmp_path / folder / "train.xyz", frames)
        with contextlib.chdir(tmp_path / folder):
            eip.convert("train.xyz", "../" + folder + ".store")
    (tmp_path / "calc.py").write_text("from ase.calculators.emt import EMT as make\n")
    done = eip.label(
        [tmp_path / "a.store", tmp_path / "b.store"],
        tmp_path / "out.xyz",
        labeler="ase",
        options={"calculator": f"{tmp_path / 'calc.py'}:make"},
        progress=False,
    )
    assert done.labelled == 5
