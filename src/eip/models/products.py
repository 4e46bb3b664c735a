"""All products of up to three factors of a scalar, a vector and a symmetric traceless matrix.

What is symmetric under rotation and reflection can be made of x, u and M in 27 ways (SPEC §10; by
the theorem of Cayley and Hamilton M³ is none of its own). They are the atomic cluster expansion's
products up to body order four, in Cartesian form.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eip.models.tensors import applied, contraction, dot, outer, square

#: Products that are scalars, vectors, matrices; and how many factors each has, in their order.
SCALARS, VECTORS, MATRICES = 9, 8, 10
FACTORS = (1, 2, 2, 2, 3, 3, 3, 3, 3, *(1, 2, 2, 3, 3, 3, 3, 3), *(1, 2, 2, 2, 3, 3, 3, 3, 3, 3))
PRODUCTS = len(FACTORS)

Triple = tuple[
    Float[Tensor, "atoms channels"],
    Float[Tensor, "3 atoms channels"],
    Float[Tensor, "5 atoms channels"],
]


def plain_products(
    x: Float[Tensor, "atoms channels"],
    u: Float[Tensor, "3 atoms channels"],
    m: Float[Tensor, "5 atoms channels"],
    weights: Float[Tensor, "27 atoms channels"],
) -> Triple:
    """The weighted sums of the products that are scalars, vectors and matrices."""
    c = weights.unbind()
    p, q = applied(m, u), square(m)
    uu, mm, up = dot(u, u), contraction(m, m), dot(u, p)
    # M² u: `square` has lost its trace.
    r = applied(m, p)
    scalars = (
        x * (c[0] + x * (c[1] + x * c[4]))
        + uu * (c[2] + x * c[5])
        + mm * (c[3] + x * c[6])
        + up * c[7]
        + contraction(q, m) * c[8]
    )
    vectors = (
        u * (c[9] + x * (c[10] + x * c[12]) + uu * c[13] + mm * c[14])
        + p * (c[11] + x * c[15])
        + r * c[16]
    )
    matrices = (
        m * (c[17] + x * (c[18] + x * c[21]) + uu * c[24] + mm * c[25])
        + outer(u, u) * (c[19] + x * c[22])
        + q * (c[20] + x * c[23])
        + outer(p, u) * c[26]
    )
    return scalars, vectors, matrices
