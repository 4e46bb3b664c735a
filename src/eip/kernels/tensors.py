"""Algebra of vectors and symmetric traceless matrices, channel by channel, components first.

A vector is ``[3, …]``; a symmetric traceless matrix is its five components xx, yy, xy, xz, yz,
``[5, …]`` (zz = −xx − yy). They are no orthonormal basis, and need not be: weights mix channels,
never components, so any basis turns as well.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Vector = Float[Tensor, "3 *rest"]
Matrix = Float[Tensor, "5 *rest"]


def dot(a: Vector, b: Vector) -> Float[Tensor, "*rest"]:
    """a · b."""
    return (a * b).sum(dim=0)


def contraction(a: Matrix, b: Matrix) -> Float[Tensor, "*rest"]:
    """A : B."""
    xx, yy = a[0] * b[0], a[1] * b[1]
    zz = (a[0] + a[1]) * (b[0] + b[1])
    return xx + yy + zz + 2.0 * (a[2] * b[2] + a[3] * b[3] + a[4] * b[4])


def applied(a: Matrix, u: Vector) -> Vector:
    """A u."""
    xx, yy, xy, xz, yz = a.unbind()
    x, y, z = u.unbind()
    return torch.stack(
        [xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y - (xx + yy) * z]
    )


def outer(a: Vector, b: Vector) -> Matrix:
    """The symmetric traceless part of a bᵀ."""
    x, y, z = a.unbind()
    u, v, w = b.unbind()
    third = (x * u + y * v + z * w) / 3.0
    return torch.stack(
        [
            *(x * u - third, y * v - third),
            *(0.5 * (x * v + y * u), 0.5 * (x * w + z * u), 0.5 * (y * w + z * v)),
        ]
    )


def square(a: Matrix) -> Matrix:
    """The traceless part of A²."""
    xx, yy, xy, xz, yz = a.unbind()
    third = contraction(a, a) / 3.0
    return torch.stack(
        [
            *(xx * xx + xy * xy + xz * xz - third, xy * xy + yy * yy + yz * yz - third),
            *(xy * (xx + yy) + xz * yz, xy * yz - xz * yy, xy * xz - yz * xx),
        ]
    )
