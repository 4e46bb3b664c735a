"""The settings of networks that others trained; importing this imports none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_serializer, model_serializer, model_validator

from eip.backbones.packages import TRUSTED, Package, sha256_of, trusted
from eip.errors import InputError
from eip.models.settings import BackboneSettings, TrainingSet

P = TypeVar("P", bound="PackageSettings")
Z = TypeVar("Z", bound="SizedSettings")

#: How the weights of a package are described in a model file.
_VERSION = "version of the package that the model stands on; empty: what is installed"
_SHA256 = "of the file with the weights that the model stands on; empty: what the package has"


#: What a network is made of that is trained from nothing.
_SIZES = frozenset(
    ("channels", "interactions", "l_max", "radial_functions", "mean_neighbors", "correlation")
)


class PackageSettings(BackboneSettings):
    """A network of an installed package, with its weights or with others of its own."""

    package_version: str | None = Field(None, description=_VERSION)
    weights_sha256: str | None = Field(None, description=_SHA256)
    architecture: dict[str, Any] | None = Field(
        None,
        description="of fine-tuned weights, which are in the model file: what the package makes "
        "the network of",
    )

    def thawed(self: P, network: Any) -> P:
        """Of a network that these describe, when it has weights of its own."""
        return self.replace(architecture=network.architecture())


class SizedSettings(PackageSettings):
    """A network that is trained from nothing where no weights are named."""

    weights: str | None = None
    channels: int = Field(
        32, ge=1, le=4096, description="from nothing: scalars, and vectors, of an atom"
    )
    interactions: int = Field(
        2, ge=1, le=100, description="from nothing: rounds of message passing"
    )
    l_max: int = Field(2, ge=1, le=6, description="from nothing: of the spherical harmonics")
    radial_functions: int = Field(
        8, ge=1, le=1000, description="from nothing: basis functions of a distance"
    )
    mean_neighbors: float | None = Field(
        None, gt=0, description="from nothing: of an atom; empty: as the training frames have it"
    )

    @property
    def fresh(self) -> bool:
        """Whether it has no weights of others."""
        return not (self.weights or self.weights_sha256 or self.architecture)

    def sizes(self) -> dict[str, Any]:
        """Of a fresh network."""
        names = ("cutoff", "channels", "interactions", "l_max", "radial_functions")
        found = {name: getattr(self, name) for name in names}
        return {**found, "mean_neighbors": self.mean_neighbors or 1.0}

    @model_serializer(mode="wrap")
    def _without_sizes_of_weights(self, written: Any) -> dict[str, Any]:
        found: dict[str, Any] = written(self)
        return found if self.fresh else {k: v for k, v in found.items() if k not in _SIZES}

    @model_validator(mode="after")
    def _sizes_are_of_the_weights(self: Z) -> Z:
        if not self.fresh:
            for name in sorted(_SIZES & set(type(self).model_fields)):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} is of a network that is trained from nothing; with weights it is "
                        "theirs: leave it out"
                    )
        return self


class CHGNetSettings(PackageSettings):
    """CHGNet, trained on the relaxations of the Materials Project."""

    name: Literal["chgnet"] = Field("chgnet", description="CHGNet, of the package chgnet")
    cutoff: float = Field(6.0, ge=6.0, le=6.0, description="Å; that of its weights")
    weights: Literal["0.3.0", "r2scan"] = Field(
        "0.3.0", description="0.3.0 (GGA/GGA+U), or r2scan; both come with the package"
    )

    def build(self, n_elements: int) -> Any:
        if self.architecture is not None:
            CHGNET.installed(self.package_version)
            from eip.backbones.chgnet import CHGNetBackbone

            return CHGNetBackbone.of_architecture(self.architecture).thawed()
        found = CHGNET.found(f"{self.weights}/*.pth.tar", self.package_version, self.weights_sha256)
        from eip.backbones.chgnet import CHGNetBackbone

        return CHGNetBackbone.of_file(found.weights, self.weights)

    def informed(self, frames: TrainingSet) -> CHGNetSettings:
        """With the version and the weights that are installed."""
        found = CHGNET.found(f"{self.weights}/*.pth.tar", self.package_version, self.weights_sha256)
        return self.replace(package_version=found.version, weights_sha256=found.sha256)


class SevenNetSettings(SizedSettings):
    """SevenNet: its architecture, or one trained on the relaxations of the Materials Project."""

    name: Literal["sevenn"] = Field("sevenn", description="SevenNet, of the package sevenn")
    cutoff: float = Field(5.0, gt=0, le=50, description="Å; with weights 5")
    weights: Literal["7net-0", "7net-l3i5"] | None = Field(
        None,
        description="7net-0, or 7net-l3i5, larger; both come with the package; empty: from "
        "nothing, eip attach takes 7net-0",
    )
    interactions: int = Field(3, ge=1, le=100, description="from nothing: rounds of messages")
    l_max: int = Field(1, ge=1, le=6, description="from nothing: of vectors and tensors")

    @model_validator(mode="after")
    def _cutoff_of_the_weights(self) -> SevenNetSettings:
        if self.weights is not None and self.cutoff != 5.0:
            raise ValueError(f"cutoff is that of the weights, 5 Å, got {self.cutoff:g}")
        return self

    def pretrained(self) -> SevenNetSettings:
        """7net-0 where no weights are named."""
        return self if self.weights is not None else self.replace(weights="7net-0")

    def build(self, n_elements: int) -> Any:
        if self.fresh:
            SEVENN.installed(self.package_version)
            from eip.backbones.fresh_sevenn import FreshSevenNet

            return FreshSevenNet(n_elements, **self.sizes())
        if self.architecture is not None:
            SEVENN.installed(self.package_version)
            from eip.backbones.sevenn import SevenNetBackbone

            return SevenNetBackbone.of_architecture(self.architecture).thawed()
        assert self.weights is not None
        found = SEVENN.found(_SEVENN_FILES[self.weights], self.package_version, self.weights_sha256)
        from eip.backbones.sevenn import SevenNetBackbone

        return SevenNetBackbone.of_file(found.weights)

    def informed(self, frames: TrainingSet) -> SevenNetSettings:
        """With the version and the weights that are installed."""
        if self.weights is None:
            version, _ = SEVENN.installed(self.package_version)
            near = self.mean_neighbors or frames.mean_neighbors()
            return self.replace(package_version=version, mean_neighbors=near)
        found = SEVENN.found(_SEVENN_FILES[self.weights], self.package_version, self.weights_sha256)
        return self.replace(package_version=found.version, weights_sha256=found.sha256)


class MACESettings(SizedSettings):
    """MACE: its architecture, or one of a file that the user has.

    A model file keeps the name and the sha256 of that file, not where it lies.
    """

    name: Literal["mace"] = Field("mace", description="MACE, of the package mace-torch")
    cutoff: float = Field(6.0, gt=0, le=50, description="Å; that of its weights is taken")
    weights: str = Field(
        "", description="file with a network, as MACE saves it whole; empty: from nothing"
    )
    interactions: int = Field(
        2, ge=2, le=100, description="from nothing: rounds of message passing; one has no vectors"
    )
    correlation: int = Field(
        3, ge=1, le=5, description="from nothing: factors of a product, at most"
    )
    energy_head: str | None = Field(
        None, description="of a network with several: whose energies it is to give"
    )
    # Not in a model file: it would trust for whoever opens it.
    trust_weights: bool = Field(
        False, exclude=True, description="the file may be unpickled, which runs what is in it"
    )

    @field_serializer("weights")
    def _its_name(self, weights: str) -> str:
        return Path(weights).name

    def build(self, n_elements: int) -> Any:
        MACE.installed(self.package_version)
        if self.fresh:
            from eip.backbones.fresh_mace import FreshMACE

            return FreshMACE(n_elements, correlation=self.correlation, **self.sizes())
        if self.architecture is not None:
            from eip.backbones.mace import MACEBackbone

            return MACEBackbone.of_architecture(self.architecture, self.energy_head).thawed()
        weights = self._weights()
        from eip.backbones.mace import MACEBackbone

        return MACEBackbone.of_file(weights, self.energy_head)

    def informed(self, frames: TrainingSet) -> MACESettings:
        """With version, weights and cutoff."""
        version, _ = MACE.installed(self.package_version)
        if self.fresh:
            near = self.mean_neighbors or frames.mean_neighbors()
            return self.replace(package_version=version, mean_neighbors=near)
        digest, cutoff = sha256_of(self._weights()), self.build(1).cutoff
        return self.replace(package_version=version, weights_sha256=digest, cutoff=cutoff)

    def pretrained(self) -> MACESettings:
        """With the file that is named.

        Raises:
            InputError: if none is.
        """
        if self.fresh:
            raise InputError(
                "MACE brings no weights: name the file with a network (--weights FILE)"
            )
        return self

    def _weights(self) -> Path:
        if self.trust_weights:
            path, expected = Path(self.weights), self.weights_sha256
            if expected is not None and sha256_of(path) != expected:
                raise InputError(
                    f"{path}: these weights are not those that the model stands on (sha256 "
                    f"{sha256_of(path)[:12]}…, expected {expected[:12]}…)"
                )
            return path
        digest = self.weights_sha256 or sha256_of(Path(self.weights))
        if (path_of := trusted(digest)) is not None:
            return path_of
        name = Path(self.weights).name
        raise InputError(
            f"MACE saves its networks as pickles: to open {name} runs what is in it. If you trust "
            f"where it comes from, say so: --trust-weights for eip attach, and the environment "
            f"variable {TRUSTED}=FILE for what stands on it (sha256 {digest[:12]}…)"
        )


CHGNET = Package("chgnet", "eip[chgnet]", "pretrained")
SEVENN = Package("sevenn", "eip[sevenn]", "pretrained_potentials")
MACE = Package("mace-torch", "mace-torch", module="mace")
_SEVENN_FILES = {
    "7net-0": "SevenNet_0__11Jul2024/*.pth",
    "7net-l3i5": "SevenNet_l3i5/*.pth",
}
