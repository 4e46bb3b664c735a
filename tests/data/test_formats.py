"""A format that a package adds is read like eIP's own."""

from __future__ import annotations

import pytest

#: All that a stranger writes: the reader here, and in pyproject.toml
#:     [project.entry-points."eip.formats"]
#:     toy = "toy:Toy"
TOY = '''
"""Frames as lines: energy in Hartree, then symbol, x, y, z in Bohr and forces of each atom."""

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from eip.data.formats import Format


class Toy(Format):
    units = {"energy": "Hartree", "length": "Bohr", "forces": "Hartree/Bohr"}

    def structures(self, path):
        for line in path.read_text().splitlines():
            energy, *words = line.split()
            rows = [words[i : i + 7] for i in range(0, len(words), 7)]
            numbers = np.array([row[1:] for row in rows], dtype=float)
            atoms = Atoms([row[0] for row in rows], positions=numbers[:, :3])
            atoms.info["note"] = "of a toy"
            atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=numbers[:, 3:])
            yield atoms
'''
TWO = "-1.0 H 0 0 0 0 0 0.1 H 0 0 1.5 0 0 -0.1\n-1.1 H 0 0 0 0 0 0 H 0 0 1.4 0 0 0\n"
READ = """
import numpy as np, warnings
from eip.data import read_frames, read_structures, open_frames, Labels
from ase.units import Hartree, Bohr
first, second = read_frames("h2.toy")
assert np.isclose(first.energy, -Hartree, rtol=1e-6), first.energy
assert np.allclose(first.positions[1], [0, 0, 1.5 * Bohr])
assert np.allclose(first.forces[0], [0, 0, 0.1 * Hartree / Bohr])
(last,) = read_frames("h2.toy", index="-1:")
assert last.source == second.source == "h2.toy#1"
(name, atoms), _ = read_structures("h2.toy")
assert name == "h2.toy#0" and atoms.calc is None and atoms.info == {"note": "of a toy"}
store = open_frames("h2.toy", cache_dir="cache")
assert np.allclose(store.energies, [first.energy, second.energy])
assert not list(read_frames("h2.toy", Labels(energy_unit="eV")))  # it contradicts the format
"""


def test_a_format_of_a_strangers_package(package, tmp_path) -> None:
    assert len(TOY.strip().splitlines()) < 40
    package("toy", TOY, **{"eip.formats": "toy = toy:Toy"})
    (tmp_path / "h2.toy").write_text(TWO)
    done = package.run(READ)
    assert "InputError: h2.toy#0" in done.stderr and "energy" in done.stderr, done.stderr
    eip = "from eip.cli import main; main()"
    done = package.run(eip, "convert", "h2.toy", "h2.store")
    assert done.returncode == 0 and (tmp_path / "h2.store").is_dir(), done.stderr
    done = package.run(eip, "info", "h2.toy")
    assert done.returncode == 0 and "2" in done.stdout, done.stderr
    # What is wrong is told as of any other format.
    (tmp_path / "bad.toy").write_text(TWO + "-1.0 H 0 0 nan 0 0 0 H 0 0 1.5 0 0 0\n")
    done = package.run(eip, "info", "bad.toy")
    assert done.returncode == 2 and "bad.toy#2" in done.stderr, done.stderr
    (tmp_path / "worse.toy").write_text(TWO + "what?\n")
    done = package.run(eip, "info", "worse.toy")
    assert done.returncode == 2 and "worse.toy#2 cannot be read" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_module", "'toy' (toy:Toy) cannot be imported: ModuleNotFoundError"),
        ("Toy = 3", "the format 'toy' is no subclass of Format"),
    ],
)
def test_a_format_that_is_none_is_named(content: str, message: str, package, tmp_path) -> None:
    package("toy", content, **{"eip.formats": "toy = toy:Toy"})
    (tmp_path / "h2.toy").write_text(TWO)
    done = package.run("from eip.data import read_frames; list(read_frames('h2.toy'))")
    assert "InputError" in done.stderr and message in done.stderr
