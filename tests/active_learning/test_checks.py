"""What frames that nothing was trained on say of a potential."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.active_learning.checks import DONE, Check, check_of, labels_to, verdict_of
from eip.active_learning.labelers import labelled_copy
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.evidential import EvidentialPotential

SOUND = Check(
    frames=10,
    failed=0,
    confidence=0.9,
    bound=0.04,
    force_rmse=0.03,
    force_mae=0.02,
    energy_mae_per_atom=0.001,
    coverage_80=0.8,
    extrapolating=0.0,
)


@pytest.fixture(scope="module")
def potential() -> EvidentialPotential:
    return EvidentialPotential(
        elements=[1, 8],
        element_energies={1: 0.0, 8: 0.0},
        force_scale=1.0,
        backbone={"name": "painn", "channels": 8, "interactions": 1, "radial_functions": 4},
    ).eval()


def labelled(potential: EvidentialPotential, errors: list[float]) -> list[Atoms]:
    """Water whose labels differ from what the potential says by one number in each component."""
    frames = []
    for seed, error in enumerate(errors):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        said = potential.predict([atoms])
        energy = float(said.energy[0]) + 3 * error
        frames.append(labelled_copy(atoms, energy, said.forces.detach().numpy() + error))
    return frames


def test_the_bound_is_that_of_the_worst_of_ten_with_nine_tenths_confidence(
    potential: EvidentialPotential,
) -> None:
    errors = [0.01 * k for k in range(1, 11)]
    check = check_of(potential, labelled(potential, errors), 0, 0.9)
    assert check is not None
    assert check.bound == pytest.approx(0.1, rel=1e-3)
    assert check.force_rmse == pytest.approx(math.sqrt(np.mean(np.square(errors))), rel=1e-3)
    assert check.energy_mae_per_atom == pytest.approx(0.055, rel=1e-3)
    assert check.coverage_80 is None  # nobody calibrated it
    moved = check_of(potential, labelled(potential, errors), 0, 0.9, shifted=True)
    assert moved is not None and moved.energy_mae_per_atom < check.energy_mae_per_atom
    assert ", but for a constant, by" in str(moved) and "constant" not in str(check)
    half = check_of(potential, labelled(potential, errors), 0, 0.5)
    assert half is not None and half.bound == pytest.approx(0.06, rel=1e-3)


def test_a_label_that_failed_counts_as_an_error_without_bound(
    potential: EvidentialPotential,
) -> None:
    frames = labelled(potential, [0.01] * 10)
    check = check_of(potential, frames[:9], 1, 0.9)
    assert check is not None and check.bound is None
    assert "without bound no error" in check.missing(1.0)[0]
    assert check_of(potential, [], 3, 0.9) is None


def test_coverage_is_that_of_the_calibrated_intervals(potential: EvidentialPotential) -> None:
    rng = np.random.default_rng(0)
    sigma = potential.predict(labelled(potential, [0.0] * 20)).force_uncertainty.detach().numpy()
    calibrated = CalibratedPotential(
        potential,
        fit_calibration(
            sigma[:, None] * rng.normal(size=(len(sigma), 3)), sigma, np.full(len(sigma), 1)
        ),
    ).eval()
    none = check_of(calibrated, labelled(potential, [0.0] * 9), 0, 0.9)
    wild = check_of(calibrated, labelled(potential, [1e6] * 9), 0, 0.9)
    assert none is not None and none.coverage_80 == 1.0
    assert wild is not None and wild.coverage_80 == 0.0


@given(st.lists(st.floats(1e-3, 1e3), min_size=200, max_size=200), st.floats(0.5, 0.9))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_bound_holds_as_often_as_it_says(errors: list[float], confidence: float) -> None:
    """Nine are drawn, a tenth is met: over many draws it is no worse than it should be."""
    from eip.uncertainty.calibration import conformal_quantile

    rng, held, rounds = np.random.default_rng(0), 0, 400
    for _ in range(rounds):
        drawn = rng.permutation(errors)[:10]
        held += drawn[9] <= conformal_quantile(drawn[:9], confidence)
    assert held / rounds > confidence - 4 * math.sqrt(confidence * (1 - confidence) / rounds)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bound": 0.06}, "err by up to 60 meV/Å, the target is 50"),
        ({"bound": None, "failed": 4}, "without bound no error"),
        ({"coverage_80": 0.56}, "intervals of 80 % hold 56%"),
        ({"extrapolating": 0.2}, "20.0% of their atoms are beyond"),
    ],
)
def test_what_is_missing_is_said(change: dict[str, object], said: str) -> None:
    assert SOUND.missing(0.05) == []
    check = Check(**{**SOUND.to_dict(), **change})
    (one,) = check.missing(0.05)
    assert said in one
    assert said in verdict_of(check, 0.05, True, 100, [])


def test_done_is_said_where_nothing_is_missing() -> None:
    assert verdict_of(SOUND, 0.05, True, 100, []).startswith(f"{DONE}: on 10 frames of MD")
    assert "not every run of MD" in verdict_of(SOUND, 0.05, False, 100, [])
    assert not verdict_of(None, 0.05, True, 100, []).startswith(DONE)


def test_labels_to_the_target_follow_a_power_law() -> None:
    curve = [(n, 1.0 / n) for n in (20, 40, 80)]
    assert labels_to(1.0 / 160, curve) == "likely about 80 labels more (80 to 80)"
    assert labels_to(1.0, curve) == "likely about 0 labels more (0 to 0)"
    rough = labels_to(1.0 / 160, [(20, 0.05), (40, 0.03), (80, 0.0125)])
    assert rough.startswith("likely about") and " to " in rough
    assert labels_to(0.01, curve[:2]).endswith("of two generations alone")
    assert "of one generation" in labels_to(0.01, curve[:1])
    assert "did not fall" in labels_to(0.01, [(20, 0.05), (40, 0.06)])


def test_fixed_atoms_are_held_against_their_labels(potential: EvidentialPotential) -> None:
    """ASE says of an atom that is fixed that it feels no force."""
    free, fixed = labelled(potential, [0.02, 0.03]), labelled(potential, [0.02, 0.03])
    for atoms in fixed:
        atoms.set_constraint(FixAtoms([0, 1]))
        assert not atoms.get_forces()[0].any()
    assert check_of(potential, fixed, 0, 0.5) == check_of(potential, free, 0, 0.5)
