"""Along what a structure gives way: the direction of a force, weighed by how stiff bonds are.

The slope of σ is steepest along what is stiff, and a force along it stretches bonds and heats. The
same slope over a stiffness, (K + μ)⁻¹ F, points along what gives way: torsions, hops, diffusion.
The stiffness K is that of springs between neighbors along their distance, weaker the farther they
are, as in the model Hessians of geometry optimizers (Lindh et al., Chem. Phys. Lett. 241, 423
(1995)): a bond is stiff, an angle less than a tenth of it, a torsion nearly free.
"""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from jaxtyping import Float
from torch import Tensor

from eip.graph import AtomGraph
from eip.kernels.indexing import sums, take

#: Decay of a spring over the distance in sums of covalent radii; a bond's is about 1.
_DECAY = 3.3
#: μ: what is softer than this gives way no further.
_SOFTEST = 0.02
#: Of conjugate gradients: a direction needs no more.
_TOLERANCE, _ITERATIONS = 1e-3, 200


def softened(
    forces: Float[Tensor, "atoms 3"], graph: AtomGraph, cutoff: float
) -> Float[Tensor, "atoms 3"]:
    """(K + μ)⁻¹ F, as large as before: the largest ‖F_i‖ of each structure stays.

    Translations and rotations stretch no spring: a force without net force and torque has none
    after.

    Args:
        forces: F.
        graph: of the structures that they are of.
        cutoff: Å; springs fade to nothing there.
    """
    vectors = graph.edge_vectors(forces.dtype)
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    along = vectors / lengths.clamp(min=1e-6)[:, None]
    radii = torch.as_tensor(covalent_radii, dtype=forces.dtype, device=forces.device)[graph.numbers]
    beyond = lengths / (take(radii, graph.centers) + take(radii, graph.neighbors)) - 1.0
    fading = (1.0 - (lengths / cutoff) ** 6).clamp(min=0.0) ** 2
    springs = torch.exp(-_DECAY * beyond.clamp(min=0.0)) * fading

    def stiffened(moved: Tensor) -> Tensor:
        stretched = (along * (take(moved, graph.neighbors) - take(moved, graph.centers))).sum(1)
        pulls = (springs * stretched)[:, None] * along
        stiff: Tensor = _SOFTEST * moved - sums(pulls, graph.centers, graph.n_atoms)
        return stiff

    def product(one: Tensor, other: Tensor) -> Tensor:
        return graph.sum_by_frame((one * other).sum(1))

    # Conjugate gradients of all structures at once, each with steps of its own: what is found for
    # one does not depend on the others.
    found, rest, direction = torch.zeros_like(forces), forces, forces
    left = product(rest, rest)
    enough = _TOLERANCE**2 * left
    for _ in range(_ITERATIONS):
        open_ = left > enough
        if not bool(open_.any()):
            break
        stiff = stiffened(direction)
        step = torch.where(open_, left, 0.0) / torch.where(open_, product(direction, stiff), 1.0)
        found = found + step[graph.frame][:, None] * direction
        rest = rest - step[graph.frame][:, None] * stiff
        was, left = left, torch.where(open_, product(rest, rest), left)
        turn = left / torch.where(open_, was, 1.0)
        direction = torch.where(
            open_[graph.frame][:, None], rest + turn[graph.frame][:, None] * direction, direction
        )
    before, after = (
        graph.largest_by_frame(torch.linalg.vector_norm(one, dim=1)) for one in (forces, found)
    )
    scale = before / after.clamp(min=torch.finfo(forces.dtype).tiny)
    return found * scale[graph.frame][:, None]
