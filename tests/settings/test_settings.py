"""Settings said once: checked from Python as from a file, and read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eip.active_learning.settings import LearningSettings
from eip.data import Labels
from eip.errors import InputError
from eip.simulation import DynamicsSettings, UDDSettings
from eip.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DynamicsSettings(stepps=1), r"unknown key 'stepps': did you mean 'steps'\?"),
        (lambda: DynamicsSettings(ensemble="nvee"), r"'ensemble': did you mean 'nve'\?"),
        (lambda: DynamicsSettings(temperature=0.0), "temperature > 0, got 0.0"),
        (lambda: TrainingSettings(epochs=True), "'epochs' should not be true or false"),
        (lambda: TrainingSettings(learning_rate=float("nan")), "'learning_rate' should be"),
        (lambda: LearningSettings(lower=2, upper=1), "upper > lower, got 1.0 and 2.0"),
        (lambda: LearningSettings(temperatures=[300, -1]), "'temperatures' should be greater"),
        (lambda: LearningSettings(temperatures=[]), "'temperatures' .* at least 1 item"),
        (
            lambda: LearningSettings(length_ps=1e9),
            "length_ps is 1e\\+09, expected at most 500000: 1,000,000,000 steps of 0.5 fs",
        ),
        (lambda: UDDSettings(D=1, max_bias_force=1), "either D or the largest bias force"),
        (lambda: Labels(elements=["Hh"]), "'elements' 'Hh' is no chemical symbol"),
    ],
)
def test_what_makes_no_sense_is_an_input_error(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_every_wrong_value_is_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        DynamicsSettings(steps=-1, timestep_fs=0)
    assert len(str(caught.value).splitlines()) == 2


def test_a_wrong_item_makes_no_list_too_short() -> None:
    with pytest.raises(InputError) as caught:
        LearningSettings(temperatures=-3)
    assert len(str(caught.value).splitlines()) == 1


def test_replaced_settings_are_checked_again() -> None:
    settings = DynamicsSettings(steps=5).replace(temperature=10)
    assert (settings.steps, settings.temperature) == (5, 10.0)
    with pytest.raises(InputError, match="'temperature'"):
        settings.replace(temperature=-1)


def test_settings_are_read_without_what_they_are_of() -> None:
    code = (
        "import sys, eip.config, eip.cli.options;"
        "print({'torch', 'ase', 'numpy', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
