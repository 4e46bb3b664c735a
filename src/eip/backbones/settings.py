"""The settings of networks that others trained; importing this imports none of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from eip.backbones.packages import Package
from eip.models.settings import BackboneSettings, TrainingSet

#: How the weights of a package are described in a model file.
_VERSION = "version of the package that the model stands on; empty: what is installed"
_SHA256 = "of the file with the weights that the model stands on; empty: what the package has"


class CHGNetSettings(BackboneSettings):
    """CHGNet, trained on the relaxations of the Materials Project."""

    name: Literal["chgnet"] = Field("chgnet", description="CHGNet, of the package chgnet")
    cutoff: float = Field(6.0, ge=6.0, le=6.0, description="Å; that of its weights")
    weights: Literal["0.3.0", "r2scan"] = Field(
        "0.3.0", description="0.3.0 (GGA/GGA+U), or r2scan; both come with the package"
    )
    package_version: str | None = Field(None, description=_VERSION)
    weights_sha256: str | None = Field(None, description=_SHA256)

    def build(self, n_elements: int) -> Any:
        found = CHGNET.found(f"{self.weights}/*.pth.tar", self.package_version, self.weights_sha256)
        from eip.backbones.chgnet import CHGNetBackbone

        return CHGNetBackbone(found.weights, self.weights)

    def informed(self, frames: TrainingSet) -> CHGNetSettings:
        """With the version and the weights that are installed."""
        found = CHGNET.found(f"{self.weights}/*.pth.tar", self.package_version, self.weights_sha256)
        return self.replace(package_version=found.version, weights_sha256=found.sha256)


class SevenNetSettings(BackboneSettings):
    """SevenNet, trained on the relaxations of the Materials Project."""

    name: Literal["sevenn"] = Field("sevenn", description="SevenNet, of the package sevenn")
    cutoff: float = Field(5.0, ge=5.0, le=5.0, description="Å; that of its weights")
    weights: Literal["7net-0", "7net-l3i5"] = Field(
        "7net-0", description="7net-0, or 7net-l3i5, larger; both come with the package"
    )
    package_version: str | None = Field(None, description=_VERSION)
    weights_sha256: str | None = Field(None, description=_SHA256)

    def build(self, n_elements: int) -> Any:
        found = SEVENN.found(_SEVENN_FILES[self.weights], self.package_version, self.weights_sha256)
        from eip.backbones.sevenn import SevenNetBackbone

        return SevenNetBackbone(found.weights)

    def informed(self, frames: TrainingSet) -> SevenNetSettings:
        """With the version and the weights that are installed."""
        found = SEVENN.found(_SEVENN_FILES[self.weights], self.package_version, self.weights_sha256)
        return self.replace(package_version=found.version, weights_sha256=found.sha256)


CHGNET = Package("chgnet", "pretrained", "eip[chgnet]")
SEVENN = Package("sevenn", "pretrained_potentials", "eip[sevenn]")
_SEVENN_FILES = {
    "7net-0": "SevenNet_0__11Jul2024/*.pth",
    "7net-l3i5": "SevenNet_l3i5/*.pth",
}
