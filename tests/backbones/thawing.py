"""A network that others trained, thawed: the same potential, which then stands on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase import Atoms

from eip.backbones import packages
from eip.backbones.frozen import FrozenBackbone
from eip.backbones.settings import PackageSettings
from eip.model_file import load_model, save_model
from eip.models.backbone import begin_training
from eip.uncertainty.attached import AttachedPotential


def check_thawing(
    settings: PackageSettings, atoms: Atoms, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elements = sorted({int(z) for z in atoms.numbers})
    frozen = AttachedPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=1.0,
        backbone=settings,
    ).eval()
    before = frozen.predict(atoms, stress=True)
    thawed = frozen.thawed(dict.fromkeys(elements, 1.0))
    save_model(thawed, folder / "thawed.eip")

    def gone(*given: object) -> None:
        raise AssertionError("the weights of the package were looked at")

    monkeypatch.setattr(packages.Package, "found", gone)
    after = load_model(folder / "thawed.eip", device="cpu").predict(atoms, stress=True)
    torch.testing.assert_close(after.forces, before.forces, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.energy - len(atoms), before.energy, rtol=0, atol=1e-4)

    backbone = thawed.energy_model.backbone
    assert isinstance(backbone, FrozenBackbone)
    begin_training(thawed)
    count = {which: sum(p.numel() for p in backbone.trained(which)) for which in ("all", "last")}
    assert 0 < count["last"] < count["all"] <= sum(p.numel() for p in backbone.parameters())
    begin_training(thawed, "last")
    wanted = {id(p) for p in backbone.trained("last")}
    assert {id(p) for p in backbone.parameters() if p.requires_grad} == wanted
