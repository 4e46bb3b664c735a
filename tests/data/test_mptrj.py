"""MPtrj's JSON, as CHGNet's authors describe it: kBar with VASP's sign, materials by their ids."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from eip.data import Labels, open_frames, read_frames
from eip.errors import InputError


def entry(atoms: Atoms, **more: Any) -> dict[str, Any]:
    """A frame as the file has it. VASP prints a stress that is positive where a crystal pushes."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    sites = [
        {
            "species": [{"element": s, "occu": 1}],
            "abc": abc.tolist(),
            "xyz": xyz.tolist(),
            "label": s,
            "properties": {"magmom": 0.0},
        }
        for s, abc, xyz in zip(
            atoms.symbols, atoms.get_scaled_positions(), atoms.positions, strict=True
        )
    ]
    vasp_kbar = -atoms.get_stress(voigt=False) / (0.1 * units.GPa)
    return {
        "structure": {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "charge": None,
            "lattice": {"matrix": atoms.cell.tolist(), "a": 1.0, "volume": atoms.get_volume()},
            "sites": sites,
        },
        "uncorrected_total_energy": energy,
        "corrected_total_energy": energy - 1.0,
        "energy_per_atom": (energy - 1.0) / len(atoms),
        "ef_per_atom": -0.1,
        "force": atoms.get_forces().tolist(),
        "stress": vasp_kbar.tolist(),
        "magmom": None,
        "bandgap": 0.0,
        "mp_id": "mp-0",
        **more,
    }


def copper(strain: np.ndarray | None = None, seed: int = 0) -> Atoms:
    atoms = bulk("Cu", "fcc", 3.4, cubic=True)  # EMT's lattice constant is 3.59 Å: it pushes
    atoms.rattle(0.05, seed=seed)
    if strain is not None:
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def dump(path: Path, materials: dict[str, Any]) -> Path:
    text = json.dumps(materials)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def small(path: Path) -> Path:
    gold = bulk("Au", "fcc", 4.2)
    return dump(
        path,
        {
            "mp-30": {f"mp-30-1-{i}": entry(copper(seed=i)) for i in range(3)},
            "mvc-81": {"mvc-81-0-0": entry(gold)},
        },
    )


def test_stress_is_the_derivative_of_the_energy(tmp_path: Path) -> None:
    step, strains, names = 1e-4, [np.zeros((3, 3))], []
    for a in range(3):
        for b in range(a, 3):
            strain = np.zeros((3, 3))
            strain[a, b] = strain[b, a] = step if a == b else step / 2
            names.append((a, b))
            strains += [strain, -strain]
    frames = {f"mp-30-0-{i}": entry(copper(s)) for i, s in enumerate(strains)}
    here, *moved = read_frames(dump(tmp_path / "m.json", {"mp-30": frames}))
    volume = abs(np.linalg.det(here.cell))
    for (a, b), up, down in zip(names, moved[::2], moved[1::2], strict=True):
        slope = (up.energy - down.energy) / (2 * step) / volume
        assert here.stress[a, b] == pytest.approx(slope, abs=2e-5)
    assert np.trace(here.stress) < -0.1, "compressed, a crystal's stress is negative"


@pytest.mark.parametrize("name", ["MPtrj_2022.9_full.json", "m.json.gz"])
def test_frames(tmp_path: Path, name: str) -> None:
    path = small(tmp_path / name)
    frames = list(read_frames(path, require=("energy", "forces", "stress")))
    assert [f.group for f in frames] == ["mp-30"] * 3 + ["mvc-81"]
    assert [f.source for f in frames] == [f"{path}#{i}" for i in range(4)]
    atoms = copper(seed=2)
    atoms.calc = EMT()
    np.testing.assert_array_equal(frames[2].positions, atoms.positions)
    np.testing.assert_array_equal(frames[2].cell, atoms.cell.array)
    assert frames[2].energy == atoms.get_potential_energy() and frames[2].pbc.all()
    np.testing.assert_array_equal(frames[2].forces, atoms.get_forces())
    np.testing.assert_allclose(frames[2].stress, atoms.get_stress(voigt=False), rtol=1e-12)
    assert frames[3].numbers.tolist() == [79]
    picked = read_frames(path, index="-3:-1")
    assert [f.source for f in picked] == [f"{path}#1", f"{path}#2"]


def test_energies_to_choose_from(tmp_path: Path) -> None:
    path = small(tmp_path / "m.json")
    raw = [f.energy for f in read_frames(path)]
    for key in ("corrected_total_energy", "energy_per_atom"):
        corrected = [f.energy for f in read_frames(path, Labels(energy=key))]
        np.testing.assert_allclose(corrected, np.array(raw) - 1.0, rtol=1e-12)
    with pytest.raises(InputError, match="did you mean 'corrected_total_energy'"):
        list(read_frames(path, Labels(energy="corected_total_energy")))
    with pytest.raises(InputError, match=r"declares energy in 'eV', but energy_unit='kcal/mol'"):
        list(read_frames(path, Labels(energy_unit="kcal/mol")))


def test_a_missing_label_is_missing(tmp_path: Path) -> None:
    frame = entry(copper(), stress=None, force=None)
    (read,) = read_frames(dump(tmp_path / "m.json", {"mp-1": {"mp-1-0-0": frame}}))
    assert read.stress is None and read.forces is None and read.energy is not None


def test_what_is_refused(tmp_path: Path) -> None:
    mixed, unknown, damaged = (entry(copper()) for _ in range(3))
    mixed["structure"]["sites"][0]["species"] = [
        {"element": "Cu", "occu": 0.5},
        {"element": "Au", "occu": 0.5},
    ]
    unknown["structure"]["sites"][1]["species"][0]["element"] = "Qq"
    del damaged["structure"]["lattice"]
    for frame, message in (
        (mixed, r"m\.json#0 \(mp-7\): a site is shared"),
        (unknown, r"m\.json#0 \(mp-7\): 'Qq' is no element"),
        (damaged, r"m\.json#0 \(mp-7\) is not a frame of MPtrj: KeyError: 'lattice'"),
        (entry(copper(), force=[[0.0] * 3]), r"m\.json#0: 'force' has shape \(1, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            list(read_frames(dump(tmp_path / "m.json", {"mp-7": {"mp-7-0-0": frame}})))


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = small(tmp_path / "m.json")
    path.write_bytes(path.read_bytes()[:-200])
    frames = read_frames(path)
    assert [next(frames).group for _ in range(3)] == ["mp-30"] * 3
    with pytest.raises(InputError, match=r"m\.json is damaged or cut off behind frame 2"):
        next(frames)


def test_ases_own_json_is_still_a_database(tmp_path: Path) -> None:
    atoms = copper()
    atoms.calc = EMT()
    atoms.get_forces()
    write(tmp_path / "a.json", atoms)
    (frame,) = read_frames(tmp_path / "a.json")
    assert frame.energy == pytest.approx(atoms.get_potential_energy())


def test_memory_is_that_of_one_material(tmp_path: Path) -> None:
    path, one = tmp_path / "m.json", json.dumps({"x-0-0": entry(copper(), pad="x" * 20_000)})
    with path.open("w") as file:
        file.write("{" + ",".join(f'"mp-{i}": {one}' for i in range(500)) + "}")
    tracemalloc.start()
    groups = {frame.group for frame in read_frames(path)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(groups) == 500 and peak < path.stat().st_size / 4


def test_materials_reach_the_store_and_the_split(tmp_path: Path) -> None:
    store = open_frames(small(tmp_path / "m.json"), cache_dir=tmp_path / "cache")
    assert store.group_names == ("mp-30", "mvc-81") and store.groups.tolist() == [0, 0, 0, 1]
    assert [frame.group for frame in store] == ["mp-30"] * 3 + ["mvc-81"]
    again = open_frames([store.path], cache_dir=tmp_path / "cache")
    assert again.groups.tolist() == [0, 0, 0, 1]
