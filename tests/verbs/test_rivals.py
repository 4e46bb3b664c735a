"""Potentials of others beside our own, and what two of them say of each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from eip.config import load_config
from eip.errors import InputError
from eip.verbs.compare import compare

CONFIG = """
run_dir: run
data: {train: [train.xyz], validation: 12, test: [test.xyz], ood: [test.xyz]}
model: {backbone: {name: painn, channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.5}}
training: {epochs: 1, device: cpu}
"""

#: Two calculators that differ by what the second one adds.
CALCULATORS = """
from ase.calculators.emt import EMT

def one():
    return EMT()

class Other(EMT):
    def calculate(self, *given, **more):
        super().calculate(*given, **more)
        self.results["forces"] = self.results["forces"] * 1.1

def other():
    return Other()

def broken():
    raise RuntimeError("no licence")
"""


@pytest.fixture
def config(demo_data: Path, tmp_path: Path) -> Path:
    (tmp_path / "calc.py").write_text(CALCULATORS)
    (tmp_path / "config.yaml").write_text(CONFIG)
    found = ase.io.read(demo_data / "ethanol_300K.xyz", index=":36")
    for atoms in found:
        labelled = atoms.copy()
        labelled.calc = EMT()
        forces = labelled.get_forces() * 1.3
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    ase.io.write(tmp_path / "train.xyz", found[:24])
    ase.io.write(tmp_path / "test.xyz", found[24:])
    return tmp_path / "config.yaml"


def test_rows_of_others_and_of_their_difference(
    config: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    folder = config.parent
    names = [f"{folder}/calc.py:{name}" for name in ("one", "other")]
    asked = ("compare", config, "--methods", "none", "--rivals", ",".join(names))
    code, _, errors = run(*asked, "--no-progress")
    assert code == 0, errors
    figures = json.loads((folder / "run/comparison.json").read_text())
    assert set(figures) == {"none", "calc.py:one", "calc.py:other", "calc.py:one − calc.py:other"}
    one, other = figures["calc.py:one"], figures["calc.py:other"]
    # They lack 0.3 and 0.2 of the size of EMT's forces.
    ratio = one["force_mae"]["mean"] / other["force_mae"]["mean"]
    assert ratio == pytest.approx(1.5, rel=1e-6)
    assert "spearman_atom" not in one and one["prediction_cost"]["mean"] > 0
    pair = figures["calc.py:one − calc.py:other"]
    assert pair["force_mae"] == one["force_mae"]
    # Each atom's difference is a third of its error.
    assert pair["spearman_atom"]["mean"] > 0.95 and np.isfinite(pair["coverage_80"]["mean"])
    assert "calc.py:one − calc.py:other" in (folder / "run/comparison.md").read_text()


def test_what_is_no_rival_is_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_config(config)
    monkeypatch.setattr("eip.verbs.compare.train_members", lambda *given: [])
    for name, said in (
        (
            "chgnett",
            r"rival 'chgnett': expected a network that others trained \(did you mean 'chgnet'",
        ),
        ("nowhere.module:make", "nowhere.module:make': cannot be imported"),
        ("painn", "the backbone painn is one that eIP trains"),
        ("mace", "MACE brings no weights"),
    ):
        with pytest.raises(InputError, match=said):
            compare(settings, "none", rivals=[name], progress=False)
    with pytest.raises(InputError, match=r"two rivals are called a\.eip"):
        compare(settings, "none", rivals=["a.eip", "b/a.eip"], progress=False)
