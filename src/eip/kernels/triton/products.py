"""`eip.kernels.products` by Triton's kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eip.kernels.triton.edges import by_kind
from eip.kernels.triton.launch import blocks, launch, launch_flat
from eip.kernels.triton.sources import atoms as sources


def values(
    lib: None, x: tuple[Tensor, ...], others: tuple[Any, ...], dots: tuple[Any, ...] | None
) -> tuple[Tensor, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    return _each(False, (), x, others, dots)


def gradient(
    lib: None,
    g: tuple[Tensor, ...],
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    in_weights: bool,
    in_vectors: bool,
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor | None, ...]:
    """See `eip.kernels.operators.twice_differentiable`."""
    to = _each(True, g, x, others, dots)
    return *to, _to_weights(g, x, others, dots) if in_weights else None


def _each(
    back: bool,
    g: tuple[Tensor, ...],
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    dots: tuple[Any, ...] | None,
) -> tuple[Tensor, ...]:
    (*triple, weights), (species, inverse_square) = x, others
    count, channels = triple[0].shape
    out = tuple(torch.empty_like(one) for one in triple)
    kernel = sources.products_of(back, dots is not None)
    arrays = species.contiguous(), weights, *g, *triple, *(() if dots is None else dots[:3]), *out
    launch_flat(kernel, count * channels, *arrays, count, channels, inverse_square=inverse_square)
    return out


def _to_weights(
    g: tuple[Tensor, ...],
    x: tuple[Tensor, ...],
    others: tuple[Any, ...],
    dots: tuple[Any, ...] | None,
) -> Tensor:
    (*triple, weights), (species, inverse_square) = x, others
    elements, _, channels = weights.shape
    out = weights.new_empty(sources.WEIGHT_PARTS, *weights.shape)
    arrays = *by_kind(species, elements), *g, *triple, *(() if dots is None else dots[:3]), out
    kernel, programs = sources.weights_gradient(dots is not None), len(out) * elements
    sizes = len(species), elements, channels
    launch(kernel, programs, blocks(channels), *arrays, *sizes, inverse_square=inverse_square)
    return out.sum(0)
