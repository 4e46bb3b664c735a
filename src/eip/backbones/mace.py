"""MACE (I. Batatia et al., NeurIPS 2022) as a backbone, of a network that a user has as a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import PickleError
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

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

    def __init__(self, network: Any, head: str | None) -> None:
        super().__init__(network)
        heads = [str(name) for name in getattr(network, "heads", ["Default"])]
        if len(heads) > 1 and head not in heads:
            raise InputError(
                f"this MACE has several heads, name one of them (energy_head): {', '.join(heads)}"
            )
        if head is not None and head not in heads:
            raise InputError(f"this MACE has no head {head}, it has {heads[0]}")
        self._head = 0 if head is None else heads.index(head)
        self.cutoff = float(network.r_max)
        self.elements = tuple(sorted(int(z) for z in network.atomic_numbers))
        self._irreps = [product.linear.irreps_out for product in network.products]
        self.channels = sum(irreps.count(each) for each in self._irreps)

    @classmethod
    def of_file(cls, weights: Path, head: str | None) -> MACEBackbone:
        """Of a network that was saved whole."""
        network = _loaded(weights)
        if not all(hasattr(network, name) for name in ("r_max", "atomic_numbers", "products")):
            raise InputError(
                f"{weights}: expected a network as MACE saves it whole (.model), got "
                f"{type(network).__name__}"
            )
        try:
            return cls(network, head)
        except InputError as error:
            raise InputError(f"{weights}: {error}") from error

    @classmethod
    def of_architecture(cls, options: dict[str, Any], head: str | None) -> MACEBackbone:
        """Of what `architecture` says, with fresh weights."""
        return cls(_made(options), head)

    def architecture(self) -> dict[str, Any]:
        return _described(self.network)

    def last_layers(self) -> tuple[nn.Module, ...]:
        network: Any = self.network
        return network.interactions[-1], network.products[-1], network.readouts

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
    """The network."""
    with imported():
        try:
            import mace.modules  # noqa: F401 (what the file's classes are in)

            return torch.load(weights, map_location="cpu", weights_only=False)
        except (OSError, EOFError, RuntimeError, AttributeError, ImportError, PickleError) as error:
            raise InputError(f"{weights}: this is no network that MACE saved ({error})") from error


@contextmanager
def imported() -> Iterator[None]:
    """MACE's import leaves the environment as it was."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


#: Of what makes a network, by how JSON has it: classes by name, irreps as text.
_CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")


def _described(network: Any) -> dict[str, Any]:
    with imported():
        from mace.tools.scripts_utils import extract_config_mace_model

        options = extract_config_mace_model(network)
    if "error" in options or type(network).__name__ != "ScaleShiftMACE":
        raise InputError(
            f"a MACE of the kind {type(network).__name__} cannot be made anew, only ScaleShiftMACE"
        )
    for name, value in options.items():
        if name in _CLASSES:
            options[name] = value.__name__
        elif name in _IRREPS and value is not None:
            options[name] = str(value)
        elif isinstance(value, Tensor | np.ndarray):
            options[name] = value.tolist()
    options["gate"] = None if options["gate"] is None else options["gate"].__name__
    return dict(options)


def _made(options: dict[str, Any]) -> Any:
    with imported():
        # Which imports e3nn, as e3nn by itself cannot be under torch's rules for pickles.
        from mace import modules
        from mace.modules.models import o3

        given = dict(options)
        for name in _CLASSES:
            given[name] = getattr(modules, given[name])
        for name in _IRREPS:
            given[name] = None if given[name] is None else o3.Irreps(given[name])
        if given["gate"] is not None:
            given["gate"] = getattr(torch.nn.functional, given["gate"], None) or getattr(
                torch, given["gate"]
            )
        given["atomic_energies"] = np.array(given["atomic_energies"])
        return modules.ScaleShiftMACE(**given)
