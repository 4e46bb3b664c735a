"""The likelihoods are densities, and the tensor form is what it says it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from eip.uncertainty.distributions import (
    aleatoric_variance,
    epistemic_variance,
    nig_nll,
    nig_regularizer,
    quantile_constants,
    spd_inverse,
    tensor_nll,
    tensor_regularizer,
)

PARAMETERS = [(0.1, 1.05, 0.2), (1.0, 2.0, 1.0), (5.0, 1.5, 0.01), (0.02, 8.0, 30.0)]


def f64(*values: float) -> list[Tensor]:
    return [torch.tensor([v], dtype=torch.float64) for v in values]


def random_spd(n: int, seed: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Eigenvalues 10^low … 10^high."""
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=g, dtype=torch.float64))
    exponents = low + (high - low) * torch.rand(n, 3, generator=g, dtype=torch.float64)
    return q @ torch.diag_embed(10**exponents) @ q.mT


def random_rotation(seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))[0]


# Moments.


def test_moments_are_those_of_the_normal_inverse_gamma() -> None:
    """Drawn, not derived: σ² ~ InvGamma(α, β), μ ~ N(γ, σ²/ν)."""
    nu, alpha, beta = 0.7, 6.0, 2.0
    rng = np.random.default_rng(0)
    variance = stats.invgamma(alpha, scale=beta).rvs(400_000, random_state=rng)
    mean = rng.normal(0.0, np.sqrt(variance / nu))
    got = [t.item() for t in (aleatoric_variance(*f64(alpha, beta)),)]
    assert got[0] == pytest.approx(variance.mean(), rel=0.01)
    assert epistemic_variance(*f64(nu, alpha, beta)).item() == pytest.approx(mean.var(), rel=0.02)


# Eq. 8.


@pytest.mark.parametrize(("nu", "alpha", "beta"), PARAMETERS)
@pytest.mark.parametrize("quantile", [None, 0.5, 0.4, 0.1])
def test_the_likelihood_is_a_density(
    nu: float, alpha: float, beta: float, quantile: float | None
) -> None:
    def density(r: float) -> float:
        return math.exp(-nig_nll(*f64(r, nu, alpha, beta), quantile).item())

    center = 0.0
    if quantile is not None:
        center = quantile_constants(quantile)[0] * beta / (alpha - 1)
    mass = sum(quad(density, *ends, limit=200)[0] for ends in [(-np.inf, center), (center, np.inf)])
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("nu", "alpha", "beta"), PARAMETERS)
def test_without_quantiles_it_is_the_student_t_of_the_evidence(
    nu: float, alpha: float, beta: float
) -> None:
    """Amini et al. 2020, eq. 7: St(γ, β(1+ν)/(να), 2α)."""
    scale = math.sqrt(beta * (1 + nu) / (nu * alpha))
    for r in (-3.0, 0.0, 0.4, 100.0):
        expected = -stats.t(df=2 * alpha, scale=scale).logpdf(r)
        assert nig_nll(*f64(r, nu, alpha, beta), None).item() == pytest.approx(expected, rel=1e-10)


def test_eq_8_as_it_is_printed() -> None:
    nu, alpha, beta, q, error = 0.8, 1.7, 0.6, 0.4, 0.33
    tau, omega = (1 - 2 * q) / (q * (1 - q)), 2 / (q * (1 - q))
    z = beta / (alpha - 1)
    r, big = error - tau * z, 4 * beta * (1 + omega * z * nu)
    expected = (
        0.5 * math.log(math.pi / nu)
        - alpha * math.log(big)
        + (alpha + 0.5) * math.log(nu * r * r + big)
        + math.lgamma(alpha)
        - math.lgamma(alpha + 0.5)
    )
    assert nig_nll(*f64(error, nu, alpha, beta), q).item() == pytest.approx(expected, rel=1e-12)
    assert quantile_constants(0.5) == (0.0, 8.0)


def test_eq_9_as_it_is_printed() -> None:
    nu, alpha, beta = 0.8, 1.7, 0.6
    weight = 2 * nu + alpha + 1 / beta
    assert nig_regularizer(*f64(0.5, nu, alpha, beta), 0.4).item() == pytest.approx(0.2 * weight)
    assert nig_regularizer(*f64(-0.5, nu, alpha, beta), 0.4).item() == pytest.approx(0.3 * weight)
    assert nig_regularizer(*f64(-0.5, nu, alpha, beta), None).item() == pytest.approx(0.25 * weight)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.2, 3.0])
def test_a_quantile_lies_inside_0_and_1(quantile: float) -> None:
    with pytest.raises(ValueError, match="quantile must lie inside"):
        nig_nll(*f64(0.1, 1.0, 2.0, 1.0), quantile)


# The tensor form.

positive = st.floats(1e-3, 1e3)


@settings(deadline=None)
@given(r=st.floats(-50, 50), nu=positive, excess=positive, beta=positive)
@pytest.mark.parametrize("quantile", [0.5, None])
def test_in_one_dimension_it_is_eq_8_and_9(
    r: float, nu: float, excess: float, beta: float, quantile: float | None
) -> None:
    one = f64(r, nu, 1 + excess, beta)
    r1, nu1, alpha1, beta1 = one
    matrix = beta1[:, None, None]
    torch.testing.assert_close(
        tensor_nll(r1[:, None], nu1, alpha1, matrix, quantile),
        nig_nll(*one, quantile),
        rtol=1e-9,
        atol=1e-9,
    )
    # Up to the smoothing that gives a zero residual a gradient.
    torch.testing.assert_close(
        tensor_regularizer(r1[:, None], nu1, alpha1, matrix),
        nig_regularizer(*one, 0.5),
        rtol=1e-6,
        atol=1e-6 * (1 + nu + excess + 1 / beta),
    )


@pytest.mark.parametrize("quantile", [0.5, None])
@pytest.mark.parametrize(("nu", "alpha", "beta"), PARAMETERS)
def test_in_three_dimensions_it_is_a_density(
    nu: float, alpha: float, beta: float, quantile: float | None
) -> None:
    """An isotropic B needs the radial integral alone; another B is a linear map of it."""
    nu1, alpha1, beta1 = f64(nu, alpha, beta)
    matrix = beta1[:, None, None] * torch.eye(3, dtype=torch.float64)

    def shell(r: float) -> float:
        residual = torch.tensor([[r, 0.0, 0.0]], dtype=torch.float64)
        nll = tensor_nll(residual, nu1, alpha1, matrix, quantile).item()
        return 4 * math.pi * r * r * math.exp(-nll)

    mass = quad(shell, 0, 1, limit=200)[0] + quad(shell, 1, np.inf, limit=200)[0]
    assert mass == pytest.approx(1.0, abs=1e-5)


def test_an_anisotropic_tensor_is_a_density_too() -> None:
    """In polar coordinates of two dimensions, r = t/(1−t)."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t, angles = (nodes + 1) / 2, np.linspace(0, 2 * np.pi, 400, endpoint=False)
    r, jacobian = t / (1 - t), 1 / (1 - t) ** 2
    x, y = np.outer(r, np.cos(angles)).ravel(), np.outer(r, np.sin(angles)).ravel()
    residual = torch.from_numpy(np.stack([x, y], axis=1))
    matrix = torch.tensor([[[1.0, 0.5], [0.5, 0.4]]], dtype=torch.float64)
    nu, alpha = (one.expand(len(residual)) for one in f64(0.6, 3.0))
    nll = tensor_nll(residual, nu, alpha, matrix.expand(len(residual), 2, 2))
    density = np.exp(-nll.numpy()).reshape(len(r), len(angles)).mean(axis=1) * 2 * np.pi
    assert (density * r * jacobian * weights / 2).sum() == pytest.approx(1.0, abs=1e-6)


def test_it_is_scipys_multivariate_t() -> None:
    nu, alpha = 0.7, 2.3
    matrix = random_spd(1, 5)
    omega = 4 * (matrix + 8 * nu / (alpha - 1) * matrix @ matrix)
    reference = stats.multivariate_t(
        loc=np.zeros(3), shape=(omega / (2 * alpha * nu))[0].numpy(), df=2 * alpha
    )
    for seed in range(4):
        r = np.random.default_rng(seed).normal(size=3)
        got = tensor_nll(torch.from_numpy(r)[None], *f64(nu, alpha), matrix)
        assert got.item() == pytest.approx(-reference.logpdf(r), rel=1e-10)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), nu=positive, excess=positive)
def test_it_does_not_know_the_axes(seed: int, nu: float, excess: float) -> None:
    turn = random_rotation(seed)
    matrix, r = random_spd(1, seed), random_spd(1, seed + 1)[:, 0]
    nu1, alpha1 = f64(nu, 1 + excess)
    for function in (tensor_nll, tensor_regularizer):
        torch.testing.assert_close(
            function(r @ turn.T, nu1, alpha1, turn @ matrix @ turn.T),
            function(r, nu1, alpha1, matrix),
            rtol=1e-9,
            atol=1e-9,
        )


def test_a_quantile_that_prefers_a_sign_has_no_tensor_form() -> None:
    with pytest.raises(ValueError, match=r"needs quantile 0.5 \(or None\), got 0.4"):
        tensor_nll(torch.zeros(1, 3), torch.ones(1), 2 * torch.ones(1), torch.eye(3)[None], 0.4)


# Numbers.


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_inverse_and_determinant_are_numpys(d: int) -> None:
    g = torch.Generator().manual_seed(d)
    root = torch.randn(50, d, d, generator=g, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(d, dtype=torch.float64)
    inverse, determinant = spd_inverse(matrix)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix.numpy()), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(determinant, np.linalg.det(matrix.numpy()), rtol=1e-9)


def test_a_needle_of_a_matrix_keeps_its_determinant() -> None:
    """By cofactors, it came out negative: a NaN in the loss."""
    g = torch.Generator().manual_seed(0)
    direction = torch.randn(500, 3, generator=g, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    floor, length = 1e-6, 1e4
    identity = torch.eye(3, dtype=torch.float64)
    matrix = floor * identity + length * direction[:, :, None] * direction[:, None, :]
    _, determinant = spd_inverse(matrix)
    expected = torch.full((500,), floor**2 * length, dtype=torch.float64)
    torch.testing.assert_close(determinant, expected, rtol=1e-4, atol=0)
    nll = tensor_nll(direction, torch.ones(500).double(), 1 + torch.ones(500).double(), matrix)
    # Ω has eigenvalues 4(b + 8b²); the residual lies along the needle.
    small, large = 4 * (floor + 8 * floor**2), 4 * (length + 8 * length**2)
    exact = (
        1.5 * math.log(math.pi)
        + 0.5 * math.log(small**2 * large)
        + 3.5 * math.log1p(1 / large)
        + math.lgamma(2)
        - math.lgamma(3.5)
    )
    torch.testing.assert_close(nll, torch.full_like(nll, exact), rtol=0, atol=1e-4)


wide = st.floats(-6, 6).map(lambda x: 10.0**x)


@settings(deadline=None, max_examples=200)
@given(
    r=st.one_of(st.just(0.0), st.floats(-1e4, 1e4)),
    nu=wide,
    excess=wide,
    beta=wide,
    quantile=st.sampled_from([None, 0.5, 0.4, 0.05]),
)
def test_extreme_evidence_has_finite_loss_and_gradient(
    r: float, nu: float, excess: float, beta: float, quantile: float | None
) -> None:
    leaves = [t.requires_grad_() for t in f64(r, nu, 1 + excess, beta)]
    loss = nig_nll(*leaves, quantile) + nig_regularizer(*leaves, quantile)
    gradients = torch.autograd.grad(loss.sum(), leaves)
    assert bool(loss.isfinite().all())
    assert all(bool(g.isfinite().all()) for g in gradients)


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    r=st.one_of(st.just(0.0), wide),
    nu=wide,
    excess=wide,
    low=st.floats(-6, 0),
    high=st.floats(0, 4),
    quantile=st.sampled_from([None, 0.5]),
)
def test_extreme_tensors_have_finite_loss_and_gradient(
    seed: int,
    r: float,
    nu: float,
    excess: float,
    low: float,
    high: float,
    quantile: float | None,
) -> None:
    residual = r * random_rotation(seed)[:1]
    leaves = [residual, *f64(nu, 1 + excess), random_spd(1, seed, low, high)]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    loss = tensor_nll(*leaves, quantile) + tensor_regularizer(*leaves)
    gradients = torch.autograd.grad(loss.sum(), leaves)
    assert bool(loss.isfinite().all())
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("function", [tensor_nll, tensor_regularizer, nig_nll, nig_regularizer])
def test_second_derivatives_exist_at_a_perfect_prediction(function: object) -> None:
    """Training differentiates the loss through forces that are derivatives themselves."""
    tensor = function in (tensor_nll, tensor_regularizer)
    r = torch.zeros((2, 3) if tensor else (2,), dtype=torch.float64, requires_grad=True)
    nu, alpha = torch.full((2,), 0.5).double(), torch.full((2,), 1.5).double()
    beta = torch.eye(3, dtype=torch.float64).expand(2, 3, 3) if tensor else nu
    (slope,) = torch.autograd.grad(
        function(r, nu, alpha, beta).sum(),
        [r],
        create_graph=True,  # type: ignore[operator]
    )
    assert bool(slope.isfinite().all())
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), [r])
        assert bool(curvature.isfinite().all())


@pytest.mark.parametrize("name", ["nll", "regularizer"])
def test_gradients_are_those_of_differences(name: str) -> None:
    function = {"nll": tensor_nll, "regularizer": tensor_regularizer}[name]
    root = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [
        torch.tensor([[0.3, -0.2, 0.5], [1.0, 2.0, -0.4]], dtype=torch.float64),
        torch.tensor([0.4, 1.3], dtype=torch.float64),
        torch.tensor([1.2, 3.0], dtype=torch.float64),
        root,
    ]

    def from_root(r: Tensor, nu: Tensor, alpha: Tensor, a: Tensor) -> Tensor:
        # Symmetric by construction: the closed form reads one triangle.
        return function(r, nu, alpha, a @ a.mT + 0.2 * torch.eye(3, dtype=torch.float64))

    assert torch.autograd.gradcheck(from_root, [leaf.requires_grad_() for leaf in leaves])
