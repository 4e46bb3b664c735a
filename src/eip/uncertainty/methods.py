"""Every way to an uncertainty behind one door: what is trained, and what is fitted afterwards.

A method is one object, in the module of the network or the fit that it is about, and has a name in
`eip.uncertainty.names`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Potential
from eip.uncertainty.energy_error import MIN_FRAMES, fit_energy_error, network_inside
from eip.uncertainty.latent_distance import fit_latent_distance
from eip.uncertainty.names import METHODS


@dataclass(frozen=True)
class Fit:
    """What a method may look at after training.

    Attributes:
        training, held_out: give the graphs that the network was trained on, and others with their
            forces, eV/Å.
        members: how many networks or last layers.
        seed: of what is drawn.
    """

    training: Callable[[], Sequence[AtomGraph]]
    held_out: Callable[[], Sequence[tuple[AtomGraph, Float[Tensor, "atoms 3"]]]]
    members: int = 0
    seed: int = 0


def _as_it_is(network: Potential, fit: Fit) -> Potential:
    return network


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to an uncertainty.

    Attributes:
        about: a few words.
        network: one with fresh weights, of keywords: ``members``, and what
            `eip.uncertainty.network.NetworkPotential` takes.
        fit: the trained network with what is added to it; energy and forces stay what they were.
        joined: of several trained networks, the potential.
        members: how many networks or last layers by default; 0: it has none. What costs a training
            each or an output each is dear; a mask or a draw from a posterior is a backward pass at
            prediction alone.
        starts_from: what is trained: its own network, a "plain" potential or "several" of them,
            which other methods can share.
        latent_distance: σ is multiplied by powers of the latent distance, which are fitted or
            given: evidence knows nothing of where no data was. The guard
            (`eip.uncertainty.guard`) is of every method that has a σ for each atom's force and
            features.
        energy_error: energies get an error bar where the potential is made of one network.
        by_atom: it has a σ for each atom's force.
        invariant: σ is the same however the structure lies.
        needs_energies: it is learned from energies too.
        foreign: of networks that others trained; training can only go on with it.
    """

    about: str
    network: Callable[..., Potential]
    fit: Callable[[Potential, Fit], Potential] = _as_it_is
    joined: Callable[[Sequence[Potential]], Potential] | None = None
    members: int = 0
    starts_from: Literal["its own", "plain", "several"] = "its own"
    latent_distance: bool | tuple[float, float, float] = False
    energy_error: bool = True
    by_atom: bool = True
    invariant: bool = True
    needs_energies: bool = False
    foreign: bool = False


def method(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: if there is none of this name, or what a package adds is no `Method`.
    """
    found = METHODS.get(name)
    if not isinstance(found, Method):
        raise InputError(f"the method '{name}' is no {Method.__qualname__}: {found!r}")
    return found


def compared() -> list[str]:
    """The methods that have a σ for each atom's force, and the same however a structure lies."""
    found = {name: method(name) for name in METHODS.names()}
    return [n for n, of in found.items() if of.by_atom and of.invariant and not of.foreign]


def new_network(name: str, members: int | None = None, **network: Any) -> Potential:
    """A network with fresh weights, of which a method needs one (an ensemble, each of several).

    Args:
        name: of the method.
        members: last layers; None: as the method has them.
        network: see `eip.uncertainty.network.NetworkPotential`.

    Raises:
        InputError: if the method is unknown.
    """
    of = method(name)
    return of.network(members=members or of.members, **network)


def fit_after_training(
    name: str,
    network: Potential,
    training: Callable[[], Sequence[AtomGraph]],
    held_out: Callable[[], Sequence[tuple[AtomGraph, Float[Tensor, "atoms 3"]]]],
    *,
    energies: Callable[[], Sequence[tuple[AtomGraph, Float[Tensor, "frames"]]]] = tuple,
    members: int | None = None,
    latent_distance: bool = True,
    seed: int = 0,
) -> Potential:
    """The trained network with what a method adds to it; energy and forces stay what they were.

    Args:
        name: of the method.
        training, held_out, members, seed: see `Fit`.
        energies: give the held-out graphs with their energies, eV, those that have one; energies
            get no error bar from fewer than `eip.uncertainty.energy_error.MIN_FRAMES`.
        latent_distance: with the powers of evidence (`eip.uncertainty.latent_distance`), and with
            the guard and the extrapolation grade of every method.
    """
    of = method(name)
    # Each step of the fit looks at the same graphs: their neighbors are found once.
    training, held_out = cache(training), cache(held_out)
    fitted = of.fit(network, Fit(training, held_out, members or of.members, seed))
    if latent_distance and of.by_atom:
        graphs = training()
        if fitted(graphs[0], forces=False).features is not None:
            exponents = of.latent_distance
            fitted = fit_latent_distance(fitted, graphs, held_out(), exponents=exponents)
    if of.energy_error and network_inside(fitted) is not None:
        with_energies = energies()
        if sum(len(energy) for _, energy in with_energies) >= MIN_FRAMES:
            fitted = fit_energy_error(fitted, training(), with_energies)
    return fitted
