"""The training loss (theory, eq. 10), made independent of the unit of force."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from eip.data.dataset import Batch
from eip.errors import InputError
from eip.prediction import Prediction
from eip.training.settings import TrainingSettings
from eip.uncertainty.evidence import Errors, Evidence


@dataclass(frozen=True)
class LossTerms:
    """Weighted terms of one batch; dimensionless, because errors are divided by the force scale."""

    energy: Float[Tensor, ""]
    evidence: Float[Tensor, ""]
    stress: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.energy + self.evidence + self.stress


@dataclass(frozen=True)
class BatchShare:
    """What this process's part of a batch weighs, where several hold a batch together.

    Their gradients are averaged, so a mean over the frames (atoms) of one is to count by how many
    these are: processes · own / all. Then the step is that of one process with the whole batch.
    """

    frames: float = 1.0
    atoms: float = 1.0


#: A batch that no one else holds a part of.
WHOLE = BatchShare()


@dataclass(frozen=True)
class Loss:
    """Weights and hyperparameters of eq. 10.

    Attributes:
        energy_weight: of |E_true − E|, per atom or per structure, in units of force scale · 1 Å;
            with 0, frames need no energy.
        force_weight: w, of NLL + λ R; with 0, frames need no forces.
        stress_weight: of the mean absolute error of the virial per atom, in the same unit.
        quantile: q, or None for the model without quantiles.
        regularization: λ.
        variance_weight: see `eip.uncertainty.evidence.Errors`.
        energy_per_atom: whether the energy's error is divided by the number of atoms.
    """

    energy_weight: float
    force_weight: float
    stress_weight: float
    quantile: float | None
    regularization: float
    variance_weight: float = 0.0
    energy_per_atom: bool = True

    @classmethod
    def of(cls, settings: TrainingSettings) -> Loss:
        """With the weights of a training's settings."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    def __call__(
        self, prediction: Prediction, batch: Batch, share: BatchShare = WHOLE
    ) -> LossTerms:
        """The terms of a batch that was predicted with ``differentiable="everything"``.

        Raises:
            InputError: if the batch lacks a label whose weight is not zero.
        """
        evidence, graph = prediction.evidence, batch.graph
        assert isinstance(evidence, Evidence)
        counts = graph.atoms_per_frame.to(prediction.energy.dtype)
        energy_term = evidence_term = stress_term = counts.new_zeros(())
        energy_error = torch.zeros_like(prediction.energy)
        if self.energy_weight:
            energy_error = required(batch.energy, "energy", batch) - prediction.energy
            sizes = counts if self.energy_per_atom else counts.new_ones(())
            energy_term = (energy_error.abs() / sizes).mean() / evidence.scale
        if self.force_weight:
            forces = required(batch.forces, "forces", batch)
            assert prediction.forces is not None
            errors = Errors(
                energy_error,
                forces - prediction.forces,
                self.quantile,
                self.regularization,
                self.variance_weight,
            )
            evidence_term = evidence.loss(errors)
        if self.stress_weight and prediction.stress is not None:
            stress = required(batch.stress, "stress", batch)
            volume = graph.cell.det().abs()[:, None, None]
            virial_error = (stress - prediction.stress) * volume / counts[:, None, None]
            # Taken out before abs(): its gradient at NaN is NaN, even where nothing comes in.
            known = ~virial_error.isnan()
            if bool(known.any()):
                stress_term = virial_error[known].abs().mean() / evidence.scale
        return LossTerms(
            share.frames * self.energy_weight * energy_term,
            share.atoms * self.force_weight * evidence_term,
            share.frames * self.stress_weight * stress_term,
        )


def required(label: Tensor | None, name: str, batch: Batch) -> Tensor:
    """The label, or an error that names the frames."""
    if label is None:
        raise InputError(
            f"training needs {name}, but frames {', '.join(batch.sources[:5])} have none"
        )
    return label
