"""Lone atoms of config_type=IsolatedAtom, as MACE has them, give E0 and are no frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eip.config import parse_config
from eip.data import FrameStore, Labels, LabelWarning, open_frames, read_frames, summarize
from eip.data.convert import Where, convert
from eip.data.statistics import fit_element_energies
from eip.errors import InputError
from eip.verbs.info import summarize_files
from eip.verbs.networks import fresh_network

PROPERTIES = "Properties=species:S:1:pos:R:3"
WATER = (
    f"3\n{PROPERTIES}:forces:R:3 energy=-76.0\n"
    "O 0 0 0.1 0.1 0 0\nH 0.76 0 -0.47 -0.05 0 0.1\nH -0.76 0 -0.47 -0.05 0 -0.1\n"
)


def lone(symbol: str, energy: str, config_type: str = "IsolatedAtom", forces: bool = False) -> str:
    columns, values = (":forces:R:3", " 0 0 0") if forces else ("", "")
    return f"1\n{PROPERTIES}{columns} config_type={config_type} {energy}\n{symbol} 0 0 0{values}\n"


def written(folder: Path, text: str, name: str = "a.xyz") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("config_type", ["IsolatedAtom", "isolated_atom"])
def test_they_give_energies_and_are_no_frames(
    tmp_path: Path, forces: bool, config_type: str
) -> None:
    text = lone("H", "energy=-13.5", config_type, forces) + 2 * WATER
    file = written(tmp_path, text + lone("O", "energy=-432.1", config_type, forces))
    assert [f.isolated for f in read_frames(file)] == [True, False, False, True]
    store = open_frames(file, cache_dir=tmp_path / "cache")
    assert len(store) == 2 and store.isolated_atoms == {1: -13.5, 8: -432.1}
    assert FrameStore(store.path).isolated_atoms == store.isolated_atoms
    summary = summarize(store)
    assert summary.isolated_atoms == {"H": -13.5, "O": -432.1}
    assert ("isolated atoms", "H -13.5 eV, O -432.1 eV; E0, no frames") in summary._rows()
    assert fit_element_energies(store, given=store.isolated_atoms) == store.isolated_atoms
    assert [f.isolated for f in store.with_isolated()] == [True, True, False, False]


def test_an_option_keeps_them(tmp_path: Path) -> None:
    file = written(tmp_path, lone("H", "energy=-13.5", forces=True) + WATER)
    labels = Labels(keep_isolated_atoms=True)
    store = open_frames(file, labels, cache_dir=tmp_path / "cache")
    assert len(store) == 2 and store.isolated_atoms == {}
    assert len(open_frames(file, cache_dir=tmp_path / "cache")) == 1  # the cache knows them apart
    with pytest.raises(InputError, match=r"forces are there in some frames only.*need none"):
        list(read_frames(written(tmp_path, lone("H", "energy=-13.5") + WATER), labels))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lone("H", "energy=-13.5") + lone("H", "energy=-13.6"), "#1: the isolated H has -13.6 eV"),
        (lone("H", ""), "#0: config_type=IsolatedAtom says .*, and it has no energy"),
        (WATER.replace("energy", "config_type=IsolatedAtom energy"), "#0: .* it has 3 atoms"),
        (lone("H", "energy=-13.5"), r"no frames to write: all are .* \(H -13\.500000 eV\); name"),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    more = WATER if "no frames" not in message else ""
    with pytest.raises(InputError, match=message):
        open_frames(written(tmp_path, text + more))
    # The same energy twice is one.
    twice = 2 * lone("H", "energy=-13.5") + WATER
    assert open_frames(written(tmp_path, twice)).isolated_atoms == {1: -13.5}


def test_they_survive_conversions_and_joins(tmp_path: Path) -> None:
    first = written(tmp_path, lone("H", "energy=-13.5") + WATER)
    second = written(tmp_path, lone("O", "energy=-432.1") + WATER, "b.xyz")
    done = convert([first], tmp_path / "one.store", where=Where(["atoms>2"]))
    assert done.left_out == 0 and done.store.isolated_atoms == {1: -13.5}
    both = convert([done.store.path, second], tmp_path / "both.store").store
    assert len(both) == 2 and both.isolated_atoms == {1: -13.5, 8: -432.1}
    joined = open_frames([both.path, second], cache_dir=tmp_path / "cache")
    assert len(joined) == 3 and joined.isolated_atoms == both.isolated_atoms
    with pytest.raises(InputError, match="all are isolated atoms"):
        convert([written(tmp_path, lone("H", "energy=-13.5"), "c.xyz")], tmp_path / "c.store")
    assert not (tmp_path / "c.store.partial").exists()


def test_training_takes_them(tmp_path: Path) -> None:
    file = written(tmp_path, lone("H", "energy=-13.5") + 2 * WATER)
    store = open_frames(file)
    data = {"train": [str(file)]}
    model = {"channels": 4, "interactions": 1}
    config = parse_config({"data": data, "model": model})
    energies = fresh_network(config, store, np.arange(2)).energy_model.element_energies
    by_element = {1: -13.5, 8: -76.0 + 2 * 13.5}
    assert {z: float(e) for z, e in dict(energies).items()} == pytest.approx(by_element, abs=1e-4)
    config = parse_config({"data": {**data, "element_energies": {"H": -14.0}}, "model": model})
    energies = fresh_network(config, store, np.arange(2)).energy_model.element_energies
    assert float(dict(energies)[1]) == pytest.approx(-14.0)  # what is given wins


def test_no_warning_that_they_lack_labels(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    file = written(tmp_path, lone("H", "energy=-13.5") + WATER + WATER.replace("0.76", "0.8"))
    _, doubts = summarize_files([file])
    assert not [w for w in recwarn if issubclass(w.category, LabelWarning)] and not doubts
