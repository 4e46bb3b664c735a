"""Each monitor speaks where it should, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from eip.errors import InputError
from eip.neighbors import build_graph
from eip.simulation.monitors import (
    BrokenBond,
    ClosestApproach,
    EnergyDrift,
    ExtrapolationGrade,
    NonFinite,
    State,
    Temperature,
    Uncertainty,
    first_ending,
)
from eip.simulation.settings import DynamicsSettings

from .toy import water


def state(atoms, temperature=300.0, drift=0.0, **results):
    n = len(atoms)
    base = {"energy": 0.0, "forces": np.zeros((n, 3)), "uncertainty": 0.1}
    return State(
        step=7,
        time_fs=3.5,
        atoms=atoms,
        graph=build_graph(atoms, 5.0),
        results=base | results,
        kinetic=0.1,
        temperature=temperature,
        drift=drift,
    )


def test_a_sound_state_passes_all_default_monitors():
    atoms = water()
    assert first_ending(DynamicsSettings().monitors(atoms), state(atoms)) is None


@pytest.mark.parametrize("field", ["energy", "forces", "force_uncertainty", "forces_bias"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite(field, bad):
    values = np.zeros((3, 3))
    values[1, 2] = bad
    ending = NonFinite().check(state(water(), **{field: bad if field == "energy" else values}))
    assert (ending.kind, ending.cause) == ("collapsed", "non_finite")
    assert field in ending.reason


def test_closest_approach_by_distance_and_by_radii():
    atoms = Atoms("OHO", [[0, 0, 0], [0, 0, 0.9], [2.0, 0, 0]])
    assert ClosestApproach(0.8).check(state(atoms)) is None
    ending = ClosestApproach(1.0).check(state(atoms))
    assert (ending.kind, ending.cause) == ("collapsed", "closest_approach")
    assert "0.900 Å apart, closer than the bound of 1.000 Å" in ending.reason
    assert "O (atom 0)" in ending.reason and "H (atom 1)" in ending.reason
    # r_O + r_H = 0.97 Å: 0.9 Å is a bond; r_O + r_O = 1.32 Å: 0.9 Å is none.
    assert ClosestApproach(0.0, 0.75).check(state(atoms)) is None
    atoms.symbols = "OOO"
    assert ClosestApproach(0.0, 0.75).check(state(atoms)) is not None


def test_an_image_counts_as_another_atom():
    atoms = Atoms("O", cell=[0.7, 3, 3], pbc=True)
    assert ClosestApproach(0.8).check(state(atoms)) is not None


def test_broken_bond_through_the_cell_wall():
    atoms = Atoms("OH", [[0.1, 1, 1], [4.2, 1, 1]], cell=[5, 5, 5], pbc=True)
    monitor = BrokenBond.of(atoms, 2.0)
    assert monitor.pairs.tolist() == [[0, 1]]
    assert monitor.check(state(atoms)) is None
    atoms.positions[1, 0] -= 0.9
    assert monitor.check(state(atoms)) is None
    atoms.positions[1, 0] -= 0.2
    ending = monitor.check(state(atoms))
    assert (ending.kind, ending.cause) == ("collapsed", "broken_bond")
    assert "O (atom 0)" in ending.reason and "2.00 Å long" in ending.reason


def test_bonds_are_covalent_ones():
    assert len(BrokenBond.of(water(), 2.0).pairs) == 2
    assert len(BrokenBond.of(Atoms("LiO", [[0, 0, 0], [0, 0, 1.7]]), 2.0).pairs) == 0
    assert len(BrokenBond.of(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]]), 2.0).pairs) == 0
    assert len(BrokenBond.of(Atoms("H"), 2.0).pairs) == 0


def test_temperature_drift_and_uncertainty():
    atoms = water()
    assert Temperature(500.0).check(state(atoms, temperature=500.0)) is None
    assert Temperature(500.0).check(state(atoms, temperature=501.0)).cause == "temperature"
    assert EnergyDrift(0.1).check(state(atoms, drift=-0.09)) is None
    assert EnergyDrift(0.1).check(state(atoms, drift=-0.11)).kind == "collapsed"
    assert Uncertainty(0.1).check(state(atoms)) is None
    ending = Uncertainty(0.1).check(state(atoms, uncertainty=0.2))
    assert (ending.kind, ending.cause) == ("stopped", "uncertainty")
    assert "σ is 0.2 eV/Å, over the threshold of 0.1 eV/Å" in ending.reason


def test_extrapolation_is_stopped_and_the_atom_named():
    atoms = water()
    grades = np.array([0.5, 1.5, 0.7])
    assert ExtrapolationGrade(1.5).check(state(atoms, extrapolation_grade=grades)) is None
    ending = ExtrapolationGrade(1.2).check(state(atoms, extrapolation_grade=grades))
    assert (ending.kind, ending.cause) == ("stopped", "extrapolation_grade")
    name = f"{atoms.symbols[1]} (atom 1)"
    assert f"grade of {name} is 1.5, over the threshold of 1.2" in ending.reason
    # A collision is told by its pair.
    atoms.positions[1] = atoms.positions[0] + [0.0, 0.0, 0.5]
    ending = ExtrapolationGrade(1.2).check(state(atoms, extrapolation_grade=grades))
    assert ending.reason.endswith(f"nearest to it is {atoms.symbols[0]} (atom 0), 0.5 Å away")
    alone = atoms[:1]
    ending = ExtrapolationGrade(1.2).check(state(alone, extrapolation_grade=grades[1:2]))
    assert ending.reason.endswith("threshold of 1.2")
    assert isinstance(DynamicsSettings(max_grade=2.0).monitors(atoms)[-1], ExtrapolationGrade)


def test_a_potential_without_a_grade_is_not_taken_for_one_at_home():
    with pytest.raises(InputError, match="gives no extrapolation grade: eip info says"):
        ExtrapolationGrade(1.0).check(state(water()))
