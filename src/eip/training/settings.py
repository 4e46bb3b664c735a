"""How to train: plain values, free of torch, so that reading a configuration stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults are what did best on molecules and liquid water alike.

    Attributes:
        epochs: passes over the training frames.
        batch_size: frames of a step, of all devices together.
        max_atoms: atoms of a step on each device, in place of ``batch_size``, for frames of mixed
            sizes; or
        max_edges: edges of the graphs, which time and memory follow more closely.
        learning_rate: AdamW's, after the warm-up.
        schedule: "cosine" or "constant", of the rate after the warm-up.
        minimum_learning_rate: where the cosine decay ends.
        amsgrad: AdamW's second moments never shrink (Reddi et al. 2018).
        weight_decay: AdamW's.
        decayed: "all" weights, or "matrices" alone: no biases and no embeddings.
        warmup_epochs: epochs over which the rate rises from zero; may be a fraction.
        ema_decay: of the running average of the weights, which is what is validated and kept.
        gradient_clip: largest norm of the gradient.
        selection: the best epoch is that of the least validation "loss", or "force_rmse": a
            likelihood overfits long before forces do.
        patience: epochs without a better one before training stops; 0 never.
        final_energy_weight: of the last fifth of the epochs; None: ``energy_weight``.
        energy_weight, force_weight, stress_weight, energy_per_atom, quantile, regularization,
            variance_weight: see `eip.training.loss.Loss`.
        seed: of the order of the frames. (Initial weights are seeded where they are made.)
        device: "auto", "cpu" or "cuda".
        devices: how many, on this machine.
        num_workers: processes that build neighbor lists.
    """

    epochs: int = 200
    batch_size: int = 5
    max_atoms: int | None = None
    max_edges: int | None = None
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    minimum_learning_rate: float = 1e-6
    amsgrad: bool = False
    weight_decay: float = 0.01
    decayed: Literal["all", "matrices"] = "all"
    warmup_epochs: float = 1.0
    ema_decay: float = 0.99
    gradient_clip: float = 10.0
    selection: Literal["loss", "force_rmse"] = "loss"
    patience: int = 0
    energy_weight: float = 1.0
    final_energy_weight: float | None = None
    force_weight: float = 1.0
    stress_weight: float = 0.0
    energy_per_atom: bool = True
    quantile: float | None = 0.5
    regularization: float = 0.1
    variance_weight: float = 0.0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_workers: int = 0
