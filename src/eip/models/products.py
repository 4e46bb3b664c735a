"""All products of up to three factors of a scalar, a vector and a symmetric traceless matrix.

What is symmetric under rotation and reflection can be made of x, u and M in 27 ways (theory §7; by
the theorem of Cayley and Hamilton M³ is none of its own). They are the atomic cluster expansion's
products up to body order four, in Cartesian form.

`Products` does it by compiled kernels, `_Gradient` is its gradient as an operation of its own, so
that forces can be part of a loss (kernels/products.cpp).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.kernels.build import Library, pointer
from eip.models.message_passing import wanted
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


#: Atoms that sum one copy of the weights' gradient; fixed, as in `eip.models.message_passing`.
_ATOMS_PER_GROUP, _MOST_GROUPS = 512, 8


def products(
    x: Float[Tensor, "atoms channels"],
    u: Float[Tensor, "3 atoms channels"],
    m: Float[Tensor, "5 atoms channels"],
    weights: Float[Tensor, "elements 27 channels"],
    species: Int[Tensor, "atoms"],
    inverse_square: float,
    lib: Library,
) -> Triple:
    """`plain_products` of what is `bounded`, by compiled kernels; weights are of elements."""
    # Here, not inside: what is saved there must be what came in, or second derivatives miss it.
    x, u, m, weights = x.contiguous(), u.contiguous(), m.contiguous(), weights.contiguous()
    return Products.apply(x, u, m, weights, species.contiguous(), inverse_square, lib)


class Products(torch.autograd.Function):
    """See `products`; all arrays are contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        u: Tensor,
        m: Tensor,
        weights: Tensor,
        species: Tensor,
        inverse_square: float,
        lib: Library,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, u, m, weights, species)
        ctx.lib, ctx.inverse_square = lib, inverse_square
        out = torch.empty_like(x), torch.empty_like(u), torch.empty_like(m)
        _call(lib, "products", weights, species, inverse_square, 1, x, None, u, None, m, None, *out)
        return out

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        x, u, m, weights, species = ctx.saved_tensors
        gradients = _Gradient.apply(
            *(*g, x, u, m, weights, species, ctx.inverse_square, ctx.lib, wanted(ctx, 3))
        )
        return *gradients, None, None, None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g_x: Tensor,
        g_u: Tensor,
        g_m: Tensor,
        x: Tensor,
        u: Tensor,
        m: Tensor,
        weights: Tensor,
        species: Tensor,
        inverse_square: float,
        lib: Library,
        weights_wanted: bool,
    ) -> tuple[Tensor | None, ...]:
        g = g_x.contiguous(), g_u.contiguous(), g_m.contiguous()
        ctx.save_for_backward(*g, x, u, m, weights, species)
        ctx.lib, ctx.inverse_square = lib, inverse_square
        ctx.set_materialize_grads(False)
        known = weights, species, inverse_square
        return _gradient(lib, g, (x, u, m), None, known, weights_wanted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        x_dot: Tensor | None,
        u_dot: Tensor | None,
        m_dot: Tensor | None,
        weights_dot: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        if weights_dot is not None:
            raise NotImplementedError(
                "the gradient of a gradient in the products' weights is not there; run it under "
                "eip.kernels.reference_path()"
            )
        *g, x, u, m, weights, species = ctx.saved_tensors
        dots = tuple(
            torch.zeros_like(value) if given is None else given.contiguous()
            for value, given in zip((x, u, m), (x_dot, u_dot, m_dot), strict=True)
        )
        to_g = torch.empty_like(x), torch.empty_like(u), torch.empty_like(m)
        pairs = [array for pair in zip((x, u, m), dots, strict=True) for array in pair]
        known = weights, species, ctx.inverse_square
        _call(ctx.lib, "products", *known, 1, *pairs, *to_g)
        to = _gradient(ctx.lib, tuple(g), (x, u, m), dots, known, True)
        return *to_g, *to, None, None, None, None


def _gradient(
    lib: Library,
    g: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    dots: tuple[Tensor, ...] | None,
    known: tuple[Tensor, Tensor, float],
    weights_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """In x, u, m and the weights; with ``dots``, that of the tangent. ``known``: weights,
    species and 1/limit²."""
    weights, species, _ = known
    groups = min(_MOST_GROUPS, max(1, len(species) // _ATOMS_PER_GROUP))
    to_x, to_u, to_m = (torch.empty_like(value) for value in values)
    to_weights = weights.new_empty(groups, *weights.shape) if weights_wanted else None
    pairs = [a for pair in zip(values, dots or (None,) * 3, strict=True) for a in pair]
    arrays = *g, *pairs, to_x, to_u, to_m, to_weights
    _call(lib, "products_gradient", *known, groups, *arrays)
    return to_x, to_u, to_m, None if to_weights is None else to_weights.sum(0)


def _call(
    lib: Library,
    name: str,
    weights: Tensor,
    species: Tensor,
    inverse_square: float,
    groups: int,
    *arrays: Tensor | None,
) -> None:
    elements, _, channels = weights.shape
    sizes = len(species), channels, elements, torch.get_num_threads(), groups
    lib.function(name, weights.dtype)(
        *map(ctypes.c_int64, sizes),
        ctypes.c_double(inverse_square),
        *map(pointer, (species, weights, *arrays)),
    )
