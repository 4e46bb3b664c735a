from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from eip.errors import InputError
from eip.evaluation import METRIC_KEYS, compute_metrics, element_table, grade_table
from eip.evaluation.metrics import (
    attainable_spearman,
    calibration_curve,
    coverage,
    ence,
    energy_score,
    error_roc,
    gaussian_crps,
    gaussian_nll,
    interval_width,
    retention_curve,
    roc,
    spearman,
)

positive = st.floats(1e-3, 1e3)


def test_keys_are_those_documented(make_evaluation):
    grade = np.linspace(0.1, 2.0, 600)
    evaluation = make_evaluation(extrapolation_grade=grade)
    alone = compute_metrics(evaluation)
    both = compute_metrics(evaluation, make_evaluation(seed=1, extrapolation_grade=grade))
    assert set(alone) < set(both) == set(METRIC_KEYS)
    assert all(math.isfinite(value) for value in both.values())


def test_errors_by_hand(make_evaluation):
    evaluation = make_evaluation(
        n_frames=2,
        atoms=1,
        numbers=np.array([1, 8]),
        energy_true=np.array([-1.0, -2.0]),
        energy_pred=np.array([-1.5, -2.0]),
        forces_true=np.zeros((2, 3)),
        forces_pred=np.array([[0.3, -0.3, 0.0], [0.0, 0.0, 0.6]]),
    )
    metrics = compute_metrics(evaluation)
    assert metrics["force_mae"] == pytest.approx(0.2)
    assert metrics["force_rmse"] == pytest.approx(math.sqrt(0.54 / 6))
    assert metrics["energy_mae_per_atom"] == pytest.approx(0.25)
    np.testing.assert_allclose(evaluation.atom_error, [0.2, 0.2])
    assert element_table(evaluation)["O"]["force_rmse"] == pytest.approx(math.sqrt(0.12))


def test_energy_error_is_by_atom_of_its_own_frame(make_evaluation):
    assert compute_metrics(make_evaluation(atoms=7))["energy_mae_per_atom"] == pytest.approx(0.010)


def test_structure_error_and_uncertainty_are_means_over_atoms(make_evaluation):
    evaluation = make_evaluation(
        n_frames=2,
        atoms=3,
        frame=np.array([0, 1, 1, 1, 1, 1]),
        forces_true=np.zeros((6, 3)),
        forces_pred=np.repeat(np.arange(6.0), 3).reshape(6, 3),
    )
    np.testing.assert_allclose(evaluation.structure_error, [0.0, 3.0])


def test_a_calibrated_gaussian_is_found_calibrated(make_evaluation):
    metrics = compute_metrics(make_evaluation(n_frames=1000))
    n = 30_000
    for level in (0.5, 0.8, 0.95):
        tolerance = 4 * math.sqrt(level * (1 - level) / n)
        assert metrics[f"coverage_{level * 100:.0f}"] == pytest.approx(level, abs=tolerance)
    assert metrics["miscalibration_area"] < 0.005


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_miscalibration_area_of_a_wrong_scale(make_evaluation, scale):
    good = make_evaluation(n_frames=1000)
    bad = dataclasses.replace(good, force_uncertainty=good.force_uncertainty * scale)
    levels = np.linspace(0, 1, 2001)[1:-1]
    observed = 2 * stats.norm.cdf(scale * stats.norm.ppf(0.5 + levels / 2)) - 1
    expected = np.mean(np.abs(observed - levels))
    assert compute_metrics(bad)["miscalibration_area"] == pytest.approx(expected, abs=0.01)


def test_the_interval_table_is_used_where_there_is_one(make_evaluation):
    evaluation = make_evaluation(interval={0.5: 1.0, 0.8: 100.0, 0.9: 200.0})
    metrics = compute_metrics(evaluation)
    assert metrics["coverage_50"] == pytest.approx(0.6827, abs=0.03)
    assert metrics["coverage_80"] == 1.0
    assert math.isnan(metrics["coverage_95"])  # the table ends below
    assert interval_width(0.65, evaluation.interval) == pytest.approx(50.5)


def test_nll_is_that_of_scipy(make_evaluation):
    e = make_evaluation()
    expected = -stats.norm.logpdf(e.force_error, scale=e.force_uncertainty[:, None]).mean()
    assert gaussian_nll(e.force_error, e.force_uncertainty) == pytest.approx(expected)


@pytest.mark.parametrize("error", [0.0, 0.02, -0.3])
@pytest.mark.parametrize("sigma", [0.01, 0.2])
def test_crps_is_its_integral(error, sigma):
    def integrand(x: float) -> float:
        return (stats.norm.cdf(x, scale=sigma) - (x >= error)) ** 2

    reach = 10 * sigma + abs(error)
    expected, _ = integrate.quad(integrand, -reach, reach, points=[error, 0.0], limit=500)
    found = gaussian_crps(np.full((1, 3), error), np.array([sigma]))
    assert found == pytest.approx(expected, rel=1e-6)


def test_crps_and_energy_score_tend_to_the_error_for_a_tiny_sigma():
    error = np.array([[3.0, 0.0, -4.0]])
    for sigma in (1e-9, 0.0):
        assert gaussian_crps(error, np.array([sigma])) == pytest.approx(7.0 / 3.0)
        assert energy_score(error, np.array([sigma])) == pytest.approx(5.0)


@pytest.mark.parametrize("length", [0.0, 1e-9, 0.05, 0.5])
def test_energy_score_is_its_monte_carlo(length):
    sigma = 0.1
    y = np.random.default_rng(0).normal(0, sigma, (400_000, 3))
    error = np.array([[length, 0.0, 0.0]])
    expected = (
        np.linalg.norm(y - error, axis=1).mean()
        - 0.5 * np.linalg.norm(y[::2] - y[1::2], axis=1).mean()
    )
    assert energy_score(error, np.array([sigma])) == pytest.approx(expected, rel=0.01)


def test_energy_score_of_an_isotropic_covariance_is_the_closed_form(make_evaluation):
    e = make_evaluation()
    closed = energy_score(e.force_error, e.force_uncertainty)
    # The size comes from σ alone, so any multiple of the unit matrix says the same.
    identity = np.broadcast_to(7.0 * np.eye(3), (len(e.numbers), 3, 3))
    by_points = energy_score(e.force_error, e.force_uncertainty, identity)
    assert by_points == pytest.approx(closed, rel=5e-3)


def test_energy_score_rewards_the_right_direction():
    generator = np.random.default_rng(0)
    spread = np.diag([1.0, 0.1, 0.1])
    error = generator.normal(size=(4000, 3)) @ spread
    sigma = np.full(4000, math.sqrt(np.linalg.norm(spread**2) / math.sqrt(3)))
    right = np.broadcast_to(spread**2, (4000, 3, 3))
    wrong = right[:, ::-1, ::-1]
    scores = [energy_score(error, sigma, c) for c in (right, None, wrong)]
    assert scores == sorted(scores)


def test_no_sigma_ranks_better_than_one_that_errors_are_drawn_from():
    rng = np.random.default_rng(1)
    for spread in (0.2, 0.6, 2.0):
        sigma = np.exp(spread * rng.standard_normal(20_000))
        error = np.abs(sigma[:, None] * rng.standard_normal((20_000, 3))).mean(axis=1)
        assert spearman(error, sigma) == pytest.approx(attainable_spearman(error, sigma), abs=0.02)
    assert math.isnan(attainable_spearman(error, None))
    assert math.isnan(attainable_spearman(np.full(9, math.nan), np.ones(9)))


def test_spearman_and_roc_are_those_of_scipy_and_sklearn(make_evaluation):
    e = make_evaluation()
    metrics = compute_metrics(e, percentile=70.0)
    expected = stats.spearmanr(e.atom_error, e.force_uncertainty).statistic
    assert metrics["spearman_atom"] == pytest.approx(expected)
    large = e.atom_error > np.percentile(e.atom_error, 70)
    assert large.mean() == pytest.approx(0.3, abs=0.01)
    assert metrics["roc_auc_atom"] == pytest.approx(roc_auc_score(large, e.force_uncertainty))


@settings(deadline=None, max_examples=50)
@given(st.lists(positive, min_size=5, max_size=40, unique=True), st.integers(0, 2**32 - 1))
def test_ranking_ignores_increasing_functions_of_sigma(errors, seed):
    error = np.array(errors)
    sigma = np.random.default_rng(seed).uniform(0.1, 1.0, len(error))
    for other in (np.log(sigma), sigma**3, 5 * sigma):
        assert spearman(error, other) == pytest.approx(spearman(error, sigma))
        assert error_roc(error, other).auc == pytest.approx(error_roc(error, sigma).auc)
    assert spearman(error, -sigma) == pytest.approx(-spearman(error, sigma))


@settings(deadline=None, max_examples=50)
@given(positive)
def test_scores_in_ev_per_angstrom_scale_with_the_forces(factor):
    generator = np.random.default_rng(1)
    error, sigma = generator.normal(size=(20, 3)), generator.uniform(0.5, 2.0, 20)
    covariance = np.broadcast_to(np.diag([1.0, 2.0, 3.0]), (20, 3, 3))
    scaled = (factor * error, factor * sigma)
    assert gaussian_crps(*scaled) == pytest.approx(factor * gaussian_crps(error, sigma))
    assert energy_score(*scaled) == pytest.approx(factor * energy_score(error, sigma))
    assert energy_score(*scaled, covariance) == pytest.approx(
        factor * energy_score(error, sigma, covariance)
    )
    assert gaussian_nll(*scaled) == pytest.approx(gaussian_nll(error, sigma) + math.log(factor))
    assert coverage(*scaled, 1.3) == coverage(error, sigma, 1.3)


def test_a_shuffled_sigma_ranks_nothing(make_evaluation):
    e = make_evaluation(n_frames=500)
    shuffled = np.random.default_rng(9).permutation(e.force_uncertainty)
    metrics = compute_metrics(dataclasses.replace(e, force_uncertainty=shuffled))
    assert metrics["spearman_atom"] == pytest.approx(0.0, abs=0.05)
    assert metrics["roc_auc_atom"] == pytest.approx(0.5, abs=0.04)
    assert compute_metrics(e)["spearman_atom"] > 0.5
    curve = retention_curve(e.atom_error, shuffled)
    assert curve.by_uncertainty[30] == pytest.approx(e.atom_error.mean(), rel=0.1)


def test_ood_ratio_is_one_where_sigma_grows_as_the_error_does(make_evaluation):
    inside, outside = make_evaluation(), make_evaluation(scale=3.0)  # same seed: all errors ×3
    metrics = compute_metrics(inside, outside)
    assert metrics["ood_ratio"] == pytest.approx(1.0)
    assert metrics["ood_auc"] > 0.99
    assert metrics["force_mae_ood"] == pytest.approx(3 * metrics["force_mae"])


def test_ood_ratio_of_a_blind_sigma_falls_short(make_evaluation):
    inside, outside = make_evaluation(), make_evaluation(scale=3.0)
    blind = dataclasses.replace(
        outside, force_uncertainty=inside.force_uncertainty, uncertainty=inside.uncertainty
    )
    metrics = compute_metrics(inside, blind)
    assert metrics["ood_ratio"] == pytest.approx(1 / 3)
    assert metrics["ood_auc"] == pytest.approx(0.5)


def test_retention_ends_at_the_mean_and_the_oracle_bounds_it(make_evaluation):
    e = make_evaluation()
    curve = retention_curve(e.atom_error, e.force_uncertainty)
    assert curve.by_uncertainty[-1] == pytest.approx(e.atom_error.mean())
    assert (curve.oracle <= curve.by_uncertainty + 1e-12).all()


def test_missing_labels_leave_the_rest(make_evaluation):
    e = make_evaluation()
    forces = np.array(e.forces_true)
    forces[:100] = np.nan
    partly = compute_metrics(dataclasses.replace(e, forces_true=forces))
    rest = compute_metrics(e)
    assert math.isfinite(partly["nll"]) and partly["nll"] != rest["nll"]
    assert partly["energy_mae_per_atom"] == rest["energy_mae_per_atom"]

    nothing = dataclasses.replace(
        e,
        forces_true=np.full_like(e.forces_true, np.nan),
        energy_true=np.full_like(e.energy_true, np.nan),
        stress_true=None,
    )
    metrics = compute_metrics(nothing, e)
    without_labels = {
        "n_frames", "n_atoms", "mean_uncertainty", "mean_energy_uncertainty", "ood_auc",
    }  # fmt: skip
    defined = {k for k, v in metrics.items() if not k.endswith("_ood") and math.isfinite(v)}
    assert defined == without_labels


def test_a_potential_without_sigma_has_errors_alone(make_evaluation):
    metrics = compute_metrics(make_evaluation(force_uncertainty=None, uncertainty=None))
    assert math.isfinite(metrics["force_mae"])
    for key in ("spearman_atom", "coverage_80", "nll", "energy_score", "mean_uncertainty"):
        assert math.isnan(metrics[key])


def test_coverage_of_energies(make_evaluation):
    e = make_evaluation()
    error = np.abs(e.energy_true - e.energy_pred)
    inside = compute_metrics(dataclasses.replace(e, energy_uncertainty=error / 1.28))
    outside = compute_metrics(dataclasses.replace(e, energy_uncertainty=error / 1.29))
    assert inside["energy_coverage_80"] == 1.0 and outside["energy_coverage_80"] == 0.0
    assert inside["mean_energy_uncertainty"] == pytest.approx(error.mean() / 1.28)
    none = compute_metrics(dataclasses.replace(e, energy_uncertainty=None))
    assert math.isnan(none["energy_coverage_80"]) and math.isnan(none["mean_energy_uncertainty"])


def test_ence_is_zero_where_the_spread_is_the_error():
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.1, 2.0, 20_000)
    error = sigma[:, None] * rng.normal(size=(20_000, 3))
    assert ence(error, sigma) < 0.03
    assert ence(error, 2.0 * sigma) == pytest.approx(0.5, abs=0.02)
    assert ence(error, 0.5 * sigma) == pytest.approx(1.0, abs=0.03)
    # One size for all is right on the whole, and one bin cannot tell; errors that σ ranks do.
    assert ence(error, np.full(20_000, np.sqrt((error**2).mean())), bins=1) < 1e-9
    assert math.isnan(ence(np.nan * error, sigma)) and math.isnan(ence(error, None))
    assert math.isnan(ence(error, 0.0 * sigma))


def test_evidence_on_the_energy_alone_ranks_structures(make_evaluation):
    e = make_evaluation()
    energy_only = dataclasses.replace(
        e, force_uncertainty=None, uncertainty=None, energy_uncertainty=e.uncertainty
    )
    metrics = compute_metrics(energy_only)
    assert metrics["spearman_structure"] == compute_metrics(e)["spearman_structure"]
    assert math.isnan(metrics["spearman_atom"])


@pytest.mark.filterwarnings("error")
def test_one_atom_and_constant_sigma_give_nan_without_a_warning(make_evaluation):
    single = compute_metrics(make_evaluation(n_frames=1, atoms=1))
    for key in ("spearman_atom", "roc_auc_atom", "spearman_structure", "roc_auc_structure"):
        assert math.isnan(single[key])
    assert math.isfinite(single["crps"])

    n = 600
    constant = compute_metrics(
        make_evaluation(force_uncertainty=np.full(n, 0.1), uncertainty=np.full(60, 0.1))
    )
    assert math.isnan(constant["spearman_atom"])
    assert constant["roc_auc_atom"] == pytest.approx(0.5)

    zero = compute_metrics(make_evaluation(force_uncertainty=np.zeros(n)))
    assert math.isnan(zero["nll"])
    assert zero["coverage_95"] == 0.0
    assert zero["crps"] == pytest.approx(zero["force_mae"])


@pytest.mark.parametrize("percentile", [0.0, 100.0, -1.0])
def test_a_percentile_without_positives_is_refused(make_evaluation, percentile):
    with pytest.raises(InputError, match="percentile must lie between 0 and 100"):
        compute_metrics(make_evaluation(), percentile=percentile)


def test_roc_of_one_class_is_undefined():
    assert math.isnan(roc(np.ones(3, dtype=bool), np.arange(3.0)).auc)


def test_the_curve_runs_from_corner_to_corner(make_evaluation):
    e = make_evaluation()
    curve = calibration_curve(e.force_error, e.force_uncertainty)
    assert (curve.expected[0], curve.observed[0]) == (0.0, 0.0)
    assert (curve.expected[-1], curve.observed[-1]) == (1.0, 1.0)
    assert (np.diff(curve.observed) >= 0).all()


def test_an_evaluation_cannot_be_changed(make_evaluation):
    with pytest.raises(ValueError, match="read-only"):
        make_evaluation().forces_pred[0] = 0.0


def test_measures_by_extrapolation_grade(make_evaluation) -> None:
    assert grade_table(make_evaluation()) == {}
    assert math.isnan(compute_metrics(make_evaluation())["extrapolating"])
    # Errors are as large as σ says up to grade 1, three times as large beyond.
    sound = make_evaluation()
    grade = np.linspace(0.0, 1.8, len(sound.numbers))
    error = sound.force_error * np.where(grade > 1, 3.0, 1.0)[:, None]
    evaluation = dataclasses.replace(
        sound, forces_pred=sound.forces_true - error, extrapolation_grade=grade
    )
    table = grade_table(evaluation)
    assert list(table) == ["0 to 0.5", "0.5 to 1", "1 to 1.5", "1.5 to 2"]
    assert sum(of["n_atoms"] for of in table.values()) == len(grade)
    assert table["0 to 0.5"]["coverage_80"] == pytest.approx(0.8, abs=0.05)
    assert table["1 to 1.5"]["coverage_80"] < 0.5
    assert compute_metrics(evaluation)["extrapolating"] == pytest.approx(np.mean(grade > 1))
