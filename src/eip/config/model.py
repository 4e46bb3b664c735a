"""The network, as a configuration names it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from eip.settings import Settings
from eip.uncertainty.names import METHODS


def _known_method(value: str) -> str:
    if value not in METHODS.names():
        expected = ", ".join(METHODS.names())
        raise PydanticCustomError("literal_error", "should be {expected}", {"expected": expected})
    return value


class ModelConfig(Settings):
    """The network and how it knows its error."""

    backbone: Literal["painn", "cartesian_ace"] = Field(
        "painn",
        description="painn, the paper's; cartesian_ace: tensors and products of three factors, "
        "more accurate, about one and a half times as dear to train",
    )
    uncertainty: Annotated[str, AfterValidator(_known_method)] = Field(
        "tensor",
        description=f"{', '.join(METHODS.names())}: evidence, but for mve to gmm; "
        "componentwise, the paper's, breaks rotation",
    )
    latent_distance: bool = Field(
        True,
        description="of evidence: σ grows with the distance from the training atoms in latent "
        "space",
    )
    members: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="networks of an ensemble, last layers of shallow_ensemble, dropout, llpr; "
        "empty: 4, 4, 8, 8",
    )
    channels: int = Field(
        64, ge=1, le=4096, description="features of an atom: 64 is quick, 128 the paper's"
    )
    interactions: int = Field(3, ge=1, le=100, description="rounds of message passing")
    radial_functions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="basis functions of a distance; empty: 20, of cartesian_ace 8",
    )
    cutoff: float = Field(5.0, gt=0, le=50, description="Å; how far an atom sees in one round")
    zbl: bool = Field(False, description="screened nuclear repulsion at short range")
    force_scale: Literal["rms", "mean"] = Field(
        "rms",
        description="unit of forces inside: their RMS, or their mean size where a few are far "
        "larger than the rest",
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="float32 or float64")
