"""σ by a Gaussian mixture over the training atoms' features (Zhu et al. 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.composition import species_table
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Potential, WrappedPotential
from eip.prediction import Prediction
from eip.uncertainty.evidential import NONE
from eip.uncertainty.methods import Fit, Method
from eip.uncertainty.network import NetworkPotential
from eip.uncertainty.registry import build_potential, describe_potential

#: Numbers of components among which the Bayesian information criterion chooses, by element.
COMPONENTS = (1, 2, 4, 8)

#: Atoms of an element that a mixture is fitted on at most, and features (leading directions).
_MOST_ATOMS, _DIRECTIONS = 20_000, 32


class MixturePotential(WrappedPotential):
    """σ_i = force scale · (log of the density's bound − log density) of atom i's features.

    The negative log-likelihood of the literature, moved so that it cannot be negative. One mixture
    for each element, on the leading principal directions of the features.

    Args:
        potential: gives features.
        channels, directions, components: sizes of the arrays.
        force_scale: eV/Å, so that σ has its unit before it is calibrated.
    """

    kind: ClassVar[str] = "mixture"
    center: Tensor
    directions: Tensor
    means: Tensor
    precisions: Tensor
    log_weights: Tensor

    def __init__(
        self,
        potential: Potential,
        channels: int,
        directions: int,
        components: int,
        force_scale: float,
    ) -> None:
        super().__init__(potential)
        self.force_scale = force_scale
        self._sizes = {"channels": channels, "directions": directions, "components": components}
        count = len(self.elements)
        self.register_buffer("_species", species_table(self.elements), persistent=False)
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("directions", torch.zeros(channels, directions))
        self.register_buffer("means", torch.zeros(count, components, directions))
        roots = torch.eye(directions).repeat(count, components, 1, 1)
        self.register_buffer("precisions", roots)
        self.register_buffer("log_weights", torch.zeros(count, components))

    def surprise(
        self, features: Float[Tensor, "atoms channels"], numbers: Int[Tensor, "atoms"]
    ) -> Float[Tensor, "atoms"]:
        """Log of the bound of the density minus log density, ≥ 0."""
        species: Tensor = self._species[numbers]  # type: ignore[index]
        leading = (features - self.center) @ self.directions
        out = features.new_zeros(len(features))
        for k in range(len(self.elements)):
            of_element = (species == k).nonzero()[:, 0]
            if len(of_element):
                away = leading[of_element][:, None, :] - self.means[k]
                white = torch.einsum("ncd,cde->nce", away, self.precisions[k])
                log_density = torch.logsumexp(
                    self.log_weights[k] - 0.5 * white.square().sum(dim=2), dim=1
                )
                bound = torch.logsumexp(self.log_weights[k], dim=0)
                out = out.index_add(0, of_element, bound - log_density)
        return out

    def completed(self, prediction: Prediction, graph: AtomGraph) -> Prediction:
        if prediction.features is None:
            raise InputError("a Gaussian mixture needs a potential with features")
        sigma = self.force_scale * self.surprise(prediction.features, graph.numbers)
        return prediction.with_uncertainty(graph, sigma)

    def settings(self) -> dict[str, Any]:
        """JSON-able: the potential inside and sizes; the mixtures are weights."""
        inside = describe_potential(self.potential)
        return {"potential": inside, **self._sizes, "force_scale": self.force_scale}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> MixturePotential:
        """Built again, with fresh weights inside."""
        inside = build_potential(**settings["potential"])
        return cls(inside, **{k: v for k, v in settings.items() if k != "potential"})


def fit_mixture(
    potential: Potential, training: Sequence[AtomGraph], force_scale: float, seed: int = 0
) -> MixturePotential:
    """Fits a mixture for each element on the training atoms; needs no label.

    Raises:
        InputError: if the potential gives no features or there is no training graph.
    """
    if not training:
        raise InputError("a Gaussian mixture needs training frames, got none")
    seen = [potential(graph, forces=False).features for graph in training]
    if seen[0] is None:
        raise InputError("a Gaussian mixture needs a potential with features")
    numbers = np.concatenate([graph.numbers.cpu().numpy() for graph in training])
    features = np.concatenate([f.double().cpu().numpy() for f in seen if f is not None])
    rng = np.random.default_rng(seed)
    center = features.mean(axis=0)
    _, lengths, axes = np.linalg.svd(
        _some(features - center, _MOST_ATOMS, rng), full_matrices=False
    )
    # Directions in which nothing varies carry no density.
    width = int(min(_DIRECTIONS, max(1, (lengths > 1e-5 * lengths[0]).sum())))
    leading = (features - center) @ axes[:width].T
    fitted = {
        z: _fit_one(_some(leading[numbers == z], _MOST_ATOMS, rng), seed)
        for z in potential.elements
        if (numbers == z).any()
    }
    most = max(len(mixture.weights_) for mixture in fitted.values())
    made = MixturePotential(potential, features.shape[1], width, most, force_scale).to(
        device=potential.device, dtype=potential.dtype
    )
    made.center.copy_(torch.as_tensor(center))
    made.directions.copy_(torch.as_tensor(axes[:width].T.copy()))
    for k, z in enumerate(potential.elements):
        mixture = fitted.get(z)
        if mixture is None:
            continue  # a standard Gaussian about the middle of all atoms: far for any of them
        count = len(mixture.weights_)
        roots = mixture.precisions_cholesky_
        # log π + ½ log |C⁻¹| − ½ d log 2π, and none of an absent component.
        weights = np.log(mixture.weights_) + np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)
        made.log_weights[k] = -1e4
        made.log_weights[k, :count] = torch.as_tensor(weights - 0.5 * width * math.log(2 * math.pi))
        made.means[k, :count] = torch.as_tensor(mixture.means_)
        made.precisions[k, :count] = torch.as_tensor(roots)
    return made


def _some(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else rows[rng.choice(len(rows), most, replace=False)]


def _fit_one(atoms: Float[np.ndarray, "atoms directions"], seed: int) -> Any:
    """scikit-learn's mixture, which is imported where one is fitted: it takes longer than torch."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # One scale for all: the ridge is in its unit.
    ridge = 1e-4 * float(atoms.var(axis=0).mean()) + 1e-12
    found = []
    for count in COMPONENTS:
        if count > 1 and len(atoms) < 20 * count:
            break
        mixture = GaussianMixture(count, reg_covar=ridge, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if len(atoms) == 1:
                atoms = np.concatenate([atoms, atoms])
            found.append(mixture.fit(atoms))
    return min(found, key=lambda mixture: mixture.bic(atoms))


def _fit(network: Potential, fit: Fit) -> MixturePotential:
    assert isinstance(network, NetworkPotential)
    return fit_mixture(network, fit.training(), network.energy_model.force_scale, fit.seed)


GMM = Method(
    about="Gaussian mixture over latent features, after training",
    network=NONE.network,
    fit=_fit,
    starts_from="plain",
)
