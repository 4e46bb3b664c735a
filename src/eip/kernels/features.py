"""What is read from the features of atoms where nothing is differentiated: invariants, evidence,
distances in latent space. A gradient is that of plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, silu, softplus

from eip.kernels.build import Library, kernels_for
from eip.kernels.geometry import edge_vectors
from eip.kernels.indexing import sums, take
from eip.kernels.operators import contiguous, implement, operator
from eip.kernels.packing import addresses, block, panels
from eip.kernels.triton import features as by_triton
from eip.kernels.triton.launch import works_on

#: Added under the root of a vector's squared norm: without it, the gradient of an isolated atom's
#: zero vector is NaN.
NORM_EPSILON = 1e-8

#: ν, β and α − 1 stay above this (theory §2): the likelihood has poles at zero.
FLOOR = 1e-6

#: Under the root of d²: a gradient at the very middle of the training atoms.
DISTANCE_EPSILON = 1e-6


def norm(vectors: Tensor) -> Tensor:
    """Length of each channel's vector, ``[atoms, 3, channels]``, differentiable at zero."""
    return (vectors.square().sum(dim=1) + NORM_EPSILON).sqrt()


def positive(raw: Tensor) -> Tensor:
    """Unbounded → above the floor."""
    return softplus(raw) + FLOOR


# Invariants ---------------------------------------------------------------------------------


def _invariants(lib: Library, scalars: Tensor, vectors: Tensor) -> Tensor:
    out = _fake_invariants(scalars, vectors)
    lib.call("invariants", scalars.dtype, *scalars.shape, *contiguous((scalars, vectors)), out)
    return out


def _fake_invariants(scalars: Tensor, vectors: Tensor) -> Tensor:
    return scalars.new_empty(len(scalars), 2 * scalars.shape[1])


#: Scalars and the lengths of vectors of each atom: all that does not turn.
invariants = operator(
    "invariants(Tensor scalars, Tensor vectors) -> Tensor",
    kernel=_invariants,
    plain=lambda scalars, vectors: torch.cat([scalars, norm(vectors)], dim=1),
    fake=_fake_invariants,
)


# The tensor head ------------------------------------------------------------------------------


def pack_tensor_head(weights: Sequence[Tensor]) -> Tensor | None:
    """What `tensor_head` reads of its weights; None where no kernel would."""
    lib = kernels_for(weights[0])
    if lib is None or not lib.takes(weights[0].shape[1], weights[0].dtype):
        return None
    lengths, directions, hidden, hidden_bias, out, out_bias = weights
    width = _columns(lib, out)

    def columns(weight: Tensor) -> Tensor:
        return panels(pad(weight, (0, 0, 0, width - len(weight))).T)

    return block(
        [
            *(panels(lengths.T), columns(directions)),
            *(panels(hidden.T), hidden_bias),
            *(columns(out), pad(out_bias, (0, width - len(out)))),
        ]
    )


def _columns(lib: Library, out: Tensor) -> int:
    """Of the last layer, in whole vectors of the processor."""
    lanes = lib.lanes(out.dtype)
    return -(-len(out) // lanes) * lanes


def _tensor_head(
    lib: Library, scalars: Tensor, vectors: Tensor, weights: Sequence[Tensor], pack: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    pack = pack_tensor_head(weights) if pack is None else pack
    assert pack is not None
    nu, alpha, beta = _fake_tensor_head(scalars, vectors, weights, pack)
    sizes = *scalars.shape, len(weights[1]), _columns(lib, weights[4])
    lib.call(
        *("tensor_head", scalars.dtype, *sizes, *contiguous((scalars, vectors))),
        *(*addresses(pack, len(weights)), nu, alpha, beta, torch.get_num_threads()),
    )
    return nu, alpha, beta


def two_layers(
    x: Tensor, hidden: Tensor, hidden_bias: Tensor, out: Tensor, out_bias: Tensor
) -> Tensor:
    """A linear map, SiLU, and another one."""
    return linear(silu(linear(x, hidden, hidden_bias)), out, out_bias)


def _read_for_head(
    scalars: Tensor, vectors: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """What the last layer gives, and the vectors u_k."""
    lengths, directions, hidden, hidden_bias, out, out_bias = weights
    both = torch.cat([scalars, norm(linear(vectors, lengths))], dim=1)
    return two_layers(both, hidden, hidden_bias, out, out_bias), linear(vectors, directions)


def _plain_tensor_head(
    scalars: Tensor, vectors: Tensor, weights: Sequence[Tensor], pack: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    raw, mixed = _read_for_head(scalars, vectors, weights)
    nu, alpha, base = positive(raw[:, 0]), 1.0 + positive(raw[:, 1]), positive(raw[:, 2])
    # float64: in float32 the sum would round b0 away beside a wide direction, and B with it
    # its positive definiteness.
    mixed = mixed.double()
    weighted = mixed * softplus(raw[:, None, 3:]).double()
    identity = torch.eye(3, dtype=torch.float64, device=raw.device)
    beta = base.double()[:, None, None] * identity + weighted @ mixed.transpose(1, 2)
    return nu, alpha, beta


def _fake_tensor_head(
    scalars: Tensor, vectors: Tensor, weights: Sequence[Tensor], pack: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    atoms = len(scalars)
    beta = scalars.new_empty(atoms, 3, 3, dtype=torch.float64)
    return scalars.new_empty(atoms), scalars.new_empty(atoms), beta


#: ν, α and B = b0·1 + Σ_k w_k u_k u_kᵀ of each atom (theory §2), B in float64. ``weights``: of the
#: mixes whose lengths are read, of u_k, and weight and bias of the two layers before (ν, α, b0, w).
tensor_head = operator(
    "tensor_head(Tensor scalars, Tensor vectors, Tensor[] weights, Tensor? pack) "
    "-> (Tensor, Tensor, Tensor)",
    kernel=_tensor_head,
    plain=_plain_tensor_head,
    fake=_fake_tensor_head,
    takes=lambda lib, scalars, *_: lib.takes(scalars.shape[1], scalars.dtype),
)

implement(
    *("tensor_head", "cuda"),
    lambda scalars, vectors, weights, _: by_triton.evidence(
        *_read_for_head(scalars, vectors, weights), FLOOR
    ),
    lambda scalars, vectors, weights, _: works_on(scalars, vectors, *weights),
)


# Distances in latent space --------------------------------------------------------------------


def pack_whitening(whitening: Tensor) -> Tensor | None:
    """What `squared_distance` reads of its matrices; None where no kernel would."""
    lib = kernels_for(whitening)
    if lib is None or not lib.takes(whitening.shape[1], whitening.dtype):
        return None
    return block([torch.stack([panels(one) for one in whitening])])


def _squared_distance(
    lib: Library,
    features: Tensor,
    species: Tensor,
    means: Tensor,
    whitening: Tensor,
    pack: Tensor | None,
) -> Tensor:
    pack = pack_whitening(whitening) if pack is None else pack
    assert pack is not None
    out = features.new_empty(len(features))
    arrays = *contiguous((features, species, means)), *addresses(pack, 1)
    sizes = *features.shape, len(means)
    lib.call(
        *("squared_distance", features.dtype, *sizes, *arrays),
        *(DISTANCE_EPSILON, out, torch.get_num_threads()),
    )
    return out


def _plain_squared_distance(
    features: Tensor, species: Tensor, means: Tensor, whitening: Tensor, pack: Tensor | None
) -> Tensor:
    squared = features.new_zeros(features.shape[0])
    # Element by element: a matrix for each atom would not fit into memory.
    for k in range(len(means)):
        of_element = (species == k).nonzero()[:, 0]
        white = (features[of_element] - means[k]) @ whitening[k]
        squared = squared.index_add(0, of_element, white.square().mean(dim=1))
    return squared + DISTANCE_EPSILON


#: d² of each atom: mean square of (x − mean) · whitening of its species, dimensionless.
squared_distance = operator(
    "squared_distance(Tensor features, Tensor species, Tensor means, Tensor whitening, "
    "Tensor? pack) -> Tensor",
    kernel=_squared_distance,
    plain=_plain_squared_distance,
    fake=lambda features, *_: features.new_empty(len(features)),
    takes=lambda lib, features, *_: lib.takes(features.shape[1], features.dtype),
)

implement(
    *("squared_distance", "cuda"),
    lambda features, species, means, whitening, _: by_triton.squared_distance(
        features, species, means, whitening, DISTANCE_EPSILON
    ),
    lambda features, species, means, whitening, _: works_on(features, means, whitening),
)


def _neighborhood_mean(
    lib: Library, per_atom: Tensor, positions: Tensor, cell: Tensor, *graph: Any
) -> Tensor:
    frame, centers, neighbors, shifts, cutoff = graph
    out, first = torch.empty_like(per_atom), centers.new_empty(len(per_atom) + 1)
    geometry = positions.double(), cell.double(), frame, centers, neighbors, shifts.float()
    lib.call(
        *("neighborhood", per_atom.dtype, len(per_atom), len(centers), *contiguous(geometry)),
        *(cutoff, per_atom.contiguous(), out, first, torch.get_num_threads()),
    )
    return out


def _plain_neighborhood_mean(
    per_atom: Tensor, positions: Tensor, cell: Tensor, *graph: Any
) -> Tensor:
    frame, centers, neighbors, shifts, cutoff = graph
    vectors = edge_vectors(positions, cell, frame, centers, neighbors, shifts, per_atom.dtype)
    square = vectors.square().sum(dim=1)
    weight = (1.0 - square / cutoff**2).clamp(min=0.0).square()
    both = torch.stack([weight * take(per_atom, neighbors), weight], dim=1)
    # Not len(): a trace would keep the number of the example's atoms.
    total, weights = sums(both, centers, per_atom.shape[0]).unbind(1)
    return (per_atom + total) / (1.0 + weights)


#: Mean over each atom, of weight 1, and its neighbors, of weight (1 − r²/rc²)².
neighborhood_mean = operator(
    "neighborhood_mean(Tensor per_atom, Tensor positions, Tensor cell, Tensor frame, "
    "Tensor centers, Tensor neighbors, Tensor shifts, float cutoff) -> Tensor",
    kernel=_neighborhood_mean,
    plain=_plain_neighborhood_mean,
    fake=lambda per_atom, *_: torch.empty_like(per_atom),
)

implement(
    *("neighborhood_mean", "cuda", by_triton.neighborhood_mean),
    lambda per_atom, *_: works_on(per_atom),
)
