"""The backbones that a potential can be made of, by name."""

from __future__ import annotations

import inspect
from typing import Any

from eip.errors import InputError, did_you_mean
from eip.models.cartesian_ace import CartesianACE
from eip.models.painn import PaiNN

#: By name, what `model.backbone` may be.
BACKBONES: dict[str, type[PaiNN] | type[CartesianACE]] = {
    "painn": PaiNN,
    "cartesian_ace": CartesianACE,
}


def new_backbone(name: str, n_elements: int, **options: Any) -> PaiNN | CartesianACE:
    """A backbone with fresh weights.

    Args:
        name: one of ``BACKBONES``.
        options: of that backbone; what is not given is its default.

    Raises:
        InputError: if there is no such backbone, or it has no such option.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone '{name}': {did_you_mean(name, BACKBONES)}")
    backbone = BACKBONES[name]
    known = list(inspect.signature(backbone).parameters)[1:]
    for option in options:
        if option not in known:
            raise InputError(f"the backbone {name} has no {option}; it has {', '.join(known)}")
    return backbone(n_elements, **options)
