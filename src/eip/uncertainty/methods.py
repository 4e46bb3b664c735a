"""Every way to an uncertainty behind one door: what is trained, and what is fitted afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from eip.errors import InputError, did_you_mean
from eip.graph import AtomGraph
from eip.potential import Potential
from eip.uncertainty.evidential import HEADS, EvidentialPotential
from eip.uncertainty.latent_distance import fit_latent_distance
from eip.uncertainty.mixture import fit_mixture
from eip.uncertainty.readout_ensemble import ReadoutEnsemblePotential, fit_llpr

#: By name, what `model.uncertainty` may be.
METHODS: dict[str, str] = {
    "tensor": "evidence, a matrix for each atom",
    "componentwise": "evidence for each component, the paper's; breaks rotation",
    "isotropic": "evidence, the same in all directions",
    "global": "evidence on the energy; nothing for an atom",
    "mve": "mean-variance estimation",
    "ensemble": "several networks",
    "shallow_ensemble": "several last layers, trained together",
    "dropout": "last layers with units left out",
    "llpr": "last layers from the posterior, after training",
    "gmm": "Gaussian mixture over latent features, after training",
    "none": "no uncertainty",
}

#: Whose σ is multiplied by powers of the latent distance: evidence knows nothing of where no data
#: was.
EVIDENTIAL = ("tensor", "componentwise", "isotropic")

#: How many members or last layers a method has by default. What costs a training each or an
#: output each is dear; a mask or a draw from a posterior is a backward pass at prediction alone.
MEMBERS = {"ensemble": 4, "shallow_ensemble": 4, "dropout": 8, "llpr": 8}


def new_network(method: str, members: int | None = None, **network: Any) -> Potential:
    """A network with fresh weights, of which a method needs one (an ensemble, each of several).

    Args:
        method: one of ``METHODS``.
        members: last layers; None: as ``MEMBERS``.
        network: see `eip.uncertainty.network.NetworkPotential`.

    Raises:
        InputError: if the method is unknown.
    """
    if method not in METHODS:
        raise InputError(f"unknown method '{method}': {did_you_mean(method, METHODS)}")
    if method in HEADS:
        return EvidentialPotential(head=method, **network)
    if method in ("shallow_ensemble", "dropout"):
        return ReadoutEnsemblePotential(
            origin=method,  # type: ignore[arg-type]
            members=members or MEMBERS[method],
            **network,
        )
    return EvidentialPotential(head="none", **network)


def fit_after_training(
    method: str,
    network: Potential,
    training: Callable[[], Sequence[AtomGraph]],
    held_out: Callable[[], Sequence[tuple[AtomGraph, Float[Tensor, "atoms 3"]]]],
    *,
    members: int | None = None,
    latent_distance: bool = True,
    seed: int = 0,
) -> Potential:
    """The trained network with what a method adds to it; energy and forces stay what they were.

    Args:
        training, held_out: give graphs where the method wants any: those that the network was
            trained on, and others with their forces, eV/Å.
        latent_distance: for evidential methods, see `eip.uncertainty.latent_distance`.
        seed: of what is drawn.
    """
    if method == "gmm":
        assert isinstance(network, EvidentialPotential)
        return fit_mixture(network, training(), network.energy_model.force_scale, seed)
    if method == "llpr":
        assert isinstance(network, EvidentialPotential)
        return fit_llpr(network, training(), members or MEMBERS[method], seed)
    if method in EVIDENTIAL and latent_distance:
        return fit_latent_distance(network, training(), held_out())
    return network
