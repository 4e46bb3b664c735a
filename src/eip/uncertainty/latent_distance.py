"""σ that grows with the distance from the training atoms in latent space.

Evidence is learned where there are data, and says little of where there are none: out of
distribution a raw σ hardly grows. The features of the network do move away from those of the
training atoms, and need no label to do so.

    symbol      meaning
    x_i         features of atom i: scalars and lengths of vectors, [channels]
    μ_Z, C_Z    mean and covariance of x over the training atoms of element Z
    d_i         ((x_i − μ_Z)ᵀ C_Z⁻¹ (x_i − μ_Z) / channels)^½: about 1 for a training atom
    D_i         root of the mean of d² over atom i and its neighbors, weighted by (1 − r²/rc²)²
    σ_i         s · (raw σ_i / s)^a · d_i^p · D_i^q, s the geometric mean of raw σ in the fit

D is there because a force is the slope of the energies of all neighbors: where one of them is
strange, it is wrong. C_Z is drawn towards that of all elements where there are few atoms. a, p, q
≥ 0 are those under which the force errors of held-out frames are most likely (a Student-t of three
dimensions, a scale for each element): no data from outside the distribution is used. The size of σ
is left to the calibration, which comes after.

All this holds within the range of the held-out atoms. What σ is at least beyond it no fit decides:
see `eip.uncertainty.guard`, which a method whose σ is taken as it is (a = 1, p = q = 0) has too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.composition import species_table
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels import features as operators
from eip.kernels.packing import Packable
from eip.potential import Potential, WrappedPotential
from eip.prediction import Prediction
from eip.uncertainty.evidence import frobenius
from eip.uncertainty.exponents import fit_exponents
from eip.uncertainty.guard import FEWEST_ATOMS, Guard, fit_guard
from eip.uncertainty.registry import build_potential, describe_potential

#: Added to a covariance's diagonal, as a share of its mean: directions in which the training atoms
#: hardly vary would else make every new atom infinitely far.
RIDGE = 1e-4


class LatentDistancePotential(WrappedPotential, Packable):
    """A potential whose σ grows with the latent distance, and which knows where it extrapolates.

    Energy and forces are those of the potential inside; d is invariant under rotation and
    differentiable as the features are, so UDD is drawn away from the training atoms.

    Args:
        potential: gives features and ``force_uncertainty``.
        sigma_exponent: a.
        distance_exponent: p.
        neighborhood_exponent: q.
        reference: s, eV/Å.
        guard: None: σ is not guarded and there is no extrapolation grade, as before there were any.
    """

    kind: ClassVar[str] = "latent_distance"
    means: Tensor
    whitening: Tensor

    def __init__(
        self,
        potential: Potential,
        channels: int,
        sigma_exponent: float = 1.0,
        distance_exponent: float = 1.0,
        neighborhood_exponent: float = 1.0,
        reference: float = 1.0,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(potential)
        self.channels = channels
        self.sigma_exponent = sigma_exponent
        self.distance_exponent = distance_exponent
        self.neighborhood_exponent = neighborhood_exponent
        self.reference = reference
        self.guard = guard
        elements = self.elements
        self.register_buffer("_species", species_table(elements), persistent=False)
        self.register_buffer("means", torch.zeros(len(elements), channels))
        self.register_buffer("whitening", torch.eye(channels).repeat(len(elements), 1, 1))
        # Not persistent: the guard in the settings is the one truth.
        self._guard: Tensor | None
        table = None if guard is None else guard.table()
        self.register_buffer("_guard", table, persistent=False)

    def squared_distance(
        self, features: Float[Tensor, "atoms channels"], numbers: Int[Tensor, "atoms"]
    ) -> Float[Tensor, "atoms"]:
        """d² of each atom, dimensionless."""
        species: Tensor = self._species[numbers]  # type: ignore[index]
        (means, whitening), pack = self.arrays()
        found: Tensor = operators.squared_distance(features, species, means, whitening, pack)
        return found

    def weights(self) -> list[Tensor]:
        return [self.means, self.whitening]

    def pack(self) -> Tensor | None:
        return operators.pack_whitening(self.whitening)

    def completed(self, prediction: Prediction, graph: AtomGraph) -> Prediction:
        raw, features = prediction.force_uncertainty, prediction.features
        if raw is None or features is None:
            return prediction
        raw = raw.clamp(min=torch.finfo(raw.dtype).tiny)  # what is divided by
        own = self.squared_distance(features, graph.numbers)
        squares = torch.stack([own, neighborhood_mean(own, graph, self.cutoff)])
        sigma = self.fitted(raw, squares)
        growth = (sigma / raw).square()
        if self.guard is None or self._guard is None:
            return prediction.rescaled(graph, sigma, growth)
        of_atom = self._guard.to(raw).index_select(1, graph.numbers)
        reach = (squares * of_atom[:2]).sqrt()
        added = self.guard.share(reach) * of_atom[2]
        total = torch.hypot(sigma, added)
        covariance = prediction.force_covariance
        if covariance is not None:
            covariance = widened(covariance * growth[:, None, None], added, total)
        said = prediction.with_uncertainty(
            graph, total, covariance, prediction.force_aleatoric, prediction.energy_uncertainty
        )
        grade = reach.amax(dim=0)
        if prediction.repulsion_grade is not None:
            # Of atoms closer than in training the network, and with it d, is not told.
            grade = torch.maximum(grade, prediction.repulsion_grade)
        return replace(said, extrapolation_grade=grade)

    def fitted(
        self, raw: Float[Tensor, "atoms"], squares: Float[Tensor, "2 atoms"]
    ) -> Float[Tensor, "atoms"]:
        """s · (raw σ / s)^a · d^p · D^q, of raw σ, d² and D²: σ without its guard, eV/Å."""
        powers = self.sigma_exponent, self.distance_exponent, self.neighborhood_exponent
        if powers == (1.0, 0.0, 0.0):
            return raw
        exponents = raw.new_tensor([powers[0], 0.5 * powers[1], 0.5 * powers[2]])
        # One product for the three powers: for a few atoms the number of operations counts.
        logarithms = torch.cat([(raw / self.reference)[None], squares]).log()
        return (exponents @ logarithms).exp() * self.reference

    def settings(self) -> dict[str, Any]:
        """JSON-able: the potential inside, width and exponents; means and matrices are weights."""
        return {
            "potential": describe_potential(self.potential),
            "channels": self.channels,
            "sigma_exponent": self.sigma_exponent,
            "distance_exponent": self.distance_exponent,
            "neighborhood_exponent": self.neighborhood_exponent,
            "reference": self.reference,
            "guard": None if self.guard is None else self.guard.to_dict(),
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> LatentDistancePotential:
        """Built again, with fresh weights inside."""
        inside = build_potential(**settings["potential"])
        guard = settings.get("guard")  # Files of before there were any say nothing of it.
        named = {k: v for k, v in settings.items() if k not in ("potential", "guard")}
        return cls(inside, **named, guard=None if guard is None else Guard.from_dict(guard))


def widened(
    covariance: Float[Tensor, "atoms 3 3"],
    added: Float[Tensor, "atoms"],
    sigma: Float[Tensor, "atoms"],
) -> Float[Tensor, "atoms 3 3"]:
    """U_i with a variance added that is the same in all directions, and again of the size σ_i²."""
    identity = torch.eye(3, dtype=covariance.dtype, device=covariance.device)
    total = covariance + (added.square() / math.sqrt(3.0))[:, None, None] * identity
    size = frobenius(total).clamp(min=torch.finfo(total.dtype).tiny)
    return total * (sigma.square() / size)[:, None, None]


def neighborhood_mean(
    per_atom: Float[Tensor, "atoms"], graph: AtomGraph, cutoff: float
) -> Float[Tensor, "atoms"]:
    """Mean over each atom, of weight 1, and its neighbors, of weight (1 − r²/rc²)²."""
    found: Tensor = operators.neighborhood_mean(
        *(per_atom, graph.positions, graph.cell, graph.frame),
        *(graph.centers, graph.neighbors, graph.shifts, cutoff),
    )
    return found


def fit_latent_distance(
    potential: Potential,
    training: Sequence[AtomGraph],
    held_out: Sequence[tuple[AtomGraph, Float[Tensor, "atoms 3"]]],
    *,
    exponents: bool | tuple[float, float, float] = True,
) -> LatentDistancePotential:
    """Wraps a trained potential; about the cost of one epoch's predictions.

    Args:
        potential: trained, uncalibrated.
        training: the graphs that it was trained on; labels are not needed.
        held_out: graphs that it was not trained on, with their forces, eV/Å.
        exponents: fits a, p and q, or takes those given; else σ is taken as it is, and only
            guarded.

    Raises:
        InputError: if the potential gives no features or no ``force_uncertainty``, or a set is
            empty.
    """
    if not training or not held_out:
        raise InputError("a latent distance needs training and held-out frames, got none")
    seen = [potential(graph, forces=False) for graph in training]
    first = seen[0]
    if first.features is None or first.force_uncertainty is None:
        raise InputError(
            "a latent distance needs a potential with features and an uncertainty for each atom's "
            "force (heads 'none' and 'global' do not give one)"
        )
    features = np.concatenate([p.features.double().cpu().numpy() for p in seen])
    wrapped = LatentDistancePotential(potential, features.shape[1], 1.0, 0.0, 0.0).to(
        device=potential.device, dtype=potential.dtype
    )
    numbers = np.concatenate([graph.numbers.cpu().numpy() for graph in training])
    _fit_covariances(wrapped, features, numbers)
    unseen = _seen(wrapped, held_out)
    if isinstance(exponents, tuple):
        wrapped.sigma_exponent, wrapped.distance_exponent, wrapped.neighborhood_exponent = exponents
    elif exponents:
        _fit_powers(wrapped, unseen)
    return _with_guard(wrapped, unseen)


def guarded(
    potential: LatentDistancePotential,
    held_out: Sequence[tuple[AtomGraph, Float[Tensor, "atoms 3"]]],
) -> LatentDistancePotential:
    """The same with a guard (`eip.uncertainty.guard`) of graphs that it was not trained on.

    Args:
        held_out: with their forces, eV/Å.

    Raises:
        InputError: if they have fewer than 30 atoms, whose range would say little, or no forces.
    """
    count = sum(graph.n_atoms for graph, _ in held_out)
    if count < FEWEST_ATOMS:
        raise InputError(
            f"a guard needs held-out frames of at least {FEWEST_ATOMS} atoms together, got {count}"
        )
    return _with_guard(potential, _seen(potential, held_out))


@dataclass(frozen=True)
class _Seen:
    """Of the atoms of graphs, in float64: raw σ, d² and D², forces, and their errors."""

    numbers: Int[np.ndarray, "atoms"]
    raw: Float[Tensor, "atoms"]
    squares: Float[Tensor, "2 atoms"]
    forces: Float[np.ndarray, "atoms 3"]
    errors: Float[np.ndarray, "atoms 3"]


def _seen(
    wrapped: LatentDistancePotential,
    held_out: Sequence[tuple[AtomGraph, Float[Tensor, "atoms 3"]]],
) -> _Seen:
    columns: list[list[Tensor]] = [[], [], [], [], []]
    for graph, forces in held_out:
        prediction = wrapped.potential(graph)
        own = wrapped.squared_distance(prediction.features, graph.numbers)
        around = neighborhood_mean(own, graph, wrapped.cutoff)
        squares = torch.stack([own, around], dim=1)
        error = forces.to(prediction.forces) - prediction.forces
        for column, values in zip(
            columns,
            (graph.numbers, prediction.force_uncertainty, squares, forces, error),
            strict=True,
        ):
            column.append(values.cpu())
    numbers, raw, squares, forces, errors = (torch.cat(column) for column in columns)
    return _Seen(
        *(numbers.numpy(), raw.double(), squares.double().T),
        *(forces.double().numpy(), errors.double().numpy()),
    )


def _fit_covariances(
    wrapped: LatentDistancePotential,
    features: Float[np.ndarray, "atoms channels"],
    numbers: Int[np.ndarray, "atoms"],
) -> None:
    """Means and whitening of each element's training atoms."""
    centred = features.copy()
    for z in np.unique(numbers):
        centred[numbers == z] -= features[numbers == z].mean(axis=0)
    pooled = centred.T @ centred / len(centred)
    for k, z in enumerate(wrapped.elements):
        own = centred[numbers == z]
        width = features.shape[1]
        covariance = (own.T @ own + width * pooled) / (len(own) + width)
        covariance += RIDGE * np.trace(covariance) / width * np.eye(width) + 1e-12 * np.eye(width)
        mean = features[numbers == z].mean(axis=0) if len(own) else features.mean(axis=0)
        wrapped.means[k] = torch.as_tensor(mean)
        lower = np.linalg.cholesky(np.linalg.inv(covariance))
        wrapped.whitening[k] = torch.as_tensor(lower)


def _fit_powers(wrapped: LatentDistancePotential, of: _Seen) -> None:
    """a, p and q, and the s that goes with them."""
    squared = np.square(of.errors).sum(axis=1)
    known = np.isfinite(squared)
    if not known.any():
        raise InputError("a latent distance needs held-out frames with force labels, got none")
    logarithms = torch.stack([of.raw, *of.squares.sqrt()], dim=1).log().numpy()[known]
    middle = logarithms[:, 0].mean()
    logarithms[:, 0] -= middle
    wrapped.reference = float(np.exp(middle))
    wrapped.sigma_exponent, wrapped.distance_exponent, wrapped.neighborhood_exponent = (
        fit_exponents(logarithms, squared[known], of.numbers[known])
    )


def _with_guard(wrapped: LatentDistancePotential, of: _Seen) -> LatentDistancePotential:
    sigma = wrapped.fitted(of.raw, of.squares)
    guard = fit_guard(
        *(wrapped.elements, of.numbers, of.squares.sqrt().T.numpy(), sigma.numpy()),
        *(of.forces, of.errors),
    )
    settings = {k: v for k, v in wrapped.settings().items() if k not in ("potential", "guard")}
    made = LatentDistancePotential(wrapped.potential, **settings, guard=guard)
    made.to(device=wrapped.device, dtype=wrapped.dtype)
    made.means.copy_(wrapped.means)
    made.whitening.copy_(wrapped.whitening)
    return made
