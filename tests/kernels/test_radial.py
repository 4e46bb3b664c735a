from __future__ import annotations

import math

import torch

from eip.kernels.radial import cosine_cutoff, sine_basis


def test_the_basis_is_the_formula() -> None:
    distance = torch.tensor([0.7, 1.9, 4.2], dtype=torch.float64)
    basis = sine_basis(distance, 5.0, 20)
    assert basis.shape == (3, 20)
    for e, r in enumerate(distance.tolist()):
        for n in range(1, 21):
            assert math.isclose(basis[e, n - 1], math.sin(n * math.pi * r / 5.0) / r, abs_tol=1e-12)


def test_the_basis_vanishes_at_the_cutoff_and_is_finite_close_by() -> None:
    at = sine_basis(torch.tensor([5.0], dtype=torch.float64), 5.0, 20)
    assert at.abs().max() < 1e-14
    near = sine_basis(torch.tensor([1e-9], dtype=torch.float64), 5.0, 3)
    expected = torch.arange(1, 4) * math.pi / 5.0
    torch.testing.assert_close(near[0], expected.double())


def test_the_cutoff_falls_from_one_to_zero_with_zero_slope_at_the_end() -> None:
    r = torch.tensor([0.0, 2.5, 5.0 - 1e-7, 5.0, 7.0], dtype=torch.float64, requires_grad=True)
    value = cosine_cutoff(r, 5.0)
    torch.testing.assert_close(
        value.detach(), torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0]).double(), atol=1e-12, rtol=0
    )
    (slope,) = torch.autograd.grad(value.sum(), [r])
    assert slope[1] < -0.3
    assert slope[2:].abs().max() < 1e-7
    assert (cosine_cutoff(torch.linspace(0, 5, 50), 5.0).diff() <= 0).all()
