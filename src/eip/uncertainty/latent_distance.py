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
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.kernels import features as operators
from eip.kernels.packing import Packable
from eip.potential import Differentiable, Potential, WrappedPotential
from eip.prediction import Prediction
from eip.uncertainty.registry import build_potential, describe_potential

#: Added to a covariance's diagonal, as a share of its mean: directions in which the training atoms
#: hardly vary would else make every new atom infinitely far.
RIDGE = 1e-4

#: Degrees of freedom of the Student-t that errors are taken to follow: their tails are heavy.
_DEGREES = 6.0


class LatentDistancePotential(WrappedPotential, Packable):
    """A potential whose σ is multiplied by a power of the latent distance d.

    Energy and forces are those of the potential inside; d is invariant under rotation and
    differentiable as the features are, so UDD is drawn away from the training atoms.

    Args:
        potential: gives features and ``force_uncertainty``.
        sigma_exponent: a.
        distance_exponent: p.
        neighborhood_exponent: q.
        reference: s, eV/Å.
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
    ) -> None:
        super().__init__(potential)
        self.channels = channels
        self.sigma_exponent = sigma_exponent
        self.distance_exponent = distance_exponent
        self.neighborhood_exponent = neighborhood_exponent
        self.reference = reference
        elements = self.elements
        index = torch.full((119,), -1)
        index[list(elements)] = torch.arange(len(elements))
        self.register_buffer("_species", index, persistent=False)
        self.register_buffer("means", torch.zeros(len(elements), channels))
        self.register_buffer("whitening", torch.eye(channels).repeat(len(elements), 1, 1))

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

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        prediction: Prediction = self.potential(
            graph, forces=forces, stress=stress, differentiable=differentiable
        )
        raw, features = prediction.force_uncertainty, prediction.features
        if raw is None or features is None:
            return prediction
        with torch.set_grad_enabled(differentiable != "nothing"):
            own = self.squared_distance(features, graph.numbers)
            around = neighborhood_mean(own, graph, self.cutoff)
            exponents = raw.new_tensor(
                [
                    self.sigma_exponent - 1.0,
                    0.5 * self.distance_exponent,
                    0.5 * self.neighborhood_exponent,
                ]
            )
            # One product for the three powers: for a few atoms the number of operations counts.
            logarithms = torch.stack([raw / self.reference, own, around]).log()
            factor = (exponents @ logarithms).exp()
            return prediction.rescaled(graph, raw * factor, factor.square())

    def settings(self) -> dict[str, Any]:
        """JSON-able: the potential inside, width and exponents; means and matrices are weights."""
        return {
            "potential": describe_potential(self.potential),
            "channels": self.channels,
            "sigma_exponent": self.sigma_exponent,
            "distance_exponent": self.distance_exponent,
            "neighborhood_exponent": self.neighborhood_exponent,
            "reference": self.reference,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> LatentDistancePotential:
        """Built again, with fresh weights inside."""
        inside = build_potential(**settings["potential"])
        return cls(inside, **{k: v for k, v in settings.items() if k != "potential"})


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
) -> LatentDistancePotential:
    """Wraps a trained potential; about the cost of one epoch's predictions.

    Args:
        potential: trained, uncalibrated.
        training: the graphs that it was trained on; labels are not needed.
        held_out: graphs that it was not trained on, with their forces, eV/Å.

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
    numbers = np.concatenate([graph.numbers.cpu().numpy() for graph in training])
    features = np.concatenate([p.features.double().cpu().numpy() for p in seen])
    wrapped = LatentDistancePotential(potential, features.shape[1]).to(
        device=potential.device, dtype=potential.dtype
    )
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

    columns: list[list[Tensor]] = [[], [], []]
    error, elements = [], []
    for graph, forces in held_out:
        prediction = potential(graph)
        assert prediction.features is not None and prediction.force_uncertainty is not None
        assert prediction.forces is not None
        own = wrapped.squared_distance(prediction.features, graph.numbers)
        around = neighborhood_mean(own, graph, potential.cutoff)
        for column, values in zip(
            columns, (prediction.force_uncertainty, own.sqrt(), around.sqrt()), strict=True
        ):
            column.append(values.double().cpu())
        error.append((forces - prediction.forces).double().cpu())
        elements.append(graph.numbers.cpu())
    logarithms = torch.stack([torch.cat(c) for c in columns], dim=1).log().numpy()
    squared = torch.cat(error).square().sum(dim=1).numpy()
    known = np.isfinite(squared)
    if not known.any():
        raise InputError("a latent distance needs held-out frames with force labels, got none")
    middle = logarithms[known, 0].mean()
    logarithms[:, 0] -= middle
    wrapped.reference = float(np.exp(middle))
    exponents = fit_exponents(logarithms[known], squared[known], torch.cat(elements).numpy()[known])
    wrapped.sigma_exponent, wrapped.distance_exponent, wrapped.neighborhood_exponent = exponents
    return wrapped


def fit_exponents(
    logarithms: Float[np.ndarray, "atoms factors"],
    squared_error: Float[np.ndarray, "atoms"],
    numbers: Int[np.ndarray, "atoms"],
) -> tuple[float, ...]:
    """The exponent of each factor that makes the errors most likely; none is negative.

    Args:
        logarithms: of the factors whose powers are multiplied.
        squared_error: |f_true − f_pred|², (eV/Å)².
        numbers: atomic numbers; each element has a scale of its own.
    """
    of_element = (numbers[:, None] == np.unique(numbers)).astype(float)
    design = np.column_stack([logarithms, of_element])
    floor = 1e-12 * squared_error.mean() + 1e-300

    def mean_nll(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_scale = design @ weights
        share = (squared_error + floor) * np.exp(-2.0 * log_scale) / _DEGREES
        nll = 3.0 * log_scale + 0.5 * (_DEGREES + 3.0) * np.log1p(share)
        slope = 3.0 - (_DEGREES + 3.0) * share / (1.0 + share)
        return float(nll.mean()), design.T @ slope / len(slope)

    count, elements = logarithms.shape[1], of_element.shape[1]
    from scipy.optimize import minimize  # not with every model that is loaded

    size = 0.5 * np.log(squared_error.mean() / 3 + floor)
    start = np.concatenate([np.ones(count), np.full(elements, size)])
    bounds = [(0.0, 4.0)] * count + [(None, None)] * elements
    found = minimize(mean_nll, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return tuple(float(exponent) for exponent in found[:count])
