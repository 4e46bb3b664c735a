"""Our reader of extended xyz takes a frame for what ASE takes it for, to the last bit, or not at
all: what is refused, and what is read beside, is in test_extxyz_strict.py."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.data import Frame, Labels, extxyz
from eip.data.ase_formats import frames_from_ase
from eip.data.bulk_checks import doubtful
from eip.data.checks import check_frame
from eip.data.extxyz import ExtxyzReader
from eip.errors import InputError

finite = st.floats(-1e6, 1e6, allow_nan=False)
number = st.one_of(
    finite.map(repr),
    finite.map("{:.8f}".format),
    finite.map("{:.3E}".format),
    st.integers(-99, 99).map(str),
    st.sampled_from(["+1.5", ".5", "-2.", "1d0", "1_0", "nan", "1e400", "T", "", "x"]),
)
symbol = st.sampled_from(["H", "O", "Si", "c", "SI", "X", "D", "1", "Qq", ""])


def numbers(count: int) -> st.SearchStrategy[str]:
    separator = st.sampled_from([" ", "  ", ", "])
    return st.builds(
        lambda s, v: s.join(v), separator, st.lists(number, min_size=count, max_size=count)
    )


def quoted(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    form = st.sampled_from(['"{}"', "{}", "'{}'", "{{{}}}", "[{}]", '"{} "'])
    return st.builds(lambda f, t: f.format(t), form, text)


lattice = st.one_of(
    st.just('"9 0 0 0 9 0 0 0 9"'),
    st.just('"9.5 0.0 0.0 0.25 8.0 0.0 0.0 0.1 7.0"'),
    quoted(numbers(9)),
    quoted(numbers(3)),
)
periodic = st.sampled_from(['"T T T"', '"F F F"', '"T F T"', '"t t t"', "T", '"1 1 1"'])
energies = st.sampled_from(["energy", "REF_energy", "free_energy"])
matrices = st.sampled_from(["stress", "virial", "REF_stress"])
words = st.sampled_from(["mp_id", "config_type", "name", "energy_unit"])
said = ["eV", '"a b"', "mp-12", "7", "1.50", '"T"', '""', "kcal/mol", '"a\\"b"', "_JSON 1"]
pairs = st.one_of(
    st.builds("Lattice={}".format, lattice),
    st.builds("pbc={}".format, periodic),
    st.builds("{}={}".format, energies, quoted(number)),
    st.builds("{}={}".format, matrices, quoted(numbers(9))),
    st.builds("stress={}".format, quoted(numbers(6))),
    st.builds("{}={}".format, words, st.sampled_from(said)),
    st.sampled_from(["flag", "=1", "a==b", "energy= 1.0", '"a b"=3', "ε=1", "c=[[1,2],[3,4]]"]),
)
columns = st.sampled_from(
    [
        ("species:S:1:pos:R:3", ["s", "r3"]),
        ("species:S:1:pos:R:3:forces:R:3", ["s", "r3", "r3"]),
        ("species:S:1:pos:R:3:Z:I:1:forces:R:3", ["s", "r3", "i", "r3"]),
        ("species:S:1:pos:R:3:tag:I:1:REF_forces:R:3", ["s", "r3", "i", "r3"]),
        ("pos:R:3:species:S:1:move_mask:L:1", ["r3", "s", "l"]),
        ("species:S:1:pos:R:3:momenta:R:3:fixed:L:1", ["s", "r3", "r3", "l"]),
        ("species:S:1:pos:R:2", ["s", "r2"]),
        ("species:S:1:pos:R:3:energy:R:1", ["s", "r3", "r1"]),
        ("species:S:1:pos:R:3:name:S:1:charge:R:1", ["s", "r3", "w", "r1"]),
        ("species:S:1:pos:R:3:forces:R", ["s", "r3", "r3"]),
    ]
)
fields = {
    "s": symbol,
    "r1": number,
    "r2": st.lists(number, min_size=2, max_size=2).map(" ".join),
    "r3": st.lists(number, min_size=3, max_size=3).map(" ".join),
    "i": st.sampled_from(["1", "-7", "2.0", "99999999999", "x"]),
    "l": st.sampled_from(["T", "F", "true", "0"]),
    "w": st.sampled_from(["a", "CA", "1"]),
}
#: Most values as they should be, or no frame would be read at all.
plain = fields | {
    "s": st.sampled_from(["H", "O", "Si"]),
    "r1": finite.map(repr),
    "r3": st.lists(finite.map("{:16.8f}".format), min_size=3, max_size=3).map(" ".join),
    "i": st.integers(-9, 9).map(str),
    "l": st.sampled_from("TF"),
}


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A frame as some program might have written it, rarely quite right."""
    count = draw(st.integers(0, 4))
    properties, kinds = draw(columns)
    words = draw(st.lists(pairs, max_size=5))
    if draw(st.integers(0, 9)):
        words.insert(draw(st.integers(0, len(words))), f"Properties={properties}")
    source = plain if draw(st.integers(0, 2)) else fields
    gap = draw(st.sampled_from([" ", "   ", "\t"]))
    lines = [gap.join(draw(source[kind]) for kind in kinds) for _ in range(count)]
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = end.join([str(count), draw(st.sampled_from([" ", "  "])).join(words), *lines])
    return text + draw(st.sampled_from(["", end]))


USUAL = "1\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\n"


def by_ase(path: Path, text: str, labels: Labels) -> Frame | None:
    """None where ASE or what follows refuses it."""
    try:
        images = [
            (i, ase.io.read(io.StringIO(frame.replace("\r\n", "\n")), 0, format="extxyz"))
            for i, frame in enumerate([USUAL, text])
        ]
        return list(frames_from_ase(path, labels, iter(images)))[1]
    except Exception:
        return None


#: What ASE takes and we do not, by the words of the error.
STRICTER = re.compile(
    "not symmetric|expected three of T and F|columns, expected|where a number should be|"
    "expected (a number|numbers|nine numbers|an atomic number)|twice|has both|contradict|"
    "by its number|Properties are|has no atoms|is no element|groups frames|there both as|"
    "has shape|is not finite|a unit that is not known"
)


@settings(max_examples=400, deadline=None)
@given(texts(), st.sampled_from([Labels(), Labels(energy="energy"), Labels(group="name")]))
def test_a_frame_is_what_ase_takes_it_for(text: str, labels: Labels) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.xyz"
        path.write_bytes((USUAL + text).encode())
        reader = iter(ExtxyzReader(path, labels))
        next(reader)
        # ASE takes what follows a key with nothing in its quotes for the value.
        expected = None if '=""' in text else by_ase(path, text, labels)
        try:
            found = next(reader)
        except InputError as error:
            assert expected is None or STRICTER.search(str(error)), error
            return
        except StopIteration:
            assert expected is None
            return
        if expected is None:
            return
        assert found.source == f"{path}#1"
        for name in ("numbers", "positions", "cell", "pbc", "energy", "forces"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                assert np.asarray(ours).dtype == np.asarray(theirs).dtype, name
                assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes(), name
        assert found.has("stress") == expected.has("stress")
        if found.has("stress"):  # ours of both triangles, ASE's of the upper one
            size = float(np.nanmax(np.abs(expected.stress), initial=0.0))
            np.testing.assert_allclose(
                found.stress, expected.stress, rtol=0.1, atol=0.1 * size + 1e-3
            )


def test_usual_frames_are_read_the_fast_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the reader would be right and slow, and no other test would know."""
    rng = np.random.default_rng(0)
    images = []
    for i in range(5):
        atoms = Atoms("SiO2", rng.uniform(0, 5, (3, 3)), cell=[6, 7, 8], pbc=True)
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(i), forces=rng.normal(size=(3, 3)), stress=rng.normal(size=6)
        )
        atoms.info["mp_id"] = f"mp-{i}"
        images.append(atoms)
    ase.io.write(tmp_path / "a.xyz", images)
    monkeypatch.delattr(extxyz, "all_pairs")
    monkeypatch.delattr("eip.data.xyz_columns.numbers_of")
    reader = ExtxyzReader(tmp_path / "a.xyz", Labels())
    kinds = []
    monkeypatch.setattr(
        reader, "_new_kind", lambda *a: kinds.append(a) or ExtxyzReader._new_kind(reader, *a)
    )
    frames = list(reader)
    assert [frame.group for frame in frames] == [f"mp-{i}" for i in range(5)]
    assert len(kinds) == 1  # frames of one kind are looked at once


atom = st.sampled_from([0, 119, *[1, 8, 118] * 9])
coordinates = st.floats(-3, 3).map(lambda x: round(x, 3))


@st.composite
def crowded_frames(draw: st.DrawFn) -> Frame:
    count = draw(st.integers(0, 5))
    positions = np.array(
        [[draw(coordinates) for _ in range(3)] for _ in range(count)], dtype=np.float64
    ).reshape(count, 3)
    periodic = draw(st.booleans())
    cell = np.diag([draw(st.floats(0.05, 6)) for _ in range(3)])
    cell[1, 0] = draw(st.floats(-2, 2))
    if count > 1 and draw(st.booleans()):  # on one spot, over a face of the cell perhaps
        shift = draw(st.integers(-2, 2)) * cell[0] + draw(st.integers(-2, 2)) * cell[1]
        positions[-1] = positions[0] + shift * periodic + draw(st.floats(-0.04, 0.04))
    if count and not draw(st.integers(0, 9)):
        positions[0, 0] = draw(st.sampled_from([np.nan, np.inf, 1e9, -1e300]))
    return Frame(
        numbers=np.array([draw(atom) for _ in range(count)], dtype=np.int64),
        positions=positions,
        cell=cell if periodic else np.zeros((3, 3)),
        pbc=np.array([periodic, periodic, periodic and draw(st.integers(0, 4)) > 0]),
        energy=draw(st.sampled_from([None, 1.0, np.nan])),
        forces=np.full((count, 3), np.inf) if draw(st.integers(0, 9)) == 0 else None,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(crowded_frames(), max_size=6))
def test_what_a_frame_is_refused_for_is_never_overlooked(frames: list[Frame]) -> None:
    suspects = doubtful(frames)
    for frame, suspect in zip(frames, suspects, strict=True):
        if not suspect:
            check_frame(frame)  # raises nothing


def test_sound_frames_need_no_closer_look() -> None:
    """Else the check would be right and slow."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.0
    frames = [
        Frame(
            numbers=np.full(64, 8),
            positions=grid + rng.uniform(-0.4, 0.4, (64, 3)),
            cell=np.eye(3) * 8.0 if i % 2 else np.zeros((3, 3)),
            pbc=np.full(3, bool(i % 2)),
        )
        for i in range(100)
    ]
    assert doubtful(frames).mean() < 0.1
