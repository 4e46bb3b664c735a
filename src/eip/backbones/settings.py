"""The settings of networks that others trained; importing this imports none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_serializer

from eip.backbones.packages import TRUSTED, Package, sha256_of, trusted
from eip.errors import InputError
from eip.models.settings import BackboneSettings, TrainingSet

P = TypeVar("P", bound="PackageSettings")

#: How the weights of a package are described in a model file.
_VERSION = "version of the package that the model stands on; empty: what is installed"
_SHA256 = "of the file with the weights that the model stands on; empty: what the package has"


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


class SevenNetSettings(PackageSettings):
    """SevenNet, trained on the relaxations of the Materials Project."""

    name: Literal["sevenn"] = Field("sevenn", description="SevenNet, of the package sevenn")
    cutoff: float = Field(5.0, ge=5.0, le=5.0, description="Å; that of its weights")
    weights: Literal["7net-0", "7net-l3i5"] = Field(
        "7net-0", description="7net-0, or 7net-l3i5, larger; both come with the package"
    )

    def build(self, n_elements: int) -> Any:
        if self.architecture is not None:
            SEVENN.installed(self.package_version)
            from eip.backbones.sevenn import SevenNetBackbone

            return SevenNetBackbone.of_architecture(self.architecture).thawed()
        found = SEVENN.found(_SEVENN_FILES[self.weights], self.package_version, self.weights_sha256)
        from eip.backbones.sevenn import SevenNetBackbone

        return SevenNetBackbone.of_file(found.weights)

    def informed(self, frames: TrainingSet) -> SevenNetSettings:
        """With the version and the weights that are installed."""
        found = SEVENN.found(_SEVENN_FILES[self.weights], self.package_version, self.weights_sha256)
        return self.replace(package_version=found.version, weights_sha256=found.sha256)


class MACESettings(PackageSettings):
    """A MACE whose file the user has; a model file keeps its name and sha256, not where it lies."""

    name: Literal["mace"] = Field("mace", description="MACE, of the package mace-torch")
    cutoff: float = Field(6.0, gt=0, description="Å; that of its weights is taken")
    weights: str = Field("", description="file with a network, as MACE saves it whole")
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
        if self.architecture is not None:
            from eip.backbones.mace import MACEBackbone

            return MACEBackbone.of_architecture(self.architecture, self.energy_head).thawed()
        weights = self._weights()
        from eip.backbones.mace import MACEBackbone

        return MACEBackbone.of_file(weights, self.energy_head)

    def informed(self, frames: TrainingSet) -> MACESettings:
        """With version, weights and cutoff."""
        version, _ = MACE.installed(self.package_version)
        digest, cutoff = sha256_of(self._weights()), self.build(1).cutoff
        return self.replace(package_version=version, weights_sha256=digest, cutoff=cutoff)

    def _weights(self) -> Path:
        if not (self.weights or self.weights_sha256):
            raise InputError(
                "MACE brings no weights: name the file with a network (--weights FILE)"
            )
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
