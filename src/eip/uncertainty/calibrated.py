"""A potential with what was fitted to its σ."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from eip.composition import NUMBERS
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Potential, WrappedPotential
from eip.prediction import Prediction
from eip.uncertainty.calibration import Calibration
from eip.uncertainty.registry import build_potential, describe_potential


def interpolate(
    sigma: Float[Tensor, "atoms"], knots: Float[Tensor, "knots 2"]
) -> Float[Tensor, "atoms"]:
    """g of the isotonic method: linear between knots, proportional to σ beyond."""
    x, y = knots[:, 0].contiguous(), knots[:, 1].contiguous()
    ends = sigma.clamp(min=x[0], max=x[-1])
    if len(x) == 1:
        return y[0] * sigma / x[0]
    upper = torch.bucketize(ends.detach(), x).clamp(1, len(x) - 1)
    slope = (y[upper] - y[upper - 1]) / (x[upper] - x[upper - 1])
    return (y[upper - 1] + slope * (ends - x[upper - 1])) * (sigma / ends)


class CalibratedPotential(WrappedPotential):
    """A potential whose σ is an error bar; energy and forces are those of the potential inside.

    ``force_uncertainty`` and ``force_covariance`` are calibrated, ``uncertainty`` is the mean of
    the calibrated σ_i. ``force_aleatoric``, ``energy_uncertainty`` and the evidence pass
    unchanged: the fit compares σ with errors, and what is amiss in σ is mostly ν, which the
    aleatoric part does not contain; of that part the fit says nothing.

    A factor depends on the element alone, so σ stays as smooth, differentiable and invariant
    under rotation as it was; the isotonic curve has kinks.
    """

    kind: ClassVar[str] = "calibrated"

    def __init__(self, potential: Potential, calibration: Calibration) -> None:
        super().__init__(potential)
        self.calibration = calibration
        factors = [calibration.factor_of(number) for number in range(NUMBERS)]
        # Not persistent: the calibration in the settings is the one truth.
        self._factors: Tensor
        self._knots: Tensor
        for name, values in (("_factors", factors), ("_knots", list(calibration.knots))):
            table = torch.tensor(values, dtype=torch.float64)
            self.register_buffer(name, table, persistent=False)

    def completed(self, prediction: Prediction, graph: AtomGraph) -> Prediction:
        if prediction.force_uncertainty is None:
            return prediction
        raw = prediction.force_uncertainty
        mapped = interpolate(raw, self._knots.to(raw)) if len(self._knots) else raw
        sigma = mapped * self._factors.to(raw)[graph.numbers]
        growth = sigma / raw.clamp(min=torch.finfo(raw.dtype).tiny)
        return prediction.rescaled(graph, sigma, math.sqrt(3.0) * growth**2)

    def settings(self) -> dict[str, Any]:
        """JSON-able: the potential inside and the calibration."""
        return {
            "potential": describe_potential(self.potential),
            "calibration": self.calibration.to_dict(),
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> CalibratedPotential:
        """Built again, with fresh weights inside.

        Raises:
            InputError: if the settings are not those of a calibrated potential.
        """
        try:
            inside, calibration = settings["potential"], settings["calibration"]
            kind, inner_settings = inside["kind"], inside["settings"]
        except (KeyError, TypeError) as error:
            raise InputError(f"the settings of a calibrated potential lack {error}") from error
        return cls(build_potential(kind, inner_settings), Calibration.from_dict(calibration))
