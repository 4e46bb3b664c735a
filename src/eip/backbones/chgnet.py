"""CHGNet (B. Deng et al., Nature Machine Intelligence 5, 1031, 2023) as a backbone.

Its graph is made of ours: CHGNet's own converter takes structures, not edges, and computes in
float32. What its two graphs hold is

    atom graph   edges up to 6 Å, directed, and for each the undirected bond that it is of
    bond graph   for each directed edge below 3 Å the other such edges of its centre: an angle
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from chgnet.model.model import BatchedGraph, CHGNet
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.backbones.frozen import FrozenBackbone
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures


class CHGNetBackbone(FrozenBackbone):
    """CHGNet with the weights of a file of its package, of which nothing is unpickled.

    The scalars are what its energies are read from, after their layer norm. Energies are those of
    the labels that it was trained on, which the Materials Project had corrected.
    """

    def __init__(self, made: CHGNet) -> None:
        # What the elements' energies are is not learned from frames of a few compositions.
        made.composition_model.requires_grad_(False)
        super().__init__(made)
        self.channels = made.atom_fea_dim
        self.cutoff = float(made.graph_converter.atom_graph_cutoff)
        self.bond_cutoff = float(made.graph_converter.bond_graph_cutoff)
        self.elements = tuple(range(1, made.atom_embedding.embedding.num_embeddings + 1))

    @classmethod
    def of_file(cls, weights: Path, name: str) -> CHGNetBackbone:
        """Of a version of the weights."""
        state = torch.load(weights, map_location="cpu", weights_only=True)["model"]
        # As its own loading has it.
        options = {**state["model_args"], "mlp_out_bias": False, "version": name}
        backbone = cls.of_architecture(options)
        backbone.network.load_state_dict(state["state_dict"])
        return backbone

    @classmethod
    def of_architecture(cls, options: dict[str, Any]) -> CHGNetBackbone:
        """Of what `architecture` says, with fresh weights."""
        with contextlib.redirect_stdout(io.StringIO()):
            return cls(CHGNet(**options))

    def architecture(self) -> dict[str, Any]:
        options: dict[str, Any] = self.network.model_args  # type: ignore[assignment]
        return dict(options)

    def last_layers(self) -> tuple[nn.Module, ...]:
        network: Any = self.network
        return network.atom_conv_layers[-1], network.readout_norm, network.mlp

    def forward(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        network: Any = self.network
        lengths = torch.linalg.vector_norm(edge_vectors, dim=1)
        inside = (lengths < self.cutoff).nonzero()[:, 0]
        centers, neighbors = graph.centers[inside], graph.neighbors[inside]
        self._refuse_lone_atoms(graph, centers)
        lengths = lengths[inside]
        directions = edge_vectors[inside] / lengths[:, None]
        bond_of_edge, edge_of_bond = bonds(centers, neighbors, graph.shifts[inside].long())
        of_bonds = lengths[edge_of_bond]
        first, second = angles(centers, lengths < self.bond_cutoff)
        read: dict[str, Tensor] = {}
        # Taken off again: a hook that stays would be of this object in each copy of it.
        hook = network.readout_norm.register_forward_hook(
            lambda module, inputs, output: read.update(scalars=output)
        )
        try:
            said = network._compute(
                BatchedGraph(
                    atomic_numbers=graph.numbers,
                    bond_bases_ag=network.bond_basis_expansion.rbf_expansion_ag(of_bonds),
                    bond_bases_bg=network.bond_basis_expansion.rbf_expansion_bg(of_bonds),
                    angle_bases=network.angle_basis_expansion(directions[first], directions[second])
                    if len(first)
                    else torch.tensor([]),
                    batched_atom_graph=torch.stack([centers, neighbors], dim=1),
                    batched_bond_graph=torch.stack(
                        [centers[first], bond_of_edge[first], bond_of_edge[second]], dim=1
                    ),
                    atom_owners=graph.frame,
                    directed2undirected=bond_of_edge,
                    atom_positions=[],
                    strains=[],
                    volumes=[],
                ),
                return_site_energies=True,
            )
        finally:
            hook.remove()
        energy = torch.cat(said["site_energies"])
        if network.composition_model is not None:
            energy = energy + network.composition_model.fc.weight[0, graph.numbers - 1]
        return AtomFeatures(read["scalars"], None, energy)

    def _refuse_lone_atoms(self, graph: AtomGraph, centers: Int[Tensor, "edges"]) -> None:
        lone = (torch.bincount(centers, minlength=graph.n_atoms) == 0).nonzero()[:, 0]
        if len(lone):
            atom = int(lone[0])
            frame = int(graph.frame[atom])
            number = atom - int((graph.frame < frame).sum())
            raise InputError(
                f"CHGNet takes no structure with an atom that has no other within "
                f"{self.cutoff:g} Å: atom {number} ({chemical_symbols[int(graph.numbers[atom])]}) "
                f"of structure {frame} is alone"
            )


def bonds(
    centers: Int[Tensor, "edges"], neighbors: Int[Tensor, "edges"], shifts: Int[Tensor, "edges 3"]
) -> tuple[Int[Tensor, "edges"], Int[Tensor, "bonds"]]:
    """The bond of each edge, the same for an edge and its reverse; and an edge of each bond."""
    both = torch.cat([centers[:, None], neighbors[:, None], shifts], dim=1)
    back = torch.cat([neighbors[:, None], centers[:, None], -shifts], dim=1)
    # The lexicographically smaller of an edge and its reverse names the bond.
    apart = both - back
    leading = (apart != 0).int().argmax(dim=1)
    named = torch.where((apart.gather(1, leading[:, None]) > 0), back, both)
    # As one number each: torch.unique of rows takes a twentieth of the network's time.
    name = named.new_zeros(len(named))
    for column in (named - named.amin(dim=0)).unbind(dim=1):
        name = name * (column.amax() + 1) + column
    found, bond = torch.unique(name, return_inverse=True)
    edge = torch.zeros(len(found), dtype=bond.dtype, device=bond.device)
    edge[bond] = torch.arange(len(bond), device=bond.device)
    return bond, edge


def angles(
    centers: Int[Tensor, "edges"], short: Tensor
) -> tuple[Int[Tensor, "angles"], Int[Tensor, "angles"]]:
    """Ordered pairs of different edges that are short and of the same centre.

    Args:
        centers: ascending.
        short: which edges count.
    """
    edges = short.nonzero()[:, 0]
    _, which, counts = torch.unique_consecutive(
        centers[edges], return_inverse=True, return_counts=True
    )
    begins = counts.cumsum(0) - counts
    of_edge = counts[which]  # partners of each edge, itself among them
    first = torch.arange(len(edges), device=edges.device).repeat_interleave(of_edge)
    before = of_edge.cumsum(0) - of_edge
    place = torch.arange(len(first), device=edges.device) - before[first]
    second = begins[which[first]] + place
    different = first != second
    return edges[first[different]], edges[second[different]]
