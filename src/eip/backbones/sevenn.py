"""SevenNet (Y. Park et al., J. Chem. Theory Comput. 20, 4857, 2024) as a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sevenn._keys as key
import torch
from jaxtyping import Float
from sevenn.checkpoint import SevenNetCheckpoint
from torch import Tensor

from eip.backbones import irreps
from eip.backbones.frozen import FrozenBackbone
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures


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
        self._irreps = network._modules[before].gate.irreps_out
        turning = irreps.count(self._irreps) - self._irreps.count("0e")
        self.channels = network._modules[last].gate.irreps_out.dim + turning

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
                scalars += irreps.lengths(data[key.NODE_FEATURE], self._irreps)
            elif name == self._last:
                scalars.append(data[key.NODE_FEATURE])
            if key.ATOMIC_ENERGY in data:  # what follows sums and differentiates
                break
        return AtomFeatures(torch.cat(scalars, dim=1), None, data[key.ATOMIC_ENERGY][:, 0])
