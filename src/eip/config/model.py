"""The network, as a configuration names it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from eip.models.settings import DEFAULT_BACKBONE, AnyBackbone, backbone_settings, gathered
from eip.settings import Settings
from eip.settings.values import ConfigPath, one_of
from eip.uncertainty.names import METHODS


class ModelConfig(Settings):
    """The network and how it knows its error."""

    backbone: AnyBackbone = Field(backbone_settings(DEFAULT_BACKBONE), description="the network")
    start_from: ConfigPath | None = Field(
        None,
        description="a model.eip whose network and weights training begins with (fine-tuning); "
        "empty: fresh weights",
    )
    uncertainty: Annotated[str, one_of(METHODS)] = Field(
        "tensor",
        description=f"{', '.join(METHODS.names())}: evidence, but for mve to gmm; "
        "componentwise, the paper's, breaks rotation; attached, that of eip attach, only goes on "
        "with a model of it",
    )
    latent_distance: bool = Field(
        True,
        description="σ grows with the distance from the training atoms in latent space: that of "
        "evidence everywhere, that of every method beyond the range of the validation frames",
    )
    members: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="networks of an ensemble, last layers of methods that have several; empty: "
        "as the method has them, 4 or 8",
    )
    zbl: bool = Field(
        True,
        description="screened nuclear repulsion of atoms that are closer than in any training "
        "frame, where the network is not asked",
    )
    force_scale: Literal["rms", "mean"] = Field(
        "rms",
        description="unit of forces inside: their RMS, or their mean size where a few are far "
        "larger than the rest",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="float32 or float64")

    @model_validator(mode="before")
    @classmethod
    def _backbone_of_before(cls, values: Any) -> Any:
        return gathered(values, cls.model_fields)
