"""Outputs of programs, as ASE reads them: what is no label in them, and what they leave open."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.units import kcal, mol

from eip.data import Labels, LabelWarning, read_frames
from eip.data.convert import _Conversion, convert
from eip.errors import InputError

# --- an SCF that did not converge --------------------------------------------------------------

_VECTORS = """\
      direct lattice vectors                 reciprocal lattice vectors
     8.0  0.0  0.0     0.125  0.0  0.0
     0.0  8.0  0.0     0.0  0.125  0.0
     0.0  0.0  8.0     0.0  0.0  0.125

"""


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def outcar(steps: list[bool]) -> str:
    """A handmade OUTCAR of a hydrogen molecule; which steps reached EDIFF."""
    text = (
        " vasp.5.4.4\n POTCAR:    PAW_PBE H 15Jun2001\n POTCAR:    PAW_PBE H 15Jun2001\n"
        "   ions per type =               2\n   ISPIN  =      1    spin polarized calculation?\n"
    )
    for number, reached in enumerate(steps):
        text += f"{'-' * 30} Iteration {number + 1:6d}(   1)  {'-' * 30}\n"
        text += f"{'-' * 30} Iteration {number + 1:6d}(   2)  {'-' * 30}\n"
        if reached:
            text += f"{'-' * 24} aborting loop because EDIFF is reached {'-' * 40}\n"
        elif number % 2:  # VASP 6 says so, VASP 5 says nothing
            text += f"{'-' * 24} aborting loop EDIFF was not reached (unconverged) {'-' * 30}\n"
        text += _VECTORS + (
            " POSITION                                       TOTAL-FORCE (eV/Angst)\n"
            f" {'-' * 83}\n"
            f"  0.0 0.0 0.0   {0.1 + number} 0.0 0.0\n  0.75 0.0 0.0   {-0.1 - number} 0.0 0.0\n"
            f" {'-' * 83}\n"
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n"
            f"  {'-' * 51}\n"
            f"  free  energy   TOTEN  =     {-6.7 - number} eV\n\n"
            f"  energy  without entropy=    {-6.7 - number}  energy(sigma->0) = {-6.7 - number}\n"
        )
    return text


def vasprun(iterations: list[int], most: int = 3) -> str:
    """A handmade vasprun.xml; electronic steps of each ionic one."""
    energies = '<i name="e_fr_energy">-6.7</i><i name="e_wo_entrp">-6.7</i>'
    energies = f'<energy>{energies}<i name="e_0_energy">-6.7</i></energy>'
    structure = (
        '<crystal><varray name="basis"><v>8 0 0</v><v>0 8 0</v><v>0 0 8</v></varray></crystal>'
        '<varray name="positions"><v>0 0 0</v><v>0.1 0 0</v></varray>'
    )
    steps = "".join(
        f"<calculation>{f'<scstep>{energies}</scstep>' * count}<structure>{structure}</structure>"
        f'<varray name="forces"><v>0.1 0 0</v><v>-0.1 0 0</v></varray>{energies}</calculation>'
        for count in iterations
    )
    return (
        '<modeling><kpoints><varray name="kpointlist"><v>0 0 0</v></varray>'
        '<varray name="weights"><v>1</v></varray></kpoints>'
        f'<parameters><i type="int" name="NELM">{most}</i></parameters><atominfo>'
        '<array name="atoms"><set><rc><c>H</c><c>1</c></rc><rc><c>H</c><c>1</c></rc></set></array>'
        f'</atominfo><structure name="initialpos">{structure}</structure>{steps}</modeling>'
    )


def orca(steps: list[bool]) -> str:
    """A handmade output of an optimization by ORCA."""
    text = "                 * O   R   C   A *\n Number of atoms        ...      2\n"
    for number, converged in enumerate(steps):
        fails = "" if converged else "  Wavefunction not fully converged!"
        text += (
            "Number of atoms                         ...      2\n"
            "CARTESIAN COORDINATES (ANGSTROEM)\n---------------------------------\n"
            "  H   0.0  0.0  0.0\n  H   0.75  0.0  0.0\n\n"
            f"FINAL SINGLE POINT ENERGY{fails}     -1.1{number}\n"
            "CARTESIAN GRADIENT\n------------------\n\n"
            "   1   H   :    0.001  0.0  0.0\n   2   H   :   -0.001  0.0  0.0\n"
            "ORCA SCF GRADIENT CALCULATION\n"
        )
        if number + 1 < len(steps):
            text += "          *             ORCA GEOMETRY RELAXATION STEP      *\n"
    return text + "THE OPTIMIZATION HAS CONVERGED\n ****ORCA TERMINATED NORMALLY****\n"


SOUND, FAILED = [True, True, True], [True, False, True]
OUTPUTS = {
    "OUTCAR": (outcar(SOUND), outcar(FAILED), "EDIFF is not reached in 2 iterations"),
    "vasprun.xml": (vasprun([2, 1, 2]), vasprun([2, 3, 1]), "it took all 3 iterations"),
    "orca.out": (orca(SOUND), orca(FAILED), "Wavefunction not fully converged"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:ase")
@pytest.mark.parametrize("name", list(OUTPUTS))
def test_an_scf_that_did_not_converge_is_no_label(tmp_path: Path, name: str) -> None:
    sound, failed, said = OUTPUTS[name]
    file = tmp_path / name
    file.write_text(sound)
    assert len(list(read_frames(file, require=("energy", "forces")))) == 3
    file.write_text(failed)
    frames = read_frames(file)
    next(frames)
    with pytest.raises(InputError, match=rf"{name}#1: the SCF .* converge, .*{said}.*--skip-unc"):
        next(frames)
    with pytest.warns(LabelWarning, match=rf"{name}: 1 steps .* are left out: #1"):
        kept = list(read_frames(file, Labels(skip_unconverged=True)))
    assert [frame.source.rpartition("#")[2] for frame in kept] == ["0", "2"]
    # Frames that were not asked for are nobody's business.
    assert len(list(read_frames(file, index="2:"))) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_steps_that_are_left_out_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, labels = tmp_path / "OUTCAR", Labels(skip_unconverged=True)
    file.write_text(outcar([True, False, True, False] + 16 * [True]))
    whole, out = convert([file], tmp_path / "whole", labels).store, tmp_path / "out"
    saves: list[int] = []
    with monkeypatch.context() as patch:

        def save(self: _Conversion, *arguments: Any) -> None:
            kept(self, *arguments)
            saves.append(1)
            if len(saves) == 3:
                raise KeyboardInterrupt

        kept = _Conversion._save
        patch.setattr(_Conversion, "_save", save)
        with pytest.raises(KeyboardInterrupt):
            convert([file], out, labels, checkpoint_s=0.0)
    assert contents(convert([file], out, labels).store.path) == contents(whole.path)


def test_more_ways_of_not_converging(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "OUTCAR.gz", "wt") as packed:
        packed.write(outcar([False]))
    with pytest.raises(InputError, match=r"OUTCAR\.gz#0: the SCF of this step did not converge"):
        list(read_frames(tmp_path / "OUTCAR.gz"))
    file = tmp_path / "scf.pwo"
    file.write_text(
        "     Program PWSCF v.7.2\n     convergence NOT achieved after 100 iterations\n"
    )
    with pytest.raises(InputError, match=r"scf\.pwo, line 2: an SCF did not converge"):
        list(read_frames(file))


def test_an_output_of_cp2k_is_no_file_of_frames(tmp_path: Path) -> None:
    file = tmp_path / "cp2k.out"
    file.write_text(
        "  **** **** ******  **  PROGRAM STARTED AT               2026-11-28 10:00:00.000\n"
        " CP2K| version string:                                       CP2K version 2025.1\n"
        " *** WARNING in qs_scf.F:598 :: SCF run NOT converged ***\n"
        " ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:              -17.215000000000000\n"
    )
    with pytest.raises(InputError, match=r"cp2k\.out is an output of CP2K, .*SCF run NOT conv"):
        list(read_frames(file))


# --- LAMMPS ------------------------------------------------------------------------------------


def dump(columns: str = "id type x y z", units: str = "", types: str = "1 2 2") -> str:
    more = {"element": "O H H", "mass": "15.999 1.008 1.008"}
    extra = next((values.split() for name, values in more.items() if name in columns), [""] * 3)
    forces = " 0.5 0 0" if "fx" in columns else ""
    lines = [
        f"{i + 1} {t} {i + 1} {1 + i % 2} 1{forces} {extra[i]}" for i, t in enumerate(types.split())
    ]
    return (
        (f"ITEM: UNITS\n{units}\n" if units else "")
        + "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n3\nITEM: BOX BOUNDS pp pp pp\n"
        + "0 10\n0 10\n0 10\n"
        + f"ITEM: ATOMS {columns}\n"
        + "\n".join(lines)
        + "\n"
    )


def test_types_of_lammps_are_no_elements(tmp_path: Path) -> None:
    file = tmp_path / "types.dump"
    file.write_text(dump())
    with pytest.raises(InputError, match=r"types\.dump has LAMMPS' types .* --elements O,H or"):
        list(read_frames(file))
    (frame,) = read_frames(file, Labels(elements=("O", "H")))
    assert frame.numbers.tolist() == [8, 1, 1] and frame.cell[1, 1] == 10
    for types in ("1 2 3", "0 1 2", "1 -1 2"):
        file.write_text(dump(types=types))
        with pytest.raises(InputError, match=r"dump#0: there are atoms of type (3|0|-1), and"):
            list(read_frames(file, Labels(elements=("O", "H"))))
    with pytest.raises(InputError, match="'elements' 'Hh' is no chemical symbol"):
        Labels(elements=("O", "Hh"))


@pytest.mark.parametrize("column", ["element", "mass"])
def test_a_dump_that_says_its_elements(tmp_path: Path, column: str) -> None:
    file = tmp_path / "a.dump"
    file.write_text(dump(f"id type x y z {column}"))
    (frame,) = read_frames(file)
    assert frame.numbers.tolist() == [8, 1, 1]


def test_a_dump_has_no_energy_and_maybe_units(tmp_path: Path) -> None:
    """ASE gives it the energy 0 where it has forces, and takes any units for metal."""
    file = tmp_path / "a.dump"
    file.write_text(dump("id type x y z fx fy fz element"))
    (frame,) = read_frames(file)
    assert frame.energy is None and frame.forces is not None and frame.forces[0, 0] == 0.5
    file.write_text(dump("id type x y z fx fy fz element", units="real"))
    (frame,) = read_frames(file)
    np.testing.assert_allclose(frame.forces[0, 0], 0.5 * kcal / mol)
    file.write_text(dump("id type x y z element", units="lj"))
    with pytest.raises(InputError, match=r"a\.dump is in LAMMPS units 'lj', expected metal"):
        list(read_frames(file))


def test_lammps_data(tmp_path: Path) -> None:
    file = tmp_path / "a.lammps-data"
    atoms = "\n".join(f"{i + 1} {t} {i + 1} {1 + i % 2} 1" for i, t in enumerate((1, 2, 2)))
    head = "comment\n\n3 atoms\n2 atom types\n\n0 10 xlo xhi\n0 10 ylo yhi\n0 10 zlo zhi\n\n"
    file.write_text(f"{head}Atoms # atomic\n\n{atoms}\n")
    with pytest.raises(InputError, match="has LAMMPS' types in place of elements"):
        list(read_frames(file))
    (frame,) = read_frames(file, Labels(elements=("O", "H")))
    assert frame.numbers.tolist() == [8, 1, 1]
    with pytest.raises(InputError, match=r"#0: there are atoms of type 2, and .* for 1: O"):
        list(read_frames(file, Labels(elements=("O",))))
    file.write_text(f"{head}Masses\n\n1 15.999\n2 1.008\n\nAtoms # atomic\n\n{atoms}\n")
    (frame,) = read_frames(file)
    assert frame.numbers.tolist() == [8, 1, 1]
