"""`eip learn` from the command line: from a geometry to a report, resumed, looked at, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import write

from eip.active_learning.tasks import read_tasks
from eip.cli import main
from eip.config import LearningConfig, default_config_yaml, load_config
from eip.errors import InputError
from eip.verbs.learn import plan

Run = Callable[..., tuple[int, str, str]]

CONFIG = """
run_dir: run
model: {channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.5}
training: {epochs: 2, device: cpu}
learn:
  starts: start.xyz
  labeler: ase
  labeler_options: {calculator: "calc.py:make"}
  generations: 2
  initial: 10
  labels: 4
  length_ps: 0.02
  frame_interval: 2
  lower: 1.0e-6
  upper: 1.0e6
  executor: serial
"""

#: What a user would write for a code of their own.
CALCULATOR = """
from ase.calculators.emt import EMT
def make():
    return EMT()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn")
    write(folder / "start.xyz", molecule("CH3OH"))
    (folder / "calc.py").write_text(CALCULATOR)
    text = CONFIG.replace("calc.py:make", f"{folder / 'calc.py'}:make")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["learn", str(folder / "config.yaml"), "--no-progress"])
    assert not ended.value.code
    return folder


def test_it_leaves_model_ledger_and_report(folder: Path) -> None:
    out = folder / "run"
    outcome = json.loads((out / "learning.json").read_text())
    assert outcome["labels"] == 14 and len(outcome["generations"]) == 2
    assert (out / outcome["model"]).is_file()
    for name in ("learning.png", "dynamics.png"):
        assert (out / name).stat().st_size > 5000
    report = (out / "learning.md").read_text()
    assert "| generation | labels | force MAE" in report and "Where the time went" in report
    assert "| 1 | start-300K-udd |" in report
    page = (out / "learning.html").read_text()
    assert page.count("class='card ") == 14 and page.count("class='card used'") == 14
    assert "trained on from generation 0" in page and "start-300K-" in page
    # Six atoms each, and nothing that a browser would fetch.
    assert page.count("<circle") >= 6 * 14
    assert "<script" not in page and "<img" not in page and " src=" not in page
    tasks = list(read_tasks(out / "tasks.csv"))
    kinds = [task.kind for task in tasks]
    assert kinds.count("label") == 14 and kinds.count("training") == 2
    assert all(task.seconds > 0 for task in tasks)
    rows = list(connect(out / "ledger.db").select(state="used"))
    assert len(rows) == 14
    atoms = rows[0].toatoms()
    reference = Atoms(atoms)
    reference.calc = EMT()
    assert atoms.get_potential_energy() == reference.get_potential_energy()


def test_a_raised_bound_is_resumed(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    code, _, said = run("learn", config)
    assert code == 2 and "go on with --resume" in said
    more = ("--set", "learn.generations=3", "--resume", "--no-progress")
    code, said, _ = run("learn", config, *more)
    assert code == 0 and "the last of 3 generations" in said
    assert 14 < json.loads((folder / "run" / "learning.json").read_text())["labels"] <= 18
    rejected = list(connect(folder / "run" / "ledger.db").select(state="rejected"))
    assert all(row.data["reason"] for row in rejected)
    code, _, said = run("learn", config, "--set", "learn.length_ps=1", "--resume")
    assert code == 2 and "learn.length_ps was 0.02, now 1.0" in said


def test_status_and_plan(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    code, said, _ = run("learn", config, "--status")
    assert code == 0 and "used" in said and "generation-00" in said
    code, said, _ = run("learn", config, "--dry-run", "--set", "run_dir=other")
    assert code == 0 and "2 runs of 0.02 ps" in said and "at most 14" in said
    assert not (folder / "other" / "generation-000").exists()


def test_frames_that_are_labelled_already(folder: Path, run: Run) -> None:
    frames = []
    for seed in range(12):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        frame = atoms.copy()
        frame.info["my_energy"] = atoms.get_potential_energy()
        frame.arrays["my_forces"] = atoms.get_forces()
        frames.append(frame)
    write(folder / "known.xyz", frames)
    write(folder / "broad.xyz", frames[:4])
    code, _, said = run(
        "learn", folder / "config.yaml", "--no-progress", "--set", "run_dir=known",
        "--set", "data.train=known.xyz", "--set", "data.test=broad.xyz",
        "--set", "data.labels={energy: my_energy, forces: my_forces}",
    )  # fmt: skip
    assert code == 0, said
    outcome = json.loads((folder / "known" / "learning.json").read_text())
    assert outcome["labels"] == 4
    assert outcome["generations"][0]["metrics"]["n_frames"] == 4


def test_a_wrong_configuration_is_explained(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    for change, words in (
        ("learn.labler=xtb", "unknown key 'learn.labler': did you mean 'labeler'"),
        ("learn.labeler=xtbb", "'learn.labeler': did you mean 'xtb'"),
        ("learn.labeler_options={calculatr: 1}", "calculator"),
        ("learn.starts=nowhere.xyz", "nowhere.xyz"),
        ("learn.upper=1.0e-9", "upper > lower"),
        ("learn.temperatures=-3", "temperatures"),
    ):
        code, _, said = run("learn", config, "--set", "run_dir=wrong", "--set", change)
        assert code == 2 and words in said, (change, said)


def test_the_default_configuration_is_one(tmp_path: Path) -> None:
    write(tmp_path / "start.xyz", molecule("H2O"))
    path = tmp_path / "learn.yaml"
    path.write_text(default_config_yaml(root=LearningConfig))
    config = load_config(path, root=LearningConfig)
    assert config.learn.labeler == "xtb" and config.data.train == []
    plan(config)
    path.write_text("learn: {}\n")
    with pytest.raises(InputError, match=r"'learn.starts' is missing; it is: structures"):
        load_config(path, root=LearningConfig)
