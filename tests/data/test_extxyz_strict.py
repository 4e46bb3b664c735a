"""What is refused in extended xyz, at once and by name, and what is read beside ASE's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.db import connect
from ase.units import Bohr, GPa, Hartree
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.data import Frame, Labels, open_frames, read_frames
from eip.data.convert import convert
from eip.data.extxyz import ExtxyzReader, Position
from eip.data.readers import stream_frames
from eip.errors import InputError

ATOMS = """\
O 0.0 0.0 0.1 0.1 0.0 0.0
H 0.76 0.0 -0.47 -0.05 0.0 0.1
H -0.76 0.0 -0.47 -0.05 0.0 -0.1
"""
PROPERTIES = "Properties=species:S:1:pos:R:3:forces:R:3"
CELL = 'Lattice="10 0 0 0 10 0 0 0 10"'
STRESS = "0.001 0.006 0.005 0.006 0.002 0.004 0.005 0.004 0.003"
MATRIX = np.array([[0.001, 0.006, 0.005], [0.006, 0.002, 0.004], [0.005, 0.004, 0.003]])


def frame_of(folder: Path, comment: str, atoms: str = ATOMS, labels: Labels | None = None) -> Frame:
    """The second of two frames: the first one is read in its own way."""
    file = folder / "a.xyz"
    file.write_text(f"3\n{PROPERTIES} energy=-1.0\n{ATOMS}3\n{comment}\n{atoms}")
    return list(stream_frames(file, labels))[1]


def refuses(folder: Path, message: str, comment: str, atoms: str = ATOMS) -> None:
    """As the first frame and as a later one."""
    match = rf"b\.xyz#0.*{message}"
    (folder / "b.xyz").write_text(f"3\n{comment}\n{atoms}")
    with pytest.raises(InputError, match=match):
        list(read_frames(folder / "b.xyz"))
    with pytest.raises(InputError, match=rf"a\.xyz#1.*{message}"):
        frame_of(folder, comment, atoms)


# --- keys in any case --------------------------------------------------------------------------


def test_keys_in_any_case(tmp_path: Path) -> None:
    """As GPUMD and NEP write them, and as people do."""
    lower = frame_of(
        tmp_path,
        'energy=-76.0 lattice="10 0 0 0 10 0 0 0 10" PBC="T T F" '
        "properties=species:S:1:pos:R:3:force:R:3",
    )
    assert lower.pbc.tolist() == [True, True, False] and lower.cell[2, 2] == 10
    assert lower.forces is not None and lower.forces[0, 0] == 0.1
    capital = frame_of(
        tmp_path,
        f'{CELL} Energy=-76.0 Stress="{STRESS}" Virial="{virial()}" '
        "Properties=Species:S:1:Pos:R:3:Forces:R:3",
    )
    assert capital.energy == -76.0 and capital.forces is not None
    np.testing.assert_allclose(capital.stress, MATRIX, atol=1e-12)
    refuses(tmp_path, "has both 'Lattice' and 'lattice'", f'{CELL} lattice="9 0 0 0 9 0 0 0 9"')


def virial(volume: float = 1000.0) -> str:
    return " ".join(f"{-volume * x:.8f}" for x in MATRIX.ravel())


def test_keys_in_any_case_in_other_formats(tmp_path: Path) -> None:
    atoms = ase.io.read(_written(tmp_path, f"{PROPERTIES} energy=-1.0"))
    del atoms.calc
    with connect(tmp_path / "a.db") as database:
        database.write(atoms, data={"Energy": -5.0, "REF_Forces": np.ones((3, 3))})
    (frame,) = read_frames(tmp_path / "a.db")
    assert frame.energy == -5.0 and frame.forces is not None and (frame.forces == 1).all()


def _written(folder: Path, comment: str, atoms: str = ATOMS) -> Path:
    (folder / "w.xyz").write_text(f"3\n{comment}\n{atoms}")
    return folder / "w.xyz"


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(["lattice", "energy", "stress", "pbc", "properties", "ref_energy"]),
    st.lists(st.sampled_from([str.lower, str.upper, str.capitalize]), min_size=6, max_size=6),
)
def test_any_case_means_what_ase_takes_the_usual_one_for(keys: list[str], cases: list) -> None:
    values = {
        "lattice": '"10 0 0 1 9 0 0 0 8"',
        "energy": "-76.5",
        "ref_energy": "-76.5",
        "stress": f'"{STRESS}"',
        "pbc": '"T T T"',
        "properties": "species:S:1:pos:R:3:forces:R:3",
    }
    usual = {"lattice": "Lattice", "properties": "Properties"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.xyz"
        comment = " ".join(f"{usual.get(key, key)}={values[key]}" for key in keys)
        file.write_text(f"3\n{comment}\n{ATOMS}")
        atoms = ase.io.read(file)
        comment = " ".join(f"{case(k)}={values[k]}" for case, k in zip(cases, keys, strict=True))
        file.write_text(f"3\n{comment}\n{ATOMS}")
        (frame,) = read_frames(file)
    back = frame.to_atoms()
    assert back.get_potential_energy() == atoms.get_potential_energy()
    for ours, theirs in (
        (back.get_forces(), atoms.get_forces()),
        (back.get_stress(), atoms.get_stress()),
        (back.positions, atoms.positions),
        (back.cell.array, atoms.cell.array),
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "twice",
    ["energy=-1.0", CELL, 'pbc="F F F"', "forces_unit=eV/Ang", "mp_id=b", "config_type=b"],
)
def test_keys_twice(tmp_path: Path, twice: str) -> None:
    key = twice.partition("=")[0]
    once = {"Lattice": 'Lattice="9 0 0 0 9 0 0 0 9"'}.get(key, f"{key}=1")
    refuses(tmp_path, f"has '{key}' twice, '", f"{PROPERTIES} {once} {twice}")
    # What nobody reads may be there as often as it likes.
    assert frame_of(tmp_path, f"{PROPERTIES} step=1 energy=-2.0 step=2").energy == -2.0


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("energy=T", "'energy' is 'T', expected a number"),
        ("energy=-7_6.0", "'energy' is '-7_6.0', expected a number"),
        ('energy=""', "'energy' is '', expected a number"),
        ('energy="_JSON true"', "'energy' is '_JSON true', expected numbers"),
        ('energy="1 2"', r"'energy' has shape \(2,\), expected one number"),
        (f'{CELL} stress="1 2 3"', r"'stress' has shape \(3,\), expected \(3, 3\)"),
        (f"{CELL} stress=T", "'stress' is 'T', expected a number"),
        ('Lattice="10 0 0 0 10 0 0 0"', "'Lattice' is .*, expected nine numbers"),
        ('Lattice="10 0 0 0 1_0 0 0 0 10"', "'Lattice' is .*, expected nine numbers"),
        (f'{CELL} pbc="maybe yes no"', "'pbc' is 'maybe yes no', expected three of T and F"),
        (f'{CELL} pbc="T F"', "'pbc' is 'T F', expected three of T and F"),
        ("energy=1e200", "energy cannot be: 3.33333e.199 eV an atom"),
        ('Lattice="1e-6 0 0 0 1e-6 0 0 0 1e-6"', "the cell is 1e-06 Å thin"),
        ('Lattice="9 0 0 0 9 0 0 9 1e-6"', "the cell is 1e-06 Å thin"),
    ],
)
def test_values_that_are_none(tmp_path: Path, comment: str, message: str) -> None:
    refuses(tmp_path, message, f"{PROPERTIES} {comment}")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("1_0", "atom 0 has '1_0' where a number should be"),
        ("٣", "atom 0 has '٣' where a number should be"),
        ("0x10", "atom 0 has '0x10' where"),
        ("nan", "positions of atom 0 are not finite"),
        ("1e200", r"positions of atom 0 cannot be: 1e\+200 Å"),
        ("", "the line of atom 0 has 6 columns, expected 7"),
        ("0.1 0.2", "the line of atom 0 has 8 columns, expected 7"),
    ],
)
def test_words_that_are_no_numbers(tmp_path: Path, word: str, message: str) -> None:
    refuses(tmp_path, message, PROPERTIES, ATOMS.replace("0.1 0.1", f"{word} 0.1", 1))


def test_forces_that_cannot_be(tmp_path: Path) -> None:
    refuses(
        tmp_path,
        r"forces of atom 1 cannot be: 1e\+200 eV/Å, expected less than 1e\+06",
        PROPERTIES,
        ATOMS.replace("-0.05", "-1e200", 1),
    )


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ("species:S:1:pos:R:3:forces:R:999999999", "has 7 columns, expected 1000000003"),
        ("species:S:1:pos:R:3:forces:R:9999999999", "should be a name, R, I, S or L, a number"),
        ("species:S:1:pos:R:3:forces:R:0", "should be a name"),
        ("species:S:1:pos:R:3:forces:R", "expected name:kind:columns for each"),
        ("species:S:1:pos:R:3:forces:Q:3", "should be a name"),
        ("species:S:1:pos:R:3:pos:R:3", "'pos' is there twice"),
        ("species:S:1:pos:R:2:forces:R:4", "expected pos:R:3 among them"),
        ("name:S:1:pos:R:3:forces:R:3", "expected species:S:1 or Z:I:1 among them"),
        ("species:R:1:pos:R:3:forces:R:3", "expected species:S:1 among them"),
    ],
)
def test_properties(tmp_path: Path, properties: str, message: str) -> None:
    refuses(tmp_path, message, f"Properties={properties}")


def test_elements(tmp_path: Path) -> None:
    refuses(tmp_path, "atom 1 is 'D', .* no element; deuterium is H", PROPERTIES, _as("D"))
    refuses(tmp_path, "atom 1 is '1', which is no element", PROPERTIES, _as("1"))
    refuses(tmp_path, "atom 1 has atomic number 0", PROPERTIES, _as("X"))
    by_number = "Properties=Z:I:1:pos:R:3:forces:R:3"
    for number, message in (("119", "atomic number 119"), ("1_0", "'1_0'"), ("-1", "number -1")):
        refuses(tmp_path, message, by_number, _as(number).replace("O", "8").replace("H", "1"))
    both = "Properties=species:S:1:Z:I:1:pos:R:3:forces:R:3"
    atoms = ATOMS.replace("O", "O 8").replace("H", "H 1")
    assert frame_of(tmp_path, both, atoms).numbers.tolist() == [8, 1, 1]
    refuses(
        tmp_path, "atom 0 is element 8 by its symbol and 7 by its", both, atoms.replace("8", "7")
    )


def _as(symbol: str) -> str:
    return ATOMS.replace("H", symbol, 1)


@pytest.mark.parametrize("count", ["1000000000000", "1" + "0" * 30, "4"])
def test_more_atoms_than_the_file_has(tmp_path: Path, count: str) -> None:
    file = tmp_path / "a.xyz"
    file.write_text(f"{count}\n{PROPERTIES}\n{ATOMS}")
    with pytest.raises(InputError, match=rf"a\.xyz: frame 0 is cut off.* {count}"):
        list(read_frames(file))


def test_crowds(tmp_path: Path) -> None:
    """A search for neighbors among them would take all memory."""
    file = tmp_path / "a.xyz"
    for comment, message in (("", "40000 atoms are within 1 Å"), (CELL, "40000 atoms in a cell")):
        lines = "H 0.5 0.5 0.5\n" * 40000
        file.write_text(f"40000\n{comment}\n{lines}")
        with pytest.raises(InputError, match=rf"a\.xyz#0: {message}"):
            list(read_frames(file))


# --- what is read beside -----------------------------------------------------------------------


def test_fortran_and_brackets(tmp_path: Path) -> None:
    atoms = (
        ATOMS.replace("-0.47", "-0.47D+00").replace("0.76", "0.76d0").replace("0.1 ", "0.1D+00 ")
    )
    frame = frame_of(
        tmp_path,
        'lattice="1.0D+01 0 0 0 0.1D+02 0 0 0 10" energy=-0.76D+02 '
        f"stress=[[1,2,3],[2,4,5],[3,5,6]] {PROPERTIES}",
        atoms,
    )
    plain = frame_of(tmp_path, f"{CELL} energy=-76.0 {PROPERTIES}")
    assert frame.energy == -76.0 and frame.stress is not None and frame.stress[2, 1] == 5.0
    for name in ("positions", "cell", "forces"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(plain, name))


@pytest.mark.parametrize("suffix", ["xyz", "extxyz"])
def test_a_byte_order_mark(tmp_path: Path, suffix: str) -> None:
    text = f"3\n{PROPERTIES} energy=-1.0\n{ATOMS}"
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(b"\xef\xbb\xbf" + (2 * text).encode())
    frames = list(read_frames(file))
    assert [frame.energy for frame in frames] == [-1.0, -1.0]
    store = convert([file], tmp_path / "s").store
    assert len(store) == 2
    # From the second frame on, as a conversion that was stopped goes on.
    later = list(ExtxyzReader(file, Labels(), start=Position(1, 3 + len(text), 5)))
    assert [frame.source[-2:] for frame in later] == ["#1"]


def test_words_are_no_labels(tmp_path: Path) -> None:
    """ASE reads the word as True, and that as 1 eV."""
    assert frame_of(tmp_path, "energy of water").energy is None


def test_vectors_behind_the_atoms(tmp_path: Path) -> None:
    """As ADF writes them."""
    atoms = "O 0 0 0.1\nH 0.76 0 -0.47\nH -0.76 0 -0.47\n"
    frame = frame_of(tmp_path, "", atoms + "VEC1 9 0 0\nVEC2 0 8 0\n")
    assert frame.pbc.tolist() == [True, True, False] and frame.cell[1, 1] == 8
    refuses(tmp_path, "'VEC2 0 8 x' should be VEC2 and", "", atoms + "VEC1 9 0 0\nVEC2 0 8 x\n")


# --- stress and virial -------------------------------------------------------------------------


def test_one_stress_in_nine_and_in_six_numbers(tmp_path: Path) -> None:
    six = "0.001 0.002 0.003 0.004 0.005 0.006"  # xx yy zz yz xz xy
    for comment in (
        f'stress="{STRESS}"',
        f'stress="{six}"',
        f'stress="{STRESS}" REF_stress="{six}"',
        f'stress="{six}" virial="{virial()}"',
        f'virial="{virial()}"',
        f'REF_virial="{virial()}" Stress="{STRESS}"',
    ):
        frame = frame_of(tmp_path, f"{CELL} {PROPERTIES} {comment}")
        np.testing.assert_allclose(frame.stress, MATRIX, atol=1e-9, err_msg=comment)


def test_stress_and_virial_that_contradict_each_other(tmp_path: Path) -> None:
    comment = f'{CELL} {PROPERTIES} stress="{STRESS}" virial="5 0 0 0 5 0 0 0 5"'
    refuses(
        tmp_path,
        r"'stress' and 'virial' contradict each other: the zz component of stress is "
        r"0\.003 eV/Å³ by 'stress' and -0\.005 eV/Å³ by 'virial'",
        comment,
    )
    file = _written(tmp_path, comment)
    (frame,) = read_frames(file, Labels(stress="virial"))
    np.testing.assert_allclose(frame.stress, -np.eye(3) * 0.005)
    (frame,) = read_frames(file, Labels(stress="stress"))
    np.testing.assert_allclose(frame.stress, MATRIX)
    refuses(
        tmp_path, "'stress' is not symmetric", f'{CELL} {PROPERTIES} stress="1 2 3 4 5 6 7 8 9"'
    )


# --- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("GPa", GPa),
        ("kbar", 0.1 * GPa),
        ("kBar", 0.1 * GPa),
        ("eV/Å^3", 1.0),
        ("eV/Angstrom**3", 1.0),
        ("eV/A3", 1.0),
        ("Ha/Bohr^3", Hartree / Bohr**3),
        ("meV/Ang^3", 1e-3),
    ],
)
def test_stress_has_a_unit_of_its_own(tmp_path: Path, unit: str, factor: float) -> None:
    comment = f'{CELL} {PROPERTIES} stress="{STRESS}"'
    for frame in (
        frame_of(tmp_path, f'{comment} stress_unit="{unit}"'),
        frame_of(tmp_path, f'{comment} Stress_Unit="{unit}"'),
        next(read_frames(_written(tmp_path, comment), Labels(stress_unit=unit))),
    ):
        np.testing.assert_allclose(frame.stress, MATRIX * factor, rtol=1e-12)
    vasp = Labels(stress_unit=unit, stress_sign="vasp")
    (frame,) = read_frames(_written(tmp_path, comment), vasp)
    np.testing.assert_allclose(frame.stress, -MATRIX * factor, rtol=1e-12)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("Ha/Bohr", Hartree / Bohr),
        ("Hartree/a0", Hartree / Bohr),
        ("Ry/Bohr", Hartree / Bohr / 2),
        ("kcal/mol/Ang", 0.0433641),
        ("kJ/mol/nm", 0.00103643),
        ("meV/Å", 1e-3),
        ("eV/Angstrom", 1.0),
    ],
)
def test_forces_have_a_unit_of_their_own(tmp_path: Path, unit: str, factor: float) -> None:
    comment = f"{PROPERTIES} energy=-76.0"
    plain = frame_of(tmp_path, comment).forces
    for frame in (
        frame_of(tmp_path, f'{comment} forces_unit="{unit}"'),
        frame_of(tmp_path, f'{comment} force_unit="{unit}"'),
        next(read_frames(_written(tmp_path, comment), Labels(forces_unit=unit))),
    ):
        np.testing.assert_allclose(frame.forces, plain * factor, rtol=1e-5)
        assert frame.energy == -76.0  # they are of the forces alone


def test_hartree_and_angstrom_leave_the_unit_of_forces_open(tmp_path: Path) -> None:
    """CP2K and ORCA give Ha/Bohr, other data sets Ha/Å: 0.529 times as much."""
    file = _written(tmp_path, f"{PROPERTIES} energy=-2.79")
    with pytest.raises(InputError, match=r"'forces': energies are in Hartree .* Hartree/Bohr, H"):
        list(read_frames(file, Labels(energy_unit="Hartree")))
    (plain,) = read_frames(file)
    (frame,) = read_frames(file, Labels(energy_unit="Hartree", forces_unit="Ha/Bohr"))
    np.testing.assert_allclose(frame.forces, plain.forces * Hartree / Bohr)
    np.testing.assert_allclose(frame.positions, plain.positions)
    (frame,) = read_frames(file, Labels(energy_unit="Hartree", forces_unit="Hartree/Ang"))
    np.testing.assert_allclose(frame.forces, plain.forces * Hartree)
    # All in atomic units is no guess; a virial is an energy.
    (frame,) = read_frames(file, Labels(energy_unit="Hartree", length_unit="Bohr"))
    np.testing.assert_allclose(frame.forces, plain.forces * Hartree / Bohr)
    comment = f'{CELL} {PROPERTIES} energy=-2 virial="{virial()}" forces_unit=Ha/Bohr'
    (frame,) = read_frames(_written(tmp_path, comment), Labels(energy_unit="Hartree"))
    np.testing.assert_allclose(frame.stress, MATRIX * Hartree, rtol=1e-9)
    comment = f'{CELL} {PROPERTIES} energy=-2 stress="{STRESS}" forces_unit=Ha/Bohr'
    with pytest.raises(InputError, match=r"'stress': .* give stress_unit, Ha/Bohr\^3, .*GPa"):
        list(read_frames(_written(tmp_path, comment), Labels(energy_unit="Ha")))


def test_units_that_are_unknown_or_contradict_each_other(tmp_path: Path) -> None:
    file = _written(tmp_path, f'{CELL} {PROPERTIES} stress="{STRESS}" stress_unit=psi')
    with pytest.raises(InputError, match="stress in 'psi', a unit that is not known; give stress_"):
        list(read_frames(file))
    (frame,) = read_frames(file, Labels(stress_unit="GPa"))  # as the message advises
    np.testing.assert_allclose(frame.stress, MATRIX * GPa)
    file = _written(tmp_path, f'{CELL} {PROPERTIES} stress="{STRESS}" stress_unit=GPa')
    with pytest.raises(InputError, match="declares stress in 'GPa', but stress_unit='kbar' was"):
        list(read_frames(file, Labels(stress_unit="kbar")))
    with pytest.raises(InputError, match="'stress_unit' unknown unit: did you mean 'GPa'"):
        Labels(stress_unit="GPA/s")
    with pytest.raises(InputError, match=r"'forces_unit' unknown unit: "):
        Labels(forces_unit="eV")
    with pytest.raises(InputError, match=r"'stress_sign': did you mean 'vasp'\?"):
        Labels(stress_sign="VASP")


def test_a_cache_knows_units_apart(tmp_path: Path) -> None:
    file = _written(tmp_path, f'{CELL} {PROPERTIES} stress="{STRESS}"')
    for labels, factor in ((Labels(), 1.0), (Labels(stress_unit="GPa"), GPa)):
        store = open_frames(file, labels, cache_dir=tmp_path / "cache")
        np.testing.assert_allclose(store[0].stress, MATRIX * factor)


# --- i-PI --------------------------------------------------------------------------------------

IPI = "# CELL(abcABC): 20.0 20.0 20.0 90.0 90.0 90.0 Step: 0 Bead: 0 "


@pytest.mark.parametrize(
    ("units", "positions", "cell"),
    [
        ("positions{atomic_unit} cell{atomic_unit}", Bohr, Bohr),
        ("Traj: positions{angstrom} cell{angstrom}", 1.0, 1.0),
        ("positions{angstrom} cell{atomic_unit}", 1.0, Bohr),
        ("x_centroid{nanometer} cell{angstrom}", 10.0, 1.0),
    ],
)
def test_ipi(tmp_path: Path, units: str, positions: float, cell: float) -> None:
    atoms = "O 0 0 0\nH 1.81 0 0\nH -0.45 1.75 0\n"
    frame = frame_of(tmp_path, IPI + units, atoms)
    np.testing.assert_allclose(frame.cell, np.eye(3) * 20 * cell, atol=1e-12)
    assert frame.pbc.all()
    np.testing.assert_allclose(frame.positions[2], np.array([-0.45, 1.75, 0]) * positions)


def test_ipi_cells_and_what_is_no_structure(tmp_path: Path) -> None:
    atoms = "O 0 0 0\nH 1.81 0 0\nH -0.45 1.75 0\n"
    by_h = "# CELL{H}: 20 1 2 0 21 3 0 0 22 Step: 0 Bead: 0 positions{angstrom} cell{angstrom}"
    frame = frame_of(tmp_path, by_h, atoms)
    np.testing.assert_allclose(frame.cell, [[20, 0, 0], [1, 21, 0], [2, 3, 22]])
    refuses(tmp_path, "a file of forces by i-PI", IPI + "forces{atomic_unit} cell{angstrom}", atoms)
    refuses(tmp_path, "in 'parsec' and a cell", IPI + "positions{parsec} cell{angstrom}", atoms)
    refuses(tmp_path, "does not say the unit of positions", IPI, atoms)
    file = _written(tmp_path, IPI + "positions{angstrom} cell{angstrom}", atoms)
    with pytest.raises(InputError, match="declares length in 'angstrom', but length_unit='Bohr'"):
        list(read_frames(file, Labels(length_unit="Bohr")))


def test_messages_name_the_options_that_there_are() -> None:
    """An advice that nobody can follow is worse than none."""
    from typer.main import get_command

    from eip.cli import app

    options = {o for p in get_command(app).commands["evaluate"].params for o in p.opts}
    for option in ("forces-unit", "stress-unit", "stress-sign", "elements", "skip-unconverged"):
        assert f"--{option}" in options
