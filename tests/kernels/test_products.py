"""The compiled products against the plain ones, up to second derivatives; and what they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eip.kernels.products import PRODUCTS, bounded, plain_products, products
from eip.kernels.tensors import contraction, dot

pytestmark = pytest.mark.kernels

ELEMENTS = 3


def problem(atoms: int, channels: int) -> tuple[list[Tensor], Tensor]:
    """x, u, m and weights; species."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(atoms, channels), (3, atoms, channels), (5, atoms, channels)]
    shapes.append((ELEMENTS, PRODUCTS, channels))
    # Strided, as a slice of something larger would be.
    made = [torch.randn(s, generator=generator, dtype=torch.float64).mT.clone().mT for s in shapes]
    species = torch.randint(0, ELEMENTS, (atoms,), generator=generator)
    return [(0.4 * one).requires_grad_() for one in made], species


def weighted(
    inputs: list[Tensor], species: Tensor, plain: bool, limit: float = float("inf")
) -> tuple[Tensor, Tensor, Tensor]:
    x, u, m, weights = inputs
    if plain:
        inside = bounded(x, u, m, limit**-2)
        return plain_products(*inside, weights[species].transpose(0, 1))
    return products(x, u, m, weights, species, limit**-2)


def derivatives(
    inputs: list[Tensor], species: Tensor, plain: bool, limit: float = float("inf")
) -> list[Tensor]:
    out = weighted(inputs, species, plain, limit)
    value = sum(((k + 1) * one.sin()).sum() for k, one in enumerate(out))
    assert isinstance(value, Tensor)
    found = [*out, *torch.autograd.grad(value, inputs, retain_graph=True)]
    first = torch.autograd.grad(value, inputs[:3], create_graph=True)
    loss = value + sum((one.cos() * one).sum() for one in first)
    return [*found, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("limit", [1.5, float("inf")])
@pytest.mark.parametrize(("atoms", "channels"), [(5, 8), (7, 24), (1300, 8)])
def test_values_first_and_second_derivatives_are_those_of_the_plain_products(
    atoms: int, channels: int, limit: float
) -> None:
    inputs, species = problem(atoms, channels)
    found, expected = (derivatives(inputs, species, plain, limit) for plain in (False, True))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-11 * float(two.detach().abs().max()))


def test_single_precision_is_that_within_its_rounding() -> None:
    inputs, species = problem(9, 32)
    exact = derivatives(inputs, species, True)
    rounded = [one.detach().float().requires_grad_() for one in inputs]
    for one, two in zip(derivatives(rounded, species, False), exact, strict=True):
        assert (one - two).norm() <= 1e-4 * two.norm()


def test_second_derivatives_of_weights_are_refused_not_wrong() -> None:
    inputs, species = problem(3, 8)
    out = weighted(inputs, species, False)
    (first,) = torch.autograd.grad(out[0].square().sum(), inputs[3], create_graph=True)
    with pytest.raises(NotImplementedError, match="products' weights"):
        first.square().sum().backward()


def test_no_product_is_a_sum_of_others() -> None:
    """27 ways, and none too many: a network would not miss one that the others make."""
    inputs, species = problem(40, 8)
    x, u, m, weights = (one.detach() for one in inputs)
    columns = []
    for k in range(PRODUCTS):
        one = torch.zeros_like(weights[:1])
        one[0, k] = 1.0
        out = plain_products(x, u, m, one[species * 0].transpose(0, 1))
        columns.append(torch.cat([part.reshape(-1) for part in out]))
    values = torch.linalg.svdvals(torch.stack([c / c.norm() for c in columns]))
    assert values.min() > 1e-3


def test_what_is_multiplied_is_bounded_and_small_things_are_left_alone() -> None:
    (x, u, m, _), _ = problem(5, 8)
    small = bounded(1e-3 * x, 1e-3 * u, 1e-3 * m, 2.0**-2)
    torch.testing.assert_close(small[0], 1e-3 * x, rtol=1e-5, atol=0)
    large = bounded(1e3 * x, 1e3 * u, 1e3 * m, 2.0**-2)
    sizes = large[0] ** 2 + dot(large[1], large[1]) + contraction(large[2], large[2])
    torch.testing.assert_close(sizes, torch.full_like(sizes, 4.0), rtol=1e-3, atol=0)
