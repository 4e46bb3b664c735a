"""The formulas of `eip.kernels.coupling`, `messages` and `products`, of one edge, of one atom.

The same as the plain ones there, of single numbers: a matrix is its components xx, yy, xy, xz, yz.
"""

from __future__ import annotations

from collections.abc import Sequence

from eip.kernels.triton.expressions import Number, inverse_root, total

Numbers = Sequence[Number]


def dot(a: Numbers, b: Numbers) -> Number:
    return total(x * y for x, y in zip(a, b, strict=True))


def contraction(a: Numbers, b: Numbers) -> Number:
    """A : B."""
    zz = (a[0] + a[1]) * (b[0] + b[1])
    return a[0] * b[0] + a[1] * b[1] + zz + 2.0 * dot(a[2:], b[2:])


def applied(a: Numbers, u: Numbers) -> list[Number]:
    """A u."""
    xx, yy, xy, xz, yz = a
    x, y, z = u
    return [
        xx * x + xy * y + xz * z,
        xy * x + yy * y + yz * z,
        xz * x + yz * y - (xx + yy) * z,
    ]


def outer(a: Numbers, b: Numbers) -> list[Number]:
    """The symmetric traceless part of a bᵀ."""
    third = (1.0 / 3.0) * dot(a, b)
    return [
        a[0] * b[0] - third,
        a[1] * b[1] - third,
        *(0.5 * (a[i] * b[j] + a[j] * b[i]) for i, j in ((0, 1), (0, 2), (1, 2))),
    ]


def square(a: Numbers) -> list[Number]:
    """The traceless part of A²."""
    xx, yy, xy, xz, yz = a
    third = (1.0 / 3.0) * contraction(a, a)
    return [
        xx * xx + xy * xy + xz * xz - third,
        xy * xy + yy * yy + yz * yz - third,
        *(xy * (xx + yy) + xz * yz, xy * yz - xz * yy, xy * xz - yz * xx),
    ]


def scaled(factor: Number, *parts: Numbers) -> list[Number]:
    """A vector or a matrix, or the sum of several, times a number."""
    return [factor * total(components) for components in zip(*parts, strict=True)]


def added(*parts: Numbers) -> list[Number]:
    return [total(components) for components in zip(*parts, strict=True)]


def couple(d: Numbers, w: Numbers, node: Numbers) -> list[Number]:
    """What an edge adds to its centre's scalar, vector and matrix: nine numbers.

    Args:
        d: unit vector from centre to neighbor.
        w: filters, ``PATHS`` or ``FIRST_PATHS``.
        node: the neighbor's three scalars and, but in a first layer, its vector and matrix.
    """
    a, b, c = node[:3]
    if len(node) == 3:
        return [w[0] * a, *scaled(w[1] * b, d), *outer(scaled(w[2] * c, d), d)]
    v, t = node[3:6], node[6:11]
    turned = applied(t, d)
    along, twice = dot(v, d), dot(turned, d)
    scalar = w[0] * a + w[1] * along + w[2] * twice
    to_v, to_t = (w[k] * x + w[k + 1] * along + w[k + 2] * twice for k, x in ((3, b), (8, c)))
    vector = added(scaled(to_v, d), scaled(w[6], v), scaled(w[7], turned))
    across = added(scaled(to_t, d), scaled(w[11], v), scaled(w[12], turned))
    return [scalar, *vector, *added(outer(across, d), scaled(w[13], t))]


def pass_on(d: Numbers, w: Numbers, node: Numbers) -> list[Number]:
    """What an edge adds to its centre's scalar and vector in PaiNN: four numbers.

    Args:
        d: unit vector from centre to neighbor.
        w: the three filters.
        node: the neighbor's φ, three numbers, and its vector.
    """
    a, b, c, *v = node
    return [w[0] * a, *added(scaled(w[1] * b, d), scaled(w[2] * c, v))]


def products(triple: Numbers, c: Numbers, inverse_square: Number) -> list[Number]:
    """The weighted sums of the products of what is bounded: nine numbers.

    Args:
        triple: scalar, vector and matrix of an atom.
        c: the 27 weights.
        inverse_square: 1/limit².
    """
    x, u, m = triple[0], triple[1:4], triple[4:9]
    factor = inverse_root(1.0 + inverse_square * (x * x + dot(u, u) + contraction(m, m)))
    x, u, m = factor * x, scaled(factor, u), scaled(factor, m)
    p, q = applied(m, u), square(m)
    r = applied(m, p)
    uu, mm, up = dot(u, u), contraction(m, m), dot(u, p)
    scalar = (
        x * (c[0] + x * (c[1] + x * c[4]))
        + uu * (c[2] + x * c[5])
        + mm * (c[3] + x * c[6])
        + up * c[7]
        + contraction(q, m) * c[8]
    )
    vector = added(
        scaled(c[9] + x * (c[10] + x * c[12]) + uu * c[13] + mm * c[14], u),
        scaled(c[11] + x * c[15], p),
        scaled(c[16], r),
    )
    matrix = added(
        scaled(c[17] + x * (c[18] + x * c[21]) + uu * c[24] + mm * c[25], m),
        outer(scaled(c[19] + x * c[22], u), u),
        scaled(c[20] + x * c[23], q),
        outer(scaled(c[26], p), u),
    )
    return [scalar, *vector, *matrix]
