"""When Triton's kernels are taken, and what happens where they cannot be had."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from eip.kernels import KernelWarning, reference_path, triton_path
from eip.kernels.coupling import chunk_of
from eip.kernels.products import PRODUCTS, products
from eip.kernels.triton import launch
from eip.models.cartesian_ace import CartesianACE
from eip.neighbors import build_graph

Interpreted = Callable[[], AbstractContextManager[list[str]]]


@pytest.mark.triton
def test_a_network_and_its_gradients_are_those_of_plain_pytorch(
    interpreted: Interpreted, few_parts: None
) -> None:
    """As training takes it: energy, forces, stress, and the gradient of a loss of all of them."""
    torch.manual_seed(0)
    network = CartesianACE(2, 16, 2, 1, 3.0, feature_limit=2.0).double()
    chain = Atoms("OH", [[0, 0, 0], [0.3, 0.9, 0.1]], cell=[2.6, 9, 9], pbc=[True, False, False])
    graph = build_graph([chain, Atoms("H"), molecule("OH")], network.cutoff + 0.4)
    species = (graph.numbers > 1).long()

    def losses(fixed: bool) -> list[torch.Tensor]:
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        vectors = graph.edge_vectors()
        vectors = vectors + vectors @ strain
        run = network.fixed if fixed else network
        features = run(graph, species, vectors)
        energy = features.scalars.sin().sum() + features.vectors.square().sum()
        (stress,) = torch.autograd.grad(energy, strain, create_graph=not fixed)
        if fixed:
            return [features.scalars, features.vectors, stress]
        loss = energy.square() + stress.square().sum()
        return [energy, stress, *torch.autograd.grad(loss, list(network.parameters()))]

    for fixed in (False, True):
        with interpreted() as started:
            found = losses(fixed)
        assert {"sums_3", "sums_14", "gradients_14_edges", "products_back"} <= set(started)
        with reference_path():
            expected = losses(fixed)
        for one, two in zip(found, expected, strict=True):
            scale = float(two.detach().abs().max())
            torch.testing.assert_close(
                one.detach(), two.detach(), rtol=0, atol=1e-11 * scale + 1e-14
            )


@pytest.fixture
def unknown() -> Iterator[None]:
    """Nothing is known yet of what can run where."""

    def forget() -> None:
        launch._usable.cache_clear()
        launch.why_not.cache_clear()
        launch._FAILURES.clear()

    forget()
    yield
    forget()


def arguments() -> tuple[torch.Tensor, ...]:
    x, u, m = (torch.ones(*shape, 2, 8) for shape in ((), (3,), (5,)))
    return x, u, m, torch.ones(1, PRODUCTS, 8), torch.zeros(2, dtype=torch.int64)


def test_without_triton_plain_pytorch_goes_on_and_one_warning_says_so(
    unknown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "triton" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with triton_path(), pytest.warns(KernelWarning, match=r"not installed.*eip\[gpu\]") as said:
        found = [products(*arguments(), 0.1) for _ in range(2)]
        assert chunk_of(torch.zeros(1), 64) is None
    assert len(said) == 1
    with reference_path():
        expected = products(*arguments(), 0.1)
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, expected, strict=True))


def test_a_kernel_that_does_not_compile_is_told_once_and_replaced(
    unknown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            def run(*_: object, **__: object) -> None:
                raise RuntimeError("no such\n   instruction")

            return run

    monkeypatch.setattr(launch, "why_not", lambda _: None)
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    monkeypatch.setattr("eip.kernels.triton.sources.atoms.products_of", lambda *_: Kernel())
    x, *rest = arguments()
    x.requires_grad_()
    match = "plain PyTorch does the work, .*RuntimeError: no such instruction"
    with triton_path(), pytest.warns(KernelWarning, match=match) as said:
        found = products(x, *rest, 0.1)
        (gradient,) = torch.autograd.grad(found[0].sum(), x)
    assert len(said) == 1
    with reference_path():
        (expected,) = torch.autograd.grad(products(x, *rest, 0.1)[0].sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_half_and_mixed_precision_are_plain_pytorchs(unknown: None) -> None:
    with triton_path(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not launch.works_on(torch.zeros(1, dtype=torch.bfloat16))
        assert not launch.works_on(torch.zeros(1), None, torch.zeros(1, dtype=torch.float64))


CHOSEN = """
import torch
from eip.kernels import kernels_for, library
from eip.kernels.coupling import chunk_of
array = torch.zeros(1)
print(kernels_for(array), library(), chunk_of(array, 48))
"""


@pytest.mark.triton
def test_the_environment_asks_for_triton_everywhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHOSEN],
        env=os.environ | {"EIP_KERNELS": "triton"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["None", "None", "48"]


def test_nothing_of_triton_is_imported_unasked() -> None:
    code = "import sys, eip.kernels.cartesian; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
