"""What does not turn of features that are laid out as e3nn has them; e3nn itself is not needed."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

#: What lengths are no smaller than: a root has no gradient at zero.
_SMALLEST = 1e-6


def lengths(features: Float[Tensor, "atoms width"], irreps: Any) -> list[Tensor]:
    """Of all that turns or changes its sign: of each vector, tensor and pseudoscalar."""
    parts = []
    for (count, irrep), place in zip(irreps, irreps.slices(), strict=True):
        if not _is_scalar(irrep):
            each = features[:, place].reshape(len(features), count, irrep.dim)
            parts.append((each.square().sum(dim=2) + _SMALLEST**2).sqrt())
    return parts


def scalars(features: Float[Tensor, "atoms width"], irreps: Any) -> list[Tensor]:
    """What stays as it is."""
    placed = zip(irreps, irreps.slices(), strict=True)
    return [features[:, place] for (_, irrep), place in placed if _is_scalar(irrep)]


def vectors(features: Float[Tensor, "atoms width"], irreps: Any) -> Float[Tensor, "atoms 3 count"]:
    """What turns as positions do, of features that have one kind of them."""
    (place,) = (
        place
        for (_, irrep), place in zip(irreps, irreps.slices(), strict=True)
        if _is_vector(irrep)
    )
    return features[:, place].reshape(len(features), -1, 3).transpose(1, 2)


def count(irreps: Any) -> int:
    """How many scalars and lengths there are."""
    return sum(many for many, _ in irreps)


def _is_scalar(irrep: Any) -> bool:
    return bool(irrep.l == 0 and irrep.p == 1)


def _is_vector(irrep: Any) -> bool:
    return bool(irrep.l == 1 and irrep.p == -1)
