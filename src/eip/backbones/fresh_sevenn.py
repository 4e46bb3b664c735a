"""SevenNet's architecture (Y. Park et al., JCTC 20, 4857, 2024), trained from nothing by eIP.

It is NequIP's (S. Batzner et al., Nature Communications 13, 2453, 2022). Energies are read of the
last layer by eIP's readout, so that all that reads a network's last layer knows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sevenn._const as const
import sevenn._keys as key
import torch
from jaxtyping import Float, Int
from sevenn.model_build import build_E3_equivariant_model
from torch import Tensor, nn

from eip.backbones import irreps
from eip.backbones.sevenn import passed
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures, Backbone, Layers


class FreshSevenNet(Backbone):
    """Convolutions and gates of SevenNet; its last layer has vectors, too.

    Args:
        channels: scalars, vectors and, to l_max, tensors of each layer; those of natural parity.
        mean_neighbors: what messages are divided by.
    """

    def __init__(
        self,
        n_elements: int,
        *,
        cutoff: float,
        channels: int,
        interactions: int,
        l_max: int,
        radial_functions: int,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        layer = "+".join(f"{channels}x{k}{'eo'[k % 2]}" for k in range(l_max + 1))
        # One convolution more than is asked for: the package makes the last one without vectors,
        # and that is left out.
        kinds = [f"{channels}x0e", *[layer] * interactions, f"{channels}x0e"]
        config: dict[str, Any] = {
            **const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG,
            key.CUTOFF: cutoff,
            key.NODE_FEATURE_MULTIPLICITY: channels,
            key.IRREPS_MANUAL: kinds,
            key.LMAX: l_max,
            key.NUM_CONVOLUTION: interactions + 1,
            key.RADIAL_BASIS: {
                key.RADIAL_BASIS_NAME: "bessel",
                key.BESSEL_BASIS_NUM: radial_functions,
            },
            key.CONV_DENOMINATOR: mean_neighbors,
            key.NUM_SPECIES: n_elements,
            key.TYPE_MAP: {k + 1: k for k in range(n_elements)},
            key.SHIFT: 0.0,
            key.SCALE: 1.0,
        }
        made: Any = build_E3_equivariant_model(config)
        names = list(made._modules)
        last = names.index(f"{interactions - 1}_equivariant_gate")
        self.cutoff = cutoff
        self.channels = self.vector_channels = channels
        self.layers = nn.ModuleDict({name: made._modules[name] for name in names[: last + 1]})
        self._irreps = made._modules[names[last]].gate.irreps_out

    def trained(self, layers: Layers = "all") -> Iterator[nn.Parameter]:
        """Not what messages are divided by."""
        divisors = {id(m.denominator) for m in self.modules() if hasattr(m, "denominator")}
        yield from (p for p in super().trained(layers) if id(p) not in divisors)

    def forward(
        self,
        graph: AtomGraph,
        species: Int[Tensor, "atoms"],
        edge_vectors: Float[Tensor, "edges 3"],
    ) -> AtomFeatures:
        inside = (torch.linalg.vector_norm(edge_vectors, dim=1) < self.cutoff).nonzero()[:, 0]
        data: dict[str, Any] = {
            key.ATOMIC_NUMBERS: graph.numbers,
            key.NODE_FEATURE: species,
            key.EDGE_IDX: torch.stack([graph.centers[inside], graph.neighbors[inside]]),
            key.EDGE_VEC: edge_vectors[inside],
            key.BATCH: graph.frame,
            key.NUM_ATOMS: graph.atoms_per_frame,
        }
        *_, (_, said) = passed(self.layers, data, edge_vectors.dtype)
        features = said[key.NODE_FEATURE]
        scalars = torch.cat(irreps.scalars(features, self._irreps), dim=1)
        return AtomFeatures(scalars, irreps.vectors(features, self._irreps))
