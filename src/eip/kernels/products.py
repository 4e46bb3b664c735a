"""All products of up to three factors of a scalar, a vector and a symmetric traceless matrix.

What is symmetric under rotation and reflection can be made of x, u and M in 27 ways (theory §7; by
the theorem of Cayley and Hamilton M³ is none of its own). They are the atomic cluster expansion's
products up to body order four, in Cartesian form.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eip.kernels.build import Library
from eip.kernels.edges import groups
from eip.kernels.operators import implement_twice, twice_differentiable
from eip.kernels.tensors import applied, contraction, dot, outer, square
from eip.kernels.triton import products as by_triton
from eip.kernels.triton.launch import works_on

#: Products that are scalars, vectors, matrices; and how many factors each has, in their order.
SCALARS, VECTORS, MATRICES = 9, 8, 10
FACTORS = (1, 2, 2, 2, 3, 3, 3, 3, 3, *(1, 2, 2, 3, 3, 3, 3, 3), *(1, 2, 2, 2, 3, 3, 3, 3, 3, 3))
PRODUCTS = len(FACTORS)

Triple = tuple[
    Float[Tensor, "atoms channels"],
    Float[Tensor, "3 atoms channels"],
    Float[Tensor, "5 atoms channels"],
]


def bounded(
    x: Float[Tensor, "atoms channels"],
    u: Float[Tensor, "3 atoms channels"],
    m: Float[Tensor, "5 atoms channels"],
    inverse_square: float,
) -> Triple:
    """The three, divided by √(1 + size²/limit²): never larger than a limit together.

    Far from all data, powers of what is large would else be larger than anything that is learned.

    Args:
        inverse_square: 1/limit²; 0 leaves them as they are.
    """
    size = x * x + dot(u, u) + contraction(m, m)
    factor = (1.0 + inverse_square * size).rsqrt()
    return factor * x, factor * u, factor * m


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


def _plain(
    x: Tensor, u: Tensor, m: Tensor, weights: Tensor, species: Tensor, inverse_square: float
) -> Triple:
    of_atoms = weights.index_select(0, species).transpose(0, 1)
    return plain_products(*bounded(x, u, m, inverse_square), of_atoms)


def _values(
    lib: Library, x: tuple[Tensor, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, ...]:
    out = tuple(torch.empty_like(one) for one in x[:3])
    _call(lib, "products", x, others, dots, 1, (), out)
    return out


def _gradient(
    lib: Library,
    g: tuple[Tensor, ...],
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    in_weights: bool,
    in_vectors: bool,
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor | None, ...]:
    to = tuple(torch.empty_like(one) for one in x[:3])
    copies = groups(len(others[0]))
    parts = x[3].new_empty(copies, *x[3].shape) if in_weights else None
    _call(lib, "products_gradient", x, others, dots, copies, g, (*to, parts))
    return *to, None if parts is None else parts.sum(0)


def _call(
    lib: Library,
    name: str,
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    dots: tuple[Any, ...] | None,
    copies: int,
    g: tuple[Tensor, ...],
    out: tuple[Tensor | None, ...],
) -> None:
    (*values, weights), (species, inverse_square) = x, others
    elements, _, channels = weights.shape
    pairs = zip(values, (dots or (None,) * 3)[:3], strict=True)
    lib.call(
        *(name, weights.dtype, len(species), channels, elements, torch.get_num_threads(), copies),
        *(inverse_square, species.contiguous(), weights, *g),
        *(array for pair in pairs for array in pair),
        *out,
    )


#: `plain_products` of what is `bounded`; weights are of elements, ``[elements, 27, channels]``.
products = twice_differentiable(
    "cartesian_products",
    inputs="Tensor x, Tensor u, Tensor m, Tensor weights",
    constants="Tensor species, float inverse_square",
    outputs=3,
    weights="weights: the products'",
    values=_values,
    gradient=_gradient,
    plain=_plain,
    takes=lambda lib, x: lib.takes(x[0].shape[1], x[0].dtype),
    fake=lambda x, u, m, *_: (torch.empty_like(x), torch.empty_like(u), torch.empty_like(m)),
)

implement_twice(
    *("cartesian_products", "cuda", by_triton.values, by_triton.gradient),
    takes=lambda _, x: works_on(*x),
)
