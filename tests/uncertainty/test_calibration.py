from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.potential import Differentiable, Potential
from eip.prediction import Prediction
from eip.testing import check_uncertainty_gradient, example_structures
from eip.uncertainty.calibrated import CalibratedPotential, interpolate
from eip.uncertainty.calibration import ONE_SIGMA, Calibration, Method, fit_calibration
from eip.uncertainty.names import POTENTIALS
from eip.uncertainty.registry import build_potential, describe_potential


class Toy(Potential):
    """σ and covariance from pair vectors: invariant and covariant, and nothing more."""

    kind: ClassVar[str] = "toy-for-calibration"

    def __init__(self, with_sigma: bool = True) -> None:
        super().__init__()
        self.with_sigma = with_sigma
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    cutoff = property(lambda self: 3.0)
    elements = property(lambda self: (1, 8))

    def settings(self) -> dict[str, Any]:
        return {"with_sigma": self.with_sigma}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Toy:
        return cls(**settings)

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        vectors = graph.edge_vectors(self.dtype)
        outer = vectors[:, :, None] * vectors[:, None, :]
        covariance = (
            torch.eye(3, dtype=vectors.dtype)
            .repeat(graph.n_atoms, 1, 1)
            .index_add(0, graph.centers, self.weight * outer)
        )
        sigma = covariance.square().sum((1, 2)) ** 0.25
        prediction = Prediction(
            energy=graph.sum_by_frame(sigma).double(),
            forces=torch.zeros_like(graph.positions) if forces else None,
            force_uncertainty=sigma if self.with_sigma else None,
            force_covariance=covariance if self.with_sigma else None,
            force_aleatoric=0.5 * sigma if self.with_sigma else None,
            uncertainty=graph.mean_by_frame(sigma) if self.with_sigma else None,
        )
        return prediction.detach() if differentiable == "nothing" else prediction


POTENTIALS.add(Toy.kind, Toy)


def draw(n: int, seed: int, tails: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heavy-tailed errors; σ in a strange unit and wrong by another factor for each element."""
    generator = np.random.default_rng(seed)
    numbers = generator.choice([1, 6, 8], n)
    scale = np.exp(generator.normal(-3, 0.5, n))
    errors = scale[:, None] * generator.standard_t(tails, (n, 3))
    wrong = np.where(numbers == 1, 10.0, np.where(numbers == 6, 1.0, 0.2))
    return errors, scale * wrong, numbers


def fitted(**changes: Any) -> Calibration:
    calibration = fit_calibration(*draw(20_000, 0))
    return dataclasses.replace(calibration, **changes)


def share_within(calibration: Calibration, seed: int, width: float) -> dict[int, float]:
    errors, sigma, numbers = draw(20_000, seed)
    inside = np.abs(errors) <= width * calibration.calibrated(sigma, numbers)[:, None]
    return {int(z): float(inside[numbers == z].mean()) for z in np.unique(numbers)} | {
        0: float(inside.mean())
    }


def test_sigma_holds_the_share_of_one_sigma_on_other_data_for_each_element():
    for share in share_within(fitted(), 1, 1.0).values():
        assert share == pytest.approx(ONE_SIGMA, abs=0.02)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.99])
def test_intervals_cover_what_they_state_on_other_data(level):
    calibration = fitted()
    share = share_within(calibration, 2, calibration.interval(level))
    assert share[0] == pytest.approx(level, abs=0.02)
    # Heavy tails: a Gaussian's interval would fall short at the high levels.
    if level == 0.99:
        assert share_within(calibration, 2, 2.576)[0] < 0.98


def test_the_guarantee_holds_on_average_over_small_fits():
    """Split-conformal: P(new ≤ quantile) ≥ level whatever n, here n = 8 atoms of one factor."""
    held = []
    for seed in range(400):
        errors, sigma, numbers = draw(8, seed)
        sigma = np.ones_like(sigma)  # nothing known: the factor is common and drops out
        calibration = fit_calibration(errors, sigma, numbers, method="scale")
        new, _, _ = draw(200, 10_000 + seed)
        held.append(np.mean(np.abs(new) <= calibration.interval(0.8) * calibration.factor))
    assert 0.79 <= np.mean(held) <= 0.86


def test_one_scale_leaves_elements_wrong_that_factors_by_element_set_right():
    errors, sigma, numbers = draw(2000, 0)
    one = fit_calibration(errors, sigma, numbers, method="scale")
    assert one.element_factors == {}
    shares = share_within(one, 1, 1.0)
    assert shares[0] == pytest.approx(ONE_SIGMA, abs=0.03)
    assert shares[1] > 0.9 and shares[8] < 0.5
    factors = fitted().element_factors
    assert factors[6] / factors[1] == pytest.approx(10.0, rel=0.15)
    assert factors[8] / factors[6] == pytest.approx(5.0, rel=0.15)


def test_a_rare_element_shares_the_factor_of_all():
    errors, sigma, numbers = draw(2000, 0)
    numbers[:20] = 79
    calibration = fit_calibration(errors, sigma, numbers)
    assert set(calibration.element_factors) == {1, 6, 8}
    assert calibration.factor_of(79) == calibration.factor == calibration.factor_of(92)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 1000), st.sampled_from(get_args(Method)))
def test_a_constant_in_front_of_sigma_drops_out(constant, seed, method):
    errors, sigma, numbers = draw(200, seed)
    frames = np.arange(200) // 10
    one = fit_calibration(errors, sigma, numbers, frames=frames, method=method)
    other = fit_calibration(errors, constant * sigma, numbers, frames=frames, method=method)
    np.testing.assert_allclose(
        other.calibrated(constant * sigma, numbers), one.calibrated(sigma, numbers), rtol=1e-9
    )
    np.testing.assert_allclose(other.interval_widths, one.interval_widths, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_calibrated_sigma_has_the_unit_of_the_errors(constant, seed):
    errors, sigma, numbers = draw(200, seed)
    one = fit_calibration(errors, sigma, numbers)
    other = fit_calibration(constant * errors, sigma, numbers)
    np.testing.assert_allclose(
        other.calibrated(sigma, numbers), constant * one.calibrated(sigma, numbers), rtol=1e-9
    )


def test_order_and_signs_do_not_matter():
    errors, sigma, numbers = draw(500, 0)
    order = np.random.default_rng(0).permutation(500)
    one = fit_calibration(errors, sigma, numbers, created="now")
    assert fit_calibration(-errors[order], sigma[order], numbers[order], created="now") == one


def test_unlabelled_atoms_are_left_out():
    errors, sigma, numbers = draw(500, 0)
    frames = np.repeat(np.arange(50), 10)
    more = np.concatenate([errors, np.full((10, 3), np.nan)])
    one = fit_calibration(errors, sigma, numbers, frames=frames, created="now")
    other = fit_calibration(
        more,
        np.append(sigma, np.ones(10)),
        np.append(numbers, np.ones(10, dtype=int)),
        frames=np.append(frames, np.full(10, 50)),
        created="now",
    )
    assert other == one
    assert (one.n_frames, one.n_atoms) == (50, 500)


def test_intervals_widen_with_the_level_and_meet_the_table():
    calibration = fitted()
    levels = np.linspace(0.001, 0.999, 400)
    widths = [calibration.interval(p) for p in levels]
    assert (np.diff(widths) > 0).all()
    at = dict(zip(calibration.interval_levels, calibration.interval_widths, strict=True))
    assert calibration.interval(0.8) == at[0.8]
    assert calibration.interval(ONE_SIGMA) == pytest.approx(1.0, abs=0.01)


def test_a_level_beyond_the_data_is_refused():
    calibration = fit_calibration(*draw(8, 0))
    assert calibration.interval(0.95) > 0
    with pytest.raises(InputError, match=r"coverage 0\.99 cannot be stated.*8 atoms.*0\.96"):
        calibration.interval(0.99)
    with pytest.raises(InputError, match=r"between 0 and 1, got 95\.0"):
        calibration.interval(95.0)


def test_json_there_and_back():
    calibration = fitted()
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_damaged_json_is_named():
    good = fitted().to_dict()
    with pytest.raises(InputError, match=r"unknown key 'factr'.*did you mean 'factor'"):
        Calibration.from_dict({**good, "factr": 1})
    with pytest.raises(InputError, match="lacks factor"):
        Calibration.from_dict({k: v for k, v in good.items() if k != "factor"})
    with pytest.raises(InputError, match=r"unknown calibration method 'scal'.*'scale'"):
        Calibration.from_dict({**good, "method": "scal"})
    with pytest.raises(InputError, match="wrong kind"):
        Calibration.from_dict({**good, "factor": "much"})
    with pytest.raises(InputError, match="as many interval_widths"):
        Calibration.from_dict({**good, "interval_widths": [1.0]})


def test_what_cannot_be_fitted_says_why():
    errors, sigma, numbers = draw(100, 0)
    with pytest.raises(InputError, match="this potential has none"):
        fit_calibration(errors, None, numbers)
    with pytest.raises(InputError, match="frames with force labels"):
        fit_calibration(np.full((100, 3), np.nan), sigma, numbers)
    with pytest.raises(InputError, match="got nan for atom 7"):
        fit_calibration(errors, np.where(np.arange(100) == 7, np.nan, sigma), numbers)
    with pytest.raises(InputError, match="zero for 100%"):
        fit_calibration(errors, np.zeros(100), numbers)
    with pytest.raises(InputError, match="unknown calibration method 'element'"):
        fit_calibration(errors, sigma, numbers, method="element")


def test_errors_of_zero_leave_a_positive_sigma():
    _, sigma, numbers = draw(100, 0)
    calibration = fit_calibration(np.zeros((100, 3)), sigma, numbers)
    assert (calibration.calibrated(sigma, numbers) > 0).all()


# Isotonic and split-conformal


def curved(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors that grow with the square of σ: no factor can set that right."""
    generator = np.random.default_rng(seed)
    sigma = np.exp(generator.normal(size=n))
    return generator.normal(size=(n, 3)) * (0.1 * sigma**2)[:, None], sigma, np.full(n, 8)


def test_the_isotonic_curve_sets_right_what_a_factor_cannot():
    errors, sigma, numbers = curved(20_000, 0)
    new, new_sigma, new_numbers = curved(20_000, 1)
    tenths = np.array_split(np.argsort(new_sigma), 10)

    def shares(method: str) -> list[float]:
        calibration = fit_calibration(errors, sigma, numbers, method=method)
        inside = np.abs(new) <= calibration.calibrated(new_sigma, new_numbers)[:, None]
        return [float(inside[part].mean()) for part in tenths]

    assert max(abs(s - ONE_SIGMA) for s in shares("isotonic")) < 0.08
    assert max(abs(s - ONE_SIGMA) for s in shares("scale")) > 0.25


def test_the_isotonic_curve_rises_and_is_proportional_beyond_its_ends():
    errors, sigma, numbers = curved(5000, 0)
    calibration = fit_calibration(errors, sigma, numbers, method="isotonic")
    grid = np.geomspace(1e-3, 1e3, 2000)
    mapped = calibration.calibrated(grid, np.full(2000, 8))
    assert (np.diff(mapped) > 0).all()
    for end in (grid[:2], grid[-2:]):
        low, high = calibration.calibrated(end, np.full(2, 8))
        assert high / low == pytest.approx(end[1] / end[0])
    knots = torch.tensor(calibration.knots)
    again = calibration.factor * interpolate(torch.from_numpy(grid), knots.double())
    np.testing.assert_allclose(again, mapped, rtol=1e-6)


def test_split_conformal_states_its_coverage_by_other_frames():
    """Factors that suit their own frames too well are found out by the others."""
    held = {"per_element": [], "split_conformal": []}
    for seed in range(60):
        errors, _, _ = draw(600, seed)
        # Six elements of few atoms: their factors follow noise.
        numbers = np.arange(600) % 11 + 1
        new, _, _ = draw(5000, 5000 + seed)
        new_numbers = np.arange(5000) % 11 + 1
        for method, found in held.items():
            fit = fit_calibration(
                errors, np.ones(600), numbers, frames=np.arange(600) // 6, method=method
            )
            width = fit.interval(0.8) * fit.calibrated(np.ones(5000), new_numbers)
            found.append(np.mean(np.abs(new) <= width[:, None]))
    assert np.mean(held["split_conformal"]) >= 0.795
    assert np.mean(held["split_conformal"]) > np.mean(held["per_element"])


def test_split_conformal_needs_two_frames():
    errors, sigma, numbers = draw(100, 0)
    with pytest.raises(InputError, match="at least two frames"):
        fit_calibration(errors, sigma, numbers, method="split_conformal")


def test_a_curve_travels_and_is_differentiable():
    errors, sigma, numbers = curved(5000, 0)
    calibration = fit_calibration(errors, sigma, numbers, method="isotonic")
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    structures = example_structures((1, 8), 3.0)
    check_uncertainty_gradient(CalibratedPotential(Toy(), calibration), structures)


# The wrapper


def calibration_of(factors: dict[int, float]) -> Calibration:
    return fitted(factor=5.0, element_factors=factors)


def two_molecules() -> AtomGraph:
    return build_graph([molecule("H2O"), Atoms("OH", [[0, 0, 0], [1, 0.2, 0]])], 3.0)


def test_what_is_scaled_and_what_is_not():
    toy, graph = Toy(), two_molecules()
    raw = toy(graph)
    out = CalibratedPotential(toy, calibration_of({1: 2.0}))(graph)
    factor = torch.where(graph.numbers == 1, 2.0, 5.0)
    torch.testing.assert_close(out.force_uncertainty, factor * raw.force_uncertainty)
    torch.testing.assert_close(
        out.force_covariance, math.sqrt(3) * factor[:, None, None] ** 2 * raw.force_covariance
    )
    torch.testing.assert_close(out.uncertainty, graph.mean_by_frame(out.force_uncertainty))
    for same in ("energy", "forces", "force_aleatoric"):
        torch.testing.assert_close(getattr(out, same), getattr(raw, same))


def test_an_isotropic_covariance_is_sigma_squared_on_its_diagonal():
    toy = Toy()
    alone = build_graph([Atoms("H")], 3.0)
    out = CalibratedPotential(toy, calibration_of({1: 2.0}))(alone)
    expected = out.force_uncertainty[0] ** 2 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(out.force_covariance[0], expected)


def test_the_size_of_the_covariance_is_that_of_sigma():
    out = CalibratedPotential(Toy(), calibration_of({1: 2.0}))(two_molecules())
    norm = torch.linalg.matrix_norm(out.force_covariance)
    torch.testing.assert_close(norm, math.sqrt(3) * out.force_uncertainty**2)


def test_rotation_stays_exact():
    potential = CalibratedPotential(Toy(), calibration_of({1: 2.0, 8: 0.3}))
    graph = two_molecules()
    rotation = torch.linalg.qr(torch.tensor(np.random.default_rng(0).normal(size=(3, 3))))[0]
    out = potential(graph)
    turned = potential(graph.with_positions(graph.positions @ rotation.T))
    torch.testing.assert_close(
        turned.force_uncertainty, out.force_uncertainty, atol=1e-12, rtol=1e-12
    )
    torch.testing.assert_close(
        turned.force_covariance,
        rotation @ out.force_covariance @ rotation.T,
        atol=1e-12,
        rtol=1e-12,
    )


def test_sigma_stays_differentiable():
    potential = CalibratedPotential(Toy(), calibration_of({1: 2.0, 8: 0.3}))
    graph = two_molecules()

    def sigma(positions: torch.Tensor) -> torch.Tensor:
        out = potential(graph.with_positions(positions), differentiable="uncertainty")
        return out.uncertainty

    assert torch.autograd.gradcheck(sigma, (graph.positions.clone().requires_grad_(),))


def test_a_potential_without_sigma_passes():
    toy = Toy(with_sigma=False)
    graph = two_molecules()
    assert CalibratedPotential(toy, fitted())(graph).uncertainty is None


def test_it_is_kept_and_built_again():
    potential = CalibratedPotential(Toy(), fitted())
    with torch.no_grad():
        potential.potential.weight.fill_(0.3)
    description = json.loads(json.dumps(describe_potential(potential)))
    again = build_potential(description["kind"], description["settings"])
    again.load_state_dict(potential.state_dict(), strict=True)
    graph = two_molecules()
    torch.testing.assert_close(
        again(graph).force_covariance, potential(graph).force_covariance, rtol=0, atol=0
    )
    assert again.calibration == potential.calibration
    assert (again.cutoff, again.elements, again.dtype) == (3.0, (1, 8), torch.float64)
    # The factors are in the settings; weights of the calibrated and the raw model are the same.
    assert set(potential.state_dict()) == {"potential.weight"}


def test_settings_of_something_else_are_refused():
    with pytest.raises(InputError, match="calibrated potential lack 'calibration'"):
        CalibratedPotential.from_settings({"potential": {}})


def test_single_precision_stays_single():
    potential = CalibratedPotential(Toy(), fitted()).float()
    graph = two_molecules()
    assert potential(graph).force_uncertainty.dtype == torch.float32
