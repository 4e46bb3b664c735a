"""What a GPU's kernels do for an atom, counted from their formulas.

python benchmarks/roofline.py [CHANNELS] [NEIGHBORS]

FLOP: a product or a sum is one (a fused product and sum is two). Bytes from memory: every array
that is read or written once, and what is gathered from neighbors as often as it is gathered. Bytes
of the table of filters are apart: it lies in the second-level cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eip.kernels.triton.expressions import Number, gradient, in_order, symbol, symbols, tangents
from eip.kernels.triton.formulas import dot, products
from eip.kernels.triton.sources.edges import COUPLING, PAINN

#: Bytes of a number, and of an edge's own: twelve numbers and three integers.
NUMBER, EDGE = 4, 12 * 4 + 16
#: One H100 (SXM), as its maker says: FLOP/s in float32 and bytes/s of memory; and bytes/s of the
#: second-level cache, as others have measured them.
FLOPS, MEMORY, CACHE = 67e12, 3.35e12, 5.5e12


def operations(numbers: Sequence[Number]) -> int:
    return sum(bool(one.arguments) for one in in_order(numbers))


def messages(channels: int, neighbors: float) -> dict[str, tuple[float, float, float]]:
    """By kernel: FLOP, bytes from memory and from the table, of an atom."""
    found = {}
    for message in (*COUPLING.values(), PAINN):
        d, w, x, g = message.symbols()
        paths, said, heard = len(w), len(x), len(g)
        out = message.formula(d, w, x)
        to_d, to_w, to_x = (gradient(dot(g, out), by) for by in (d, w, x))
        along = {one: symbol(f"{one.content}_dot") for one in (*d, *w, *x)}
        filters = 7 * paths
        in_all = operations([*to_d, *to_w, *to_x]) + said + 2 * paths
        kernels = {
            # operations, filters by the table, numbers gathered, at the atom, and bytes of an edge
            "sums": (operations(out) + heard, 1, said, heard),
            "gradients": (in_all, 2, heard, 2 * said),
            "sums_tangent": (operations(tangents(out, along)) + heard, 2, 2 * said, heard),
            "gradients_tangent": (operations(tangents(to_x, along)) + said, 2, heard, 3 * said),
            "table_gradient": (operations(to_w) + 8 * paths, 0, heard + said, 0),
            "table_gradient_tangent": (
                operations([*to_w, *tangents(to_w, along)]) + 16 * paths,
                *(0, heard + 2 * said, 0),
            ),
        }
        for name, (flop, kinds, gathered, own) in kernels.items():
            memory = neighbors * (gathered * channels * NUMBER + EDGE) + own * channels * NUMBER
            table = neighbors * 4 * paths * channels * NUMBER if kinds else 0.0
            total = (flop + kinds * filters) * channels * neighbors
            found[f"{name}_{message.name}"] = total, memory, table
    return found


def geometry(neighbors: float) -> dict[str, tuple[float, float, float]]:
    """Of an edge: two positions, two ends and a shift are read and a vector is written; back, its
    gradient is read twice, once where it lies (a sector of 32 bytes), and where to find it."""
    return {
        "edge_vectors": (neighbors * 21, neighbors * (2 * 24 + 2 * 8 + 12 + 12), 0.0),
        "edge_vectors_back": (neighbors * 6, neighbors * (12 + 32 + 8) + 24, 0.0),
    }


def sigma(channels: int, neighbors: float, rank: int = 8) -> dict[str, tuple[float, float, float]]:
    """Of σ beside the head's maps: in place of the table, a whitening matrix, which is read for
    each atom."""
    width = 2 * channels
    return {
        "evidence": (rank * 18, (3 + 4 * rank) * NUMBER + 2 * NUMBER + 72, 0.0),
        "squared_distance": (2 * width**2, 2 * width * NUMBER, width**2 * NUMBER),
        "neighborhood_mean": (neighbors * 32, neighbors * (24 + 8 + 12 + NUMBER), 0.0),
    }


def at_atoms(channels: int) -> dict[str, tuple[float, float, float]]:
    a, c, g = symbols("a", 9), symbols("c", 27), symbols("g", 9)
    out = products(a, c, symbol("inverse_square"))
    to_a, to_c = gradient(dot(g, out), a), gradient(dot(g, out), c)
    along = {one: symbol(f"{one.content}_dot") for one in a} | {one: 0.0 * one for one in c}
    kernels = {
        "products": (operations(out), 18),
        "products_back": (operations(to_a), 27),
        "products_tangent": (operations(tangents(out, along)), 27),
        "products_back_tangent": (operations(tangents(to_a, along)), 36),
        "weights_gradient": (operations(to_c) + 27, 18),
        "weights_gradient_tangent": (operations(tangents(to_c, along)) + 27, 27),
    }
    return {
        name: (flop * channels, numbers * channels * NUMBER, 0.0)
        for name, (flop, numbers) in kernels.items()
    }


def main() -> None:
    channels = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    neighbors = float(sys.argv[2]) if len(sys.argv) > 2 else 53.0
    print(f"of an atom, {channels} channels, {neighbors:g} neighbors, float32; H100: least time")
    print("| kernel | kFLOP | kB memory | kB table | ns FLOP | ns memory | ns table |")
    print("|---|---|---|---|---|---|---|")
    found = messages(channels, neighbors) | geometry(neighbors)
    found |= sigma(channels, neighbors) | at_atoms(channels)
    for name, (flop, memory, table) in found.items():
        least = flop / FLOPS, memory / MEMORY, table / CACHE
        cells = (
            *(f"{n / 1e3:.3g}" for n in (flop, memory, table)),
            *(f"{1e9 * t:.3g}" for t in least),
        )
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
