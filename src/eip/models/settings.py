"""The settings of each backbone; importing this imports no network.

A package of yours adds one by an entry point, and `model.backbone: {name: mine, …}` takes it:

    [project.entry-points."eip.backbones"]
    mine = "my_package.backbone:MySettings"
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic_core import PydanticCustomError

from eip.errors import InputError, did_you_mean
from eip.plugins import Registry
from eip.settings import Settings

S = TypeVar("S", bound="BackboneSettings")

#: By name, what a potential can be made of.
BACKBONES = Registry(
    "eip.backbones",
    "backbone",
    {
        "cartesian_ace": "eip.models.settings:CartesianACESettings",
        "painn": "eip.models.settings:PaiNNSettings",
        "chgnet": "eip.backbones.settings:CHGNetSettings",
        "sevenn": "eip.backbones.settings:SevenNetSettings",
        "mace": "eip.backbones.settings:MACESettings",
    },
)

#: Where none is named.
DEFAULT_BACKBONE = "cartesian_ace"


@runtime_checkable
class TrainingSet(Protocol):
    """What a backbone may ask of the training frames; `eip.data.GraphDataset` is one."""

    def mean_neighbors(self) -> float: ...


class BackboneSettings(Settings):
    """The network, by its name, and its own keys."""

    name: str
    cutoff: float = Field(5.0, gt=0, le=50, description="Å; how far an atom sees in one round")

    @abstractmethod
    def build(self, n_elements: int) -> Any:
        """An `eip.models.backbone.Backbone`, with fresh weights."""

    def informed(self: S, frames: TrainingSet) -> S:
        """With what the network wants to know of the frames that it will be trained on."""
        return self

    def pretrained(self: S) -> S:
        """Of a network with weights of others; where none are named, those that its package brings.

        Raises:
            InputError: if there are none.
        """
        return self

    def thawed(self: S, network: Any) -> S:
        """Of a network that others trained, when its weights are trained on and kept with it.

        Args:
            network: the `eip.backbones.frozen.FrozenBackbone` that these settings describe.

        Raises:
            InputError: if that cannot be.
        """
        raise InputError(f"the backbone {self.name} cannot be fine-tuned: it does not say how")

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        if cls is not BackboneSettings:
            return dict(handler(core_schema))
        names = BACKBONES.names()
        each = [BACKBONES.get(name).model_json_schema() for name in names]
        return {"anyOf": [{"enum": names, "type": "string"}, *each]}


class PaiNNSettings(BackboneSettings):
    """PaiNN, the paper's: scalars and vectors."""

    name: Literal["painn"] = Field("painn", description="cartesian_ace, or painn, the paper's")
    channels: int = Field(
        64, ge=1, le=4096, description="features of an atom: 64 is quick, 128 the paper's"
    )
    interactions: int = Field(3, ge=1, le=100, description="rounds of message passing")
    radial_functions: int = Field(20, ge=1, le=1000, description="basis functions of a distance")

    def build(self, n_elements: int) -> Any:
        from eip.models.painn import PaiNN

        return PaiNN(n_elements, **self.model_dump(exclude={"name"}))


class CartesianACESettings(BackboneSettings):
    """Tensors and products of three factors: forces err half as much as PaiNN's, or less."""

    name: Literal["cartesian_ace"] = Field(
        "cartesian_ace", description="cartesian_ace, or painn, the paper's"
    )
    channels: int = Field(64, ge=1, le=4096, description="features of an atom")
    interactions: int = Field(3, ge=1, le=100, description="rounds of message passing")
    radial_functions: int = Field(8, ge=1, le=1000, description="basis functions of a distance")
    mean_neighbors: float | None = Field(
        None, gt=0, description="of an atom; empty: as the training frames have it"
    )
    # Few features are larger than 4 on training frames. Without a limit acetylacetone's bonds at
    # 0.6 of their length lie up to 700 keV below the minimum; with it, none below it, and errors on
    # test frames are the same.
    feature_limit: float | None = Field(
        6.0,
        gt=0,
        description="bound on the size of features before they are multiplied; empty: none",
    )

    def build(self, n_elements: int) -> Any:
        from eip.models.cartesian_ace import CartesianACE

        given = self.model_dump(exclude={"name"})
        if self.mean_neighbors is None:
            del given["mean_neighbors"]
        return CartesianACE(n_elements, **given)

    def informed(self, frames: TrainingSet) -> CartesianACESettings:
        if self.mean_neighbors is not None:
            return self
        return self.replace(mean_neighbors=frames.mean_neighbors())


def _class_and_values(given: Any) -> tuple[type[BackboneSettings], dict[str, Any]]:
    values = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = values.setdefault("name", DEFAULT_BACKBONE)
    made = BACKBONES.get(str(name))
    if not (isinstance(made, type) and issubclass(made, BackboneSettings)):
        raise InputError(f"the backbone '{name}' is no subclass of BackboneSettings: {made!r}")
    for key in values:
        if key not in made.model_fields:
            meant = did_you_mean(str(key), list(made.model_fields))
            raise InputError(f"the backbone {name} has no {key}: {meant}")
    return made, values


def backbone_settings(given: str | Mapping[str, Any] | BackboneSettings) -> BackboneSettings:
    """The settings of a backbone, of its name or of a mapping with its name and keys.

    Raises:
        InputError: if there is no such backbone, it has no such key, or a value makes no sense.
    """
    if isinstance(given, BackboneSettings):
        return given
    made, values = _class_and_values(given)
    return made(**values)


def _as_value(given: Any) -> BackboneSettings:
    if isinstance(given, BackboneSettings):
        return given
    name = given.get("name", DEFAULT_BACKBONE) if isinstance(given, Mapping) else given
    if name not in BACKBONES.names():
        expected = ", ".join(BACKBONES.names())
        raise PydanticCustomError("literal_error", "should be {expected}", {"expected": expected})
    made, values = _class_and_values(given)
    return made.model_validate(values)


#: As a key of other settings: a backbone's name, or a mapping with its name and keys.
AnyBackbone = Annotated[SerializeAsAny[BackboneSettings], BeforeValidator(_as_value)]


def merged(backbone: Any, beside: Mapping[str, Any]) -> Any:
    """A backbone with keys that stand beside it, which go before its own."""
    if isinstance(backbone, BackboneSettings):
        backbone = backbone.to_dict()
    values = {**(backbone if isinstance(backbone, Mapping) else {"name": backbone}), **beside}
    if values.get("radial_functions", 0) is None:  # so earlier versions spelt the default
        del values["radial_functions"]
    return values


def gathered(values: Any, own: Collection[str]) -> Any:
    """Settings with a key ``backbone``, where its keys may stand beside it, as before they did.

    Args:
        own: keys that are not a backbone's.
    """
    if not isinstance(values, Mapping):
        return values
    known = {key for name in BACKBONES.names() for key in BACKBONES.get(name).model_fields}
    beside = {key: value for key, value in values.items() if key in known - {"name", *own}}
    if not beside:
        return values
    rest = {key: value for key, value in values.items() if key not in beside}
    return {**rest, "backbone": merged(values.get("backbone", DEFAULT_BACKBONE), beside)}
