"""The door through which structures come to dynamics, labellers and analyses."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.db import connect
from ase.io import write

from eip.data import Labels, open_frames, read_structures
from eip.errors import InputError

BOHR = 0.5291772105638411


def rich() -> Atoms:
    """A structure with everything that a file can hold of one."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.set_constraint(FixAtoms([0, 3]))
    atoms.set_momenta(np.arange(24.0).reshape(8, 3), apply_constraint=False)
    atoms.info.update(material_id="mp-7", charge=-1, config_type="rattled")
    atoms.set_array("site", np.arange(8))
    atoms.info["REF_energy"] = -7.0
    atoms.arrays["REF_forces"] = np.ones((8, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((8, 3)))
    return atoms


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_all_but_labels_is_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("db"):
        connect(str(path)).write(rich(), material_id="mp-7", config_type="rattled")
    else:
        write(path, [rich()] * 2)
    first, atoms = next(read_structures(path))
    assert first == f"{path}#0"
    assert atoms.calc is None
    charge = {} if name == "a.db" else {"charge": -1}  # no key that ASE's databases take
    assert atoms.info == {"material_id": "mp-7", "config_type": "rattled"} | charge
    assert [c.index.tolist() for c in atoms.constraints] == [[0, 3]]
    np.testing.assert_allclose(atoms.arrays["momenta"], rich().arrays["momenta"])
    assert not {"REF_forces", "forces"} & set(atoms.arrays)
    if name == "a.xyz":
        assert atoms.arrays["site"].tolist() == list(range(8))
        named = [n for n, _ in read_structures(path, index=-1)]
        assert named == [f"{path}#1"]


def test_labels_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info.update(energy=-2.0, energy_unit="Hartree", length_unit="Bohr", time_fs=3.0)
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    _, plain = next(read_structures(tmp_path / "a.xyz"))
    assert plain.info == {"time_fs": 3.0} and plain.calc is None
    np.testing.assert_allclose(plain.positions, atoms.positions * BOHR, rtol=1e-6)
    _, labelled = next(read_structures(tmp_path / "a.xyz", labels=Labels()))
    assert labelled.get_potential_energy() == pytest.approx(-2 * 27.211386, rel=1e-6)


def test_constraints_by_direction_and_keys_in_any_case(tmp_path: Path) -> None:
    atoms = rich()
    atoms.set_constraint(FixCartesian(1, mask=(True, False, True)))
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    text = (tmp_path / "a.xyz").read_text()
    lowered = text.replace("Properties=", "properties=").replace("Lattice=", "lattice=")
    (tmp_path / "a.xyz").write_text(lowered)
    _, read = next(read_structures(tmp_path / "a.xyz"))
    assert read.pbc.all() and read.cell.volume == pytest.approx(5.6**3)
    assert any(1 in c.index and c.mask.tolist() for c in read.constraints)


def test_a_store_and_an_npz_are_structures_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    positions = molecule("H2O").positions + rng.normal(scale=0.01, size=(4, 3, 3))
    np.savez(tmp_path / "a.npz", z=np.array([8, 1, 1]), R=positions, E=np.zeros(4))
    # Whose energies are in a unit that nobody knows, and that nobody asks for here.
    found = [atoms for _, atoms in read_structures(tmp_path / "a.npz", index="1::2")]
    assert len(found) == 2 and found[0].calc is None
    np.testing.assert_array_equal(found[1].positions, positions[3])
    store = open_frames([tmp_path / "a.npz"], Labels(energy_unit="eV"), tmp_path / "stores")
    names, found = zip(*read_structures(store.path, index=2), strict=True)
    assert names[0].endswith("a.npz#2") and found[0].calc is None


def test_what_no_structure_is_read_from(tmp_path: Path) -> None:
    def message(path: Path, **given: object) -> str:
        with pytest.raises(InputError) as caught:
            list(read_structures(path, **given))
        return str(caught.value)

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "a.traj").write_bytes(b"PickleTrajectory" + pickle.dumps(Trap()))
    assert "a.traj" in message(tmp_path / "a.traj")
    (tmp_path / "b.bundle").mkdir()
    assert "is a directory" in message(tmp_path / "b.bundle")
    assert not (tmp_path / "sprung").exists()
    assert "does not exist, did you mean 'a.traj'" in message(tmp_path / "a.trai")
    write(tmp_path / "c.xyz", molecule("H2O"))
    assert message(tmp_path / "c.xyz", index=7) == f"{tmp_path / 'c.xyz'}: no frames in 7"
    (tmp_path / "d.xyz").write_text("1000000000000\n\nO 0 0 0\n")
    assert "frame 0 is cut off" in message(tmp_path / "d.xyz")
    header = 'Lattice="{}" Properties=species:S:1:pos:R:3 pbc="{}"'
    for cell, pbc, expected in (
        ("9 0 0 0 nan 0 0 0 9", "T T T", "cell is not finite"),
        ("0 0 0 0 0 0 0 0 0", "T T T", "zero or linearly dependent"),
        ("9 0 0 0 9 0 0 0 9", "yes yes no", "pbc"),
    ):
        (tmp_path / "e.xyz").write_text(f"1\n{header.format(cell, pbc)}\nO 0 0 0\n")
        said = message(tmp_path / "e.xyz")
        assert expected in said and "e.xyz#0" in said
    (tmp_path / "f.xyz").write_text("1\n\nQq 0 0 0\n")
    assert "f.xyz#0: atom 0 is 'Qq', which is no element" in message(tmp_path / "f.xyz")
