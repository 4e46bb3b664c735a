"""How fast a step could be: operations counted, over the rate of the machine's matrix product."""

from __future__ import annotations

import time

import torch

#: Per atom, layer and channel², multiply-adds of the dense layers: the message's context (F → F →
#: 3F: 4), the mix of the vectors (3 × F → 2F: 6), the update's context (2F → F → 3F: 5).
DENSE = 15
#: Per edge, layer and channel, operations. Forward: three filters, each a cubic spline (4 products,
#: 3 sums: 21), times φ (3), the sum over neighbors of scalars (1), and of b û + c v (3 × 4: 12).
EDGE_FORWARD = 37
#: Backward: the filters again and their slopes (42); û·∂v and v·∂v (5 + 5); the sums that become
#: the gradients of φ and v (W∂s and W(û·∂v): 2 + 2; W∂v: 6); that of the direction (b W, times ∂v:
#: 1 + 6); that of the distance (a ∂s W', b (û·∂v) W', c (v·∂v) W': 3 each).
EDGE_BACKWARD = 42 + 10 + 10 + 7 + 9


def counted_operations(
    atoms: int, edges: int, channels: int = 128, layers: int = 3, sigma: bool = True
) -> float:
    """Floating-point operations of energy, forces and σ by PaiNN, a product and a sum being two.

    Dense layers:     atoms · layers · 15 F² · 2 (multiply-add) · 2 (forward, gradient of the input)
    Along the edges:  edges · layers · (37 + 78) · F, radial filters read from a spline table
    Readout:          atoms · F²/2 · 2 · 2
    σ:                atoms · 5 F² · 2 + atoms · (3 · 8 F + 11 F) · 2, forward alone

    Not counted: what is done once by atom or edge and not by channel (distances, splines' weights),
    activation functions, and sums over F of the gradient of an edge. Not taken off: that the first
    layer knows no vectors yet, and scalars of no more kinds than there are elements. Both would
    change the count by less than a fifth.
    """
    dense = atoms * layers * DENSE * channels**2 * 2 * 2
    along_edges = edges * layers * (EDGE_FORWARD + EDGE_BACKWARD) * channels
    readout = atoms * channels**2 / 2 * 2 * 2
    head = atoms * (5 * channels**2 + 35 * channels) * 2 if sigma else 0
    return float(dense + along_edges + readout + head)


def matrix_product_rate(
    atoms: int = 192,
    channels: int = 128,
    seconds: float = 0.5,
    device: str = "cpu",
) -> dict[str, float]:
    """Operations per second of ``torch.mm`` in float32: a large square, and the model's own sizes.

    Each size gets the best of its repeats; ``best`` is the best of the sizes.
    """
    sizes = [
        (1024, 1024, 1024),
        (atoms, channels, 3 * channels),
        (3 * atoms, channels, 2 * channels),
        (atoms, 2 * channels, channels),
    ]
    rates: dict[str, float] = {}
    for rows, inner, columns in sizes:
        left = torch.randn(rows, inner, device=device)
        right = torch.randn(inner, columns, device=device)
        out = torch.empty(rows, columns, device=device)
        # Many products in one measurement where one alone is too short for the clock.
        repeats = max(1, int(2e8 / (rows * inner * columns)))
        best, until = float("inf"), time.perf_counter() + seconds / len(sizes)
        while time.perf_counter() < until or best == float("inf"):
            _wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                torch.mm(left, right, out=out)
            _wait(device)
            best = min(best, (time.perf_counter() - start) / repeats)
        rates[f"{rows}x{inner}x{columns}"] = 2 * rows * inner * columns / best
    return {"best": max(rates.values()), **rates}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
