"""How to train: plain values, free of torch, so that reading a configuration stays quick."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from eip.settings import Settings
from eip.settings.values import Count, Kernels, Seed

#: About how many steps a training of each effort takes.
EFFORTS = {"quick": 5_000, "default": 20_000, "best": 135_000}

#: An epoch of a few frames counts as so many steps: each ends with a validation and a checkpoint.
_LEAST_STEPS = 10

#: Frames and atoms of a step where nothing is said: many small steps learn more than a few large.
_FRAMES_OF_A_STEP, _ATOMS_OF_A_STEP = 5, 250


class TrainingSettings(Settings):
    """How the weights are found."""

    effort: Literal["quick", "default", "best"] = Field(
        "default",
        description="how long to train: "
        + ", ".join(f"{name} about {steps:,} steps" for name, steps in EFFORTS.items()),
    )
    epochs: Count | None = Field(
        None, ge=1, description="passes over the training frames; empty: as effort has it"
    )
    batch_size: Count | None = Field(
        None,
        ge=1,
        description="frames of a step, of all devices together; empty: "
        f"{_FRAMES_OF_A_STEP}, or fewer where these have more than {_ATOMS_OF_A_STEP} atoms",
    )
    max_atoms: Count | None = Field(
        None,
        ge=1,
        description="atoms of a step on each device, in place of batch_size, for frames of mixed "
        "sizes",
    )
    max_edges: Count | None = Field(
        None,
        ge=1,
        description="pairs of atoms within the cutoff, of a step on each device, in place of both",
    )
    layers: Literal["all", "last"] = Field(
        "all",
        description="weights that are trained: all, or last, those by which energy and σ are read "
        "from features (of a network that others trained its last layers)",
    )
    learning_rate: float = Field(2e-3, gt=0, description="of AdamW, after the warm-up")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the rate: cosine or constant"
    )
    minimum_learning_rate: float = Field(1e-6, ge=0, description="where the cosine decay ends")
    amsgrad: bool = Field(False, description="second moments of AdamW never shrink")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    decayed: Literal["all", "matrices"] = Field(
        "all",
        description="weights that decay: all, or matrices (no biases, no embeddings)",
    )
    warmup_epochs: float = Field(1.0, ge=0, description="epochs over which the rate rises")
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="of the running average of the weights, which is kept",
    )
    gradient_clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    selection: Literal["loss", "force_rmse"] = Field(
        "force_rmse",
        description="what is least in the best epoch, on validation frames: force_rmse or loss",
    )
    patience: Count = Field(
        0,
        ge=0,
        description="epochs without a better one before the end; 0: never",
    )
    energy_weight: float = Field(1.0, ge=0, description="of the energy's error in the loss")
    final_energy_weight: float | None = Field(
        None,
        ge=0,
        description="that of the last fifth of the epochs; empty: the same",
    )
    force_weight: float = Field(1.0, ge=0, description="of the evidential loss of the forces")
    stress_weight: float = Field(0.0, ge=0, description="of the stress; needs stress labels")
    energy_per_atom: bool = Field(
        True, description="count the energy's error per atom, not per frame"
    )
    quantile: float | None = Field(
        0.5,
        gt=0,
        lt=1,
        description="q of the loss; any but 0.5 breaks rotation; empty: without",
    )
    regularization: float = Field(
        0.1, ge=0, description="λ: how much errors weigh against evidence"
    )
    variance_weight: float = Field(
        1.0,
        ge=0,
        le=2,
        description="power of its own σ by which an atom counts; 0, the bare likelihood, passes "
        "the forces that are hard to learn off as noise",
    )
    seed: Seed = Field(0, description="of initial weights and the order of frames")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    kernels: Kernels | None = Field(
        None, description="whose kernels, in place of EIP_KERNELS; empty: as that says"
    )
    devices: int = Field(1, ge=1, le=1024, description="how many of them")
    parallel: int = Field(1, ge=1, le=1024, description="members of an ensemble trained at once")
    num_workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="processes that prepare batches; 0: none beside",
    )

    @model_validator(mode="after")
    def _one_size(self) -> TrainingSettings:
        if self.max_atoms is not None and self.max_edges is not None:
            raise ValueError(
                "training.max_atoms or training.max_edges, not both: a step has one size"
            )
        return self

    def epochs_of(self, steps_per_epoch: int) -> int:
        """How many epochs there are, of so many steps each."""
        if self.epochs is not None:
            return self.epochs
        return max(1, round(EFFORTS[self.effort] / max(steps_per_epoch, _LEAST_STEPS)))

    def frames_of_a_step(self, mean_atoms: float, devices: int = 1) -> int:
        """``batch_size``, or what it is for frames of so many atoms where it is empty."""
        if self.batch_size is not None:
            return self.batch_size
        fitting = min(_FRAMES_OF_A_STEP, int(_ATOMS_OF_A_STEP / mean_atoms))
        return max(1, devices, fitting)
