"""The products at an atom by Triton's kernels, run by its interpreter, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from eip.kernels import reference_path
from eip.kernels.products import PRODUCTS, products

pytestmark = pytest.mark.triton

ELEMENTS = 3
Interpreted = Callable[[], AbstractContextManager[list[str]]]


def problem(atoms: int, channels: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """x, u, m and weights; species, of which one has no atom."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(atoms, channels), (3, atoms, channels), (5, atoms, channels)]
    shapes.append((ELEMENTS, PRODUCTS, channels))
    made = [0.4 * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    species = torch.randint(0, ELEMENTS - 1, (atoms,), generator=generator)
    return [one.to(dtype).requires_grad_() for one in made], species


def derivatives(inputs: list[Tensor], species: Tensor, inverse_square: float) -> list[Tensor]:
    """Values, and first and second derivatives of a function of them."""
    out = products(*inputs, species, inverse_square)
    value = sum(((k + 1) * one.sin()).sum() for k, one in enumerate(out))
    assert isinstance(value, Tensor)
    found = [*out, *torch.autograd.grad(value, inputs, retain_graph=True)]
    first = torch.autograd.grad(value, inputs[:3], create_graph=True)
    loss = value + sum((one.cos() * one).sum() for one in first)
    return [*found, *torch.autograd.grad(loss, inputs)]


def check(found: list[Tensor], inputs: list[Tensor], species: Tensor, *how: float) -> None:
    inverse_square, within = how
    exact = [one.detach().double().requires_grad_() for one in inputs]
    with reference_path():
        expected = derivatives(exact, species, inverse_square)
    for one, two in zip(found, expected, strict=True):
        scale = float(two.detach().abs().max())
        torch.testing.assert_close(one.detach().double(), two.detach(), rtol=0, atol=within * scale)


@pytest.mark.parametrize("inverse_square", [0.3, 0.0])
@pytest.mark.parametrize(("atoms", "channels"), [(1, 32), (5, 64), (3, 128), (4, 24), (70, 16)])
def test_values_and_derivatives_are_those_of_plain_pytorch(
    interpreted: Interpreted, few_parts: None, atoms: int, channels: int, inverse_square: float
) -> None:
    inputs, species = problem(atoms, channels, torch.float64)
    with interpreted() as started:
        found = derivatives(inputs, species, inverse_square)
    check(found, inputs, species, inverse_square, 1e-12)
    assert set(started) >= {
        *("products", "products_tangent", "products_back", "products_back_tangent"),
        *("weights_gradient", "weights_gradient_tangent"),
    }


def test_single_precision_is_that_within_its_rounding_and_the_same_twice(
    interpreted: Interpreted, few_parts: None
) -> None:
    inputs, species = problem(9, 32, torch.float32)
    with interpreted():
        found, again = derivatives(inputs, species, 0.3), derivatives(inputs, species, 0.3)
    check(found, inputs, species, 0.3, 2e-5)
    assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))


@pytest.mark.parametrize("ending", ["", "_backward", "_double_backward"])
def test_what_pytorch_asks_of_an_operator(
    interpreted: Interpreted, few_parts: None, ending: str
) -> None:
    inputs, species = problem(3, 32, torch.float64)
    x = [one.detach() for one in inputs]
    g = [torch.randn_like(one) for one in x[:3]]
    arguments = {
        "": (*inputs, species, 0.1),
        "_backward": (*g, *x, species, 0.1, True, False),
        "_double_backward": (*g, *x, species, 0.1, *x[:3], None),
    }[ending]
    operator = getattr(torch.ops.eip, f"cartesian_products{ending}").default
    # With gradients, plain PyTorch does a second derivative: there is none of that.
    with interpreted() as started, torch.set_grad_enabled(ending != "_double_backward"):
        checks = "test_schema", "test_autograd_registration", "test_faketensor"
        torch.library.opcheck(operator, arguments, test_utils=checks)
    assert started
