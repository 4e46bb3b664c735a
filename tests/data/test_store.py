from __future__ import annotations

import json
import os
import pickle
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eip.data import Frame, FrameStore, LabelWarning, open_frames, write_store
from eip.data.convert import convert
from eip.data.labels import Labels
from eip.data.store import fingerprints
from eip.errors import InputError
from eip.files import UncheckedFile

Make = Callable[..., Frame]


def same(one: Frame, other: Frame) -> bool:
    """Equal to the last bit, labels that are missing included."""
    for name in ("numbers", "positions", "cell", "pbc", "forces", "stress"):
        a, b = getattr(one, name), getattr(other, name)
        if (a is None) != (b is None):
            return False
        if a is not None and (a.dtype != b.dtype or a.tobytes() != b.tobytes()):
            return False
    return one.energy == other.energy and one.source == other.source


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    n = draw(st.integers(1, 5))

    def array(*shape: int) -> np.ndarray:
        return draw(hnp.arrays(np.float64, shape, elements=finite))

    return Frame(
        numbers=draw(hnp.arrays(np.int64, n, elements=st.integers(1, 118))),
        positions=array(n, 3),
        cell=array(3, 3),
        pbc=draw(hnp.arrays(np.bool_, 3)),
        energy=draw(st.none() | finite),
        forces=draw(st.none() | st.just(n)) and array(n, 3),
        stress=draw(st.none() | st.just(3)) and array(3, 3),
        source=draw(
            st.text(st.characters(codec="utf-8"), max_size=8)
            | st.builds("a.xyz#{}".format, st.integers(0, 10**25) | st.just("007"))
        ),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(frames(), min_size=1, max_size=6))
def test_round_trip_is_exact(given_frames: list[Frame]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_store(iter(given_frames), Path(folder) / "store")
        store = FrameStore(Path(folder) / "store")
        assert len(store) == len(given_frames)
        assert all(same(a, b) for a, b in zip(store, given_frames, strict=True))
        assert same(store[-1], given_frames[-1])
        assert store.n_atoms.tolist() == [len(f) for f in given_frames]
        assert store.elements == tuple(sorted({int(z) for f in given_frames for z in f.numbers}))


def test_lookup(tmp_path: Path, make: Make) -> None:
    store = write_store((make(n, n) for n in (3, 1, 4)), tmp_path / "store")
    with pytest.raises(IndexError, match="frame 3 of a store with 3 frames"):
        store[3]
    rows, frame = store.atoms_of(np.array([2, 0]))
    assert rows.tolist() == [4, 5, 6, 7, 0, 1, 2] and frame.tolist() == [0] * 4 + [1] * 3
    numbers, _ = store.numbers_of(np.array([2, 0]))
    np.testing.assert_array_equal(numbers, np.concatenate([store[2].numbers, store[0].numbers]))
    blocks = list(store.blocks(np.array([2, 0, 1]), atoms=4))
    assert np.concatenate(blocks).tolist() == [2, 0, 1] and len(blocks) > 1


def test_pickling_carries_no_data(tmp_path: Path, make: Make) -> None:
    store = write_store((make(100, i) for i in range(50)), tmp_path / "store")
    assert store[7].forces is not None
    data = pickle.dumps(store)
    assert len(data) < 2000
    assert same(pickle.loads(data)[7], store[7])


def test_writing_takes_constant_memory(tmp_path: Path, make: Make) -> None:
    def peak(n: int) -> int:
        frame = make(200)
        tracemalloc.start()
        write_store((frame for _ in range(n)), tmp_path / f"store{n}")
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(5)
    assert peak(1000) < peak(100) + 100_000  # the columns of 1000 frames take 10 MB


def test_nothing_half_written(tmp_path: Path, make: Make) -> None:
    def failing() -> Iterator[Frame]:
        yield make()
        raise InputError("the disk of the source failed")

    with pytest.raises(InputError, match="failed"):
        write_store(failing(), tmp_path / "store")
    with pytest.raises(InputError, match="no frames to write"):
        write_store(iter(()), tmp_path / "store")
    assert os.listdir(tmp_path) == []
    write_store([make()], tmp_path / "store")
    with pytest.raises(InputError, match="exists already"):
        write_store([make()], tmp_path / "store")


def test_damaged_stores(tmp_path: Path, make: Make) -> None:
    with pytest.raises(InputError, match="is not a frame store"):
        FrameStore(tmp_path)
    path = tmp_path / "store"
    write_store([make(), make()], path)
    contents = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps(contents | {"frames": 3}))
    with pytest.raises(InputError, match=r"store\.json is damaged: its checksum is not that of"):
        FrameStore(path)
    del contents["sha256"]  # as it was written before
    (path / "store.json").write_text(json.dumps(contents | {"version": 99}))
    with pytest.raises(InputError, match="of version 99, this eIP reads version 1"):
        FrameStore(path)
    (path / "store.json").write_text(json.dumps(contents | {"frames": 3}))
    with pytest.raises(InputError, match=r"offsets\.npy is damaged"):
        FrameStore(path)[0]
    (path / "store.json").write_text(json.dumps(contents))
    data = (path / "forces.npy").read_bytes()
    (path / "forces.npy").write_bytes(data[:-8])
    with pytest.raises(InputError, match=r"forces\.npy cannot be read"):
        FrameStore(path)[0]
    (path / "store.json").write_text("{")
    with pytest.raises(InputError, match=r"store\.json cannot be read"):
        FrameStore(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "store"
    frames = [make(n, n, periodic=True, stress=True) for n in (3, 1, 4)]
    write_store(frames, path)
    rng = np.random.default_rng(0)
    refused = {}
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        refused[file.name] = 0
        for place in {0, 9, *rng.integers(0, len(whole), 40 if file.suffix == ".json" else 12)}:
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UncheckedFile)
                    store = open_frames(path)
                assert all(same(a, b) for a, b in zip(store, frames, strict=True))
            except InputError as error:
                assert str(path) in str(error)
                refused[file.name] += 1
        file.write_bytes(whole)
    assert all(count > 10 for count in refused.values()), refused
    assert all(same(a, b) for a, b in zip(open_frames(path), frames, strict=True))


def test_columns_are_compared_with_their_checksums_once(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    write_store([make(), make()], path)
    before = fingerprints([path], Labels())
    calls = []
    verify = FrameStore.verify
    monkeypatch.setattr(FrameStore, "verify", lambda self: calls.append(verify(self)))
    for _ in range(3):
        open_frames(path)
    open_frames(path, cache_dir=tmp_path / "cache")
    assert len(calls) == 1
    # It is the same store for all that refer to it.
    assert fingerprints([path], Labels()) == before
    column = path / "forces.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\x01")
    for read in (open_frames, lambda p: convert([p], tmp_path / "other.store")):
        with pytest.raises(InputError, match=r"forces\.npy is altered: its sha256 is"):
            read(path)


def test_a_store_that_nobody_may_write_to_is_verified_all_the_same(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    write_store([make()], path)

    def refuse(path: Path, content: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("eip.data.store.reader.write_whole", refuse)
    assert len(open_frames(path)) == 1
    assert not (path / ".verified").exists()


def test_stores_of_older_date_are_read_with_a_warning(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "store"
    frames = [make(3), make(2)]
    write_store(frames, path)
    contents = json.loads((path / "store.json").read_text())
    del contents["sha256"]
    for older in (contents, {k: v for k, v in contents.items() if k != "columns"}):
        (path / "store.json").write_text(json.dumps(older))
        with pytest.warns(UncheckedFile, match=r"store: written by an earlier eIP"):
            store = open_frames(path)
        assert all(same(a, b) for a, b in zip(store, frames, strict=True))


def test_open_frames_converts_once(tmp_path: Path, make: Make) -> None:
    file, cache = tmp_path / "a.xyz", tmp_path / "cache"
    write(file, [make(4, i).to_atoms() for i in range(3)])
    first = open_frames(file, cache_dir=cache, require=("energy", "forces"))
    before = os.stat(first.path / "forces.npy")
    second = open_frames([file], cache_dir=cache)
    assert second.path == first.path and os.stat(second.path / "forces.npy") == before
    write(file, [make(4, i).to_atoms() for i in range(5)])
    third = open_frames(file, cache_dir=cache)
    assert len(third) == 5 and third.path != first.path
    assert len(open_frames(first.path)) == 3  # a store itself
    assert len(open_frames([first.path, file], cache_dir=cache)) == 8
    assert third[4].source == f"{file}#4"


def test_open_frames_without_a_cache(tmp_path: Path, make: Make) -> None:
    write(tmp_path / "a.xyz", [make(4, i).to_atoms() for i in range(3)])
    store = open_frames(tmp_path / "a.xyz")
    path = store.path
    assert store[2].energy is not None and path.exists()
    del store
    assert not path.exists()
    with pytest.raises(InputError, match="at least one file"):
        open_frames([])


def test_labels_are_checked_over_all_files(tmp_path: Path, make: Make) -> None:
    cache = tmp_path / "cache"
    write(tmp_path / "a.xyz", make(periodic=True, stress=True).to_atoms())
    write(tmp_path / "b.xyz", make(periodic=True).to_atoms())
    write(tmp_path / "c.xyz", make(periodic=True, forces=False).to_atoms())
    for _ in range(2):  # converting, and from the cache
        with pytest.warns(LabelWarning, match=r"stress is missing in 1 of 2 frames .*b\.xyz#0$"):
            open_frames([tmp_path / "a.xyz", tmp_path / "b.xyz"], cache_dir=cache)
    with pytest.raises(InputError, match=r"b\.xyz#0 has them, .*c\.xyz#0 has not"):
        open_frames([tmp_path / "b.xyz", tmp_path / "c.xyz"], cache_dir=cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_frames(tmp_path / "c.xyz", cache_dir=cache)
    for file in ("c.xyz", "./c.xyz"):
        with pytest.raises(InputError, match=r"c\.xyz#0 has no forces"):
            open_frames(tmp_path / file, cache_dir=cache, require=("forces",))
