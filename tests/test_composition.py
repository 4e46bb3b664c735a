"""What compositions leave open of the elements' energies, and the sentence for it."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers
from ase.formula import Formula

from eip.composition import OpenEnergies, composition_span, formula, in_order, open_energies


def counts_of(*formulas: str) -> tuple[np.ndarray, list[int]]:
    found = [Formula(f).count() for f in formulas]
    numbers = sorted({atomic_numbers[s] for f in found for s in f})
    table = {atomic_numbers[s]: k for f in found for s, k in f.items()}
    assert set(table) == set(numbers)
    rows = [
        [{atomic_numbers[s]: k for s, k in f.items()}.get(z, 0) for z in numbers] for f in found
    ]
    return np.array(rows, dtype=float), numbers


@pytest.mark.parametrize(
    ("formulas", "text"),
    [
        (
            ["C5H8O2", "C5H8O2"],
            "energies of C, H and O cannot be told apart: all training frames have the composition "
            "C5H8O2; only differences at fixed composition are meant",
        ),
        (
            ["H128O64", "H64O32"],
            "energies of H and O cannot be told apart: all training frames have the composition "
            "H2O; only differences at fixed composition are meant",
        ),
        (
            ["NaClH2O", "NaClH4O2", "Na2Cl2H2O", "H2O", "H2"],
            "energies of Na and Cl cannot be told apart: all training frames have them in the "
            "ratio NaCl; only differences at fixed composition are meant",
        ),
        (
            ["LiFePO4", "FePO4"],
            "energies of Fe, P and O cannot be told apart: all training frames have them in the "
            "ratio FePO4; only differences at fixed composition are meant",
        ),
        (
            ["CH3NO", "CH2O2", "CH3NO"],
            "energies of C, H, N and O cannot all be told apart: the training frames determine 2 "
            "of 4 combinations; only differences at fixed composition are meant",
        ),
    ],
)
def test_what_is_open_is_said_in_words(formulas: list[str], text: str) -> None:
    (found,) = open_energies(*counts_of(*formulas))
    assert found.text() == text
    assert OpenEnergies.from_dict(found.to_dict()) == found


def test_what_frames_tell_apart_is_not_open() -> None:
    assert open_energies(*counts_of("CH4", "H2", "CH3OH", "C2H6")) == []


def test_an_element_that_no_frame_has() -> None:
    counts, numbers = counts_of("H2O", "H2")
    (found,) = open_energies(np.hstack([counts, np.zeros((2, 1))]), [*numbers, 54])
    assert found.numbers == (54,) and found.ratio == ()
    assert found.text().startswith("the energy of Xe is not known: no training frame has it")


def test_shifts_are_those_that_no_frame_notices() -> None:
    """Together with the span they are all shifts there are, each group by itself."""
    counts, numbers = counts_of("NaClH2O", "Na2Cl2H4O2", "KBr", "K2Br2", "CH4")
    groups = open_energies(counts, numbers)
    assert [group.numbers for group in groups] == [(1, 6, 8, 11, 17), (19, 35)]
    shifts = np.zeros((0, len(numbers)))
    for group in groups:
        rows = np.zeros((len(group.directions), len(numbers)))
        rows[:, [numbers.index(z) for z in group.numbers]] = group.directions
        shifts = np.vstack([shifts, rows])
    np.testing.assert_allclose(shifts @ counts.T, 0.0, atol=1e-12)
    whole = np.hstack([composition_span(counts), shifts.T])
    np.testing.assert_allclose(whole @ whole.T, np.eye(len(numbers)), atol=1e-12)


def test_structures_differ_in_what_is_open_or_do_not() -> None:
    (group,) = open_energies(*counts_of("C5H8O2"))
    one, twice = np.array([6] * 5 + [1] * 8 + [8] * 2), np.array([6] * 10 + [1] * 16 + [8] * 4)
    assert not group.differ(one, one[::-1].copy())
    assert not group.differ(one, twice)
    assert group.differ(one, one[1:])


def test_formulas_are_written_as_chemists_do() -> None:
    assert formula({"O": 2, "H": 8, "C": 5}) == "C5H8O2"
    assert formula({"O": 2, "Si": 1}) == "SiO2"
    assert formula({"H": 3, "N": 1}) == "NH3"
    assert in_order(["O", "P", "Li", "Fe"]) == ["Fe", "Li", "P", "O"]
