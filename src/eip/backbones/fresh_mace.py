"""MACE's architecture (I. Batatia et al., NeurIPS 2022), trained from nothing by eIP.

Energies are not read by MACE's readouts but by eIP's, of the scalars of all layers; so all that
reads a network's last layer knows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.backbones import irreps
from eip.backbones.mace import imported
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures, Backbone


class FreshMACE(Backbone):
    """Interactions and products of MACE; its last layer has vectors, too.

    Args:
        channels: scalars, and vectors, of each layer.
        l_max: of the spherical harmonics.
        correlation: factors of a product, at most.
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
        correlation: int,
        radial_functions: int,
        mean_neighbors: float,
    ) -> None:
        super().__init__()
        with imported():
            # Which imports e3nn, as e3nn by itself cannot be under torch's rules for pickles.
            from mace import modules
            from mace.modules.models import o3

            block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
            made = modules.MACE(
                r_max=cutoff,
                num_bessel=radial_functions,
                num_polynomial_cutoff=5,
                max_ell=l_max,
                interaction_cls=block,
                interaction_cls_first=block,
                num_interactions=interactions,
                num_elements=n_elements,
                hidden_irreps=o3.Irreps(f"{channels}x0e + {channels}x1o"),
                MLP_irreps=o3.Irreps("1x0e"),
                gate=torch.nn.functional.silu,
                atomic_energies=np.zeros(n_elements),
                avg_num_neighbors=mean_neighbors,
                atomic_numbers=list(range(1, n_elements + 1)),
                correlation=correlation,
                keep_last_layer_irreps=True,
            )
        self.cutoff, self.n_elements = cutoff, n_elements
        self.channels, self.vector_channels = channels * interactions, channels
        self.embedding: nn.Module = made.node_embedding
        self.radial: nn.Module = made.radial_embedding
        self.harmonics: nn.Module = made.spherical_harmonics
        self.interactions: nn.ModuleList = made.interactions
        self.products: nn.ModuleList = made.products

    def forward(
        self,
        graph: AtomGraph,
        species: Int[Tensor, "atoms"],
        edge_vectors: Float[Tensor, "edges 3"],
    ) -> AtomFeatures:
        lengths = torch.linalg.vector_norm(edge_vectors, dim=1)
        inside = (lengths < self.cutoff).nonzero()[:, 0]
        vectors, lengths = -edge_vectors[inside], lengths[inside, None]
        edges = torch.stack([graph.neighbors[inside], graph.centers[inside]])
        elements = nn.functional.one_hot(species, self.n_elements).to(edge_vectors.dtype)
        features = self.embedding(elements)
        harmonics = self.harmonics(vectors)
        radial, cutoff = self.radial(lengths, elements, edges, species)
        scalars: list[Tensor] = []
        for number, (interaction, product) in enumerate(
            zip(self.interactions, self.products, strict=True)
        ):
            features, beside = interaction(
                node_attrs=elements,
                node_feats=features,
                edge_attrs=harmonics,
                edge_feats=radial,
                edge_index=edges,
                cutoff=cutoff,
                first_layer=number == 0,
            )
            features = product(node_feats=features, sc=beside, node_attrs=elements)
            linear: Any = product.linear
            kinds = linear.irreps_out
            scalars += irreps.scalars(features, kinds)
        return AtomFeatures(torch.cat(scalars, dim=1), irreps.vectors(features, kinds))
