from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eip.graph import AtomGraph
from eip.kernels import kernels_for, library, reference_path

FORCES = """
import warnings
warnings.simplefilter("always")
import torch
from ase.build import molecule
from eip.kernels import library
from eip.models.painn import PaiNN
from eip.neighbors import build_graph
torch.manual_seed(0)
network = PaiNN(2, 16)
graph = build_graph(molecule("H2O"), network.cutoff)
for _ in range(2):
    vectors = graph.edge_vectors(torch.float32)
    features = network(graph, (graph.numbers > 1).long(), vectors, frozen=True)
print("kernels:", library() is not None, "scalars:", float(features.scalars.sum()))
"""


def run(cache: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FORCES],
        env=os.environ
        | {"OMP_NUM_THREADS": "1"}
        | ({} if cache is None else {"EIP_CACHE_DIR": str(cache)})
        | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def scalars(output: str) -> float:
    return float(output.rsplit("scalars:", 1)[1])


def test_it_is_compiled_once_and_found_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert "kernels: True" in first.stdout, first.stderr
    (binary,) = tmp_path.iterdir()
    made = binary.stat().st_mtime_ns
    again = run(tmp_path, CXX="")
    assert "kernels: True" in again.stdout
    assert [p.stat().st_mtime_ns for p in tmp_path.iterdir()] == [made]


def test_without_a_compiler_the_plain_path_does_the_work_and_says_so_once(tmp_path: Path) -> None:
    done = run(tmp_path, CXX="no-such-compiler")
    assert "kernels: False" in done.stdout
    assert done.stderr.count("RuntimeWarning") == 1
    assert "CXX is no-such-compiler" in done.stderr
    # Without a folder: the kernels that the other tests use, compiled long ago.
    assert scalars(done.stdout) == pytest.approx(scalars(run().stdout), rel=1e-5)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'no room on device' >&2\nexit 3\n")
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    done = run(cache, CXX=str(compiler))
    assert "kernels: False" in done.stdout
    assert "no room on device" in done.stderr
    assert list(cache.iterdir()) == []


def test_the_reference_path_can_be_asked_for() -> None:
    array = torch.zeros(1)
    assert library() is not None, "the tests need a C++ compiler"
    assert kernels_for(array) is library()
    with reference_path():
        assert kernels_for(array) is None
    assert kernels_for(array) is library()
    assert kernels_for(array.half()) is None
    assert kernels_for(array.to("meta")) is None


def test_edge_vectors_and_their_gradients_are_those_of_plain_pytorch() -> None:
    torch.manual_seed(0)
    edges = 20
    centers = torch.sort(torch.randint(0, 5, (edges,))).values
    graph = AtomGraph(
        numbers=torch.ones(5, dtype=torch.int64),
        positions=torch.randn(5, 3, dtype=torch.float64),
        cell=torch.randn(2, 3, 3, dtype=torch.float64),
        pbc=torch.ones(2, 3, dtype=torch.bool),
        frame=torch.tensor([0, 0, 1, 1, 1]),
        centers=centers,
        neighbors=torch.randint(0, 5, (edges,)),
        shifts=torch.randint(-2, 3, (edges, 3)).double(),
    )

    def vectors(positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return AtomGraph(**{**graph.__dict__, "positions": positions, "cell": cell}).edge_vectors()

    with reference_path():
        plain = vectors(graph.positions, graph.cell)
    torch.testing.assert_close(vectors(graph.positions, graph.cell), plain, rtol=0, atol=1e-14)
    inputs = (graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_())
    assert torch.autograd.gradcheck(vectors, inputs)
    assert torch.autograd.gradgradcheck(lambda x, c: vectors(x, c).pow(3), inputs)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names an x86 processor")
def test_processors_of_other_vector_widths_compute_the_same(tmp_path: Path) -> None:
    found = scalars(run().stdout)
    for processor in ("haswell", "x86-64"):  # AVX2, SSE2
        compiler = tmp_path / processor
        compiler.write_text(
            f'#!/bin/sh\nexec c++ $(echo "$@" | sed s/-march=native/-march={processor}/)\n'
        )
        compiler.chmod(0o755)
        if processor == "haswell" and "avx2" not in Path("/proc/cpuinfo").read_text():
            continue
        done = run(tmp_path / f"cache-{processor}", CXX=str(compiler))
        assert "kernels: True" in done.stdout, done.stderr
        assert scalars(done.stdout) == pytest.approx(found, rel=1e-5)
