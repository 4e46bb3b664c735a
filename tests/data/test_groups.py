"""Frames of one material stay on one side of a split."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.data import Labels, LeakageWarning, open_frames, read_frames, split_indices
from eip.errors import InputError
from eip.files import UncheckedFile


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=200).filter(lambda g: len(set(g)) > 1),
    st.data(),
    st.integers(0, 9),
)
def test_groups_stay_whole(groups: list[int], data: st.DataObject, seed: int) -> None:
    n, codes = len(groups), np.array(groups)
    wanted = data.draw(st.integers(1, n - 1))
    train, held = split_indices(n, wanted, seed, "by_group", codes)
    assert sorted([*train, *held]) == list(range(n)) and len(train) and len(held)
    assert not set(codes[train]) & set(codes[held])
    assert (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
    # Near to what was asked for: no nearer than a group, unless all but one group are taken.
    if len(set(codes[train])) > 1:
        assert abs(len(held) - wanted) <= max(np.bincount(codes))
    again = split_indices(n, wanted, seed, "by_group", codes)
    assert (again[0] == train).all() and (again[1] == held).all()


def test_seeds_differ() -> None:
    codes = np.repeat(np.arange(50), 2)
    held = {tuple(split_indices(100, 0.1, seed, "by_group", codes)[1]) for seed in range(5)}
    assert len(held) == 5 and all(len(h) == 10 for h in held)


def test_groups_of_one_are_a_random_split_by_size() -> None:
    train, held = split_indices(100, 0.2, 0, "by_group", np.arange(100))
    assert len(held) == 20 and len(train) == 80


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 of 4 have none \(the first is frame 1\)"):
        split_indices(4, 1, 0, "by_group", np.array([0, -1, 1, -1]))
    with pytest.raises(InputError, match="needs the group of each frame, and 4 of 4"):
        split_indices(4, 1, 0, "by_group")
    with pytest.raises(InputError, match="all frames are of one"):
        split_indices(4, 1, 0, "by_group", np.zeros(4, dtype=int))


def test_a_random_split_that_leaks_is_warned_of() -> None:
    codes = np.repeat(np.arange(2), 50)
    with pytest.warns(LeakageWarning, match="2 groups .* data.split: by_group"):
        split_indices(100, 0.5, 0, "random", codes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_indices(100, 0.5, 0, "random", np.arange(100))
        split_indices(100, 0.5, 0, "random", np.full(100, -1))
        split_indices(100, 0.5, 0, "by_group", codes)


def frames(n: int = 4) -> list[Atoms]:
    out = []
    for i in range(n):
        atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * i]])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
        out.append(atoms)
    return out


@pytest.mark.parametrize("name", ["a.xyz", "a.db", "a.traj"])
@pytest.mark.parametrize("key", ["material_id", "mp_id", "mptrj_traj_id"])
def test_the_names_of_a_materials_id(tmp_path: Path, name: str, key: str) -> None:
    images = frames()
    for i, atoms in enumerate(images):
        atoms.info[key] = f"mp-{i // 2}"
    if name == "a.db":
        from ase.db import connect

        with connect(tmp_path / name) as database:
            for atoms in images:
                database.write(atoms, key_value_pairs=dict(atoms.info))
    else:
        write(tmp_path / name, images)
    assert [f.group for f in read_frames(tmp_path / name)] == ["mp-0", "mp-0", "mp-1", "mp-1"]


def test_any_key_or_the_file(tmp_path: Path) -> None:
    images = frames()
    for i, atoms in enumerate(images):
        atoms.info["molecule"] = i % 3
    write(tmp_path / "a.xyz", images)
    write(tmp_path / "b.xyz", images[:2])
    assert [f.group for f in read_frames(tmp_path / "a.xyz")] == [None] * 4
    labels = Labels(group="molecule")
    assert [f.group for f in read_frames(tmp_path / "a.xyz", labels)] == ["0", "1", "2", "0"]
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    store = open_frames(files, Labels(group="file"), cache_dir=tmp_path / "cache")
    assert store.groups.tolist() == [0, 0, 0, 0, 1, 1]
    assert store.group_names == tuple(map(str, files))
    plain = open_frames(files, cache_dir=tmp_path / "cache")
    assert plain.groups.tolist() == [-1] * 6 and plain[0].group is None
    images[0].info["molecule"] = np.arange(3)
    write(tmp_path / "c.xyz", images[:1])
    with pytest.raises(InputError, match=r"c\.xyz#0: 'molecule' groups frames"):
        list(read_frames(tmp_path / "c.xyz", labels))


def test_groups_of_npz(tmp_path: Path) -> None:
    positions = np.array([f.positions for f in frames()])
    np.savez(
        tmp_path / "a.npz",
        symbols=np.array(["H", "H"]),
        positions=positions,
        energies=np.zeros(4),
        topology=np.array(["sod", "sod", "edi", "edi"]),
    )
    read = read_frames(tmp_path / "a.npz", Labels(group="topology"))
    assert [f.group for f in read] == ["sod", "sod", "edi", "edi"]


def test_a_store_of_older_date_has_no_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", frames())
    store = open_frames(tmp_path / "a.xyz", cache_dir=tmp_path)
    (store.path / "group.npy").unlink()
    contents = json.loads((store.path / "store.json").read_text())
    del contents["groups"], contents["columns"]["group"], contents["sha256"]
    (store.path / "store.json").write_text(json.dumps(contents))
    with pytest.warns(UncheckedFile):
        old = open_frames(store.path)
    assert old.groups.tolist() == [-1] * 4 and old[1].group is None
