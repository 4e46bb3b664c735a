"""What is believed of a label."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from eip.active_learning.labelers import LabelLimits, check_label
from eip.active_learning.labelers.limits import with_energy_window
from eip.errors import InputError


def labelled(energy: float, forces: np.ndarray) -> Atoms:
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


BALANCED = np.array([[0, 0, 2.0], [0, 1.0, -1.0], [0, -1.0, -1.0]])
SCALE = LabelLimits(
    energy_per_atom_window=(-6.0, -1.0), element_energies={1: -13.0, 8: -430.0}
)  # fmt: skip


def test_a_good_label_is_believed():
    assert check_label(labelled(-466.0, BALANCED), LabelLimits()) is None
    assert check_label(labelled(-466.0, BALANCED), SCALE) is None


@pytest.mark.parametrize(
    ("energy", "forces", "limits", "reason"),
    [
        (np.nan, BALANCED, LabelLimits(), "energy not finite"),
        (1.0, BALANCED * np.nan, LabelLimits(), "forces not finite"),
        (1.0, BALANCED * 30, LabelLimits(), r"force of 60.0 eV/Å on atom 0 \(O\), more than 50"),
        (1.0, BALANCED + [0.2, 0, 0], LabelLimits(), "net force of 0.60 eV/Å, more than 0.5"),
        (-456.0 - 30.0, BALANCED, SCALE, "energy of -10.000 eV per atom off the scale"),
        (-456.0 + 3.0, BALANCED, SCALE, "energy of 1.000 eV per atom off the scale"),
        (1.0, BALANCED[:2], LabelLimits(), "forces of shape"),
    ],
)
def test_a_bad_label_is_not_believed(energy, forces, limits, reason):
    found = check_label(labelled(energy, np.asarray(forces)), limits)
    assert found is not None and re.search(reason, found), found


def test_limits_can_be_left_out():
    pushed = labelled(1.0, BALANCED + [9.0, 0, 0])
    assert check_label(pushed, LabelLimits(max_net_force=None)) is None
    assert check_label(molecule("H2O"), LabelLimits()) == "it has no energy or no forces"
    with pytest.raises(InputError, match="element_energies lack O"):
        check_label(
            labelled(-4.0, BALANCED),
            LabelLimits(energy_per_atom_window=(-6.0, -1.0), element_energies={1: -13.0}),
        )
    for wrong in (
        {"max_force": 0.0},
        {"max_net_force": -1.0},
        {"energy_per_atom_window": (1.0, 0.0)},
    ):
        with pytest.raises(InputError):
            LabelLimits(**wrong)


def of_elements(atoms: Atoms, off: float = 0.0) -> Atoms:
    """Labelled by the energies of its elements alone."""
    energy = sum({1: -13.0, 6: -1030.0, 8: -2040.0}[z] for z in atoms.numbers.tolist()) + off
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
    return atoms


def test_energies_of_another_composition_are_looked_at_once_they_can_be() -> None:
    """A fragment of a mixture: whole frames say nothing of how its energy goes by elements."""
    water, methanol = molecule("H2O"), molecule("CH3OH")
    mixture = methanol + water + water
    whole = [of_elements(mixture, 0.01 * k) for k in range(12)]
    limits = with_energy_window(LabelLimits(), whole)
    assert check_label(of_elements(mixture), limits) is None
    assert check_label(of_elements(mixture, 1000.0), limits) is not None
    for fragment in (water, methanol, methanol + water):
        assert check_label(of_elements(fragment), limits) is None
    limits = with_energy_window(LabelLimits(), [*whole, of_elements(water)])
    for fragment in (water, methanol, methanol + water):
        assert check_label(of_elements(fragment), limits) is None
        wrong = check_label(of_elements(fragment, 1000.0), limits)
        assert wrong is not None and "off the scale" in wrong
