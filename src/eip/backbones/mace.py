"""MACE (I. Batatia et al., NeurIPS 2022) as a backbone, of a network that a user has as a file."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eip.backbones import irreps
from eip.backbones.frozen import FrozenBackbone
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.models.backbone import AtomFeatures


class MACEBackbone(FrozenBackbone):
    """A MACE of a file, which is unpickled: call this only with a file that the user trusts.

    The features are scalars and lengths of what each layer hands on.

    Raises:
        InputError: if the file holds no MACE with energies of atoms, or several heads and none is
            named.
    """

    def __init__(self, weights: Path, head: str | None) -> None:
        network = _loaded(weights)
        if not all(hasattr(network, name) for name in ("r_max", "atomic_numbers", "products")):
            raise InputError(
                f"{weights}: expected a network as MACE saves it whole (.model), got "
                f"{type(network).__name__}"
            )
        super().__init__(network)
        heads = [str(name) for name in getattr(network, "heads", ["Default"])]
        if len(heads) > 1 and head not in heads:
            raise InputError(
                f"{weights}: this MACE has several heads, name one of them (energy_head): "
                f"{', '.join(heads)}"
            )
        if head is not None and head not in heads:
            raise InputError(f"{weights}: this MACE has no head {head}, it has {heads[0]}")
        self._head = 0 if head is None else heads.index(head)
        self.cutoff = float(network.r_max)
        self.elements = tuple(sorted(int(z) for z in network.atomic_numbers))
        self._irreps = [product.linear.irreps_out for product in network.products]
        self.channels = sum(irreps.count(each) for each in self._irreps)

    def forward(
        self, graph: AtomGraph, species: Tensor, edge_vectors: Float[Tensor, "edges 3"]
    ) -> AtomFeatures:
        network: Any = self.network
        inside = (torch.linalg.vector_norm(edge_vectors, dim=1) < self.cutoff).nonzero()[:, 0]
        dtype, device = edge_vectors.dtype, edge_vectors.device
        known = network.atomic_numbers
        said = network(
            {
                # All atoms on one spot, and what its edges are shifted by is what they are: so the
                # edge vectors are the only geometry. MACE's go from neighbor to centre.
                "positions": torch.zeros(graph.n_atoms, 3, dtype=dtype, device=device),
                "shifts": -edge_vectors[inside],
                "edge_index": torch.stack([graph.neighbors[inside], graph.centers[inside]]),
                "node_attrs": (graph.numbers[:, None] == known).to(dtype),
                "cell": torch.zeros(3 * graph.n_frames, 3, dtype=dtype, device=device),
                "batch": graph.frame,
                "ptr": torch.zeros(graph.n_frames + 1, dtype=torch.long, device=device),
                "head": torch.full((graph.n_frames,), self._head, device=device),
            },
            compute_force=False,
        )
        widths = [each.dim for each in self._irreps]
        parts = []
        for layer, each in zip(said["node_feats"].split(widths, dim=1), self._irreps, strict=True):
            parts += [*irreps.scalars(layer, each), *irreps.lengths(layer, each)]
        return AtomFeatures(torch.cat(parts, dim=1), None, said["node_energy"])


def _loaded(weights: Path) -> Any:
    """The network; MACE's import leaves the environment as it was."""
    before = dict(os.environ)
    try:
        import mace.modules  # noqa: F401 (what the file's classes are in)

        return torch.load(weights, map_location="cpu", weights_only=False)
    except (OSError, EOFError, RuntimeError, AttributeError, ImportError, PickleError) as error:
        raise InputError(f"{weights}: this is no network that MACE saved ({error})") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
