"""Options made of settings, and settings put together from a file and options on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command

from eip.cli import app
from eip.cli.options import LABEL_NAMES, config_of, labels_from, option_name
from eip.cli.simulation import _DYNAMICS
from eip.config import LabelConfig, MDConfig
from eip.data.labels import LabelKeys
from eip.errors import InputError
from eip.simulation import DynamicsSettings, UDDSettings

Run = Callable[..., tuple[int, str, str]]


def options(verb: str) -> set[str]:
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def test_every_setting_of_dynamics_has_an_option() -> None:
    names = {option_name(key, _DYNAMICS) for key in DynamicsSettings.model_fields}
    assert names <= options("md")
    assert {"--udd-a", "--udd-max-force", "--break-bonds", "--elements", "--config"} <= options(
        "md"
    )


@pytest.mark.parametrize("verb", ["evaluate", "calibrate", "info", "convert"])
def test_every_key_and_unit_of_labels_has_an_option(verb: str) -> None:
    names = {option_name(key, LABEL_NAMES) for key in LabelKeys.model_fields}
    assert names <= options(verb)


def test_labels_of_options() -> None:
    assert labels_from({}) is None
    labels = labels_from({"energy": "E", "elements": ["O", "H"]})
    assert labels is not None and (labels.energy, labels.elements) == ("E", ("O", "H"))
    with pytest.raises(InputError, match=r"--energy-unit: .*did you mean 'Hartree'\?"):
        labels_from({"energy_unit": "Hartre"})


def md(tmp_path: Path, text: str, dynamics: dict | None = None, **given) -> MDConfig:
    path = tmp_path / "md.yaml"
    path.write_text(text)
    sections = {"dynamics": (dynamics, _DYNAMICS), "udd": (None, {})}
    return config_of(MDConfig, path, given, verb="md", sections=sections)


def test_options_go_on_top_of_the_file(tmp_path: Path) -> None:
    text = (
        "model: a.eip\nstart: b.xyz\ndynamics: {steps: 7, temperature: 500}\nudd: {limiter: atom}\n"
    )
    found = md(tmp_path, text, {"steps": 9}, start=Path("c.xyz"), elements="O,H")
    assert found.dynamics == DynamicsSettings(steps=9, temperature=500)
    assert found.udd == UDDSettings(limiter="atom") and found.elements == ("O", "H")
    # Of the file, relative to it; of the command line, to where that was given.
    assert found.model == tmp_path / "a.eip" and found.start == Path("c.xyz").absolute()


def test_errors_name_the_line_or_the_option(tmp_path: Path) -> None:
    text = "model: a.eip\nstart: b.xyz\ndynamics:\n  steps: -7\n"
    with pytest.raises(InputError, match=r"md\.yaml, line 4: 'dynamics\.steps' should be"):
        md(tmp_path, text)
    with pytest.raises(InputError, match=r"^--timestep: 'dynamics\.timestep_fs' should be"):
        md(tmp_path, text, {"timestep_fs": 0, "steps": 1})
    with pytest.raises(InputError, match=r"eip label: 'out' is missing; it is: extended XYZ"):
        config_of(LabelConfig, None, {"files": [Path("a.xyz")]}, verb="label")


def test_a_verb_runs_from_its_file_alone(run: Run, tmp_path: Path) -> None:
    code, said, _ = run("init", tmp_path / "md.yaml", "--for", "md")
    assert code == 0 and "set model and start in it, then: eip md --config" in said
    code, _, err = run("md", "--config", tmp_path / "md.yaml", "--steps", "0")
    assert code == 2 and "model.eip: no such model file" in err


def test_a_schema_is_printed(run: Run) -> None:
    code, said, _ = run("schema", "label")
    assert code == 0 and '"labeler_options"' in said
