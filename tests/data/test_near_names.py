"""Words that other programs spell their own way are understood or refused, never passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eip.data import Frame, Labels, open_frames
from eip.data import read_frames as stream
from eip.errors import InputError
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM

HARTREE, BOHR = ENERGY_IN_EV["Hartree"], LENGTH_IN_ANGSTROM["Bohr"]


def read_frames(file: Path, labels: Labels | None = None) -> list[Frame]:
    return list(stream(file, labels))


def npz(folder: Path, **more: object) -> Path:
    file = folder / "a.npz"
    positions = np.arange(12.0).reshape(2, 2, 3)
    np.savez(file, numbers=[8, 1], positions=positions, energies=np.arange(2.0), **more)
    return file


@pytest.mark.parametrize(
    "length", ["length_unit", "length_units", "Length_Unit", "positions_units"]
)
@pytest.mark.parametrize("energy", ["energy_unit", "energy_units", "Energy_Unit"])
@pytest.mark.parametrize("one", [str, np.array, lambda unit: np.array([unit])])
def test_units_that_an_npz_declares(tmp_path: Path, energy: str, length: str, one) -> None:
    frame = read_frames(npz(tmp_path, **{energy: one("Hartree"), length: one("Bohr")}))[1]
    assert frame.energy == pytest.approx(HARTREE)
    assert frame.positions[1, 2] == pytest.approx(11.0 * BOHR)


def test_a_virial_in_an_npz_is_a_stress(tmp_path: Path) -> None:
    virial = np.broadcast_to(np.eye(3), (2, 3, 3))
    frame = read_frames(npz(tmp_path, virial=virial, cell=10 * np.eye(3)))[0]
    np.testing.assert_allclose(frame.stress, -np.eye(3) / 1000)


def test_a_cell_by_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="array 'Lattice', which is not read"):
        read_frames(npz(tmp_path, Lattice=10 * np.eye(3)))


def xyz(folder: Path, comment: str, atoms: str = "H 0 0 0\nH 0 0 1\n") -> Path:
    file = folder / "a.xyz"
    file.write_text(f"{atoms.count(chr(10))}\nProperties=species:S:1:pos:R:3 {comment}\n{atoms}")
    return file


def test_units_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="energy_unit=eV and e_unit=Hartree contradict"):
        read_frames(xyz(tmp_path, "energy=1 energy_unit=eV e_unit=Hartree"))


@pytest.mark.parametrize("given", [{"stress_unit": "GPa"}, {"stress_sign": "vasp"}])
def test_what_is_said_of_a_stress_is_not_said_of_a_virial(tmp_path: Path, given: dict) -> None:
    file = xyz(tmp_path, 'Lattice="9 0 0 0 9 0 0 0 9" energy=1 virial="1 0 0 0 1 0 0 0 1"')
    assert read_frames(file)[0].stress is not None
    with pytest.raises(InputError, match="'virial' is a virial"):
        read_frames(file, Labels(**given))


@pytest.mark.parametrize(
    "said", ["config_type=IsolatedAtom", "Config_Type=isolated_atom", "config_type=Isolated-Atoms"]
)
def test_isolated_atoms_by_any_spelling(tmp_path: Path, said: str) -> None:
    file = xyz(tmp_path, f"energy=-13 {said}", "H 0 0 0\n")
    file.write_text(
        file.read_text() + "2\nProperties=species:S:1:pos:R:3 energy=-31\nH 0 0 0\nH 0 0 1\n"
    )
    store = open_frames(file)
    assert len(store) == 1 and store.isolated_atoms == {1: -13.0}


def test_groups_in_any_case(tmp_path: Path) -> None:
    assert read_frames(xyz(tmp_path, "energy=1 Material_ID=mp-7"))[0].group == "mp-7"


def test_elements_beside_those_of_a_dump_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.dump"
    file.write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
        "ITEM: ATOMS id type element x y z\n1 1 C 0 0 0\n"
    )
    assert read_frames(file)[0].numbers.tolist() == [6]
    with pytest.raises(InputError, match="column 'element'"):
        read_frames(file, Labels(elements=("O",)))


def test_elements_go_before_the_masses_of_a_data_file(tmp_path: Path) -> None:
    file = tmp_path / "a.lammps-data"
    body = (
        "Masses of beads\n\n1 atoms\n1 atom types\n0 9 xlo xhi\n0 9 ylo yhi\n0 9 zlo zhi\n\n{}"
        "Atoms # atomic\n\n1 1 0 0 0\n"
    )
    file.write_text(body.format("Masses\n\n1 72.0\n\n"))
    assert read_frames(file, Labels(elements=("O",)))[0].numbers.tolist() == [8]
    file.write_text(body.format(""))
    with pytest.raises(InputError, match="types in place of elements"):
        read_frames(file)
