"""Conversion to a store: what goes in comes out, whatever stops it in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.db import connect
from ase.io import write

from eip.data import Frame, FrameStore, Labels, open_frames, read_frames, write_store
from eip.data.convert import Progress, Where, convert
from eip.data.readers import stream_chunks
from eip.errors import InputError
from eip.locks import locked

Make = Callable[..., Frame]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def equal(one: Frame, other: Frame) -> bool:
    arrays = ("numbers", "positions", "cell", "pbc", "forces", "stress")
    return one.energy == other.energy and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


@pytest.fixture
def sources(tmp_path: Path, make: Make) -> list[Path]:
    """Extended xyz (also compressed), a database and a store, with labels here and there."""
    molecules = [make(3 + i % 5, i, forces=True) for i in range(40)]
    write(tmp_path / "a.xyz", [f.to_atoms() for f in molecules])
    crystals = [make(4, i, periodic=True, stress=i % 2 == 0, forces=i > 3) for i in range(9)]
    write(tmp_path / "b.xyz.gz", [f.to_atoms() for f in crystals])
    with connect(tmp_path / "c.db") as database:
        for i in range(7):
            database.write(make(6, i).to_atoms())
    write_store([make(2, i, energy=False, source=f"old.xyz#{i}") for i in range(5)], tmp_path / "d")
    return [tmp_path / name for name in ("a.xyz", "b.xyz.gz", "c.db", "d")]


def test_sources_of_all_kinds_become_one_store(sources: list[Path], tmp_path: Path) -> None:
    told: list[Progress] = []
    done = convert(sources, tmp_path / "out", tick=told.append)
    expected = [f for file in sources[:3] for f in read_stream(file)] + list(FrameStore(sources[3]))
    assert len(done.store) == len(expected) == 61 and done.left_out == 0
    assert all(equal(a, b) for a, b in zip(done.store, expected, strict=True))
    assert [done.store.source(i) for i in (0, 40, 60)] == [
        f"{sources[0]}#0",
        f"{sources[1]}#0",
        "old.xyz#4",
    ]
    assert told[-1].doing == "checksums" and told[-1].share == 1.0 and told[-1].frames == 61
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out", *(p.name for p in sources)])
    done.store.verify()
    # The same call again finds it; another one does not write over it.
    again = convert(sources, tmp_path / "out")
    assert again.was_there and len(again.store) == 61
    with pytest.raises(InputError, match="out exists already"):
        convert(sources[:2], tmp_path / "out")


def read_stream(file: Path) -> list[Frame]:
    return [frame for chunk, _ in stream_chunks(file, Labels()) for frame in chunk]


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("atoms<=4", lambda f: len(f) <= 4),
        ("atoms>4 atoms!=6", lambda f: len(f) > 4 and len(f) != 6),
        ("atoms=3", lambda f: len(f) == 3),
        ("elements=H,O", lambda f: set(f.numbers.tolist()) <= {1, 8}),
        ("contains=C,O", lambda f: set(f.numbers.tolist()) >= {6, 8}),
        ("without=C", lambda f: 6 not in f.numbers),
        ("labelled=stress", lambda f: f.stress is not None),
        (
            "labelled=energy,forces atoms<6",
            lambda f: f.has("energy") and len(f) < 6 and f.has("forces"),
        ),
    ],
)
def test_where(sources: list[Path], tmp_path: Path, where: str, holds: object) -> None:
    done = convert(sources, tmp_path / "out", where=Where([where]))
    every = list(convert(sources, tmp_path / "all").store)
    assert callable(holds)
    expected = [frame for frame in every if holds(frame)]
    assert 0 < len(expected) < len(every)
    assert all(equal(a, b) for a, b in zip(done.store, expected, strict=True))
    assert done.left_out == len(every) - len(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("atoms<some", "'atoms<some' is not understood, expected atoms<=200"),
        ("atoms<5;import os", "is not understood"),
        ("elements=H,Xx", "unknown element 'Xx'"),
        ("contains=X", "unknown element 'X'"),
        ("labelled=charges", "unknown label 'charges'"),
    ],
)
def test_where_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Where([text])


def test_what_is_wrong_is_said_and_nothing_is_left(
    sources: list[Path], tmp_path: Path, make: Make
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="needs at least one file"):
        convert([], out)
    with pytest.raises(InputError, match=r"gone\.xyz does not exist"):
        convert([sources[0], tmp_path / "gone.xyz"], out)
    with pytest.raises(InputError, match="both what is read and what is to be written"):
        convert([sources[3]], sources[3])
    with pytest.raises(InputError, match="no frames to write, 40 were left out for 'atoms>100'"):
        convert([sources[0]], out, where=Where(["atoms>100"]))
    write(tmp_path / "one.xyz", [make().to_atoms()])
    (tmp_path / "bad.xyz").write_text((tmp_path / "one.xyz").read_text().replace("1.", "one."))
    with pytest.raises(InputError, match=r"bad\.xyz#0 cannot be read"):
        convert([tmp_path / "bad.xyz"], out)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("out")]
    # What was converted before the error is kept; it goes on once the file is what it was.
    with pytest.raises(InputError, match=r"bad\.xyz#0 cannot be read"):
        convert([sources[0], tmp_path / "bad.xyz"], out)
    with pytest.raises(InputError, match=r"out\.partial, .* sources was a\.xyz, bad.*; delete it"):
        convert(sources, out)
    with locked(tmp_path / "out.partial"), pytest.raises(InputError, match="another process"):
        convert([sources[0], tmp_path / "bad.xyz"], out)
    (tmp_path / "out.partial" / "conversion.json").write_text("{")
    with pytest.raises(InputError, match=r"conversion\.json is damaged; delete"):
        convert([sources[0], tmp_path / "bad.xyz"], out)


def test_positions_are_where_reading_goes_on(sources: list[Path], tmp_path: Path) -> None:
    for file, labels in ((f, n) for f in sources[:3] for n in (Labels(), Labels(energy="energy"))):
        expected = [frame for chunk, _ in stream_chunks(file, labels) for frame in chunk]
        number = 0
        for chunk, position in stream_chunks(file, labels):
            number += len(chunk)
            assert position.frame == number
            rest = [f for part, _ in stream_chunks(file, labels, position) for f in part]
            assert [f.source for f in rest] == [f.source for f in expected[number:]]
            assert all(equal(a, b) for a, b in zip(rest, expected[number:], strict=True))


_KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from eip.data.convert import Where, convert

folder, *sources = sys.argv[1:]
random.seed(1)
kills = rounds = 0
while kills < 3:  # as often as it takes: a fast machine is done before it is killed
    rounds += 1
    out = Path(folder, str(rounds))
    while not out.exists():
        child = os.fork()
        if not child:
            convert(sources, out, where=Where(["atoms!=5"]), checkpoint_s=0.0)
            os._exit(0)
        time.sleep(random.uniform(0.0, 0.02 + 0.005 * kills))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] != 0
"""


def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    sources: list[Path], tmp_path: Path
) -> None:
    whole = convert(sources, tmp_path / "whole", where=Where(["atoms!=5"])).store.path
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    command = [sys.executable, "-c", _KILLED, pieces, *sources]
    subprocess.run(command, capture_output=True, text=True, check=True)
    made = sorted(pieces.iterdir())
    assert made and not list(pieces.glob("*.partial"))
    assert all(contents(path) == contents(whole) for path in made)


def test_stopped_after_each_step_it_ends_with_the_same_bytes(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that makes something last is the last one of an attempt, in turn."""
    whole = convert(sources, tmp_path / "whole").store.path

    class Stopped(BaseException):
        pass

    def stopping(call: Callable[..., object], left: list[int]) -> Callable[..., object]:
        def instead(*arguments: object, **more: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return call(*arguments, **more)

        return instead

    stops = 0
    for step in range(0, 120, 7):
        out, left = tmp_path / f"out{step}", [step]
        with monkeypatch.context() as patch:
            for home, name in ((os, "replace"), (Path, "rename"), (os, "fsync")):
                patch.setattr(home, name, stopping(getattr(home, name), left))
            try:
                convert(sources, out, checkpoint_s=0.0)
            except Stopped:
                stops += 1
        assert contents(convert(sources, out).store.path) == contents(whole)
    assert stops > 10


def test_checksums(sources: list[Path], tmp_path: Path) -> None:
    path = convert(sources, tmp_path / "out").store.path
    file = path / "positions.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"positions\.npy is altered: its sha256 is"):
        FrameStore(path).verify()
    file.write_bytes(data[:-1])
    with pytest.raises(InputError, match=rf"it has {len(data) - 1} bytes, expected {len(data)}"):
        FrameStore(path)
    file.unlink()
    with pytest.raises(InputError, match=r"positions\.npy is missing"):
        FrameStore(path)
    table = json.loads((path / "store.json").read_text())
    del table["columns"], table["sha256"]  # as an earlier version wrote it
    (path / "store.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="has no checksums"):
        FrameStore(path).verify()


def test_training_reads_a_store_where_it_is(sources: list[Path], tmp_path: Path) -> None:
    out = convert([sources[0]], tmp_path / "out").store
    opened = open_frames(out.path, cache_dir=tmp_path / "cache", require=("energy", "forces"))
    assert all(equal(a, b) for a, b in zip(opened, out, strict=True))
    kept = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert kept < 2000
    # As all files of a run it is found again as long as it is the same.
    assert open_frames(out.path, cache_dir=tmp_path / "cache").path == opened.path
    assert len(list(read_frames(sources[0]))) == len(opened)
