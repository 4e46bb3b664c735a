"""What a model file says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from eip.model_file import save_model
from eip.uncertainty.evidential import EvidentialPotential
from eip.verbs.info import describe_model

SHORT_RANGE = {"closest": {"H-H": 1.4}, "share": 0.75, "width": 0.3}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no distance of atoms"),
        ({"short_range": SHORT_RANGE}, "H-H 1.400"),
        ({"zbl": True}, "the cutoff, of ZBL"),
        ({"short_range": SHORT_RANGE, "zbl": True}, "; the cutoff, of ZBL"),
    ],
)
def test_its_repulsion_is_said_once(settings: dict, said: str, tmp_path: Path) -> None:
    made = EvidentialPotential(
        elements=[1], element_energies={1: 0.0}, force_scale=1.0, channels=8, interactions=1,
        **settings,
    )  # fmt: skip
    save_model(made, tmp_path / "model.eip")
    described = describe_model(tmp_path / "model.eip")
    assert said in described["repulsion below"]
    assert not {"zbl", "short_range"} & described["network"].keys()
    assert "--trained-on FRAMES gives one" in described["energy error bar"]
