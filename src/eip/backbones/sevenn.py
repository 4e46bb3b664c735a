"""SevenNet (Y. Park et al., J. Chem. Theory Comput. 20, 4857, 2024) as a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sevenn._const as const
import sevenn._keys as key
import torch
from jaxtyping import Float
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.model_build import build_E3_equivariant_model
from torch import Tensor, nn

from eip.backbones import irreps
from eip.backbones.frozen import FrozenBackbone
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures

#: Of its configuration what a network is made of; the elements' energies are weights.
_SPECIES = key.CHEMICAL_SPECIES_BY_ATOMIC_NUMBER
_MADE_OF = (
    *const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG,
    *(key.NUM_SPECIES, key.SHIFT, key.SCALE),
)


class SevenNetBackbone(FrozenBackbone):
    """SevenNet with the weights of a file of its package.

    The scalars are those of the last gate, from which its energies are read, and the lengths of the
    vectors and tensors of the gate before. The package keeps its weights as a pickle, so loading
    runs what is in that file of the installed package, as it runs the package's code.
    """

    def __init__(self, network: Any, config: dict[str, Any]) -> None:
        super().__init__(network)
        self._config = config
        self.cutoff = float(network.cutoff)
        self.elements = tuple(sorted(network.type_map))
        *_, before, last = (name for name in network._modules if name.endswith("equivariant_gate"))
        self._last, self._before = last, before
        self._irreps = network._modules[before].gate.irreps_out
        turning = irreps.count(self._irreps) - self._irreps.count("0e")
        self.channels = network._modules[last].gate.irreps_out.dim + turning

    @classmethod
    def of_file(cls, weights: Path) -> SevenNetBackbone:
        """Of a file of weights, which is unpickled."""
        kept = SevenNetCheckpoint(weights)
        network = kept.build_model()
        config = kept.config
        options = {name: config[name] for name in _MADE_OF if name in config}
        return cls(
            network, {**options, _SPECIES: sorted(network.type_map, key=network.type_map.get)}
        )

    @classmethod
    def of_architecture(cls, options: dict[str, Any]) -> SevenNetBackbone:
        """Of what `architecture` says, with fresh weights."""
        types = {z: k for k, z in enumerate(options[_SPECIES])}
        return cls(build_E3_equivariant_model({**options, key.TYPE_MAP: types}), options)

    def architecture(self) -> dict[str, Any]:
        return self._config

    def last_layers(self) -> tuple[nn.Module, ...]:
        names = list(self.network._modules)
        found = [self.network._modules[name] for name in names[names.index(self._before) + 1 :]]
        return tuple(module for module in found if module is not None)

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
        said = data
        for name, said in passed(network._modules, data, edge_vectors.dtype):
            if name == self._before:
                scalars += irreps.lengths(said[key.NODE_FEATURE], self._irreps)
            elif name == self._last:
                scalars.append(said[key.NODE_FEATURE])
            if key.ATOMIC_ENERGY in said:  # what follows sums and differentiates
                break
        return AtomFeatures(torch.cat(scalars, dim=1), None, said[key.ATOMIC_ENERGY][:, 0])


def passed(
    modules: Any, data: dict[str, Any], dtype: torch.dtype
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each module leaves behind, by its name, one after the other."""
    for name, module in modules.items():
        data = module(data)
        # Its species are float32 whatever the network computes in.
        for what in (key.NODE_FEATURE, key.NODE_ATTR):
            if what in data and data[what].is_floating_point():
                data[what] = data[what].to(dtype)
        yield name, data
