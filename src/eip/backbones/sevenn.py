"""SevenNet (Y. Park et al., J. Chem. Theory Comput. 20, 4857, 2024) as a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sevenn._keys as key
import torch
from jaxtyping import Float
from sevenn.checkpoint import SevenNetCheckpoint
from torch import Tensor

from eip.backbones.frozen import FrozenBackbone
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures

#: What lengths are no smaller than: a root has no gradient at zero.
_SMALLEST = 1e-6


class SevenNetBackbone(FrozenBackbone):
    """SevenNet with the weights of a file of its package.

    The scalars are those of the last gate, from which its energies are read, and the lengths of the
    vectors and tensors of the gate before. The package keeps its weights as a pickle, so loading
    runs what is in that file of the installed package, as it runs the package's code.
    """

    def __init__(self, weights: Path) -> None:
        network: Any = SevenNetCheckpoint(weights).build_model()
        super().__init__(network)
        self.cutoff = float(network.cutoff)
        self.elements = tuple(sorted(network.type_map))
        *_, before, last = (name for name in network._modules if name.endswith("equivariant_gate"))
        self._last, self._before = last, before
        self._lengths = [
            (irreps.mul, irreps.ir.dim, place.start)
            for irreps, place in _placed(network._modules[before].gate.irreps_out)
            if irreps.ir.l > 0
        ]
        scalars = network._modules[last].gate.irreps_out.dim
        self.channels = scalars + sum(count for count, _, _ in self._lengths)

    def forward(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        network: Any = self.network
        inside = (torch.linalg.vector_norm(edge_vectors, dim=1) < self.cutoff).nonzero()[:, 0]
        data: dict[str, Any] = {
            key.ATOMIC_NUMBERS: graph.numbers,
            key.NODE_FEATURE: network._atomic_numbers_to_onehot(graph.numbers),
            key.EDGE_IDX: torch.stack([graph.centers[inside], graph.neighbors[inside]]),
            key.EDGE_VEC: edge_vectors[inside],
            key.BATCH: graph.frame,
            key.NUM_ATOMS: graph.atoms_per_frame,
        }
        scalars: list[Tensor] = []
        for name, module in network._modules.items():
            data = module(data)
            # Its species are float32 whatever the network computes in.
            for what in (key.NODE_FEATURE, key.NODE_ATTR):
                if what in data and data[what].is_floating_point():
                    data[what] = data[what].to(edge_vectors.dtype)
            if name == self._before:
                scalars += [_length(data[key.NODE_FEATURE], *place) for place in self._lengths]
            elif name == self._last:
                scalars.append(data[key.NODE_FEATURE])
            if key.ATOMIC_ENERGY in data:  # what follows sums and differentiates
                break
        return AtomFeatures(torch.cat(scalars, dim=1), None, data[key.ATOMIC_ENERGY][:, 0])


def _placed(irreps: Any) -> Any:
    return zip(irreps, irreps.slices(), strict=True)


def _length(
    features: Float[Tensor, "atoms width"], count: int, components: int, start: int
) -> Float[Tensor, "atoms count"]:
    """Of each vector or tensor, whose components follow each other."""
    part = features[:, start : start + count * components]
    each = part.reshape(len(features), count, components)
    return (each.square().sum(dim=2) + _SMALLEST**2).sqrt()
