from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read, write

import eip
from eip.cli import main
from eip.model_file import load_model, read_model_info, save_model
from eip.verbs import compare, costs

Run = Callable[..., tuple[int, str, str]]

TINY = """
run_dir: run
data:
  train: train.xyz
  validation: 4
  test: test.xyz
model: {channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.0}
training: {epochs: 2, num_workers: 0, device: cpu}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Path:
    """A folder with a trained model in run/."""
    folder = tmp_path_factory.mktemp("cli")
    write(folder / "train.xyz", read(demo_data / "ethanol_300K.xyz", ":24"))
    write(folder / "test.xyz", read(demo_data / "ethanol_300K_test.xyz", ":6"))
    write(folder / "hot.xyz", read(demo_data / "ethanol_800K_test.xyz", ":6"))
    write(folder / "water.xyz", read(demo_data / "water_300K_test.xyz", ":2"))
    (folder / "config.yaml").write_text(TINY)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(folder / "config.yaml"), "--no-progress"])
    assert not ended.value.code
    return folder


def test_help_and_version_answer_at_once() -> None:
    code = "import sys, eip.cli; print(sorted({'torch', 'ase', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kernels_that_are_none_are_refused_before_anything_is_begun(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIP_KERNELS", "avx3")
    code, _, said = run("train", folder / "config.yaml", "--set", f"run_dir={folder}/never")
    assert code == 2 and "EIP_KERNELS is 'avx3'; expected one of native, avx512" in said
    assert not (folder / "never").exists()


def test_names_of_the_package() -> None:
    import eip

    assert eip.Calculator.__name__ == "Calculator"
    assert set(eip.__all__) <= set(dir(eip))
    for name in eip.__all__:
        assert getattr(eip, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Calculater'"):
        eip.Calculater  # noqa: B018


def test_version(run: Run) -> None:
    import eip

    assert run("--version")[:2] == (0, f"eip {eip.__version__}\n")


def test_init_writes_a_config_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    assert run("init", path, "--train", "a.xyz")[0] == 0
    assert "train: [a.xyz]" in path.read_text()
    code, _, said = run("init", path)
    assert (code, said) == (2, f"Error: {path} exists already; --force (force=True) replaces it")


def test_evidence_comes_with_latent_distance(folder: Path, run: Run) -> None:
    described = read_model_info(folder / "run" / "model.eip")["potential"]
    assert described["kind"] == "calibrated"
    assert described["settings"]["potential"]["kind"] == "latent_distance"
    md = ("md", folder / "run" / "model.eip", folder / "hot.xyz", "--udd", "--steps", "3")
    assert run(*md, "--out", folder / "far_md", "--no-progress")[0] == 0
    without = ("--set", "run_dir=near", "--set", "model.latent_distance=false")
    code, said, _ = run("train", folder / "config.yaml", "--no-progress", *without)
    assert code == 0 and "distance" not in said
    described = read_model_info(folder / "near" / "model.eip")["potential"]
    assert described["settings"]["potential"]["kind"] == "evidential"


def test_each_backbone_trains_and_another_does_not_go_on_with_it(folder: Path, run: Run) -> None:
    arguments = ["--set", "run_dir=ace", "--no-progress", "--effort", "quick"]
    code, _, err = run("train", folder / "config.yaml", *arguments)
    assert code == 0, err
    model = folder / "ace" / "model.eip"
    described = read_model_info(model)["potential"]
    while "potential" in described["settings"]:
        described = described["settings"]["potential"]
    settings = described["settings"]
    backbone = settings["backbone"]
    assert backbone["name"] == "cartesian_ace"
    # Ethanol has nine atoms; within 3 Å an atom has most of the others beside it.
    assert 4.0 < backbone["mean_neighbors"] < 8.0
    assert backbone["feature_limit"] == 6.0
    code, _, err = run("evaluate", model, folder / "test.xyz", "--out", folder / "ace_measured")
    assert code == 0, err
    other = ("--set", "model.backbone=painn")
    code, _, err = run("train", folder / "config.yaml", *arguments, *other, "--resume")
    assert code == 2 and "backbone" in err
    arguments[1] = "run_dir=painn"
    code, _, err = run("train", folder / "config.yaml", *arguments, *other)
    assert code == 0, err
    described = read_model_info(folder / "painn" / "model.eip")["info"]["config"]
    assert described["model"]["backbone"]["name"] == "painn"
    assert described["training"]["effort"] == "quick"


def test_an_ensemble_trains_in_parallel_resumes_and_is_one_file(folder: Path, run: Run) -> None:
    changes = [
        *("--set", "run_dir=four", "--set", "model.uncertainty=ensemble"),
        *("--set", "model.members=3", "--set", "training.parallel=2", "--no-progress"),
    ]
    # As a script of a user's without a guard, which processes that import it would run again.
    script = folder / "script.py"
    script.write_text(
        "import eip\nprint('begun')\n"
        f"config = eip.load_config('config.yaml', {changes[1:-1:2]})\n"
        "eip.train(config, progress=False, log=print)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1 and "3 of 3 networks are trained" in done.stdout
    models = [folder / "four" / "members" / str(k) / "model.eip" for k in range(3)]
    seeds = [read_model_info(m)["info"]["config"]["training"]["seed"] for m in models]
    assert seeds == [0, 1, 2]
    # Gone on with: one member is made again, the others are not.
    written = models[0].stat().st_mtime_ns
    models[2].unlink()
    (folder / "four" / "model.eip").unlink()
    code, _, _ = run("train", folder / "config.yaml", *changes, "--resume")
    assert code == 0 and models[0].stat().st_mtime_ns == written and models[2].is_file()
    for model in models:
        model.unlink()
    done = run("evaluate", folder / "four" / "model.eip", folder / "test.xyz",
               "--out", folder / "four" / "again", "--no-progress")  # fmt: skip
    assert done[0] == 0
    _, said, _ = run("info", folder / "four" / "model.eip")
    assert "ensemble of evidential" in said and "members: 3" in said


def test_compare_shares_networks_and_writes_table_and_plot(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = costs._step
    # A step of each method takes a second: how long it really takes is the machine's business.
    monkeypatch.setattr(costs, "_step", lambda *given: step(*given) * 0 + 1.0)
    command = [
        *("compare", folder / "config.yaml", "--methods", "tensor,ensemble,gmm"),
        *("--seeds", "0,1", "--set", "run_dir=side", "--set", "data.ood=hot.xyz"),
        *("--set", "model.members=2", "--no-progress"),
    ]
    code, said, _ = run(*command)
    assert code == 0 and "comparison.md" in said
    side = folder / "side"
    assert sorted(p.name for p in (side / "none").iterdir()) == [f"seed{k}" for k in range(4)]
    figures = json.loads((side / "comparison.json").read_text())
    assert set(figures) == {"none", "tensor", "ensemble", "gmm"}
    for method in ("tensor", "ensemble", "gmm"):
        of = figures[method]
        for key in ("force_mae", "spearman_atom_ood", "coverage_80", "ood_ratio", "prediction_cost",
                    "training_cost", "memory_mb"):  # fmt: skip
            assert of[key]["mean"] == of[key]["mean"], (method, key)
        assert of["force_mae"]["seeds"] == 2
    # The same network; and an ensemble is the mean of its members, so it costs them all.
    assert figures["gmm"]["force_mae"] == figures["none"]["force_mae"]
    assert {m: of["training_cost"]["mean"] for m, of in figures.items()} == {
        "none": 1.0, "tensor": 1.0, "ensemble": 2.0, "gmm": 1.0,
    }  # fmt: skip
    table = (side / "comparison.md").read_text().splitlines()
    assert table[0].startswith("| method | force MAE") and len(table) == 2 + 4
    assert (side / "comparison.png").stat().st_size > 10_000
    monkeypatch.setattr(compare, "costs_of", lambda models, config: {m: {} for m in models})
    # Again: nothing is trained. With other settings: nothing is mixed.
    written = (side / "tensor" / "seed0" / "model.eip").stat().st_mtime_ns
    assert run(*command)[0] == 0
    assert (side / "tensor" / "seed0" / "model.eip").stat().st_mtime_ns == written
    code, _, said = run(*command, "--set", "training.epochs=3")
    assert code == 2 and "training.epochs was 2, now 3" in said
    code, _, said = run(*command, "--set", "data.test=hot.xyz")
    assert code == 2 and "the test files have changed since the run was begun" in said
    code, _, said = run(*command[:-3], "--set", "model.members=3", "--no-progress")
    assert code == 2 and "model.members was 2, now 3" in said


def test_compare_names_what_is_missing(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    code, _, said = run("compare", config, "--methods", "tensr")
    assert code == 2 and "did you mean 'tensor'" in said
    code, _, said = run("compare", config, "--set", "data.test=[]")
    assert code == 2 and "data.test" in said
    code, _, said = run("compare", config, "--seeds", "a")
    assert code == 2 and "whole numbers" in said


def test_training_leaves_everything(folder: Path) -> None:
    files = {path.name for path in (folder / "run").iterdir()}
    assert {
        "model.eip", "metrics.json", "train.csv", "training.png", "config.yaml", "report.html",
        "predictions.xyz", "tensorboard", "checkpoints", "parity.png",
    } <= files  # fmt: skip
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["n_frames"] == 6
    assert metrics["force_mae"] > 0


def test_model_predicts_with_a_calibrated_error_bar(folder: Path) -> None:
    import eip
    from eip.uncertainty.calibrated import CalibratedPotential

    potential = eip.load(folder / "run" / "model.eip")
    assert isinstance(potential, CalibratedPotential)
    frames = read(folder / "test.xyz", ":")
    together = potential.predict(frames)
    atoms = frames[3].copy()
    atoms.calc = eip.Calculator(folder / "run" / "model.eip")
    np.testing.assert_allclose(
        atoms.get_forces(), together.forces[27:36].numpy(), rtol=1e-3, atol=1e-4
    )
    assert atoms.calc.results["force_uncertainty"].shape == (9,)


def test_a_run_folder_is_not_written_over(run: Run, folder: Path) -> None:
    code, _, said = run("train", folder / "config.yaml")
    assert code == 2
    assert "go on with --resume (resume=True), or choose another run_dir" in said


def test_resume_wants_the_same_configuration(run: Run, folder: Path) -> None:
    code, _, said = run("train", folder / "config.yaml", "--resume", "--set", "training.epochs=5")
    assert code == 2
    assert "training.epochs was 2, now 5" in said


def test_resume_of_a_finished_run_changes_no_figure(run: Run, folder: Path) -> None:
    path = folder / "run" / "metrics.json"
    before = json.loads(path.read_text())
    code, _, said = run("train", folder / "config.yaml", "--resume", "--no-progress")
    assert code == 0, said
    assert json.loads(path.read_text()) == before


def test_resume_wants_the_same_frames(run: Run, folder: Path, tmp_path: Path) -> None:
    frames = read(folder / "train.xyz", ":")
    write(tmp_path / "train.xyz", frames)
    write(tmp_path / "test.xyz", frames[:2])
    (tmp_path / "config.yaml").write_text(TINY)
    quick = ("--no-progress", "--set", "training.epochs=1")
    assert run("train", tmp_path / "config.yaml", *quick)[0] == 0
    write(tmp_path / "train.xyz", frames[:-1])
    code, _, said = run("train", tmp_path / "config.yaml", *quick, "--resume")
    assert code == 2
    assert "the train files have changed since the run was begun" in said


def test_evaluate_with_ood(run: Run, folder: Path) -> None:
    out = folder / "evaluation"
    code, shown, said = run(
        "evaluate", folder / "run/model.eip", folder / "test.xyz",
        "--ood", folder / "hot.xyz", "--out", out, "--no-progress",
    )  # fmt: skip
    assert code == 0, said
    assert "meV/Å" in shown
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ood_ratio"] > 0
    frames = read(out / "predictions.xyz", ":")
    assert frames[0].arrays["eip_forces"].shape == (9, 3)


def test_calibrate_writes_a_copy(run: Run, folder: Path) -> None:
    from eip.model_file import read_model_info

    model, copy = folder / "run/model.eip", folder / "copy.eip"
    before = model.read_bytes()
    code, _, said = run("calibrate", model, folder / "test.xyz", "--out", copy, "--no-progress")
    assert code == 0, said
    assert model.read_bytes() == before
    info = read_model_info(copy)
    assert info["potential"]["settings"]["calibration"]["n_frames"] == 6
    assert "coverage_80" not in info["info"]["metrics"]
    assert "force_mae" in info["info"]["metrics"]


def test_nuclei_repel_below_the_closest_approach_of_training(run: Run, folder: Path) -> None:
    """By default, and in a model of before after the fact."""
    described = json.loads(run("info", folder / "run/model.eip", "--json")[1])
    assert re.match(r"H-H 1\.\d+, H-C 1\.\d+, H-O 0\.9", described["repulsion below"])
    without = ("--set", "run_dir=plain", "--set", "model.zbl=false", "--no-progress")
    assert run("train", folder / "config.yaml", *without)[0] == 0
    plain, given = folder / "plain/model.eip", folder / "given.eip"
    described = json.loads(run("info", plain, "--json")[1])
    assert described["repulsion below"].startswith("no distance of atoms")
    seen = ("--trained-on", folder / "train.xyz", "--out", given, "--no-progress")
    code, said, err = run("calibrate", plain, folder / "test.xyz", *seen)
    assert code == 0, err
    assert "Nuclei repel below the closest approaches of" in said
    before, after = eip.load(plain), eip.load(given)
    frames = read(folder / "train.xyz", ":")
    assert torch.equal(before.predict(frames).energy, after.predict(frames).energy)
    close = frames[0]
    close.set_distance(0, 1, 0.4, fix=0)
    assert after.predict(close).energy > before.predict(close).energy + 10


def test_a_model_of_before_there_was_a_guard_is_given_one(run: Run, folder: Path) -> None:
    def guard_of(model: Path) -> dict | str:
        return json.loads(run("info", model, "--json")[1])["guard"]

    potential = load_model(folder / "run/model.eip", device="cpu")
    latent = potential.potential
    described = {k: v for k, v in latent.settings().items() if k != "guard"}
    old = type(latent).from_settings(described).to(latent.dtype)
    old.load_state_dict(latent.state_dict())
    save_model(old, folder / "old.eip")
    assert "none: far from the data" in guard_of(folder / "old.eip")
    assert "eip calibrate MODEL FRAMES" in guard_of(folder / "old.eip")
    arguments = (folder / "test.xyz", "--no-progress", "--out", folder / "new.eip")
    code, shown, said = run("calibrate", folder / "old.eip", *arguments)
    assert code == 0 and "had no guard and has one now" in " ".join((shown + said).split())
    assert guard_of(folder / "new.eip")["held-out atoms"] == 54

    save_model(old.potential, folder / "bare.eip")
    assert "needs the training frames as well" in guard_of(folder / "bare.eip")
    code, shown, said = run("calibrate", folder / "bare.eip", *arguments)
    assert code == 0 and "frames alone cannot give it one" in " ".join((shown + said).split())
    trained = ("--trained-on", folder / "train.xyz")
    code, shown, said = run("calibrate", folder / "bare.eip", *arguments, *trained)
    assert code == 0 and "had no guard and has one now" in " ".join((shown + said).split())
    assert guard_of(folder / "new.eip")["held-out atoms"] == 54


def test_info_of_the_machine_says_what_runs_where_and_why(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("info", "--device", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["operators"]["coupling"] == "C++ on a CPU, Triton on a GPU"
    assert said["operators"]["cartesian_ace"] == "C++ on a CPU"
    there = torch.cuda.is_available()
    assert said["runs by default on"] == ("cuda" if there else "cpu")
    if not there:
        assert said["GPU"].startswith("none: ") and said["kernels on a GPU"] == "there is no GPU"
    monkeypatch.setenv("EIP_KERNELS", "reference")
    code, out, _ = run("info", "--device")
    assert code == 0 and "EIP_KERNELS asks for it" in " ".join(out.split())


def test_info_of_nothing_is_refused(run: Run) -> None:
    code, _, said = run("info")
    assert code == 2 and "or --device" in said


def test_info_of_model_and_frames(run: Run, folder: Path) -> None:
    code, shown, _ = run("info", folder / "run/model.eip", "--json")
    assert code == 0
    described = json.loads(shown)
    assert described["elements"] == ["H", "C", "O"]
    assert described["training"]["frames"] == 20
    assert described["calibration"]["frames"] == 4
    code, shown, _ = run("info", folder / "hot.xyz", "--json")
    assert json.loads(shown)["elements"] == {"H": 36, "C": 12, "O": 6}
    assert run("info", folder / "hot.xyz")[0] == 0
    assert run("info", folder / "run/model.eip")[0] == 0


@pytest.mark.parametrize("biased", [False, True])
def test_md_runs_and_goes_on(run: Run, folder: Path, biased: bool) -> None:
    out = folder / f"md{biased}"
    common = [
        "md", folder / "run/model.eip", folder / "test.xyz", "--out", out, "--no-progress",
        "--every", "1", "--break-bonds", *(["--udd"] if biased else []),
    ]  # fmt: skip
    code, shown, said = run(*common, "--steps", 3)
    assert code == 0, said
    assert ("no atom feels more bias" in shown) == biased
    code, _, said = run(*common, "--steps", 5)
    assert code == 2
    assert "is not empty (checkpoint.npz" in said
    code, _, said = run(*common, "--steps", 5, "--resume")
    assert code == 0, said
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["ending"], summary["steps"]) == ("finished", 5)
    assert (summary["udd"] is not None) == biased
    assert len(read(out / "trajectory.xyz", ":")) == 6
    assert (out / "dynamics.png").stat().st_size > 1000


def test_given_udd_parameters_are_taken(run: Run, folder: Path) -> None:
    out = folder / "udd_given"
    code, _, said = run(
        "md", folder / "run/model.eip", folder / "test.xyz", "--out", out, "--steps", 1,
        "--udd", "--udd-a", 3, "--udd-max-force", 0.1, "--no-progress", "--break-bonds",
    )  # fmt: skip
    assert code == 0, said
    chosen = json.loads((out / "udd.json").read_text())
    assert chosen["A"] == 3
    assert chosen["max_bias_force"] == pytest.approx(0.1)
    again = [
        "md", folder / "run/model.eip", folder / "test.xyz", "--out", out, "--steps", 2, "--udd",
        "--no-progress", "--break-bonds", "--resume",
    ]  # fmt: skip
    code, _, said = run(*again, "--udd-a", 3, "--udd-memory", 50)
    assert code == 2 and "memory was None, now 50.0" in said
    code, _, said = run(*again, "--udd-a", 4)
    assert code == 2 and "A was 3.0, now 4.0" in said
    code, _, said = run(*again, "--frame", 1)
    assert code == 2 and "begun with the same atoms elsewhere" in said
    code, _, said = run(*again, "--udd-a", 3, "--udd-max-force", 0.1)
    assert code == 0, said
    (out / "udd.json").write_text("{")
    code, _, said = run(*again, "--steps", 3)
    assert code == 2 and "udd.json is damaged" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainn"], "No such command 'trainn'. Did you mean 'train'? See 'eip --help'."),
        (["train", "no.yaml"], "no.yaml: no such file. 'eip init no.yaml' writes one"),
        (["train", "{}/config.yaml", "--epochs", "3"], "--epochs. See 'eip train --help'."),
        (["train", "{}/config.yaml", "--set", "training.epoch=3"], "did you mean 'epochs'?"),
        (["evaluate", "{}/no.eip", "{}/test.xyz"], "no.eip: no such model file"),
        (["evaluate", "{}/test.xyz", "{}/test.xyz"], "not a readable model file"),
        (["evaluate", "{}/run/model.eip", "{}/tests.xyz"], "did you mean 'test.xyz'?"),
        (["evaluate", "{}/run/model.eip", "{}/water.xyz", "--energy-unit", "kcal"], "unknown"),
        (["calibrate", "{}/run/model.eip", "{}/test.xyz", "--method", "scal"], "mean 'scale'?"),
        (["md", "{}/run/model.eip", "{}/test.xyz", "--ensemble", "nvee"], "mean 'nve'?"),
        (["md", "{}/run/model.eip", "{}/test.xyz", "--frame", "99"], "6 frames, so none with"),
        (["md", "{}/run/model.eip", "{}/test.xyz", "--udd-a", "3"], "but not --udd itself"),
        (["md", "{}/run/model.eip", "{}/test.xyz", "--udd", "--udd-limiter", "globl"], "'global'?"),
        (["md", "{}/run/model.eip", "{}/config.yaml"], "is of no format that eIP or ASE reads"),
        (["info", "{}/no.xyz"], "no.xyz does not exist"),
    ],
)
def test_failures_are_one_paragraph_and_exit_code_2(
    run: Run, folder: Path, arguments: list[str], expected: str
) -> None:
    code, _, said = run(*(a.format(folder) for a in arguments))
    assert code == 2
    assert expected in said
    assert said.startswith("Error: ")
    assert "Traceback" not in said


def test_strange_element_is_named(run: Run, folder: Path) -> None:
    from ase import Atoms

    write(folder / "salt.xyz", Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]))
    code, _, said = run(
        "md", folder / "run/model.eip", folder / "salt.xyz", "--out", folder / "salt"
    )
    assert code == 2
    assert re.search(r"holds Na, Cl, which the potential was not made for", said)


def test_unforeseen_errors_say_how_to_get_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("eip.verbs.init.default_config_yaml", broken)
    code, _, said = run("init", tmp_path / "c.yaml")
    assert code == 2
    assert "(RuntimeError: two lines)" in said
    assert "--debug" in said
    with pytest.raises(RuntimeError, match="two"):
        main(["init", str(tmp_path / "c.yaml"), "--debug"])


def test_errors_of_the_file_system_name_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").mkdir()
    code, _, said = run("init", tmp_path / "c.yaml", "--force")
    assert code == 2
    assert "c.yaml: Is a directory" in said


@pytest.mark.parametrize(
    ("words", "formula"),
    [
        ("lifepo4 --supercell 1 1 2", "Fe8Li8O32P8"),
        ("lifepo4 --vacancies 1", "Fe4Li3O16P4"),
        ("pdms --chains 2 --units 2 --density 0.6 --anneal-ps 0 --no-progress", "C8H28O6Si4"),
        ("water --molecules 4 --melt-ps 0", "H8O4"),
        ("molecule CH3CH2OH", "C2H6O"),
    ],
)
def test_build(run: Run, tmp_path: Path, words: str, formula: str) -> None:
    file = tmp_path / "built.xyz"
    code, said, _ = run("build", *words.split(), "--out", file)
    atoms = read(file)
    assert code == 0 and atoms.get_chemical_formula() == formula
    assert f"{len(atoms)} atoms" in said
    assert bool(atoms.pbc.all()) == (words.split()[0] != "molecule")


def test_build_refuses(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "built.xyz"
    for words, error in (
        ("molecule ethanol", "no molecule 'ethanol'"),
        ("lifepo4 --supercell 0 1 1", "three numbers from 1"),
        ("water --density 20", "density expects g/cm³"),
    ):
        code, _, said = run("build", *words.split(), "--out", file)
        assert code != 0 and error in said
    code, _, said = run("build", "molecule", "H2O", "--out", tmp_path / "built.what")
    assert code != 0 and "ASE knows no format" in said
    assert not list(tmp_path.iterdir())


def test_convert_and_train_from_it(run: Run, tmp_path: Path, folder: Path) -> None:
    train, store = folder / "train.xyz", tmp_path / "store"
    code, said, _ = run("convert", train, folder / "hot.xyz", store, "--no-progress")
    assert code == 0
    assert (
        "store: 30 frames, 270 atoms of 3 elements; energy of 30, forces of 30, stress of 0" in said
    )
    code, said, _ = run("convert", train, folder / "hot.xyz", store, "--no-progress")
    assert code == 0 and "is there already" in said
    code, _, said = run("convert", train, store, "--no-progress")
    assert code == 2 and "store exists already; a store is never written over" in said
    code, _, said = run("info", store, "--verify")
    assert code == 0 and "is what was written" in said
    some = tmp_path / "some"
    where = ("--where", "atoms>9", "--where", "contains=O")
    code, said, _ = run("convert", train, folder / "water.xyz", some, *where)
    assert code == 0 and "2 frames (24 left out), 48 atoms of 2 elements" in said
    config = (folder / "config.yaml").read_text().replace("train.xyz", str(store))
    (tmp_path / "config.yaml").write_text(config.replace("test.xyz", str(folder / "test.xyz")))
    code, _, said = run("train", tmp_path / "config.yaml", "--no-progress")
    assert code == 0, said
    assert (tmp_path / "run" / "model.eip").is_file()


def test_reproduce_refuses(run: Run, tmp_path: Path) -> None:
    code, _, said = run("reproduce", "fig6")
    assert code != 0 and "unknown figure 'fig6'" in said
    code, _, said = run("reproduce", "fig2", "--data", tmp_path, "--out", tmp_path)
    assert code != 0 and "eip fetch acac" in said
