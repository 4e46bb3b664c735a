"""What a neighbor's scalars, vector and matrix become on their way along an edge.

An edge leaves what turns about it alone: of the pairs of components that it can couple, the ones
along it (a scalar, v·r̂, r̂ᵀt r̂) have nine, the ones once across (v, t r̂) four, the rest of t one.
These are all that are linear in the neighbor and symmetric, as in Passaro and Zitnick (2023); each
has a radial filter of its own.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eip.models.tensors import applied, dot, outer

#: Filters of a layer whose neighbors have a vector and a matrix; of one where they have none yet.
PATHS, FIRST_PATHS = 14, 3

Sums = tuple[
    Float[Tensor, "atoms channels"],
    Float[Tensor, "3 atoms channels"],
    Float[Tensor, "5 atoms channels"],
]


def plain_coupling(
    said: Float[Tensor, "3 atoms channels"],
    v: Float[Tensor, "3 atoms channels"] | None,
    t: Float[Tensor, "5 atoms channels"] | None,
    filters: Float[Tensor, "edges paths channels"],
    direction: Float[Tensor, "edges 3"],
    centers: Tensor,
    neighbors: Tensor,
) -> Sums:
    """Sums over the neighbors of each atom.

    Args:
        said: scalars of each atom: for its neighbors' scalars, vectors and matrices.
        v, t: vector and matrix of each atom; None where they are zero.
        filters: W(r) of each edge, ``PATHS`` of them or ``FIRST_PATHS``.
        direction: unit vectors from centre to neighbor.
    """
    w = filters.unbind(1)
    a, b, c = said.index_select(1, neighbors).unbind()
    d = direction.T[:, :, None].expand(-1, -1, a.shape[1])
    if v is None or t is None:
        scalars, vectors, matrices = w[0] * a, w[1] * b * d, outer(w[2] * c * d, d)
    else:
        v, t = v.index_select(1, neighbors), t.index_select(1, neighbors)
        turned = applied(t, d)
        along, twice = dot(v, d), dot(turned, d)
        scalars = w[0] * a + w[1] * along + w[2] * twice
        vectors = (w[3] * b + w[4] * along + w[5] * twice) * d + w[6] * v + w[7] * turned
        across = (w[8] * c + w[9] * along + w[10] * twice) * d + w[11] * v + w[12] * turned
        matrices = outer(across, d) + w[13] * t
    atoms = said.shape[1]

    def sums(per_edge: Tensor) -> Tensor:
        zeros = per_edge.new_zeros(*per_edge.shape[:-2], atoms, per_edge.shape[-1])
        return zeros.index_add(per_edge.ndim - 2, centers, per_edge)

    return sums(scalars), sums(vectors), sums(matrices)


