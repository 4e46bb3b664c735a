"""The tensor head by a compiled kernel, where nobody will differentiate σ."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eip.kernels.build import Library, pointer
from eip.models.backbone import AtomFeatures


@dataclass(frozen=True)
class PackedHead:
    """A tensor head's weights in the order in which the kernel reads them."""

    rank: int
    width: int
    lengths: Tensor
    directions: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor


def tensor_head(
    weights: PackedHead, lib: Library, features: AtomFeatures
) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms"], Float[Tensor, "atoms 3 3"]]:
    """ν, α and B (float64) of each atom, as `TensorHead.forward` gives them."""
    scalars, vectors = features.scalars.contiguous(), features.vectors.contiguous()
    atoms = len(scalars)
    nu, alpha = scalars.new_empty(atoms), scalars.new_empty(atoms)
    beta = torch.empty(atoms, 3, 3, dtype=torch.float64)
    lib.function("tensor_head", scalars.dtype)(
        *(ctypes.c_int64(v) for v in (atoms, scalars.shape[1], weights.rank, weights.width)),
        *map(pointer, (scalars, vectors, weights.lengths, weights.directions)),
        *map(pointer, (weights.hidden, weights.hidden_bias, weights.out, weights.out_bias)),
        *map(pointer, (nu, alpha, beta)),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return nu, alpha, beta
