"""Evidence, distances in latent space and neighborhoods' means by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from eip.kernels import reference_path
from eip.kernels.features import neighborhood_mean, squared_distance, tensor_head

from .graphs import close, random_graph

pytestmark = pytest.mark.triton

Interpreted = Callable[[], AbstractContextManager[list[str]]]
DTYPES = pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-4)]
)


def array(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def both(
    interpreted: Interpreted,
    name: str,
    kernel: str,
    function: Callable[..., object],
    arguments: list[object],
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor]]:
    """By the kernel, twice with the same bits, in a precision; and by plain PyTorch in float64."""

    def given(one: object, to: torch.dtype) -> object:
        if isinstance(one, list):
            return [given(each, to) for each in one]
        floats = isinstance(one, Tensor) and one.is_floating_point()
        return one.to(to) if floats else one  # type: ignore[union-attr]

    def called(to: torch.dtype) -> list[Tensor]:
        found = function(*(given(one, to) for one in arguments))
        return [found] if isinstance(found, Tensor) else list(found)  # type: ignore[call-overload]

    checks = "test_schema", "test_faketensor"
    with interpreted() as started, torch.no_grad():
        found, again = called(dtype), called(dtype)
        operator = getattr(torch.ops.eip, name).default
        torch.library.opcheck(
            operator, tuple(given(one, dtype) for one in arguments), test_utils=checks
        )
    assert set(started) == {kernel}
    assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))
    with reference_path():
        return found, called(torch.float64)


@DTYPES
@pytest.mark.parametrize(("atoms", "channels", "rank"), [(1, 16, 3), (70, 24, 8), (3, 32, 70)])
def test_evidence_is_that_of_plain_pytorch(
    interpreted: Interpreted,
    dtype: torch.dtype,
    within: float,
    atoms: int,
    channels: int,
    rank: int,
) -> None:
    """One atom, more than a program has, more directions than it takes at a time; softplus at both
    of its ends."""
    shapes = [(channels, channels), (rank, channels), (channels, 2 * channels), (channels,)]
    shapes += [(3 + rank, channels), (3 + rank,)]
    weights = [array(*shape, seed=k) for k, shape in enumerate(shapes)]
    weights[-1] = 20 * weights[-1]
    x = array(atoms, channels), array(atoms, 3, channels, seed=1)
    found, expected = both(
        interpreted, "tensor_head", "evidence", tensor_head, [*x, weights, None], dtype
    )
    close(found, expected, within)
    assert found[2].dtype == torch.float64
    assert float(torch.linalg.eigvalsh(found[2]).min()) > 0.0


@DTYPES
@pytest.mark.parametrize(("atoms", "channels"), [(1, 16), (5, 70), (3, 128)])
def test_distances_are_those_of_plain_pytorch(
    interpreted: Interpreted, dtype: torch.dtype, within: float, atoms: int, channels: int
) -> None:
    species = torch.arange(atoms) % 2
    arguments = array(atoms, channels), species, array(3, channels, seed=1)
    whitening = array(3, channels, channels, seed=2) / channels**0.5
    found, expected = both(
        *(interpreted, "squared_distance", "squared_distance", squared_distance),
        *([*arguments, whitening, None], dtype),
    )
    close(found, expected, within)


@DTYPES
@pytest.mark.parametrize(("atoms", "pairs"), [(1, 0), (2, 150), (70, 40)])
def test_neighborhoods_are_those_of_plain_pytorch(
    interpreted: Interpreted, dtype: torch.dtype, within: float, atoms: int, pairs: int
) -> None:
    """No edges, 1 to 300 neighbors, more atoms than a program has."""
    _, centers, neighbors, _ = random_graph(atoms, pairs)
    shifts = torch.randint(-1, 2, (len(centers), 3), generator=torch.Generator().manual_seed(3))
    graph = torch.zeros(atoms, dtype=torch.int64), centers, neighbors, shifts.float()
    geometry = array(atoms, 3, seed=1), 3 * array(1, 3, 3, seed=2)
    found, expected = both(
        *(interpreted, "neighborhood_mean", "neighborhood_mean", neighborhood_mean),
        *([array(atoms).abs() + 1.0, *geometry, *graph, 5.0], dtype),
    )
    close(found, expected, within)


def test_a_neighborhoods_gradient_has_no_atomics(interpreted: Interpreted) -> None:
    """As UDD takes it: plain PyTorch, whose sums are the kernels'."""
    _, centers, neighbors, _ = random_graph(3, 8)
    graph = torch.zeros(3, dtype=torch.int64), centers, neighbors, torch.zeros(len(centers), 3)

    def gradients() -> list[Tensor]:
        x = [array(3).abs().requires_grad_(), array(3, 3, seed=1).requires_grad_()]
        cell = torch.zeros(1, 3, 3, dtype=torch.float64)
        mean = neighborhood_mean(*x, cell, *graph, 5.0)
        return list(torch.autograd.grad(mean.sin().sum(), x))

    with interpreted() as started:
        found = gradients()
    assert {"edge_vectors", "edge_vectors_back", "sums_by"} == set(started)
    with reference_path():
        close(found, gradients(), 1e-12)
