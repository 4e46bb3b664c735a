"""The paper's figures from one call, on frames small enough for a test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import write

from eip import builders
from eip.data import open_frames
from eip.errors import InputError
from eip.paper.frames import draw_sets
from eip.paper.reproduce import figure_named, reproduce, scale_named
from eip.paper.setups import SETUPS, DataSets, Setup

DATA = Path(__file__).parents[2] / "examples/data"
TINY = {"channels": 8, "interactions": 1, "radial_functions": 6, "cutoff": 3.0}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """Puts a setup in the place of a figure's small one."""

    def put(figure: str, **changes: object) -> None:
        setup = SETUPS[figure, "small"]  # type: ignore[index]
        monkeypatch.setitem(SETUPS, (figure, "small"), replace(setup, **{"model": TINY, **changes}))

    return put


ETHANOL = DataSets(
    known=("ethanol_300K.xyz",),
    validation=6,
    test=("ethanol_300K_test.xyz",),
    ood=("ethanol_800K_test.xyz",),
    train=24,
    ood_frames=8,
    fetch=("none",),
)


def test_data_efficiency_goes_on_where_it_was(small, tmp_path: Path) -> None:
    small("fig2", sets=ETHANOL, training={"epochs": 1}, extra={"fractions": (0.25, 1.0)})
    made = reproduce("fig2", DATA, tmp_path, progress=False)
    content = json.loads(made.json.read_text())
    assert list(content["measures"]) == ["25 %", "100 %"]
    assert {row.what: row.paper for row in made.rows}["ROC-AUC, structures, ID"] == "0.86 to 0.93"
    found = f"{content['measures']['100 %']['force_mae'] * 1000:.0f}"
    assert any(row.ours.endswith(f"→ {found}") for row in made.rows)
    assert made.plot.stat().st_size > 10_000 and "| paper | here |" in made.table.read_text()
    frames = [
        len(open_frames(made.json.parent / s / "data/train")) for s in ("25percent", "100percent")
    ]
    assert frames == [6, 24]
    models = sorted(made.json.parent.rglob("model.eip"))
    before = [path.stat().st_mtime_ns for path in models]
    again = reproduce("fig2", DATA, tmp_path, progress=False)
    assert again.rows == made.rows
    assert [path.stat().st_mtime_ns for path in models] == before


@pytest.mark.slow
def test_methods(small, tmp_path: Path) -> None:
    small("fig3", sets=ETHANOL, training={"epochs": 1}, model={**TINY, "members": 2})
    made = reproduce("fig3", DATA, tmp_path, progress=False)
    measures = json.loads(made.json.read_text())["measures"]
    methods = ("tensor", "ensemble", "dropout", "gmm", "mve")
    assert set(measures) == {"none", *methods}
    for method in methods:
        assert f"{method} {measures[method]['spearman_atom']['mean']:.2f}" in made.rows[3].ours


@pytest.fixture(scope="module")
def olivine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rattled cells of LiFePO4 and a short chain, with some classical force."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    both = builders.lifepo4(), builders.pdms(1, 2, anneal_ps=0.0, seed=1)
    for name, count, amplitude in (("known.xyz", 30, 0.03), ("hot.xyz", 6, 0.1)):
        frames = []
        for index in range(count):
            atoms = both[index % 2].copy()
            atoms.positions += amplitude * rng.normal(size=(len(atoms), 3))
            atoms.info["material_id"] = f"m{index // 3}"
            atoms.calc = LennardJones(sigma=1.0, epsilon=0.05, rc=3.0)
            atoms.get_forces()
            frames.append(atoms)
        write(folder / name, frames)
    return folder


OLIVINE = DataSets(
    known=("known.xyz",), validation=6, test=6, split="by_group", ood=("hot.xyz",), fetch=("none",)
)


def test_universal_potential(small, olivine: Path, tmp_path: Path) -> None:
    small(
        "fig5",
        sets=OLIVINE,
        training={"epochs": 1},
        extra={"ps": 0.02, "lifepo4": (1, 1, 1), "pdms": (1, 2)},
    )
    made = reproduce("fig5", olivine, tmp_path / "out", progress=False)
    content = json.loads(made.json.read_text())
    assert set(content["measures"]["elements"]) == {"H", "Li", "C", "O", "Si", "P", "Fe"}
    for material in ("LiFePO4", "PDMS"):
        for run in ("MD", "UDD"):
            assert 0.0 <= content["measures"][material][run]["entropy"] <= 1.0
    assert (made.json.parent / "elements.png").stat().st_size > 10_000


def test_active_learning(small, tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    extra = SETUPS["fig4", "small"].extra
    learn = {**extra["learn"], "initial": 8, "labels": 4, "generations": 2, "length_ps": 0.02}
    small("fig4", training={"epochs": 2}, extra={**extra, "learn": learn})
    made = reproduce("fig4", tmp_path, tmp_path, progress=False)
    assert made.rows[0].paper == "collapses" and " ps, " in made.rows[0].ours
    content = json.loads(made.json.read_text())
    assert str(tmp_path) not in json.dumps(content)


def test_sets_keep_materials_apart(olivine: Path, tmp_path: Path) -> None:
    paths = draw_sets(OLIVINE, olivine, tmp_path / "sets")
    groups = {}
    for name in ("train", "validation", "test"):
        store = open_frames(paths[name])
        groups[name] = {store.group_names[g] for g in store.groups}
    assert not groups["train"] & groups["validation"]
    assert not groups["test"] & (groups["train"] | groups["validation"])
    sizes = [len(open_frames(path)) for path in paths.values()]
    assert sizes == [18, 6, 6, 6]


def test_frames_with_strange_elements_are_left_out_and_said(tmp_path: Path) -> None:
    def frames(symbols: str, count: int) -> list[Atoms]:
        out = []
        for index in range(count):
            atoms = Atoms(symbols, [[0, 0, 0], [0, 0, 1 + 0.01 * index]])
            atoms.calc = LennardJones()
            atoms.get_forces()
            out.append(atoms)
        return out

    write(tmp_path / "a.xyz", frames("H2", 10))
    write(tmp_path / "b.xyz", frames("H2", 2) + frames("HF", 3))
    sets = DataSets(known=("a.xyz",), validation=2, test=2, ood=("b.xyz",))
    said: list[object] = []
    paths = draw_sets(sets, tmp_path, tmp_path / "sets", log=said.append)
    assert len(open_frames(paths["ood"])) == 2
    assert said == ["ood: 3 frames with an element that is not trained on are left out"]


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; to get it: eip fetch acac --to"):
        reproduce("fig2", tmp_path, tmp_path / "out", progress=False)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train_300K.xyz").touch()
    with pytest.raises(InputError, match="2 of that name elsewhere"):
        reproduce("fig2", tmp_path, tmp_path / "out", progress=False)


def test_every_setup_is_a_configuration(tmp_path: Path) -> None:
    """All keys of all setups exist: a typing error at paper scale would cost a day."""
    from eip.config import LearningConfig, parse_config

    for setup in SETUPS.values():
        values = {"model": dict(setup.model), "training": dict(setup.training)}
        if setup.sets is None:
            learn = {**setup.extra["learn"], "starts": "start.xyz"}
            parse_config({**values, "learn": learn}, root=LearningConfig)
        else:
            parse_config({**values, "data": {"train": "a.xyz"}})
    assert isinstance(SETUPS["fig2", "paper"], Setup)


def test_names() -> None:
    with pytest.raises(InputError, match="unknown figure 'fig6'"):
        figure_named("fig6")
    with pytest.raises(InputError, match="unknown scale 'huge'"):
        scale_named("huge")
