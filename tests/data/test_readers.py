from __future__ import annotations

import gzip
import itertools
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write
from ase.units import Bohr, Hartree, kcal, mol

from eip.data import Labels, LabelWarning, read_frames
from eip.errors import InputError

KCAL = kcal / mol


def water(seed: int = 0, *, periodic: bool = True) -> Atoms:
    rng = np.random.default_rng(seed)
    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + rng.normal(0, 0.02, (3, 3))
    cell = np.array([[5, 0, 0], [1, 6, 0], [0, 0.5, 7.0]])
    return Atoms("OH2", positions, cell=cell, pbc=periodic)


def labelled(seed: int = 0, *, stress: bool = False, periodic: bool = True) -> Atoms:
    atoms = water(seed, periodic=periodic)
    rng = np.random.default_rng(100 + seed)
    results = {"energy": -17617.123456789 + seed, "forces": rng.normal(size=(3, 3))}
    if stress:
        results["stress"] = rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def read(path: Path, *args: object, **keywords: object) -> list:
    return list(read_frames(path, *args, **keywords))


# --- ASE's formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz", "a.traj", "a.db", "a.json"])
def test_formats_of_ase(tmp_path: Path, name: str) -> None:
    images = [labelled(i, stress=True) for i in range(4)]
    write(tmp_path / name, images)
    frames = read(tmp_path / name, require=("energy", "forces", "stress"))
    assert [f.source for f in frames] == [f"{tmp_path / name}#{i}" for i in range(4)]
    for frame, atoms in zip(frames, images, strict=True):
        assert frame.energy == pytest.approx(atoms.calc.results["energy"], abs=1e-8)
        np.testing.assert_allclose(frame.forces, atoms.calc.results["forces"], atol=1e-8)
        back = frame.to_atoms()
        np.testing.assert_allclose(back.get_stress(), atoms.calc.results["stress"], atol=1e-8)
        np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-8)
        np.testing.assert_array_equal(back.numbers, atoms.numbers)
        assert back.pbc.all() and back.get_potential_energy() == frame.energy


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_constraints_do_not_zero_forces(tmp_path: Path, name: str) -> None:
    atoms = labelled()
    atoms.set_constraint(FixAtoms([0, 1]))
    write(tmp_path / name, atoms)
    assert not atoms.get_forces()[:2].any(), "the trap itself"
    (frame,) = read(tmp_path / name)
    np.testing.assert_allclose(frame.forces, atoms.calc.results["forces"], atol=1e-8)


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (":", [0, 1, 2, 3, 4]),
        (2, [2]),
        (-1, [4]),
        ("-2:", [3, 4]),
        ("1:4:2", [1, 3]),
        (slice(None, -3), [0, 1]),
        ("3:100", [3, 4]),
    ],
)
def test_index(tmp_path: Path, name: str, index: object, expected: list[int]) -> None:
    write(tmp_path / name, [labelled(i) for i in range(5)])
    frames = read(tmp_path / name, index=index)
    assert [round(f.energy + 17617.12) for f in frames] == expected
    assert [int(f.source.split("#")[1]) for f in frames] == expected


def test_reading_streams(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [labelled(i) for i in range(3)] + [Atoms("X")])
    frames = read_frames(tmp_path / "a.xyz")
    assert len(list(itertools.islice(frames, 3))) == 3  # the bad fourth frame is not there yet
    with pytest.raises(InputError, match=r"a\.xyz#3: atom 0 has atomic number 0"):
        next(frames)


def test_dummy_cell_is_ignored(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", labelled(periodic=False))
    (frame,) = read(tmp_path / "a.xyz")
    assert not frame.cell.any() and not frame.pbc.any()


def test_labels_in_info_and_arrays(tmp_path: Path) -> None:
    atoms = water()
    atoms.info["REF_energy"] = -5.0
    atoms.arrays["REF_forces"] = np.arange(9.0).reshape(3, 3)
    atoms.info["REF_virial"] = np.diag([1.0, 2.0, 3.0])
    write(tmp_path / "a.xyz", atoms)
    for labels in (Labels(), Labels(energy="REF_energy", forces="REF_forces", stress="REF_virial")):
        (frame,) = read(tmp_path / "a.xyz", labels)
        assert frame.energy == -5.0
        np.testing.assert_array_equal(frame.forces, np.arange(9.0).reshape(3, 3))
        np.testing.assert_allclose(frame.stress, -np.diag([1.0, 2.0, 3.0]) / 210.0)


def test_named_keys_win_over_the_calculator(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info["better_energy"] = -5.0
    write(tmp_path / "a.xyz", atoms)
    (frame,) = read(tmp_path / "a.xyz", Labels(energy="better_energy"))
    assert frame.energy == -5.0


def test_two_common_names_that_differ(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info["REF_energy"] = -5.0
    write(tmp_path / "a.xyz", atoms)
    with pytest.raises(InputError, match=r"a\.xyz#0: energy .* 'energy' and as 'REF_energy'"):
        read(tmp_path / "a.xyz")
    assert read(tmp_path / "a.xyz", Labels(energy="REF_energy"))[0].energy == -5.0


def test_unknown_key_and_unit(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", labelled())
    with pytest.raises(InputError, match=r"a\.xyz#0 has no 'force' .* did you mean 'forces'\?"):
        read(tmp_path / "a.xyz", Labels(forces="force"))
    with pytest.raises(InputError, match=r"'energy_unit' unknown unit: did you mean 'Hartree'\?"):
        Labels(energy_unit="Hartre")
    with pytest.raises(InputError, match=r"'length_unit' unknown unit: expected one of Ang"):
        Labels(length_unit="parsec")
    with pytest.raises(InputError, match=r"unknown label 'force', did you mean 'forces'\?"):
        read(tmp_path / "a.xyz", require=("force",))


def test_units_given(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", labelled(stress=True))
    (plain,) = read(tmp_path / "a.xyz")
    (frame,) = read(tmp_path / "a.xyz", Labels(energy_unit="Hartree", length_unit="Bohr"))
    assert frame.energy == pytest.approx(plain.energy * Hartree, rel=1e-14)
    np.testing.assert_allclose(frame.positions, plain.positions * Bohr, rtol=1e-14)
    np.testing.assert_allclose(frame.cell, plain.cell * Bohr, rtol=1e-14)
    np.testing.assert_allclose(frame.forces, plain.forces * Hartree / Bohr, rtol=1e-14)
    np.testing.assert_allclose(frame.stress, plain.stress * Hartree / Bohr**3, rtol=1e-14)


def test_units_declared_by_the_file(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info.update(energy_unit="kcal/mol", forces_unit="kcal/mol/Angstrom")
    write(tmp_path / "a.xyz", atoms)
    (frame,) = read(tmp_path / "a.xyz")
    assert frame.energy == pytest.approx(atoms.calc.results["energy"] * KCAL, rel=1e-12)
    np.testing.assert_allclose(frame.forces, atoms.calc.results["forces"] * KCAL, rtol=1e-6)
    with pytest.raises(InputError, match=r"declares energy in 'kcal/mol', but energy_unit='eV'"):
        read(tmp_path / "a.xyz", Labels(energy_unit="eV"))
    atoms.info.update(energy_unit="foe")
    write(tmp_path / "b.xyz", atoms)
    with pytest.raises(InputError, match=r"declares energy in 'foe', a unit that is not known"):
        read(tmp_path / "b.xyz")


def test_schnetpack_database(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as database:
        database.metadata = {
            "_property_unit_dict": {"energy": "kcal/mol", "forces": "kcal/mol/Ang"},
            "_distance_unit": "Ang",
        }
        database.write(water(), data={"energy": np.array([-3.0]), "forces": np.ones((3, 3))})
    (frame,) = read(tmp_path / "a.db")
    assert frame.energy == pytest.approx(-3 * KCAL)
    np.testing.assert_allclose(frame.forces, KCAL)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["published", "by SchNetPack"])
def test_iso17(tmp_path: Path, form: str) -> None:
    """The databases as published: energy a key-value pair, forces a list in the row's data; and
    as SchNetPack 2 writes them anew: both in data, with units in the metadata."""
    rng = np.random.default_rng(0)
    images = [water(i, periodic=False) for i in range(6)]
    energies, forces = rng.normal(-1.1e4, 1, 6), rng.normal(size=(6, 3, 3))
    with connect(tmp_path / "reference.db") as database:
        if form == "by SchNetPack":
            units = {"total_energy": "eV", "atomic_forces": "eV/Ang"}
            database.metadata = {"_property_unit_dict": units, "_distance_unit": "Ang"}
        for atoms, energy, force in zip(images, energies, forces, strict=True):
            if form == "published":
                database.write(atoms, total_energy=energy, data={"atomic_forces": force.tolist()})
            else:
                data = {"total_energy": np.array([energy]), "atomic_forces": force}
                database.write(atoms, data=data)
    frames = read(tmp_path / "reference.db", require=("energy", "forces"))
    assert [f.energy for f in frames] == energies.tolist()
    np.testing.assert_array_equal([f.forces for f in frames], forces)
    assert not any(f.pbc.any() or f.has("stress") for f in frames)
    (last,) = read(tmp_path / "reference.db", index=-1)
    assert last.energy == energies[5] and last.source.endswith("#5")
    wrong = Labels(energy="total_energy", forces="atomic_forces", energy_unit="kcal/mol")
    if form == "by SchNetPack":
        with pytest.raises(InputError, match="declares energy in 'eV', but energy_unit"):
            read(tmp_path / "reference.db", wrong)
    else:
        assert read(tmp_path / "reference.db", wrong)[0].energy == energies[0] * KCAL


def test_missing_empty_and_unreadable_files(tmp_path: Path) -> None:
    write(tmp_path / "train.xyz", labelled())
    with pytest.raises(InputError, match=r"trian\.xyz does not exist, did you mean 'train\.xyz'"):
        read(tmp_path / "trian.xyz")
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(InputError, match=r"empty\.xyz is empty"):
        read(tmp_path / "empty.xyz")
    (tmp_path / "odd.something").write_text("hello\n")
    with pytest.raises(InputError, match="is of no format that eIP or ASE reads"):
        read(tmp_path / "odd.something")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="a directory without type"):
        read(tmp_path / "folder")
    with pytest.raises(InputError, match="index 'first' is not understood"):
        read(tmp_path / "train.xyz", index="first")
    with pytest.raises(InputError, match=r"train\.xyz: no frames in 5:"):
        read(tmp_path / "train.xyz", index="5:")
    (tmp_path / "bad.db").write_text("no database")
    with pytest.raises(InputError, match=r"bad\.db cannot be read as an ASE database"):
        read(tmp_path / "bad.db")


def test_damaged_xyz(tmp_path: Path) -> None:
    file = tmp_path / "a.xyz"
    write(file, [labelled(i) for i in range(3)])
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match=r"frame 2 is cut off, 2 of 3 atoms are there"):
        read(file)
    # ASE takes a blank line for the end and drops what follows without a word.
    file.write_text("\n".join([*lines[:5], "", *lines[5:]]))
    with pytest.raises(InputError, match="line 6: blank line where frame 1 should start"):
        read(file)
    file.write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match="line 1: frame 0 should start with its number of atoms"):
        read(file)
    file.write_text("\n".join([*lines[:7], "O what is this", *lines[8:]]))
    with pytest.raises(InputError, match=r"a\.xyz#1 cannot be read"):
        read(file)
    file.write_text("\n".join([*lines, "", ""]))  # blank lines at the end are harmless
    assert len(read(file)) == 3
    (tmp_path / "b.xyz.gz").write_bytes(gzip.compress("\n".join(lines).encode())[:-40])
    with pytest.raises(InputError, match=r"b\.xyz\.gz.*ended before the end-of-stream"):
        read(tmp_path / "b.xyz.gz")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    for label, match in (
        ("energy", r"a\.xyz#1: energy is not finite"),
        ("forces", r"a\.xyz#1: forces of atom 2 are not finite"),
        ("positions", r"a\.xyz#1: positions of atom 2 are not finite"),
    ):
        images = [labelled(0), labelled(1)]
        if label == "energy":
            images[1].calc.results["energy"] = bad
        elif label == "forces":
            images[1].calc.results["forces"][2, 0] = bad
        else:
            images[1].positions[2, 1] = bad
            images[1].calc.atoms = images[1].copy()
        write(tmp_path / "a.xyz", images)
        with pytest.raises(InputError, match=match):
            read(tmp_path / "a.xyz")


def test_two_atoms_on_one_spot(tmp_path: Path) -> None:
    atoms = water()
    atoms.positions[2] = atoms.positions[1] + 0.01
    write(tmp_path / "a.xyz", [water(), atoms])
    with pytest.raises(InputError, match=r"a\.xyz#1: atoms 1 and 2 are on one spot, 0\.0173 Å"):
        read(tmp_path / "a.xyz")
    atoms.positions[2] = atoms.positions[1] + atoms.cell[0] - 2 * atoms.cell[2]
    write(tmp_path / "a.xyz", atoms)
    with pytest.raises(InputError, match=r"atoms 1 and 2 \(a periodic image\) are on one spot"):
        read(tmp_path / "a.xyz")
    atoms.pbc = False
    write(tmp_path / "a.xyz", atoms)
    assert len(read(tmp_path / "a.xyz")) == 1


def test_periodic_without_a_cell(tmp_path: Path) -> None:
    atoms = water()
    atoms.cell[2] = 0
    write(tmp_path / "a.traj", atoms)
    with pytest.raises(InputError, match=r"a\.traj#0: pbc is .* zero or linearly dependent"):
        read(tmp_path / "a.traj")


def test_missing_labels(tmp_path: Path) -> None:
    energy_only = labelled()
    del energy_only.calc.results["forces"]
    write(tmp_path / "a.xyz", [energy_only] * 2)
    frames = read(tmp_path / "a.xyz", require=("energy",))
    assert all(frame.forces is None for frame in frames)
    with pytest.raises(InputError, match=r"a\.xyz#0 has no forces, and forces must be there"):
        read(tmp_path / "a.xyz", require=("forces",))
    write(tmp_path / "b.xyz", [labelled(), labelled(), energy_only])
    with pytest.raises(InputError, match=r"some frames only: .*b\.xyz#0 has .*b\.xyz#2 has not"):
        read(tmp_path / "b.xyz")


def test_mixed_stress_is_a_named_warning(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [labelled(i, stress=i != 1) for i in range(3)])
    with pytest.warns(LabelWarning, match=r"stress is missing in 1 of 3 frames .*a\.xyz#1$"):
        frames = read(tmp_path / "a.xyz")
    assert [frame.has("stress") for frame in frames] == [True, False, True]
    write(tmp_path / "b.xyz", [labelled(i, stress=True) for i in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "b.xyz")


def test_wrong_shape(tmp_path: Path) -> None:
    atoms = water()
    atoms.arrays["REF_forces"] = np.ones((3, 2))
    write(tmp_path / "a.xyz", atoms)
    with pytest.raises(InputError, match=r"'REF_forces' has shape \(3, 2\), expected \(3, 3\)"):
        read(tmp_path / "a.xyz")


# --- npz ---------------------------------------------------------------------------------------


def md17(n: int = 5, **more: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    positions = np.stack([water(i).positions for i in range(n)])
    return {
        "z": np.array([8, 1, 1], dtype=np.uint8),
        "R": positions,
        "E": rng.normal(-4e5, 1, (n, 1)),
        "F": rng.normal(size=(n, 3, 3)),
        **more,
    }


@pytest.mark.parametrize("compressed", [False, True])
def test_md17(tmp_path: Path, compressed: bool) -> None:
    arrays = md17()
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **arrays)
    labels = Labels(energy_unit="kcal/mol")
    frames = read(tmp_path / "a.npz", labels, require=("energy", "forces"))
    assert len(frames) == 5
    for i, frame in enumerate(frames):
        assert frame.energy == arrays["E"][i, 0] * KCAL
        np.testing.assert_array_equal(frame.forces, arrays["F"][i] * KCAL)
        np.testing.assert_array_equal(frame.positions, arrays["R"][i])
        assert frame.numbers.tolist() == [8, 1, 1] and not frame.pbc.any()
    picked = read(tmp_path / "a.npz", labels, index="1::2")
    assert [f.source[-2:] for f in picked] == ["#1", "#3"]
    np.testing.assert_array_equal(picked[1].positions, arrays["R"][3])


def test_md17_must_say_its_unit(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **md17())
    with pytest.raises(InputError, match="MD17 and rMD17 are in kcal/mol: give energy_unit"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **md17(e_unit="kcal/mol", r_unit="Ang"))  # as sGDML's files do
    assert read(tmp_path / "b.npz")[0].energy == md17()["E"][0, 0] * KCAL


@pytest.mark.parametrize("unit", ["kcal/mol", "eV"])
def test_md17_as_published_tells_its_unit(tmp_path: Path, unit: str) -> None:
    """Ethanol's total energy is that of its free atoms to a per cent, in whichever unit."""
    numbers = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], dtype=np.uint8)
    hartree = -154.4 + np.random.default_rng(0).normal(0, 1e-2, 3)  # of PBE/def2-SVP
    energies = hartree * Hartree / {"kcal/mol": KCAL, "eV": 1.0}[unit]
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)[:9] * 1.2
    np.savez(
        tmp_path / "rmd17_ethanol.npz",
        nuclear_charges=numbers,
        coords=np.tile(grid, (3, 1, 1)),
        energies=energies,
        forces=np.ones((3, 9, 3)),
        old_indices=np.arange(3),
        old_energies=energies + 1,
        old_forces=np.zeros((3, 9, 3)),
    )
    frames = read(tmp_path / "rmd17_ethanol.npz", require=("energy", "forces"))
    np.testing.assert_allclose([f.energy for f in frames], hartree * Hartree, rtol=1e-12)
    factor = KCAL if unit == "kcal/mol" else 1.0
    np.testing.assert_allclose(frames[2].forces, np.full((9, 3), factor))
    other = "eV" if unit == "kcal/mol" else "kcal/mol"  # who says so is believed
    assert read(tmp_path / "rmd17_ethanol.npz", Labels(energy_unit=other))[0].energy != (
        frames[0].energy
    )


def test_revised_md17_names(tmp_path: Path) -> None:
    old = md17()
    np.savez(
        tmp_path / "a.npz",
        nuclear_charges=old["z"],
        coords=old["R"],
        energies=old["E"][:, 0],
        forces=old["F"],
        old_energies=old["E"][:, 0] + 1,
    )
    frames = read(tmp_path / "a.npz", Labels(energy_unit="eV"))
    assert frames[2].energy == old["E"][2, 0]


def test_periodic_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 4
    arrays = {
        "symbols": np.array(["O", "H", "H"]),
        "positions": np.stack([water(i).positions for i in range(n)]).astype(np.float32),
        "cells": rng.normal(size=(n, 3, 3)) + 8 * np.eye(3),
        "energies": rng.normal(size=n).astype(np.float32),
        "forces": np.asfortranarray(rng.normal(size=(n, 3, 3))),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    frames = read(tmp_path / "a.npz")
    for i, frame in enumerate(frames):
        assert frame.pbc.all() and frame.numbers.tolist() == [8, 1, 1]
        np.testing.assert_array_equal(frame.cell, arrays["cells"][i])
        np.testing.assert_array_equal(frame.forces, arrays["forces"][i])
        assert frame.energy == float(arrays["energies"][i])


def test_npz_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    labels = Labels(energy_unit="eV")
    np.savez(file, z=np.array([1]), E=np.zeros(2))
    with pytest.raises(InputError, match=r"a\.npz holds no positions: expected one of"):
        read(file, labels)
    np.savez(file, **md17(F=np.zeros((4, 3, 3))))
    with pytest.raises(InputError, match=r"array F has shape \(4, 3, 3\), expected 5 frames"):
        read(file, labels)
    np.savez(file, **md17(z=np.array([8, 1, 0])))
    with pytest.raises(InputError, match=r"a\.npz#0: atom 2 has atomic number 0"):
        read(file, labels)
    np.savez(file, **md17(symbols=np.array(["O", "H", "Hh"]), z=np.array([8, 1])))
    with pytest.raises(InputError, match=r"array z has shape \(2,\), expected \(3,\)"):
        read(file, labels)
    arrays = md17()
    del arrays["z"]
    np.savez(file, symbols=np.array(["O", "H", "Hh"]), **arrays)
    with pytest.raises(InputError, match="atom 2 is 'Hh', which is no element"):
        read(file, labels)
    with pytest.raises(InputError, match=r"a\.npz has no 'Eng' to read energy from"):
        read(file, Labels(energy="Eng"))
    file.write_bytes(b"not a zip file")
    with pytest.raises(InputError, match=r"a\.npz is not an npz file"):
        read(file)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"R": np.ones((5, 3, 3)) * 1j}, "array R holds complex numbers, expected real numbers"),
        ({"E": np.array(list("abcde"))}, "array E holds text, expected real numbers"),
        ({"E": np.ones(5, dtype=bool)}, "array E holds true and false"),
        ({"E": np.array([1, None] * 2 + [1], dtype=object)}, "array E holds Python objects"),
        ({"E": np.ones((5, 2))}, r"array E has shape \(5, 2\), expected \(5,\) or \(5, 1\)"),
        ({"F": np.ones((5, 3, 2))}, r"array F has shape \(5, 3, 2\), expected \(5, 3, 3\)"),
        ({"R": np.ones((5, 0, 3)), "z": np.ones(0)}, "its frames have no atoms"),
        ({"R": np.ones((5, 9))}, r"array R has shape \(5, 9\), expected \(frames, atoms, 3\)"),
        ({"z": np.array([8.5, 1, 1])}, r"a\.npz#0: atomic numbers should be whole, got \[8.5"),
        ({"z": np.array([8, 1, 1]) + 0j}, "expected symbols or atomic numbers"),
        ({"cell": np.ones((5, 2, 3))}, r"array cell has shape .* expected \(5, 3, 3\) or \(5, 3\)"),
        ({"cell": 9 * np.eye(3), "pbc": np.array(["F"] * 3)}, "array pbc should hold true"),
        ({"cell": 9 * np.eye(3), "pbc": np.array([1, 2, 1])}, "pbc should be true and false"),
        ({"e_unit": np.array([1.0, 2.0][0])}, "array e_unit should be a word"),
    ],
)
def test_npz_arrays_that_are_no_data(
    tmp_path: Path, changed: dict[str, np.ndarray], expected: str
) -> None:
    np.savez(tmp_path / "a.npz", **md17(**changed))
    with pytest.raises(InputError, match=expected) as caught:
        read(tmp_path / "a.npz", Labels(energy_unit="eV"))
    assert "a.npz" in str(caught.value)


def npy(shape: str, values: bytes = b"", dtype: str = "<f8") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (npy("(1000000000000, 3, 3)", bytes(72)), "array R is damaged: its shape .* says 72,000,0"),
        (npy("(-5, -3, 3)", bytes(360)), "array R is damaged: its shape"),
        (npy("(5, 3, 3)", bytes(352)), "array R is damaged: .* 360 bytes, and there are 352"),
        (npy("(5, 3, 3"), r"array R cannot be read"),
        (npy("(" * 200 + "5" + ")" * 200), "array R cannot be read|array R has shape"),
        (b"\x93NUMPY\x09\x00", "array R cannot be read"),
        (b"", "array R cannot be read"),
    ],
)
def test_npz_headers_are_not_believed(tmp_path: Path, member: bytes, expected: str) -> None:
    np.savez(tmp_path / "a.npz", **{k: v for k, v in md17().items() if k != "R"})
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("R.npy", member)
    with pytest.raises(InputError, match=rf"a\.npz: {expected}"):
        read(tmp_path / "a.npz", Labels(energy_unit="eV"))


def test_npz_that_claims_more_than_deflate_can_make(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **md17(z=np.ones(3, dtype=np.uint8)))
    whole = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        size = archive.getinfo("z.npy").file_size
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z.npy", npy("(1000000000,)", bytes(72), "|u1"))
        archive.writestr("R.npy", npy("(1, 1000000000, 3)", bytes(72), "|u1"))
    assert size < 1000 and whole  # a real one passes
    content = bytearray((tmp_path / "b.npz").read_bytes())
    entry = content.index(b"PK\x01\x02")  # the directory's entry of z: sizes at 20 and 24
    content[entry + 24 : entry + 28] = (128 + 1_000_000_000).to_bytes(4, "little")
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.npz: array . is damaged"):
        read(tmp_path / "b.npz", Labels(energy_unit="eV"))


def test_arrays_of_deepmd_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "set.000").mkdir()
    (tmp_path / "type.raw").write_text("0 1 1")
    (tmp_path / "type_map.raw").write_text("O H")
    (tmp_path / "nopbc").touch()
    for array, expected in (
        (np.ones((2, 9)) * 1j, "coord.npy holds complex numbers"),
        (np.array([["a"] * 9]), "coord.npy holds text"),
        (np.array(1.0), "coord.npy should hold an array with a row for each frame"),
    ):
        np.save(tmp_path / "set.000" / "coord.npy", array)
        with pytest.raises(InputError, match=expected):
            read(tmp_path)
    (tmp_path / "set.000" / "coord.npy").write_bytes(npy("(1000000000000, 9)", bytes(72)))
    with pytest.raises(InputError, match=r"coord\.npy cannot be read"):
        read(tmp_path)
    (tmp_path / "type_map.raw").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"type_map\.raw: expected chemical symbols"):
        read(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    arrays = md17(z=np.array([Trap()] * 3, dtype=object))
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match="Python objects; refused"):
        read(tmp_path / "a.npz", Labels(energy_unit="eV"))
    (tmp_path / "a.traj").write_bytes(b"PickleTrajectory" + pickle.dumps(Trap()))
    with pytest.raises(InputError):
        read(tmp_path / "a.traj")
    assert not (tmp_path / "sprung").exists()


# --- DeePMD ------------------------------------------------------------------------------------


def write_deepmd(folder: Path, counts: tuple[int, ...] = (3, 2), *, periodic: bool = True) -> dict:
    rng = np.random.default_rng(3)
    folder.mkdir()
    (folder / "type.raw").write_text("0 1 1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    if not periodic:
        (folder / "nopbc").touch()
    total, start = sum(counts), 0
    data = {
        "coord": np.stack([water(i).positions for i in range(total)]).reshape(total, 9),
        "energy": rng.normal(-3e4, 1, total),
        "force": rng.normal(size=(total, 9)),
    }
    if periodic:
        data["box"] = np.tile(water().cell.array.ravel(), (total, 1))
        virial = rng.normal(size=(total, 3, 3))
        data["virial"] = (virial + virial.transpose(0, 2, 1)).reshape(total, 9)
    for number, count in enumerate(counts):
        part = folder / f"set.{number:03d}"
        part.mkdir()
        for name, values in data.items():
            np.save(part / f"{name}.npy", values[start : start + count])
        start += count
    return data


@pytest.mark.parametrize("periodic", [False, True])
def test_deepmd(tmp_path: Path, periodic: bool) -> None:
    data = write_deepmd(tmp_path / "system", periodic=periodic)
    frames = read(tmp_path / "system", require=("energy", "forces"))
    assert len(frames) == 5
    for i, frame in enumerate(frames):
        assert frame.energy == data["energy"][i] and frame.numbers.tolist() == [8, 1, 1]
        np.testing.assert_array_equal(frame.forces.ravel(), data["force"][i])
        assert frame.pbc.all() == periodic and frame.cell.any() == periodic
        if periodic:
            np.testing.assert_allclose(frame.stress.ravel(), -data["virial"][i] / 210.0)
        else:
            assert frame.stress is None
    (last,) = read(tmp_path / "system", index=-1)
    assert last.source == f"{tmp_path / 'system'}#4" and last.energy == data["energy"][4]


def test_deepmd_that_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "system"
    write_deepmd(folder)
    with pytest.raises(InputError, match=r"without type\.raw, so no system of DeePMD"):
        read(folder / "set.000")
    np.save(folder / "set.001" / "energy.npy", np.zeros(7))
    with pytest.raises(InputError, match=r"set\.001/energy\.npy holds 7 frames, coord\.npy 2"):
        read(folder)
    (folder / "set.001" / "energy.npy").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"energy\.npy cannot be read"):
        read(folder)
    (folder / "set.000" / "box.npy").unlink()
    with pytest.raises(InputError, match=r"set\.000 has no box\.npy; .* nopbc"):
        read(folder)
    (folder / "type.raw").write_text("0 1 2\n")
    with pytest.raises(InputError, match=r"names type 2, type_map\.raw has 2 types"):
        read(folder)
    (folder / "type_map.raw").unlink()
    with pytest.raises(InputError, match=r"has no type_map\.raw"):
        read(folder)
