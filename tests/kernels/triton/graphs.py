"""Graphs at random for the kernels that go along edges, and how far apart two answers are."""

from __future__ import annotations

import torch
from torch import Tensor

#: Edges' vectors, centers, neighbors, atoms.
Graph = tuple[Tensor, Tensor, Tensor, int]


def random_graph(atoms: int, pairs: int, seed: int = 0, longest: float = 5.0) -> Graph:
    """Pairs of atoms drawn at random, an atom with itself in a neighboring cell among them, both
    ways; some beyond the cutoff. The last atom has no neighbors where there are several."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, max(1, atoms - 1), (pairs, 2), generator=generator)
    direction = torch.randn(pairs, 3, generator=generator, dtype=torch.float64)
    length = 0.5 + (longest - 0.5) * torch.rand(pairs, 1, generator=generator, dtype=torch.float64)
    vectors = direction / direction.norm(dim=1, keepdim=True) * length
    vectors, both = torch.cat([vectors, -vectors]), torch.cat([ends, ends.flip(1)])
    order = torch.argsort(both[:, 0], stable=True)
    return vectors[order], *(end.contiguous() for end in both[order].unbind(1)), atoms


def close(found: list[Tensor], expected: list[Tensor], within: float) -> None:
    """Within rounding of the largest number of each."""
    for one, two in zip(found, expected, strict=True):
        scale = float(two.detach().abs().max()) if two.numel() else 0.0
        torch.testing.assert_close(
            one.detach().double(), two.detach(), rtol=0, atol=within * (scale + 1.0)
        )
