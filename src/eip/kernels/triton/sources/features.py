"""Sources of kernels for what is read from the features of atoms."""

from __future__ import annotations

import functools
from typing import Any

from eip.kernels.triton.sources.text import indented, program

_PAIRS = [(a, b) for a in range(3) for b in range(a, 3)]


def _softplus(name: str, of: str) -> list[str]:
    """As PyTorch has it, x itself beyond 20; log(1 + y) so that a small y is not rounded away."""
    return [
        f"{name}_x = {of}",
        f"{name}_y = tl.exp(tl.minimum({name}_x, 20.0))",
        f"{name}_u = 1.0 + {name}_y",
        f"{name}_v = tl.where({name}_u == 1.0, 1.0, {name}_u - 1.0)",
        f"{name}_l = tl.where({name}_u == 1.0, {name}_y, tl.log({name}_u) * ({name}_y / {name}_v))",
        f"{name} = tl.where({name}_x > 20.0, {name}_x, {name}_l)",
    ]


@functools.cache
def evidence() -> Any:
    """ν, α and B of each atom from what the last layer gives, ``[atoms, 3 + K]``, and the vectors
    u_k, ``[atoms, 3, K]``. B is summed in float64: in float32 b0 would be rounded away."""
    lines = [
        *(
            f"m{a} = tl.load(mixed + (3 * i + {a}) * K + k, mask=on, other=0.0).to(tl.float64)"
            for a in range(3)
        ),
        *_softplus("w", "tl.load(raw + i * (3 + K) + 3 + k, mask=on, other=0.0)"),
        "w = w.to(tl.float64)",
        *(f"b{a}{b} += w * m{a} * m{b}" for a, b in _PAIRS),
    ]
    own = [
        line
        for n in range(3)
        for line in _softplus(f"p{n}", f"tl.load(raw + i * (3 + K) + {n}, mask=there, other=0.0)")
    ]
    kept = [
        "tl.store(nu + i, p0 + FLOOR, mask=there)",
        "tl.store(alpha + i, 1.0 + (p1 + FLOOR), mask=there)",
        "base = (p2 + FLOOR).to(tl.float64)",
    ]
    for a, b in _PAIRS:
        added = "base + " if a == b else ""
        kept.append(f"s = {added}tl.sum(b{a}{b}, axis=1, keep_dims=True)")
        kept += [
            f"tl.store(beta + 9 * i + {place}, s, mask=there)"
            for place in sorted({3 * a + b, 3 * b + a})
        ]
    body = f"""
    i = tl.program_id(0).to(tl.int64) * BA + tl.arange(0, BA)[:, None]
    there = i < atoms
{indented([f"b{a}{b} = tl.zeros([BA, BE], tl.float64)" for a, b in _PAIRS], 1)}
    for at in range(0, K, BE):
        k = at + tl.arange(0, BE)[None, :]
        on = there & (k < K)
{indented(lines, 2)}
{indented(own, 1)}
{indented(kept, 1)}
"""
    sizes = ["atoms", "BA: tl.constexpr", "BE: tl.constexpr"]
    return program(
        *("evidence", ["raw", "mixed", "nu", "alpha", "beta"]),
        *([*sizes, "K: tl.constexpr", "FLOOR: tl.constexpr"], body),
    )


@functools.cache
def squared_distance() -> Any:
    """Mean square of (x − mean) · whitening of an atom's species. A program has one atom, whose
    matrix comes from the second-level cache."""
    body = """
    i = tl.program_id(0).to(tl.int64)
    kind = tl.load(species + i)
    total = tl.zeros([1, BF], out.dtype.element_ty)
    for column in range(0, F, BF):
        c = column + tl.arange(0, BF)[None, :]
        white = tl.zeros([BE, BF], out.dtype.element_ty)
        for row in range(0, F, BE):
            r = row + tl.arange(0, BE)[:, None]
            away = tl.load(features + i * F + r, mask=r < F, other=0.0)
            away -= tl.load(means + kind * F + r, mask=r < F, other=0.0)
            white += away * tl.load(
                whitening + (kind * F + r) * F + c, mask=(r < F) & (c < F), other=0.0
            )
        one = tl.sum(white, axis=0, keep_dims=True)
        total += one * one
    first = tl.arange(0, 1)[None, :]
    mean = tl.sum(total, axis=1, keep_dims=True) / F
    tl.store(out + i + first, mean + EPSILON)
"""
    sizes = ["atoms", "F: tl.constexpr", "BE: tl.constexpr", "BF: tl.constexpr"]
    return program(
        *("squared_distance", ["features", "species", "means", "whitening", "out"]),
        *([*sizes, "EPSILON: tl.constexpr"], body),
    )


@functools.cache
def neighborhood_mean() -> Any:
    """Mean over each atom, of weight 1, and its neighbors, of weight (1 − r²/rc²)²; distances as
    `geometry.vectors` has them."""
    difference = [
        f"v{k} = tl.load(positions + 3 * j + {k}, mask=on, other=0.0)"
        f" - tl.load(positions + 3 * i + {k}, mask=there, other=0.0) + ("
        + " + ".join(
            f"s{a} * tl.load(cell + box + {3 * a + k}, mask=there, other=0.0)" for a in range(3)
        )
        + ")"
        for k in range(3)
    ]
    shifts = [
        f"s{a} = tl.load(shifts + 3 * e + {a}, mask=on, other=0.0).to(tl.float64)" for a in range(3)
    ]
    body = f"""
    i = tl.program_id(0).to(tl.int64) * BA + tl.arange(0, BA)[:, None]
    there = i < atoms
    box = 9 * tl.load(frame + i, mask=there, other=0)
    begin = tl.load(first + i, mask=there, other=0)
    end = tl.load(first + i + 1, mask=there, other=0)
    added = tl.zeros([BA, BE], out.dtype.element_ty)
    weights = tl.zeros([BA, BE], out.dtype.element_ty)
    for at in range(0, tl.max(end - begin), BE):
        e = begin + at + tl.arange(0, BE)[None, :]
        on = e < end
        j = tl.load(neighbors + e, mask=on, other=0)
{indented(shifts, 2)}
{indented(difference, 2)}
{indented([f"v{k} = v{k}.to(out.dtype.element_ty)" for k in range(3)], 2)}
        near = 1.0 - (v0 * v0 + v1 * v1 + v2 * v2) * PER_SQUARE
        weight = tl.where(on & (near > 0.0), near * near, 0.0)
        added += weight * tl.load(per_atom + j, mask=on, other=0.0)
        weights += weight
    own = tl.load(per_atom + i, mask=there, other=0.0)
    own += tl.sum(added, axis=1, keep_dims=True)
    own /= 1.0 + tl.sum(weights, axis=1, keep_dims=True)
    tl.store(out + i, own, mask=there)
"""
    arrays = ["per_atom", "positions", "cell", "frame", "first", "neighbors", "shifts", "out"]
    sizes = ["atoms", "BA: tl.constexpr", "BE: tl.constexpr", "PER_SQUARE: tl.constexpr"]
    return program("neighborhood_mean", arrays, sizes, body)
