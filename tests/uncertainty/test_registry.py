from __future__ import annotations

import pytest

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Potential
from eip.prediction import Prediction
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.registry import build_potential, describe_potential


def potential() -> EvidentialPotential:
    return EvidentialPotential(
        elements=(1,), element_energies={1: -13.6}, force_scale=1.0, channels=8, interactions=1
    )


def test_a_description_builds_the_potential_again() -> None:
    description = describe_potential(potential())
    assert description["kind"] == "evidential"
    again = build_potential(**description)
    assert isinstance(again, EvidentialPotential)
    assert describe_potential(again) == description


def test_an_unknown_kind_gets_a_proposal() -> None:
    with pytest.raises(InputError, match="'evidental': did you mean 'evidential'"):
        build_potential("evidental", {})


class Stranger(Potential):
    @property
    def cutoff(self) -> float:
        return 1.0

    @property
    def elements(self) -> tuple[int, ...]:
        return (1,)

    def forward(self, graph: AtomGraph, **options: object) -> Prediction:  # type: ignore[override]
        raise NotImplementedError


class Renamed(EvidentialPotential):
    kind = "unheard of"


def test_what_is_not_registered_cannot_be_kept() -> None:
    with pytest.raises(TypeError, match="a Stranger cannot be kept in a file"):
        describe_potential(Stranger())
    renamed = Renamed(elements=(1,), element_energies={1: 0.0}, force_scale=1.0, channels=8)
    with pytest.raises(TypeError, match="a Renamed cannot be kept"):
        describe_potential(renamed)
