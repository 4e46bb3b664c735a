"""Frames as other packages read them, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect
from ase.io import read, write

import eip
from eip.data import Frame, FrameStore, read_frames, write_store
from eip.data.export import Exported, export, form_of
from eip.data.labels import Labels, RememberedLabels
from eip.errors import InputError

Make = Callable[..., Frame]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def frames(make: Make) -> list[Frame]:
    """Crystals and molecules of several compositions, with labels here and there."""
    water, acid = [8, 1, 1], [6, 8, 8, 1, 1]
    made = [make(seed=i, numbers=water, periodic=True, stress=True) for i in range(4)]
    made += [make(seed=10 + i, numbers=water) for i in range(3)]
    made += [make(seed=20 + i, numbers=acid, periodic=True, stress=i > 0) for i in range(3)]
    made += [make(seed=30, numbers=[1, 8, 1], periodic=True, stress=True)]
    made += [make(seed=40, numbers=acid, energy=False)]
    return [replace(frame, group=f"mp-{len(frame)}") for frame in made]


@pytest.fixture
def source(tmp_path: Path, frames: list[Frame]) -> Path:
    """A store, whose frames keep every digit."""
    write_store(frames, tmp_path / "frames.store")
    return tmp_path / "frames.store"


def canonical(frame: Frame) -> tuple[object, ...]:
    """What a frame says, whatever the order of its atoms and of the frames."""
    order = np.lexsort((*frame.positions.T.round(6), frame.numbers))
    parts = [frame.numbers, frame.positions, frame.forces]
    arrays = [np.zeros(0) if part is None else part[order].round(6) for part in parts]
    stress = None if frame.stress is None else tuple(frame.stress.ravel().round(6) + 0.0)
    energy = None if frame.energy is None else round(frame.energy, 6)
    cell, sort = tuple(frame.cell.ravel().round(6) + 0.0), (len(frame), arrays[1].tobytes())
    return (*sort, *(tuple((a + 0.0).ravel()) for a in arrays), cell, energy, stress)


def same(one: list[Frame], other: list[Frame]) -> bool:
    return sorted(map(canonical, one), key=repr) == sorted(map(canonical, other), key=repr)


def test_deepmd_and_back(tmp_path: Path, source: Path, frames: list[Frame]) -> None:
    done = eip.convert(source, tmp_path / "deepmd", to="deepmd")
    assert isinstance(done, Exported)
    assert (done.frames, done.atoms, done.left_out) == (12, 44, 0)
    assert done.labelled == {"energy": 11, "forces": 12, "stress": 7}
    names = [system.name for system in done.systems]
    assert len(names) == len(set(names)) == 5 and "H2O" in names and "H2O-2" in names
    back = [frame for system in done.systems for frame in read_frames(system)]
    assert same(back, frames)
    whole = eip.convert(tmp_path / "deepmd", tmp_path / "again")  # the folder as a whole
    assert same(list(whole.store), frames)
    maps = {(system / "type_map.raw").read_text() for system in done.systems}
    assert maps == {"H\nC\nO\n"}
    water = tmp_path / "deepmd" / "H2O"
    assert (water / "type.raw").read_text().split() == ["0", "0", "2"]
    assert np.load(water / "set.000" / "force.npy").shape == (5, 9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "deepmd", "frames.store"]


def test_sets_of_a_system_go_on(
    tmp_path: Path, source: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eip.data.export._FRAMES_OF_A_SET", 2)
    export([source], tmp_path / "a", "deepmd")
    assert len(list((tmp_path / "a" / "H2O").glob("set.*"))) == 3
    assert same(list(eip.convert(tmp_path / "a", tmp_path / "b").store), frames)
    monkeypatch.setattr("eip.data.export._ATOMS_HELD", 5)
    export([source], tmp_path / "c", "deepmd")
    assert same(list(eip.convert(tmp_path / "c", tmp_path / "d").store), frames)


@pytest.mark.parametrize("keys", ["ase", "mace"])
def test_extxyz_and_back(tmp_path: Path, source: Path, frames: list[Frame], keys: str) -> None:
    done = eip.convert(source, tmp_path / "out.xyz", keys=keys)
    assert isinstance(done, Exported) and done.frames == 12
    back = eip.convert(tmp_path / "out.xyz", tmp_path / "back").store
    assert same(list(back), frames)
    assert [back[i].group for i in range(12)] == [frame.group for frame in frames]


def test_mace_finds_its_labels(tmp_path: Path, source: Path, frames: list[Frame]) -> None:
    """Where MACE looks for them: energy and stress in info, forces in arrays."""
    eip.convert(source, tmp_path / "out.xyz", keys="mace")
    first = read(tmp_path / "out.xyz", 0)
    assert first.calc is None
    assert first.info["REF_energy"] == pytest.approx(frames[0].energy, abs=1e-9)
    assert first.info["REF_stress"].shape == (9,)
    np.testing.assert_allclose(first.arrays["REF_forces"], frames[0].forces, atol=1e-7)


def test_charges_are_kept_through_a_store(tmp_path: Path) -> None:
    source = tmp_path / "ions.xyz"
    said = ["charge=1 spin=2", "total_charge=-1", "", "charge=0.5", "charge=1 tot_charge=2"]
    source.write_text(
        "".join(f"1\nProperties=species:S:1:pos:R:3 energy=-1.0 {s}\nN 0 0 0\n" for s in said)
    )
    expected = [{"charge": 1, "multiplicity": 2}, {"charge": -1}, {}, {}, {}]
    assert [f.electrons.as_info() for f in read_frames(source)] == expected
    # ASE's readers, and the store.
    with connect(tmp_path / "ions.db") as database:
        for atoms in read(source, ":"):
            # ASE puts the sum of the atoms' charges in the place of a pair named so.
            pairs = {{"charge": "total_charge"}.get(k, k): v for k, v in atoms.info.items()}
            database.write(atoms, key_value_pairs=pairs)
    for number, path in enumerate((source, tmp_path / "ions.db")):
        store, back = tmp_path / f"{number}.store", tmp_path / f"{number}.xyz"
        eip.convert([path], store)
        assert [f.electrons.as_info() for f in FrameStore(store)] == expected
        export([store], back, "extxyz")
        found = [atoms.info for atoms in read(back, ":")]
        kept = [{k: v for k, v in i.items() if k in ("charge", "multiplicity")} for i in found]
        assert kept == expected


def test_what_eip_writes_is_not_scaled_by_the_units_of_others(
    tmp_path: Path, source: Path, frames: list[Frame]
) -> None:
    export([source], tmp_path / "own.xyz", "extxyz")
    for given in ({"energy_unit": "kcal/mol"}, {"forces_unit": "Hartree/Bohr"},
                  {"stress_unit": "GPa"}, {"length_unit": "Bohr"}):  # fmt: skip
        with pytest.raises(InputError, match="the file declares"):
            list(read_frames(tmp_path / "own.xyz", Labels(**given)))
    # Those of a model's training data are a guess, and the file knows better.
    guess = RememberedLabels(energy_unit="Hartree", length_unit="Bohr", stress_sign="vasp")
    assert same(list(read_frames(tmp_path / "own.xyz", guess)), frames)
    (tmp_path / "theirs.xyz").write_text("1\nProperties=species:S:1:pos:R:3 energy=-1.0\nN 0 0 0\n")
    (theirs,) = read_frames(tmp_path / "theirs.xyz", guess)
    assert theirs.energy == pytest.approx(-27.2114, rel=1e-4)


def test_lone_atoms_stay_lone_atoms(tmp_path: Path, source: Path, make: Make) -> None:
    lone = make(numbers=[8], periodic=False).to_atoms()
    lone.info["config_type"] = "IsolatedAtom"
    write(tmp_path / "lone.xyz", lone)
    both = [tmp_path / "lone.xyz", source]
    eip.convert(both, tmp_path / "out.xyz", keys="mace")
    assert read(tmp_path / "out.xyz", 0).info["config_type"] == "IsolatedAtom"
    assert len(eip.convert(tmp_path / "out.xyz", tmp_path / "store").store.isolated_atoms) == 1
    done = eip.convert(both, tmp_path / "deepmd", to="deepmd")
    assert isinstance(done, Exported) and (done.frames, done.left_out) == (12, 1)
    with pytest.raises(InputError, match="no frames to write, 1 were left out as lone"):
        eip.convert(tmp_path / "lone.xyz", tmp_path / "none", to="deepmd")
    assert not (tmp_path / "none").exists()


def test_a_folder_of_dp_gen(tmp_path: Path, source: Path, frames: list[Frame]) -> None:
    """What it labelled: 02.fp/data.* of each iteration; not what its trainings link to or drop."""
    work = tmp_path / "work"
    done = export([source], tmp_path / "systems", "deepmd")
    for number, system in enumerate(done.systems):
        place = work / f"iter.{number // 3:06d}" / "02.fp"
        place.mkdir(parents=True, exist_ok=True)
        system.rename(place / f"data.{number % 3:03d}")
    training = work / "iter.000001" / "00.train"
    training.mkdir()
    (training / "data.iters").symlink_to(work / "iter.000000" / "02.fp")
    assert same(list(read_frames(work)), frames)
    last = list(read_frames(work, index="-3:"))
    assert [f.source for f in last] == [f.source for f in list(read_frames(work))[-3:]]
    assert len(list(read_frames(work, index="1:11:4"))) == 3
    assert "02.fp/data.000#" in last[0].source or "02.fp/data.001#" in last[0].source


def test_conditions_hold(tmp_path: Path, source: Path) -> None:
    done = eip.convert(source, tmp_path / "out.xyz", where=["without=C", "labelled=stress"])
    assert isinstance(done, Exported) and (done.frames, done.left_out) == (5, 7)
    with pytest.raises(InputError, match="no frames to write, 12 were left out for 'atoms>9'"):
        eip.convert(source, tmp_path / "none.xyz", where=["atoms>9"])
    assert not (tmp_path / "none.xyz").exists()


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"to": "deepmd", "keys": "mace"}, "keys=mace are of extended xyz"),
        ({"to": "store", "keys": "mace"}, "keys=mace are of extended xyz"),
        ({"to": "depmd"}, "'depmd' is no form of frames, did you mean 'deepmd'"),
        ({"to": "extxyz", "keys": "mase"}, "'mase' are nobody's, did you mean"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, source: Path, asked: dict[str, str], error: str
) -> None:
    with pytest.raises(InputError, match=error):
        eip.convert(source, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out.xyz").write_text("mine")
    with pytest.raises(InputError, match=r"out\.xyz exists already"):
        eip.convert(source, tmp_path / "out.xyz")
    assert (tmp_path / "out.xyz").read_text() == "mine"


def test_slabs_are_none_of_deepmd(tmp_path: Path, make: Make) -> None:
    slab = make(periodic=True).to_atoms()
    slab.pbc = [True, True, False]
    write(tmp_path / "slab.xyz", slab)
    with pytest.raises(InputError, match=r"slab\.xyz#0: periodic in \[True, True, False\]"):
        eip.convert(tmp_path / "slab.xyz", tmp_path / "out", to="deepmd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slab.xyz"]


def test_forms_follow_from_names(tmp_path: Path) -> None:
    assert form_of(Path("a.extxyz")) == "extxyz" and form_of(Path("a.XYZ")) == "extxyz"
    assert form_of(Path("a.store")) is None and form_of(Path("a.xyz"), "store") is None


def test_the_command(run: Run, tmp_path: Path, source: Path) -> None:
    code, said, _ = run("convert", source, tmp_path / "o.xyz", "--keys", "mace", "--no-progress")
    assert code == 0 and "o.xyz: 12 frames, 44 atoms; energy of 11, forces of 12" in said
    code, said, _ = run("convert", source, tmp_path / "d", "--to", "deepmd", "--no-progress")
    assert code == 0 and "d: 12 frames in 5 systems, 44 atoms" in said
    code, said, _ = run("convert", tmp_path / "d", tmp_path / "s", "--no-progress")
    assert code == 0 and len(FrameStore(tmp_path / "s")) == 12
