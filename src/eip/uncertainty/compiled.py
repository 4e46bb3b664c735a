"""The tensor head by a compiled kernel, where nobody will differentiate σ."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from eip.kernels.build import Library, pointer
from eip.kernels.packing import panels
from eip.models.backbone import AtomFeatures

if TYPE_CHECKING:
    from eip.uncertainty.evidential import TensorHead


@dataclass(frozen=True)
class PackedHead:
    """A tensor head's weights in the order in which the kernel reads them."""

    width: int
    lengths: Tensor
    directions: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor


def pack_head(head: TensorHead, lib: Library) -> PackedHead:
    """A copy of a head's weights as the kernel reads them."""
    modules: Any = head.coefficients
    hidden, out = modules[0], modules[2]
    dtype = out.weight.dtype
    # Columns in whole vectors of the processor; `chunk` is one or two of them.
    lanes = lib.chunk(head.channels, dtype)
    width = -(-len(out.weight) // lanes) * lanes

    def columns(weight: Tensor) -> Tensor:
        return panels(lib, pad(weight, (0, 0, 0, width - len(weight))).T)

    return PackedHead(
        width,
        panels(lib, head.lengths.weight.T),
        columns(head.directions.weight),
        panels(lib, hidden.weight.T),
        hidden.bias.clone(),
        columns(out.weight),
        pad(out.bias, (0, width - len(out.bias))).clone(),
    )


def tensor_head(
    head: TensorHead, lib: Library, features: AtomFeatures
) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms"], Float[Tensor, "atoms 3 3"]]:
    """ν, α and B (float64) of each atom, as `TensorHead.forward` gives them."""
    weights = head.packed(lib)
    scalars, vectors = features.scalars.contiguous(), features.vectors.contiguous()
    atoms = len(scalars)
    nu, alpha = scalars.new_empty(atoms), scalars.new_empty(atoms)
    beta = torch.empty(atoms, 3, 3, dtype=torch.float64)
    lib.function("tensor_head", scalars.dtype)(
        *(ctypes.c_int64(v) for v in (atoms, head.channels, head.rank, weights.width)),
        *map(pointer, (scalars, vectors, weights.lengths, weights.directions)),
        *map(pointer, (weights.hidden, weights.hidden_bias, weights.out, weights.out_bias)),
        *map(pointer, (nu, alpha, beta)),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return nu, alpha, beta
