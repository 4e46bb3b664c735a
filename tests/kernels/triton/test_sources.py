"""Every kernel compiles for cards that are not here, and keeps to a thread's registers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eip.kernels.triton import launch
from eip.kernels.triton.sources import atoms, edges, features, geometry, indexing
from eip.kernels.triton.sources.edges import COUPLING, PAINN

pytestmark = [pytest.mark.triton, pytest.mark.slow]

_INTEGERS = ("atoms", "edges", "intervals", "elements", "kinds")
_LONG = ("first", "first_of_others", "slot", "order", "center", "centers", "neighbors")
_LONG += ("species", "frame")
#: Those that are the same whatever a network computes in; what is not named is as the network.
_TYPES = {
    **dict.fromkeys(_INTEGERS, "i32"),
    **dict.fromkeys(_LONG, "*i64"),
    **dict.fromkeys(("neighbor", "knot"), "*i32"),
    **dict.fromkeys(("positions", "cell", "out_h", "beta"), "*fp64"),
    "shifts": "*fp32",
}
_CONSTANTS = {
    **{"F": 64, "BF": 64, "BE": 2, "BA": 64, "BLOCK": 128, "PARTS": 1, "K": 8},
    **{"inverse_square": 0.01, "FLOOR": 1e-6, "EPSILON": 1e-6, "PER_SQUARE": 0.04},
}


def compiled(kernel: Any, dtype: str, target: Any) -> Any:
    """A kernel for a card, 64 channels wide, as `launch` would start it there."""
    import triton
    from triton.compiler import ASTSource

    constants = {name: _CONSTANTS[name] for name in kernel.arg_names if name in _CONSTANTS}
    types = {name: _TYPES.get(name, f"*{dtype}") for name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    return triton.compile(source, target=target, options=launch.OPTIONS)


KERNELS = {
    "sums_3": lambda: edges.sums(COUPLING[3], False),
    "sums_14": lambda: edges.sums(COUPLING[14], False),
    "sums_14_tangent": lambda: edges.sums(COUPLING[14], True),
    "gradients_14_edges": lambda: edges.gradients(COUPLING[14], True, False),
    "gradients_14_tangent": lambda: edges.gradients(COUPLING[14], False, True),
    "table_gradient_3": lambda: edges.table_gradient(COUPLING[3], True),
    "table_gradient_14": lambda: edges.table_gradient(COUPLING[14], False),
    "table_gradient_14_tangent": lambda: edges.table_gradient(COUPLING[14], True),
    "sums_painn": lambda: edges.sums(PAINN, False),
    "sums_painn_tangent": lambda: edges.sums(PAINN, True),
    "gradients_painn_edges": lambda: edges.gradients(PAINN, True, False),
    "gradients_painn_tangent": lambda: edges.gradients(PAINN, False, True),
    "table_gradient_painn": lambda: edges.table_gradient(PAINN, False),
    "table_gradient_painn_tangent": lambda: edges.table_gradient(PAINN, True),
    "edge_vectors": geometry.vectors,
    "edge_vectors_back": lambda: geometry.transposed(False),
    "edge_vectors_back_cell": lambda: geometry.transposed(True),
    "sums_by": indexing.sums,
    "evidence": features.evidence,
    "squared_distance": features.squared_distance,
    "neighborhood_mean": features.neighborhood_mean,
    "products": lambda: atoms.products_of(False, False),
    "products_back": lambda: atoms.products_of(True, False),
    "products_back_tangent": lambda: atoms.products_of(True, True),
    "weights_gradient": lambda: atoms.weights_gradient(False),
    "weights_gradient_tangent": lambda: atoms.weights_gradient(True),
}


@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles_for_nvidia_without_spilling(name: str, tmp_path: Path) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    made = compiled(KERNELS[name](), "fp32", GPUTarget("cuda", 80, 32))
    (tmp_path / "kernel.cubin").write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.run(
        [tool, "-res-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    (stack,) = re.findall(r"STACK:(\d+)", said)
    assert int(stack) == 0, said


@pytest.mark.parametrize(
    "name",
    [
        "sums_14",
        "gradients_14_edges",
        "gradients_painn_edges",
        "products_back",
        "edge_vectors_back",
        "evidence",
    ],
)
def test_it_compiles_for_amd(name: str) -> None:
    from triton.backends.compiler import GPUTarget

    assert compiled(KERNELS[name](), "fp32", GPUTarget("hip", "gfx942", 64)).asm["hsaco"]
