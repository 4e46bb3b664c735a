"""The loop: what it does, that it stops for a reason, and that nothing kills it for good."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from ase.io import read, write

from eip.active_learning.exploration import frames_of
from eip.active_learning.labelers import Labeler, LabelFailure, labelled_copy, make_labeler
from eip.active_learning.labelling import label_one, read_label, write_frames, written_frames
from eip.active_learning.ledger import Ledger
from eip.active_learning.loop import LearningRun, TrainingTask
from eip.active_learning.price import Price
from eip.active_learning.results import LearningResult, status
from eip.active_learning.settings import LearningSettings
from eip.active_learning.tasks import read_tasks
from eip.errors import InputError
from eip.model_file import save_model
from eip.simulation.proposal import FlatUncertainty
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.evidential import EvidentialPotential

QUICK = LearningSettings(
    generations=3,
    initial=8,
    rattle=0.1,
    labels=5,
    length_ps=0.02,
    timestep_fs=1.0,
    frame_interval=2,
    lower=1e-6,
    upper=1e6,
    executor="serial",
    candidate_ratio=0.0,
)


class CountingEMT(Labeler):
    """Effective medium theory; writes a line for each structure that it finished."""

    name = "EMT"

    def __init__(self, log: Path, fails: Callable[[Atoms], bool] | None = None) -> None:
        self.log, self.fails = log, fails

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        if self.fails is not None and self.fails(atoms):
            raise LabelFailure("SCF did not converge", folder)
        copy = atoms.copy()
        copy.calc = EMT()
        out = labelled_copy(copy, copy.get_potential_energy(), copy.get_forces())
        with self.log.open("a") as file:
            file.write(f"{folder.name}\n")
        return out


def train(task: TrainingTask) -> Path:
    """Stands in for a training: weights by the seed, a calibration by the frames."""
    frames = written_frames(task.train)
    torch.manual_seed(task.seed)
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    potential = EvidentialPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=1.0,
        channels=8,
        interactions=1,
        radial_functions=4,
        cutoff=4.0,
    ).eval()
    rng = np.random.default_rng(len(frames))
    fitted = fit_calibration(
        rng.normal(size=(60, 3)),
        np.ones(60),
        np.resize(elements, 60),
        created="then",
        method="scale",
    )
    model = task.run_dir / "model.eip"
    task.run_dir.mkdir(parents=True, exist_ok=True)
    save_model(CalibratedPotential(potential, fitted), model, {"metrics": {"force_mae": 0.1}})
    return model


def start() -> dict[str, Atoms]:
    return {"copper": Octahedron("Cu", 2)}


def learn(
    folder: Path,
    settings: LearningSettings = QUICK,
    labeler: Labeler | None = None,
    starts: Callable[[], dict[str, Atoms]] = start,
) -> LearningResult:
    labeler = labeler or CountingEMT(folder / "computed.txt")
    return LearningRun(folder, settings, starts(), labeler, train, progress=False).run()


def labels_of(folder: Path) -> dict[str, tuple[float, str]]:
    ledger = Ledger(folder / "ledger.db")
    return {
        c.key: (c.atoms.get_potential_energy(), c.state)
        for c in ledger.candidates("labelled", "used")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    learn(folder)
    return folder


def test_generations_grow_the_training_set(whole: Path) -> None:
    sizes = []
    for g in range(3):
        folder = whole / f"generation-{g:03d}"
        frames = written_frames(folder / "train.xyz") + written_frames(folder / "validation.xyz")
        sizes.append(len(frames))
        for atoms in frames:
            reference = atoms.copy()
            reference.calc = EMT()
            assert atoms.get_potential_energy() == pytest.approx(
                reference.get_potential_energy(), abs=1e-6
            )
            np.testing.assert_allclose(atoms.get_forces(), reference.get_forces(), atol=1e-6)
    assert sizes == [8, 13, 18]
    outcome = json.loads((whole / "learning.json").read_text())
    assert outcome["labels"] == 18
    assert [g["selected"] for g in outcome["generations"]] == [5, 5, 0]
    assert outcome["reason"] == "the last of 3 generations"
    assert set(outcome["seconds"]) == {"training", "exploration", "labelling", "other"}
    assert 0 <= outcome["overhead_fraction"] <= 1
    computed = (whole / "computed.txt").read_text().split()
    assert len(computed) == len(set(computed)) == 18


def test_md_and_udd_run_from_each_start_at_each_temperature(tmp_path: Path) -> None:
    settings = LearningSettings(**{**vars(QUICK), "temperatures": (200.0, 400.0), "generations": 1})
    result = learn(tmp_path, settings)
    names = [r["name"] for r in result.generations[0].runs]
    assert names == [
        "copper-200K-md", "copper-400K-md", "copper-200K-udd", "copper-400K-udd",
    ]  # fmt: skip
    for run in result.generations[0].runs:
        folder = tmp_path / result.generations[0].run_folder(run["name"])
        assert (folder / "trajectory.xyz").is_file()
        assert (folder / "udd.json").is_file() == run["udd"]
    assert result.generations[0].seen == {"md": 22, "udd": 22}


def test_where_sigma_is_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a perfect crystal by symmetry; where it is everywhere, nothing drives a run."""

    def crystal() -> dict[str, Atoms]:
        return {"copper": bulk("Cu", cubic=True)}

    settings = QUICK.replace(generations=1)
    (tmp_path / "crystal").mkdir()
    runs = learn(tmp_path / "crystal", settings, starts=crystal).generations[0]
    driven = tmp_path / "crystal" / runs.run_folder("copper-300K-udd")
    assert (driven / "udd.json").is_file()

    def flat(*arguments: object, **named: object) -> None:
        raise FlatUncertainty("its gradient is zero")

    monkeypatch.setattr("eip.active_learning.exploration.propose_udd", flat)
    (tmp_path / "flat").mkdir()
    with pytest.warns(UserWarning, match="copper-300K-udd runs without a bias"):
        found = learn(tmp_path / "flat", settings, starts=crystal).generations[0]
    assert [run["ending"] for run in found.runs] == ["finished"] * 2
    folder = tmp_path / "flat" / found.run_folder("copper-300K-udd")
    assert (folder / "trajectory.xyz").is_file() and not (folder / "udd.json").is_file()


def test_replicas_differ_and_may_share_their_calls(tmp_path: Path) -> None:
    found = {}
    for together in (1, 4):
        settings = QUICK.replace(replicas=3, together=together, generations=1)
        folder = tmp_path / str(together)
        folder.mkdir()
        found[together] = learn(folder, settings).generations[0]
    assert [r["name"] for r in found[1].runs] == [
        "copper-300K-md", "copper-300K-md-1", "copper-300K-md-2",
        "copper-300K-udd", "copper-300K-udd-1", "copper-300K-udd-2",
    ]  # fmt: skip
    ends = {}
    for together, generation in found.items():
        folder = tmp_path / str(together)
        assert [r["ending"] for r in generation.runs] == ["finished"] * 6
        ends[together] = np.array([
            read(folder / generation.run_folder(run["name"]) / "trajectory.xyz", "-1").positions
            for run in generation.runs
        ])  # fmt: skip
    assert np.abs(ends[1][1:] - ends[1][:-1]).max(axis=(1, 2)).min() > 1e-4
    np.testing.assert_allclose(ends[4], ends[1], atol=1e-5)
    times = read_tasks(tmp_path / "4" / "tasks.csv")
    assert [t.name for t in times if t.kind == "dynamics"] == [
        "copper-300K-md and 3 more", "copper-300K-udd-1 and 1 more",
    ]  # fmt: skip


def test_a_run_that_is_over_is_read_not_repeated(whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("model.eip")}
    result = learn(whole)
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("model.eip")} == before
    assert result.reason == "the last of 3 generations"


def test_a_raised_bound_goes_on(tmp_path: Path) -> None:
    two = LearningSettings(**{**vars(QUICK), "generations": 2})
    assert learn(tmp_path, two).labels == 13
    result = learn(tmp_path, QUICK)
    assert result.labels == 18 and len(result.generations) == 3
    computed = (tmp_path / "computed.txt").read_text().split()
    assert len(computed) == len(set(computed)) == 18


def test_what_is_past_the_window_is_not_certain(tmp_path: Path) -> None:
    settings = QUICK.replace(lower=1e-7, upper=2e-7, candidate_ratio=0.1)
    result = learn(tmp_path, settings)
    (only,) = result.generations
    assert only.above == only.seen and only.uncertain("md") == only.seen["md"]
    assert "is past 2e-07 eV/Å (learn.upper)" in result.reason
    result = learn(tmp_path, settings.replace(upper=1e6))
    assert len(result.generations) == 3 and result.labels == 18


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    learn(tmp_path, QUICK.replace(generations=1))
    (tmp_path / "generation-000" / "generation.json").write_text("{")
    with pytest.raises(InputError, match=r"generation\.json is damaged .*delete it"):
        learn(tmp_path, QUICK.replace(generations=1))
    (tmp_path / "generation-000" / "generation.json").unlink()
    assert learn(tmp_path, QUICK.replace(generations=1)).labels == 8


def test_it_converges_when_nothing_is_uncertain(tmp_path: Path) -> None:
    settings = LearningSettings(
        **{**vars(QUICK), "lower": 1e5, "upper": 1e6, "candidate_ratio": 0.1}
    )
    result = learn(tmp_path, settings)
    assert result.reason.startswith("converged: every run of MD is stable")
    assert result.labels == 8 and len(result.generations) == 1


def test_bounds_on_labels_and_time(tmp_path: Path) -> None:
    settings = LearningSettings(**{**vars(QUICK), "max_labels": 10})
    result = learn(tmp_path / "labels", settings)
    assert result.labels == 10 and "the bound is 10" in result.reason
    settings = LearningSettings(**{**vars(QUICK), "max_hours": 1e-6})
    assert "hours are spent" in learn(tmp_path / "hours", settings).reason


def test_a_failed_calculation_is_never_a_label(tmp_path: Path) -> None:
    labeler = CountingEMT(
        tmp_path / "computed.txt", lambda a: round(1e4 * a.positions[0, 0]) % 3 == 0
    )
    result = learn(tmp_path, labeler=labeler)
    rejected = Ledger(tmp_path / "ledger.db").candidates("rejected")
    assert rejected and all("SCF did not converge" in c.reason for c in rejected)
    assert result.labels == len((tmp_path / "computed.txt").read_text().split())
    assert all(c.atoms.calc is None for c in rejected)


def test_nothing_labelled_is_an_error(tmp_path: Path) -> None:
    labeler = CountingEMT(tmp_path / "computed.txt", lambda a: True)
    with pytest.raises(InputError, match=r"no label could be made.*SCF did not converge"):
        learn(tmp_path, labeler=labeler)


class Broken(CountingEMT):
    """Fails in a way that no labeler means to, for all or for some structures."""

    def __init__(self, log: Path, share: int) -> None:
        super().__init__(log)
        self.share = share

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        if int(folder.name[-2:], 16) % self.share == 0:
            raise MemoryError("no memory left on this node")
        return super().label(atoms, folder)


def test_a_broken_site_rejects_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no worker finished any of 8 labels"):
        learn(tmp_path, labeler=Broken(tmp_path / "computed.txt", 1))
    assert Ledger(tmp_path / "ledger.db").counts()["submitted"] == 8
    assert learn(tmp_path).labels == 18
    other = tmp_path / "some"
    learn(other, labeler=Broken(tmp_path / "computed.txt", 3))
    rejected = Ledger(other / "ledger.db").candidates("rejected")
    assert rejected and all("MemoryError" in c.reason for c in rejected)


class Liar(CountingEMT):
    """One label in four is of another energy scale, one has a net force."""

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        good = super().label(atoms, folder)
        lie = int(folder.name[-2:], 16) % 4
        energy, forces = good.calc.results["energy"], good.calc.results["forces"]
        if lie == 1:
            return labelled_copy(good, energy + 1000.0, forces)
        return labelled_copy(good, energy, forces + 0.3 * (lie == 2))


def test_a_label_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    settings = LearningSettings(**{**vars(QUICK), "initial": 40})
    learn(tmp_path, settings, Liar(tmp_path / "computed.txt"))
    reasons = [c.reason for c in Ledger(tmp_path / "ledger.db").candidates("rejected")]
    assert any("net force" in r for r in reasons)
    kept = Ledger(tmp_path / "ledger.db").candidates("used", "labelled")
    assert all(int(c.key[-2:], 16) % 4 != 2 for c in kept)
    assert any("energy" in r for r in reasons)
    assert all(int(c.key[-2:], 16) % 4 != 1 for c in kept)
    assert len(kept) > 12


def test_random_selection_takes_from_all_frames(tmp_path: Path) -> None:
    settings = LearningSettings(**{**vars(QUICK), "selection": "random", "udd": False})
    result = learn(tmp_path, settings)
    assert [g.selected for g in result.generations] == [5, 5, 0]
    assert {c.origin for c in Ledger(tmp_path / "ledger.db").candidates("used")} == {
        "initial", "copper-300K-md",
    }  # fmt: skip


def test_the_window_alone_selects_from_what_is_uncertain(tmp_path: Path) -> None:
    def selected(selection: str, lower: float) -> list[float]:
        folder = tmp_path / f"{selection}-{lower:.3g}"
        folder.mkdir()
        changes = {"selection": selection, "lower": lower, "upper": 1e6, "generations": 2}
        learn(folder, LearningSettings(**{**vars(QUICK), **changes}))
        found = Ledger(folder / "ledger.db").candidates("labelled", "used", generation=0)
        return [c.sigma for c in found]

    middle = float(np.median(selected("random", 1e-6)))
    assert min(selected("random", middle)) < middle <= min(selected("window", middle))


def first_model(folder: Path) -> Path:
    """What a run without a frame begins with."""
    frames = []
    for seed in range(6):
        atoms = start()["copper"]
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        frames.append(labelled_copy(atoms, atoms.get_potential_energy(), atoms.get_forces()))
    write_frames(frames, folder / "frames.xyz")
    return train(TrainingTask(folder / "first", folder / "frames.xyz", folder / "frames.xyz", 0))


@pytest.mark.parametrize("labels", [1, 5])
def test_a_run_without_a_frame(tmp_path: Path, labels: int) -> None:
    settings = QUICK.replace(initial=0, labels=labels)
    with pytest.raises(InputError, match="something to begin with"):
        learn(tmp_path / "none", settings)
    first = first_model(tmp_path)
    run = LearningRun(
        tmp_path / "run", settings, start(), CountingEMT(tmp_path / "computed.txt"), train,
        first=first, progress=False,
    )  # fmt: skip
    zeroth, second, third = run.run().generations
    assert (zeroth.training_frames, zeroth.metrics, zeroth.selected) == (0, {}, labels)
    # One label cannot be trained on and validated with: the first model goes on with it.
    together = second.training_frames + second.validation_frames
    assert together == (0 if labels == 1 else 5)
    assert third.training_frames + third.validation_frames == 2 * labels
    assert third.training_frames > 0 < third.validation_frames
    # Bounds are by what forces the first model says, wherever dynamics collapsed.
    plain = QUICK.replace(initial=0, labels=labels, lower=None, upper=None)
    run = LearningRun(
        tmp_path / "bounds", plain, start(), CountingEMT(tmp_path / "computed.txt"), train,
        first=first, progress=False,
    )  # fmt: skip
    upper = run.run().generations[0].upper
    explored = tmp_path / "bounds/generation-000/explore/copper-300K-md"
    wild = [atoms for atoms, _, _ in frames_of(explored)][:4]
    for atoms in wild:
        atoms.calc.results["forces"] *= 1e6
        atoms.info["step"] += 100_000
    write(explored / "approach.xyz", wild, format="extxyz")
    (tmp_path / "bounds/generation-000/generation.json").unlink()
    again = run.run().generations[0].upper
    assert upper == pytest.approx(again, rel=0.5)


def test_checks_that_were_begun_count_among_the_labels(tmp_path: Path) -> None:
    settings = QUICK.replace(target=1e-6, checks=10, max_labels=12, generations=2)

    class Dies(CountingEMT):
        def label(self, atoms: Atoms, folder: Path) -> Atoms:
            if len((tmp_path / "computed.txt").read_text().split()) == 10:
                raise KeyboardInterrupt
            return super().label(atoms, folder)

    (tmp_path / "computed.txt").touch()
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "run", settings, Dies(tmp_path / "computed.txt"))
    learn(tmp_path / "run", settings, CountingEMT(tmp_path / "computed.txt"))
    assert len((tmp_path / "computed.txt").read_text().split()) == 12


def test_labelled_frames_to_begin_with(tmp_path: Path) -> None:
    frames = []
    for seed in range(12):
        atoms = start()["copper"]
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        frames.append(labelled_copy(atoms, atoms.get_potential_energy(), atoms.get_forces()))
    run = LearningRun(
        tmp_path,
        LearningSettings(**{**vars(QUICK), "generations": 2}),
        start(),
        CountingEMT(tmp_path / "computed.txt"),
        train,
        (frames[:10], frames[10:]),
        progress=False,
    )
    result = run.run()
    assert result.labels == 5
    assert [g.training_frames + g.validation_frames for g in result.generations] == [12, 17]


def test_status_says_where_it_is(whole: Path, tmp_path: Path) -> None:
    found = status(whole)
    assert found["candidates"]["used"] == 18
    assert found["generations complete"] == 3
    assert found["outcome"] == "the last of 3 generations"
    with pytest.raises(InputError, match="no learning run"):
        status(tmp_path)


def test_a_label_of_another_structure_is_noticed(tmp_path: Path) -> None:

    atoms = start()["copper"]
    label_one(CountingEMT(tmp_path / "computed.txt"), atoms, tmp_path / "here")
    read_label(atoms, tmp_path / "here")
    atoms.positions[0, 0] += 0.1
    with pytest.raises(InputError, match="another structure"):
        read_label(atoms, tmp_path / "here")


# Good enough


AIM = QUICK.replace(generations=2, target=0.05, checks=9, labels=4, lower=None)


#: An error that no label here has.
EASY = AIM.replace(target=1e3)


@pytest.fixture
def any_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibration of the trainings here is made up."""
    monkeypatch.setattr("eip.active_learning.checks.LEAST_COVERAGE", 0.0)


def test_it_is_done_when_frames_that_nothing_was_trained_on_say_so(
    tmp_path: Path, any_coverage: None
) -> None:
    result = learn(tmp_path, EASY)
    (only,) = result.generations
    assert only.check is not None and only.check["frames"] == 9 and only.check["failed"] == 0
    assert result.reason.startswith("done: on 9 frames of MD that nothing was trained on")
    assert only.selected == 0 and result.labels == 8 + 9
    checks = [c for c in Ledger(tmp_path / "ledger.db").candidates() if c.checks]
    assert len(checks) == 9 and {c.state for c in checks} == {"labelled"}
    assert {c.origin for c in checks} == {"copper-300K-md"}
    assert len(written_frames(tmp_path / "checks.xyz")) == 9


def test_checks_are_never_trained_on_and_what_is_missing_is_said(tmp_path: Path) -> None:
    result = learn(tmp_path, AIM)
    assert result.reason == "the last of 2 generations"
    first, second = result.generations
    assert first.verdict.startswith("not yet good enough: on 9 frames of MD")
    assert "the target is 50" in first.verdict and "of one generation" in first.verdict
    assert "labels more" in second.verdict or "did not fall" in second.verdict
    assert (first.labels, second.labels) == (8, 8 + 9 + first.labelled)
    ledger = Ledger(tmp_path / "ledger.db")
    checks = {c.key for c in ledger.candidates() if c.checks}
    assert len(checks) == 18
    trained = {c.key for c in ledger.candidates("used")}
    assert not checks & trained and len(trained) == 8 + first.labelled
    names = [tmp_path / f"generation-001/{name}.xyz" for name in ("train", "validation")]
    frames = [atoms for name in names for atoms in written_frames(name)]
    assert len(frames) == len(trained)


def test_labels_are_asked_for_where_nothing_is_uncertain(tmp_path: Path) -> None:
    result = learn(tmp_path, AIM.replace(lower=1e5))
    assert [g.candidates["md"] for g in result.generations] == [0, 0]
    assert result.generations[0].selected == 4


def test_a_lower_target_opens_a_run_again(tmp_path: Path, any_coverage: None) -> None:
    first = learn(tmp_path, EASY)
    assert learn(tmp_path, EASY).reason == first.reason
    again = learn(tmp_path, AIM)
    assert again.reason == "the last of 2 generations" and len(again.generations) == 2
    computed = (tmp_path / "computed.txt").read_text().split()
    assert len(computed) == len(set(computed))


def test_too_few_checks_for_the_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a confidence of 0\.9 needs 9 checks"):
        LearningSettings(target=0.05, checks=8)


# Fragments and their price


PIECES = QUICK.replace(generations=2, initial=5, labels=6, fragment_radius=2.5, max_force=1e4)


def droplet() -> dict[str, Atoms]:
    """Six molecules in vacuum, every other one as close to its neighbor as two can be."""
    made = Atoms()
    for place in range(6):
        one = molecule("H2O" if place % 3 else "CH3OH")
        one.positions += [4.0 * place + 0.8 * (place % 2), 0.0, 0.0]
        made += one
    return {"droplet": made}


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is uncertain of everything, as the potentials here are, makes fragments all the same;
    and prices that no clock has a say in."""
    monkeypatch.setattr("eip.active_learning.fragments._FEW", 1.0)
    price = Price(2.0, 0.001, 5)
    monkeypatch.setattr("eip.active_learning.loop.fitted_price", lambda atoms, seconds: price)


def test_fragments_are_labelled_and_trained_on(tmp_path: Path, pieces: None) -> None:
    result = learn(tmp_path, PIECES, starts=droplet)
    first, second = result.generations
    assert first.fragments > 0 and first.labelled == first.selected == 6
    candidates = {c.key: c for c in Ledger(tmp_path / "ledger.db").candidates()}
    cut = [c for c in candidates.values() if c.cut is not None and c.state == "used"]
    assert len(cut) == first.fragments
    sizes = [len(c.atoms) for c in candidates.values() if c.generation == 0 and c.used_in == 1]
    assert first.expected_seconds == pytest.approx(0.001 * np.square(sizes).sum())
    assert first.price == {"exponent": 2.0, "seconds": 0.001, "labels": 5}
    assert second.price is None and second.fragments == 0
    whole = len(droplet()["droplet"])
    for c in cut:
        assert c.cut is not None and c.cut.of == whole and len(c.atoms) <= whole / 2
        folder = tmp_path / "generation-000/explore" / c.origin
        (frame,) = [a for a, _, _ in frames_of(folder) if a.info["step"] == c.cut.step]
        np.testing.assert_allclose(frame.positions[list(c.cut.atoms)], c.atoms.positions, atol=1e-7)
        alone = c.atoms.copy()
        alone.calc = EMT()
        assert c.atoms.get_potential_energy() == pytest.approx(alone.get_potential_energy())
    trained = [
        len(atoms)
        for name in ("train", "validation")
        for atoms in written_frames(tmp_path / f"generation-001/{name}.xyz")
    ]
    assert sorted(trained) == sorted([whole] * 5 + sizes)


def test_no_piece_of_a_check_is_trained_on(tmp_path: Path, pieces: None) -> None:
    settings = AIM.replace(initial=5, fragment_radius=2.5, labels=9, lower=1e-6)
    learn(tmp_path, settings, starts=droplet)
    candidates = Ledger(tmp_path / "ledger.db").candidates()
    checks = [c.atoms.positions for c in candidates if c.checks]
    cut = [c for c in candidates if c.cut is not None]
    assert cut and len(checks) == 18
    for c in cut:
        assert c.cut is not None
        at = list(c.cut.atoms)
        assert all(np.abs(frame[at] - c.atoms.positions).max() > 1e-6 for frame in checks)


def test_why_frames_stay_whole_is_said_once_and_a_charge_refused(tmp_path: Path) -> None:
    said: list[str] = []
    settings = QUICK.replace(generations=1, initial=5, fragment_radius=2.5)
    labeler = CountingEMT(tmp_path / "computed.txt")
    run = LearningRun(
        tmp_path,
        settings,
        start(),
        labeler,
        train,
        progress=False,
        say=lambda m: said.append(str(m)),
    )
    run.run()
    told = [text for text in said if "labelled whole" in text]
    assert told == [
        "Frames of copper are labelled whole: it holds Cu, and a piece with a metal may be charged."
    ]
    charged = droplet()
    charged["droplet"].info["charge"] = 1
    with pytest.raises(InputError, match=r"start droplet: .*charge 1"):
        learn(tmp_path / "charged", PIECES, Told(tmp_path / "none.txt"), lambda: charged)
    with pytest.raises(ValueError, match="give each structure charge 1, which a fragment has not"):
        PIECES.replace(labeler_options={"charge": 1})


class Told(CountingEMT):
    """Takes any charge."""

    def check(self, atoms: Atoms) -> None:
        pass


def mixed() -> dict[str, Atoms]:
    return {"small": Octahedron("Cu", 2), "large": Octahedron("Cu", 3)}


def test_a_price_is_fixed_before_it_has_a_say(tmp_path: Path) -> None:
    settings = QUICK.replace(generations=2, initial=6)

    def dies() -> None:
        original, left = Ledger.select, [2]

        def select(*arguments: object) -> None:
            left[0] -= 1
            if not left[0]:
                die()
            original(*arguments)

        Ledger.select = select

    assert killed(forked(tmp_path, dies, settings, mixed))
    kept = tmp_path / "generation-000/price.json"
    before = json.loads(kept.read_text())
    assert before["labels"] == 6
    # Had times a say now, large ones would be cheap.
    with (tmp_path / "tasks.csv").open("a") as file:
        for c in Ledger(tmp_path / "ledger.db").candidates("used", "labelled"):
            file.write(f"label,{c.key},1.0,{1e9 * len(c.atoms) ** -4.0:.3f}\n")
    result = learn(tmp_path, settings, starts=mixed)
    assert json.loads(kept.read_text()) == before == result.generations[0].price


def test_a_label_that_was_there_already_takes_no_time(tmp_path: Path) -> None:
    settings = QUICK.replace(generations=1, initial=6)

    def dies() -> None:
        import eip.active_learning.loop as loop

        def labelled(*task: object) -> None:
            label_one(*task)
            if len(list(tmp_path.glob("labels/*/label.npz"))) == 3:
                die()

        loop.label_one = labelled

    assert killed(forked(tmp_path, dies, settings))
    there = {p.parent.name for p in tmp_path.glob("labels/*/label.npz")}
    noted = {t.name for t in read_tasks(tmp_path / "tasks.csv")}
    assert there - noted
    learn(tmp_path, settings)
    names = [t.name for t in read_tasks(tmp_path / "tasks.csv") if t.kind == "label"]
    assert len(names) == len(set(names)) and not set(names) & (there - noted)


# Killed


def forked(
    folder: Path,
    prepare: Callable[[], None],
    settings: LearningSettings = QUICK,
    starts: Callable[[], dict[str, Atoms]] = start,
) -> int:
    """Starts a run in a forked child; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        prepare()
        learn(folder, settings, starts=starts)
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def killed(pid: int) -> bool:
    """Waits; whether the child was killed. A child that failed by itself is an error."""
    _, status_ = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status_):
        return True
    assert os.WEXITSTATUS(status_) == 0
    return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(count: int, after: bool) -> Callable[[], None]:
    """Kills the process before or after the n-th thing that is written down."""

    def prepare() -> None:
        left = [count]

        def wrap(owner: object, name: str) -> None:
            original = getattr(owner, name)

            def wrapped(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] == 0 and not after:
                    die()
                result = original(*arguments, **options)
                if left[0] == 0:
                    die()
                return result

            setattr(owner, name, wrapped)

        import eip.active_learning.loop as loop

        for name in ("propose", "select", "submit", "label", "use"):
            wrap(Ledger, name)
        for name in ("write_whole", "write_frames", "label_one", "explore"):
            wrap(loop, name)

    return prepare


def check_same(folder: Path, whole: Path) -> None:
    assert labels_of(folder) == labels_of(whole)
    computed = (folder / "computed.txt").read_text().split()
    kept = {p.parent.name for p in folder.glob("labels/*/label.npz")}
    assert set(computed) == kept == set(labels_of(folder))
    for g in range(3):
        name = f"generation-{g:03d}/train.xyz"
        assert (folder / name).read_text() == (whole / name).read_text()


def test_killed_at_every_state_it_ends_the_same(tmp_path: Path, whole: Path) -> None:
    """Before and after each thing that is written, one kill each; then it runs to its end."""
    folder, deaths = tmp_path / "run", 0
    folder.mkdir()
    for count in (1, 2, 3):
        for after in (False, True):
            while killed(forked(folder, dies_at(count, after))):
                deaths += 1
                if deaths % 40 == 39:
                    break
            else:
                check_same(folder, whole)
                folder = tmp_path / f"run{count}{after}"
                folder.mkdir()
    assert deaths >= 50


def test_killed_while_it_checks_it_ends_the_same(tmp_path: Path) -> None:
    settings, whole, folder = AIM.replace(initial=5), tmp_path / "whole", tmp_path / "run"
    for path in (whole, folder):
        path.mkdir()
    learn(whole, settings)
    for count in range(1, 60):
        # Each life a step longer than the one before, so that it dies at every step once.
        if not killed(forked(folder, dies_at(count, after=count % 2 == 0), settings)):
            break
    else:
        learn(folder, settings)
    assert labels_of(folder) == labels_of(whole)
    told = [json.loads((path / "learning.json").read_text()) for path in (whole, folder)]
    assert [g["check"] for g in told[0]["generations"]] == [
        g["check"] for g in told[1]["generations"]
    ]


def test_killed_while_runs_share_their_calls_it_ends_the_same(tmp_path: Path) -> None:
    settings, whole, folder = QUICK.replace(replicas=2, together=4), tmp_path / "a", tmp_path / "b"
    for path in (whole, folder):
        path.mkdir()
    learn(whole, settings)
    rng = random.Random(1)
    for deaths in range(12):
        pid = forked(folder, lambda: None, settings)
        time.sleep(rng.uniform(0.05, 0.8 + 0.1 * deaths))
        os.kill(pid, signal.SIGKILL)
        if not killed(pid):
            break
    learn(folder, settings)
    check_same(folder, whole)


def test_killed_with_fragments_it_ends_the_same(tmp_path: Path, pieces: None) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    for path in (whole, folder):
        path.mkdir()
    learn(whole, PIECES, starts=droplet)
    for count in range(1, 60):
        # As above: at every step once.
        if not killed(forked(folder, dies_at(count, after=count % 2 == 0), PIECES, droplet)):
            break
    else:
        learn(folder, PIECES, starts=droplet)
    assert labels_of(folder) == labels_of(whole)

    def cuts(path: Path) -> dict[str, object]:
        ledger = Ledger(path / "ledger.db")
        return {c.key: (c.cut, c.sigma) for c in ledger.candidates("labelled", "used")}

    assert cuts(folder) == cuts(whole)
    assert any(cut for cut, _ in cuts(whole).values())
    told = [
        json.loads((path / "generation-000/generation.json").read_text())
        for path in (whole, folder)
    ]
    assert told[0]["fragments"] == told[1]["fragments"] > 0


def test_killed_at_random_moments_it_ends_the_same(tmp_path: Path, whole: Path) -> None:
    rng = random.Random(0)
    deaths, round_ = 0, 0
    while deaths < 50:
        folder = tmp_path / f"round{round_}"
        folder.mkdir()
        round_ += 1
        while True:
            pid = forked(folder, lambda: None)
            # Longer each time: on a busy machine a short life would come to nothing for ever.
            time.sleep(rng.uniform(0.02, 0.8 + 0.02 * deaths))
            os.kill(pid, signal.SIGKILL)
            if not killed(pid):
                break
            deaths += 1
        check_same(folder, whole)
        # A calculation that had finished is not done again: as many lines as labels.
        computed = (folder / "computed.txt").read_text().split()
        assert len(computed) - len(set(computed)) <= deaths


def test_what_was_begun_to_be_labelled_is_trained_on_whatever_the_clock_says(
    tmp_path: Path,
) -> None:
    """Killed while labelling, and no time is left when it goes on."""

    def dies() -> None:
        import eip.active_learning.loop as loop

        def once(*task: object) -> None:
            label_one(*task)  # type: ignore[arg-type]
            if (tmp_path / "generation-000/explore").is_dir():
                die()

        loop.label_one = once  # type: ignore[assignment]

    assert killed(forked(tmp_path, dies))
    result = learn(tmp_path, QUICK.replace(max_hours=1e-9))
    assert [g.selected for g in result.generations] == [5, 0]
    assert result.generations[1].labels == 13
    assert "hours are spent" in result.reason


def test_rattled_starts_are_judged_each_by_its_own(tmp_path: Path) -> None:
    def cells() -> dict[str, Atoms]:
        return {"cell": bulk("Cu", cubic=True), "larger": bulk("Cu", cubic=True) * (2, 1, 1)}

    said: list[object] = []
    labeler = CountingEMT(tmp_path / "computed.txt")
    settings = QUICK.replace(generations=1)
    LearningRun(tmp_path, settings, cells(), labeler, train, progress=False, say=said.append).run()
    sizes = [len(c.atoms) for c in Ledger(tmp_path / "ledger.db").candidates(generation=-1)]
    assert sorted(sizes) == [4] * 4 + [8] * 4
    assert not any("left out" in str(line) for line in said)


def test_rattled_starts_that_are_left_out_are_counted(tmp_path: Path) -> None:
    said: list[object] = []
    labeler = CountingEMT(tmp_path / "computed.txt")
    settings = QUICK.replace(generations=1, rattle=0.6, initial=40)
    LearningRun(tmp_path, settings, start(), labeler, train, progress=False, say=said.append).run()
    kept = len(Ledger(tmp_path / "ledger.db").candidates(generation=-1))
    assert 0 < kept < 40
    assert any(f"{40 - kept} of 40 rattled starts are left out" in str(line) for line in said)


def test_a_walker_that_was_interrupted_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eip.active_learning import exploration

    real, times = exploration.run_dynamics, []

    def interrupted(*arguments: object, **options: object) -> object:
        summary = real(*arguments, **options)  # type: ignore[arg-type]
        times.append(summary)
        return replace(summary, cause="interrupted") if len(times) == 1 else summary

    monkeypatch.setattr(exploration, "run_dynamics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path)
    assert not (tmp_path / "generation-000/generation.json").exists()
    assert all(run["cause"] == "steps" for g in learn(tmp_path).generations for run in g.runs)


# Labels while the next generation trains

#: "serial" is refused from outside: there it would wait for labels and gain nothing.
LATE = QUICK.model_copy(update={"overlap": True, "generations": 5})


def test_labels_are_trained_on_a_generation_later(tmp_path: Path) -> None:
    result = learn(tmp_path, LATE)
    ledger = Ledger(tmp_path / "ledger.db")
    used = {(c.generation, c.used_in) for c in ledger.candidates("used")}
    # The first frames at once; the last generation waits for what the one before it selected.
    assert used == {(-1, 0), (0, 2), (1, 3), (2, 4), (3, 4)}
    assert [g.training_frames + g.validation_frames for g in result.generations] == [
        *(8, 8, 13, 18, 28)
    ]
    assert [g.selected for g in result.generations] == [5, 5, 5, 5, 0]
    assert [g.labelled for g in result.generations] == [0, 5, 5, 5, 5]
    models = [tmp_path / f"generation-{g:03d}/model/model.eip" for g in range(3)]
    assert models[0].read_bytes() == models[1].read_bytes() != models[2].read_bytes()
    trained = [task.name for task in read_tasks(tmp_path / "tasks.csv") if task.kind == "training"]
    assert trained == [f"generation-{g:03d}" for g in (0, 2, 3, 4)]


def test_it_does_not_end_with_labels_that_nothing_was_trained_on(tmp_path: Path) -> None:
    result = learn(tmp_path, LATE.model_copy(update={"max_labels": 16}))
    assert [g.selected for g in result.generations] == [5, 3, 0, 0]
    assert result.labels == 16 == result.generations[-1].labels
    assert "16 labels are spent" in result.reason
    assert not Ledger(tmp_path / "ledger.db").candidates("labelled")


def test_fewer_generations_change_no_training_that_has_begun(tmp_path: Path) -> None:
    def stopped(task: TrainingTask) -> Path:
        model = train(task)
        if task.run_dir.parent.name == "generation-002":
            raise InterruptedError
        return model

    labeler = CountingEMT(tmp_path / "computed.txt")
    folder, second = tmp_path / "run", tmp_path / "run/generation-002"
    with pytest.raises(InterruptedError):
        LearningRun(folder, LATE, start(), labeler, stopped, progress=False).run()
    begun = (second / "train.xyz").read_bytes()
    fewer = LATE.model_copy(update={"generations": 3})
    result = LearningRun(folder, fewer, start(), labeler, train, progress=False).run()
    assert (second / "train.xyz").read_bytes() == begun
    # It had not waited for the labels before it: one more generation is trained on them.
    last = result.generations[-1]
    assert last.generation == 3 and last.labels == result.labels
    assert not Ledger(folder / "ledger.db").candidates("labelled")


def test_workers_label_while_a_training_runs(tmp_path: Path) -> None:
    """The training itself waits for the labels of the generation before: it would for ever."""
    (tmp_path / "emt.py").write_text("from ase.calculators.emt import EMT as make\n")
    labeler = make_labeler("ase", calculator=f"{tmp_path / 'emt.py'}:make")
    met: list[str] = []

    def slow(task: TrainingTask) -> Path:
        ledger = Ledger(tmp_path / "run/ledger.db")
        open_ = ledger.candidates("submitted")
        deadline = time.monotonic() + 120
        for candidate in open_:
            while not (tmp_path / "run/labels" / candidate.key / "label.npz").is_file():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        met.extend(f"{task.run_dir.parent.name} {c.generation}" for c in open_)
        return train(task)

    settings = QUICK.replace(executor="processes", overlap=True, generations=4, udd=False)
    LearningRun(tmp_path / "run", settings, start(), labeler, slow, progress=False).run()
    assert met == ["generation-002 1"] * 5


def test_overlap_wants_workers() -> None:
    with pytest.raises(InputError, match=r"overlap needs workers.*serial"):
        QUICK.replace(overlap=True)


def test_killed_while_generations_overlap_it_ends_the_same(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    for path in (whole, folder):
        path.mkdir()
    learn(whole, LATE)
    for count in range(1, 80):
        if not killed(forked(folder, dies_at(count, after=count % 2 == 0), LATE)):
            break
    else:
        learn(folder, LATE)
    check_same(folder, whole)
    told = [json.loads((path / "learning.json").read_text()) for path in (whole, folder)]
    for key in ("labels", "selected", "labelled", "rejected"):
        assert [g[key] for g in told[0]["generations"]] == [g[key] for g in told[1]["generations"]]
