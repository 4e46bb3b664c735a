"""Labelers by name: eIP's own, and one of a package that eIP knows nothing of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

from eip.active_learning.labelers import make_labeler
from eip.active_learning.labelers.calculator import CalculatorLabeler
from eip.active_learning.labelers.xtb import XTBLabeler
from eip.errors import InputError


def test_labelers_by_name(tmp_path: Path):
    assert isinstance(make_labeler("xtb", method="GFN1-xTB"), XTBLabeler)
    assert make_labeler("xtb").name == "GFN2-xTB"
    assert make_labeler("cp2k").name == "CP2K"
    assert isinstance(make_labeler("ase", calculator="ase.calculators.emt:EMT"), CalculatorLabeler)
    with pytest.raises(InputError, match="no such model file"):
        make_labeler("model", model=tmp_path / "model.eip")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("cpk2", {}, "unknown labeler 'cpk2': did you mean 'cp2k'"),
        ("xtb", {"acuracy": 1.0}, "'xtb' has no option 'acuracy': did you mean 'accuracy'"),
        ("xtb", {"method": "GFN2"}, "unknown method 'GFN2', did you mean 'GFN2-xTB'"),
        ("xtb", {"accuracy": 0.0}, "accuracy must be > 0"),
        ("xtb", {"multiplicity": 0}, "multiplicity must be 1"),
        ("ase", {}, "'ase' needs the option 'calculator'"),
        ("model", {}, "'model' needs the option 'model'"),
        ("cp2k", {"cutof": 400}, "no option 'cutof': did you mean 'cutoff'"),
    ],
)
def test_wrong_options_are_explained(kind: str, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        make_labeler(kind, **options)


#: All that a stranger writes: the labeler here, and in pyproject.toml
#:     [project.entry-points."eip.labelers"]
#:     springs = "springs:Springs"
SPRINGS = '''
"""Every pair of atoms on a spring: a reference method of nobody's."""

import numpy as np

from eip.active_learning.labelers import Labeler, labelled_copy
from eip.errors import InputError


class Springs(Labeler):
    """Harmonic pairs; stiffness in eV/Å²."""

    name = "springs"

    def __init__(self, *, stiffness: float = 1.0, length: float = 1.0) -> None:
        if stiffness <= 0:
            raise InputError(f"springs: stiffness must be > 0, got {stiffness}")
        self._stiffness, self._length = stiffness, length

    def label(self, atoms, folder):
        folder.mkdir(parents=True, exist_ok=True)
        apart = atoms.positions[:, None] - atoms.positions
        self_pair = np.eye(len(atoms))
        distance = np.linalg.norm(apart, axis=-1) + self_pair
        stretch = (distance - self._length) * (1 - self_pair)
        energy = 0.25 * self._stiffness * (stretch**2).sum()
        forces = -self._stiffness * ((stretch / distance)[..., None] * apart).sum(axis=1)
        return labelled_copy(atoms, energy, forces)
'''


def test_a_labeler_of_a_strangers_package(package, tmp_path: Path) -> None:
    assert len(SPRINGS.strip().splitlines()) < 40
    package("springs", SPRINGS, **{"eip.labelers": "springs = springs:Springs"})
    water = molecule("H2O")
    write(tmp_path / "water.xyz", water)
    kept = package.run(
        "from springs import Springs; from eip.testing.labeler import check_labeler;"
        "from ase.build import molecule; from pathlib import Path;"
        "check_labeler(Springs(stiffness=2.0), [molecule('H2O')], Path('contract'), step=1e-3)"
    )
    assert kept.returncode == 0, kept.stderr
    eip = "from eip.cli import main; main()"
    label = ("label", "water.xyz", "--out", "labelled.xyz", "--labeler")
    done = package.run(eip, *label, "springs", "--option", "stiffness=3")
    assert done.returncode == 0, done.stderr
    labelled = read(tmp_path / "labelled.xyz")
    bonds = water.get_all_distances()[np.triu_indices(3, 1)]
    assert labelled.get_potential_energy() == pytest.approx(1.5 * ((bonds - 1) ** 2).sum())
    done = package.run(eip, *label, "spring")
    assert done.returncode == 2 and "did you mean 'springs'" in done.stderr
    done = package.run(eip, *label, "springs", "--option", "stifness=3")
    assert done.returncode == 2 and "did you mean 'stiffness'" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("def Springs(): pass", "no subclass of Labeler"),
    ],
)
def test_a_labeler_that_is_none_is_named(content: str, message: str, package) -> None:
    package("springs", content, **{"eip.labelers": "springs = springs:Springs"})
    done = package.run(
        "from eip.active_learning.labelers import make_labeler; make_labeler('springs')"
    )
    assert "InputError" in done.stderr and message in done.stderr and "'springs'" in done.stderr
