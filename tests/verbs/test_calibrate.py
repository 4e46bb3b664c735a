"""`eip calibrate`: what a model of before is given, and what is fitted again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import eip
from eip.data.plausibility import DataWarning
from eip.errors import InputError
from eip.potential import layers
from eip.uncertainty.energy_error import EnergyErrorPotential
from eip.uncertainty.methods import new_network
from eip.verbs.calibrate import _doubts


def bar_of(model: Path) -> EnergyErrorPotential | None:
    found = (p for p in layers(eip.load(model)) if isinstance(p, EnergyErrorPotential))
    return next(found, None)


def test_energies_get_an_error_bar_and_it_is_fitted_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    potential = new_network(
        "isotropic", elements=[1, 6], element_energies={1: -5.0, 6: -5.0}, force_scale=1.0,
        backbone="painn", channels=8, interactions=1, radial_functions=6, cutoff=3.5,
    ).eval().requires_grad_(False)  # fmt: skip

    def frames(name: str, seeds: range, noise: float) -> Path:
        out = []
        for seed in seeds:
            atoms = molecule("CH4")
            atoms.rattle(0.05, seed=seed)
            said = potential.predict(atoms)
            random = torch.randn(16, generator=torch.Generator().manual_seed(seed))
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=float(said.energy + noise * random[0]),
                forces=(said.forces + 0.1 * random[1:].reshape(5, 3)).numpy(),
            )
            out.append(atoms)
        write(tmp_path / name, out)
        return tmp_path / name

    old, new = tmp_path / "old.eip", tmp_path / "new.eip"
    eip.save(potential, old)
    seen, others = frames("seen.xyz", range(20), 0.0), frames("others.xyz", range(30, 60), 0.01)
    told: list[object] = []
    eip.calibrate(old, others, new, trained_on=seen, progress=False, log=told.append)
    assert any(str(text).startswith("Energies have an error bar") for text in told)
    bar = bar_of(new)
    assert bar is not None and bar_of(old) is None
    wild = frames("wild.xyz", range(60, 90), 0.1)
    eip.calibrate(new, wild, progress=False, log=told.append)
    assert "The energy's error bar is fitted to these frames as well." in told
    again = bar_of(new)
    assert again is not None and again.scale == pytest.approx(10.0 * bar.scale, rel=0.5)
    # What cannot be right is refused or doubted, and costs no model.
    before = new.read_bytes()
    with pytest.raises(InputError, match=r"seen\.xyz is given as frames to calibrate on and"):
        eip.calibrate(new, seen, trained_on=seen, progress=False)
    hydrogen = molecule("H2")
    hydrogen.calc = SinglePointCalculator(hydrogen, energy=-10.0, forces=[[0.0] * 3] * 2)
    write(tmp_path / "hydrogen.xyz", [hydrogen])
    with pytest.raises(InputError, match=r"was trained on, and .* has no C"):
        eip.calibrate(new, others, trained_on=tmp_path / "hydrogen.xyz", progress=False)
    assert new.read_bytes() == before
    with pytest.warns(DataWarning, match=r"calibrated on 3 frames: .* take 10 or more"):
        eip.calibrate(new, frames("few.xyz", range(3), 0.0), tmp_path / "few.eip", progress=False)
    eip.save(potential, old, {"config": {"data": {"train": [str(seen)]}}})
    with pytest.warns(DataWarning, match=r"was trained on .*seen\.xyz: its errors there are"):
        eip.calibrate(old, [others, seen], tmp_path / "seen.eip", progress=False)


def test_frames_far_from_what_was_seen_are_doubted() -> None:
    assert "67% of the atoms lie beyond" in _doubts(20, np.array([0.5, 2.0, 3.0]))[0]
    assert _doubts(20, np.full(3, 0.5)) == _doubts(20, None) == []
