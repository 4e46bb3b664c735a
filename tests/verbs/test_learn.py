"""`eip learn` from the command line: from a geometry to a report, resumed, looked at, refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.db import connect
from ase.io import read, write

import eip
from eip.active_learning.tasks import read_tasks
from eip.cli import main
from eip.config import LearningConfig, default_config_yaml, load_config
from eip.errors import InputError
from eip.uncertainty.methods import new_network
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
    assert "## What labels cost" in report and "| the start | 10 | 0 | – | 6 | – | – |" in report
    (line,) = [line for line in report.splitlines() if line.startswith("| 0 | 4 | 0 | – | 6 |")]
    assert "s · N^2" in line  # of one size nothing else is known
    priced = outcome["generations"][0]
    assert priced["price"]["labels"] == 10 and priced["expected_seconds"] > 0
    assert outcome["generations"][1]["price"] is None
    page = (out / "learning.html").read_text()
    assert page.count("class='card ") == 14 and page.count("class='card used'") == 14
    assert "What labels cost" in page
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


def flat(said: str) -> str:
    """Without a table's lines."""
    return " ".join(said.replace("│", " ").split())


def test_status_and_plan(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    code, said, _ = run("learn", config, "--status")
    assert code == 0 and "used" in said and "generation-00" in said
    code, said, _ = run("learn", config, "--dry-run", "--set", "run_dir=other")
    assert code == 0 and "2 runs of 0.02 ps" in said and "at most 14" in said
    assert "∝ N^2 of N atoms" in said and "fragments" not in said
    assert not (folder / "other" / "generation-000").exists()
    code, said, _ = run("learn", config, "--dry-run")
    assert code == 0 and "labels: 6 atoms" in flat(said)
    more = ("--set", "run_dir=other", "--set", "learn.fragment_radius=3")
    code, said, _ = run("learn", config, "--dry-run", *more)
    assert code == 0 and "start: none, it is one molecule" in flat(said)
    code, _, said = run("learn", config, *more, "--set", "learn.labeler_options={charge: 1}")
    assert code == 2 and "which a fragment has not" in said


def test_fragments_are_on_the_page(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eip.active_learning.fragments._FEW", 1.0)
    row = Atoms()
    for place in range(4):
        one = molecule("CH3OH")
        one.positions += [5.0 * place, 0.0, 0.0]
        row += one
    write(folder / "row.xyz", row)
    code, said, _ = run(
        "learn", folder / "config.yaml", "--no-progress", "--set", "run_dir=pieces",
        "--set", "learn.starts=row.xyz", "--set", "learn.fragment_radius=2.5",
    )  # fmt: skip
    assert code == 0, said
    report = (folder / "pieces/learning.md").read_text()
    # How wild the dynamics is of a potential of two epochs, nobody knows.
    assert re.search(r"\| 0 \| 4 \| [1-4] \| [^|]* of 24 \|", report)
    assert " of 24 atoms, around atom " in (folder / "pieces/learning.html").read_text()
    outcome = json.loads((folder / "pieces/learning.json").read_text())
    assert 1 <= outcome["generations"][0]["fragments"] <= 4


#: Another level of theory: energies of elements far from the other's, forces a little.
COSTLY = """
from ase.calculators.emt import EMT
OF = {1: -3.0, 6: -900.0, 8: -1900.0}
class Costly(EMT):
    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        more = sum(OF[z] for z in self.atoms.numbers)
        for name, factor in (("energy", 1), ("free_energy", 1)):
            self.results[name] = 1.1 * self.results[name] + factor * more
        self.results["forces"] = 1.1 * self.results["forces"]
def make():
    return Costly()
"""


def test_a_run_begins_with_the_potential_of_a_cheaper_level(folder: Path, run: Run) -> None:
    (folder / "costly.py").write_text(COSTLY)
    cheap = folder / "run/generation-000/model/model.eip"
    code, _, said = run(
        "learn", folder / "config.yaml", "--no-progress", "--set", "run_dir=costly",
        "--set", f"model.start_from={cheap}", "--set", "training.learning_rate=1.0e-30",
        "--set", "training.ema_decay=0", "--set", "learn.generations=1",
        "--set", f"learn.labeler_options={{calculator: '{folder / 'costly.py'}:make'}}",
    )  # fmt: skip
    assert code == 0, said
    outcome = json.loads((folder / "costly/learning.json").read_text())
    assert outcome["labels"] == 10
    before, after = (eip.load(p) for p in (cheap, folder / "costly" / outcome["model"]))
    found = read(folder / "costly/generation-000/train.xyz", index=":")
    # What the levels differ by in elements is no work for the network, which is the cheap one's.
    torch.testing.assert_close(after.predict(found).forces, before.predict(found).forces)
    off = after.predict(found).energy.numpy() - [atoms.get_potential_energy() for atoms in found]
    assert abs(off.mean()) < 0.1 and all(atoms.get_potential_energy() < -2700 for atoms in found)
    energy = outcome["generations"][0]["metrics"]["energy_mae_per_atom"]
    assert energy < 1.0


def test_a_run_without_a_label_explores_by_the_model_that_it_starts_from(
    folder: Path, run: Run
) -> None:
    cheap = folder / "run/generation-000/model/model.eip"
    asked = (
        "learn", folder / "config.yaml", "--no-progress", "--set", "run_dir=bare",
        "--set", "learn.initial=0", "--set", "learn.validation=0.3",
    )  # fmt: skip
    code, _, said = run(*asked)
    assert code == 2 and "no model.start_from is named" in said
    sure = folder / "sure.eip"
    torch.manual_seed(0)
    network = {"force_scale": 1.0, "channels": 8, "interactions": 1, "cutoff": 3.5}
    energies = {1: 0.0, 6: 0.0, 8: 0.0}
    eip.save(
        new_network("none", elements=[1, 6, 8], element_energies=energies, backbone="cartesian_ace",
                    radial_functions=6, **network),
        sure,
    )  # fmt: skip
    for more in ((), ("--dry-run",)):
        code, _, said = run(*asked, "--set", f"model.start_from={sure}", *more)
        assert code == 2 and "sure.eip says no uncertainty of forces" in said
        named = f"model.start_from={folder / 'none.eip'}"
        code, _, said = run(*asked, "--set", named, *more)
        assert code == 2 and "none.eip: no such model file" in said
        wider = ("--set", f"model.start_from={cheap}", "--set", "model.channels=16")
        code, _, said = run(*asked, *wider, *more)
        assert code == 2 and "model.backbone asks for" in said
    asked = (*asked, "--set", f"model.start_from={cheap}")
    code, out, said = run(*asked, "--dry-run")
    assert code == 0 and "exploring" in out, said
    code, _, said = run(*asked)
    assert code == 0, said
    first, second = json.loads((folder / "bare/learning.json").read_text())["generations"]
    assert (first["training_frames"], first["labels"], first["selected"]) == (0, 0, 4)
    assert second["training_frames"] + second["validation_frames"] == 4 == second["labels"]
    assert not (folder / "bare/generation-000/train.xyz").exists()
    row = "| 0 | 0 | – |"
    assert row in (folder / "bare/learning.md").read_text()
    taken = eip.load(folder / "bare/generation-000/model/model.eip")
    start = read(folder / "start.xyz")
    expected = eip.load(cheap).predict(start)
    torch.testing.assert_close(taken.predict(start).forces, expected.forces)
    # The window is measured by forces that the model itself has predicted.
    code, _, said = run(*asked, "--set", "learn.generations=3", "--resume")
    assert code == 0, said
    third = json.loads((folder / "bare/learning.json").read_text())["generations"][2]
    assert third["labels"] == 8 and third["lower"] == second["lower"]


def test_a_wrong_configuration_is_explained(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    for change, words in (
        ("learn.labler=xtb", "unknown key 'learn.labler': did you mean 'labeler'"),
        ("learn.labeler=xtbb", "'learn.labeler': did you mean 'xtb'"),
        ("learn.labeler_options={calculatr: 1}", "calculator"),
        ("learn.starts=nowhere.xyz", "nowhere.xyz"),
        ("learn.upper=1.0e-9", "upper > lower"),
        ("learn.replicas=1000000", "learn.replicas"),
        ("learn.initial=0", "nothing to begin with: learn.initial is 0"),
        ("model.uncertainty=none", "active learning follows σ"),
        ("learn.temperatures=-3", "temperatures"),
        ("learn.max_labels=9", "learn.max_labels is 9, and learn.initial asks for 10"),
        ("training.seed=3", "training.seed is 3, but .* follows learn.seed"),
        ("learn.overlap=true", "overlap needs workers"),
    ):
        code, _, said = run("learn", config, "--set", "run_dir=wrong", "--set", change)
        assert code == 2 and re.search(words, " ".join(said.split())), (change, said)


def test_stress_is_learnt_where_labels_have_it(tmp_path: Path, run: Run) -> None:
    (tmp_path / "calc.py").write_text(CALCULATOR)
    (tmp_path / "learn.yaml").write_text(CONFIG.replace("generations: 2", "generations: 1"))
    write(tmp_path / "start.xyz", molecule("CH3OH"))
    asked = ("learn", tmp_path / "learn.yaml", "--set", "training.stress_weight=0.1")
    for more in ((), ("--dry-run",)):
        code, _, said = run(*asked, *more)
        assert code == 2 and "start have no stress: it is not periodic" in said
    assert not (tmp_path / "run" / "ledger.db").exists()
    write(tmp_path / "start.xyz", bulk("Cu", cubic=True))
    assert run(*asked, "--no-progress")[0] == 0
    metrics = json.loads((tmp_path / "run/generation-000/model/metrics.json").read_text())
    assert metrics["stress_mae"] >= 0


def test_it_goes_on_without_the_files_that_it_began_with(tmp_path: Path) -> None:
    frames = []
    for seed in range(12):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    for name in ("known", "test"):
        write(tmp_path / f"{name}.xyz", frames)
    write(tmp_path / "start.xyz", molecule("CH3OH"))
    (tmp_path / "calc.py").write_text(CALCULATOR)
    text = CONFIG.replace("calc.py:make", f"{tmp_path / 'calc.py'}:make")
    (tmp_path / "config.yaml").write_text(text + "data: {train: known.xyz, test: test.xyz}\n")
    config = load_config(tmp_path / "config.yaml", root=LearningConfig)
    first = eip.learn(config, progress=False)
    for name in ("known", "test"):
        (tmp_path / f"{name}.xyz").unlink()
    more = config.model_copy(update={"learn": config.learn.replace(generations=3)})
    with pytest.warns(UserWarning, match=r"(known|test)\.xyz: no such file; the run goes on"):
        again = eip.learn(more, resume=True, progress=False)
    assert len(again.generations) == len(first.generations) + 1
    assert (tmp_path / "run/generation-002/model/report.html").is_file()


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
