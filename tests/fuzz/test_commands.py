"""Every command with arguments that are wrong: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from eip.model_file import save_model
from eip.uncertainty.methods import new_network

Run = Callable[..., tuple[int, str, str]]

CONFIG = "run_dir: run\ndata: {train: good.xyz, validation: 1, test: good.xyz}\n"
LEARN = "run_dir: learned\nlearn: {starts: good.xyz, labeler: xtb, initial: 4}\n"
NUMBERS = ("-1", "0", "nan", "inf", "-inf", "1e400", "x", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files and bad ones."""
    folder = tmp_path_factory.mktemp("commands")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(4):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(scale=0.02, size=(3, 3))
        atoms.info["energy"], atoms.arrays["forces"] = -1.0, rng.normal(size=(3, 3))
        frames.append(atoms)
    write(folder / "good.xyz", frames, format="extxyz")
    network = new_network(
        "tensor", None, elements=[1, 8], element_energies={1: 0.0, 8: 0.0}, force_scale=1.0,
        channels=8, interactions=1, radial_functions=6, cutoff=3.0, zbl=False,
    )  # fmt: skip
    save_model(network, folder / "model.eip", {})
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "learn.yaml").write_text(LEARN)
    (folder / "empty.xyz").touch()
    (folder / "text.xyz").write_text("not frames\n")
    (folder / "noise").write_bytes(rng.bytes(4000))
    shutil.copy(folder / "noise", folder / "noise.eip")
    shutil.copy(folder / "noise", folder / "noise.npz")
    shutil.copy(folder / "noise", folder / "noise.yaml")
    shutil.copy(folder / "noise", folder / "noise.xyz")
    (folder / "cut.eip").write_bytes((folder / "model.eip").read_bytes()[:600])
    (folder / "directory").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    return folder


BAD_FILES = (
    *("missing", "missing.xyz", "directory", "empty.xyz", "text.xyz", "noise", "noise.npz"),
    *("noise.xyz", "dangling", "config.yaml", "model.eip", "good.xyz/below", "n" * 300),
)
BAD_MODELS = ("missing", "directory", "empty.xyz", "good.xyz", "noise.eip", "cut.eip", "dangling")
BAD_CONFIGS = ("missing", "directory", "empty.xyz", "good.xyz", "noise.yaml", "model.eip")
BAD_OUT = ("good.xyz/below", "n" * 300)

SERIAL = ("label", "good.xyz", "--out", "l.xyz", "--executor", "serial")
XTB = (
    *("method=GFN3", "charge=x", "charge=.nan", "accuracy=.nan", "accuracy=x", "mthod=1"),
    *("multiplicity=0", "multiplicity=1.5", "max_iterations=0", "[", "=x"),
)


def calls() -> Iterator[tuple[str, ...]]:
    md = ("md", "model.eip", "good.xyz", "--steps", "2", "--no-progress")
    for file in BAD_FILES:
        yield ("md", "model.eip", file, "--steps", "2", "--no-progress")
        yield ("evaluate", "model.eip", file, "--no-progress")
        yield ("evaluate", "model.eip", "good.xyz", "--ood", file, "--no-progress")
        yield ("calibrate", "model.eip", file, "--out", "c.eip", "--no-progress")
        yield ("analyze", file)
        yield ("convert", file, "store", "--no-progress")
        yield ("label", file, "--out", "l.xyz", "--executor", "serial", "--no-progress")
        if file != "model.eip":
            yield ("info", file)
    for model in BAD_MODELS:
        yield ("md", model, "good.xyz", "--steps", "2", "--no-progress")
        yield ("evaluate", model, "good.xyz", "--no-progress")
        yield ("calibrate", model, "good.xyz", "--out", "c.eip", "--no-progress")
        label = ("label", "good.xyz", "--out", "l.xyz", "--labeler", "model", "--executor")
        yield (*label, "serial", "--option", f"model={model}", "--no-progress")
    for config in BAD_CONFIGS:
        for verb in ("train", "learn", "compare"):
            yield (verb, config, "--no-progress")
    for option in ("temperature", "steps", "timestep", "friction", "every", "seed"):
        for number in NUMBERS:
            fine = (option, number) in (("steps", "0"), ("seed", "0"))
            if not fine:
                yield (*md, f"--{option}", number)
    for number in ("-1", "0", "nan", "x"):
        yield (*md, "--max-uncertainty", number)
        yield (*md, "--ensemble", "bussi", "--taut", number)
        yield (*md, "--ensemble", "npt", "--pressure", "nan", "--taup", number)
    for change in ("--frame=9", "--frame=-9", "--frame=x", "--ensemble=nvt", "--device=tpu"):
        yield (*md, change)
    yield (*md, "--udd-a", "1")
    for name in "abcd":
        for number in ("nan", "inf", "-1", "x"):
            if (name, number) != ("a", "-1"):
                yield (*md, "--udd", f"--udd-{name}", number)
    yield (*md, "--udd", "--udd-limiter", "all")
    yield (*md, "--udd", "--udd-max-force", "-1")
    for out in BAD_OUT:
        yield (*md, "--out", out)
        yield ("evaluate", "model.eip", "good.xyz", "--no-progress", "--out", out)
        yield ("calibrate", "model.eip", "good.xyz", "--no-progress", "--out", out)
        yield ("convert", "good.xyz", out, "--no-progress")
        yield ("analyze", "good.xyz", "--kind", "none", "--out", out)
        yield ("build", "molecule", "H2O", "--out", f"{out}/a.xyz")
        yield ("init", f"{out}/a.yaml")
        yield ("label", "good.xyz", "--out", out, "--executor", "serial", "--no-progress")
        yield ("train", "config.yaml", "--no-progress", "--set", f"run_dir={out}")
    for number in NUMBERS:
        yield ("analyze", "good.xyz", "--kind", "none", "--every", number)
        yield ("analyze", "good.xyz", "--kind", "none", "--cutoff", number)
        yield ("analyze", "good.xyz", "--kind", "none", "--bins", number)
        yield (*SERIAL, "--every", number, "--no-progress")
        yield (*SERIAL, "--workers", number, "--no-progress")
        if number not in ("inf", "1e400"):
            yield (*SERIAL, "--max-force", number, "--no-progress")
        yield ("build", "water", "--molecules", number, "--melt-ps", "0", "--out", "a.xyz")
        yield ("build", "water", "--density", number, "--melt-ps", "0", "--out", "a.xyz")
        yield ("build", "pdms", "--units", number, "--anneal-ps", "0", "--out", "a.xyz")
        yield ("build", "pdms", "--density", number, "--anneal-ps", "0", "--out", "a.xyz")
        yield ("build", "lifepo4", "--supercell", number, "1", "1", "--out", "a.xyz")
        if number != "0":
            yield ("build", "water", "--molecules", "2", "--melt-ps", number, "--out", "a.xyz")
            yield ("build", "lifepo4", "--vacancies", number, "--out", "a.xyz")
            yield ("analyze", "good.xyz", "--kind", "none", "--skip-ps", number)
    for change in ("model.layers=1", "training.epochs=0", "x", "=1", "data.train=missing.xyz"):
        yield ("train", "config.yaml", "--no-progress", "--set", change)
        yield ("compare", "config.yaml", "--no-progress", "--set", change)
    yield ("learn", "learn.yaml", "--no-progress", "--set", "learn.starts=missing.xyz")
    yield ("learn", "learn.yaml", "--no-progress", "--set", "learn.temperatures=[.nan]")
    yield ("learn", "learn.yaml", "--no-progress", "--set", "learn.temperatures=[-5]")
    yield ("learn", "learn.yaml", "--no-progress", "--set", "learn.executor=cluster")
    yield ("learn", "learn.yaml", "--no-progress", "--set", "learn.labeler_options={charge: x}")
    yield ("learn", "learn.yaml", "--status")
    yield ("compare", "config.yaml", "--methods", "tensr", "--no-progress")
    yield ("compare", "config.yaml", "--seeds", "1,x", "--no-progress")
    yield ("compare", "config.yaml", "--seeds", "-1", "--no-progress")
    for option in XTB:
        label = ("label", "good.xyz", "--out", "l.xyz", "--executor", "serial", "--no-progress")
        yield (*label, "--option", option)
    for option in ("calculator=missing.py:make", "calculator=3", "calculator=good.xyz:make"):
        label = ("label", "good.xyz", "--out", "l.xyz", "--labeler", "ase", "--executor", "serial")
        yield (*label, "--option", option, "--no-progress")
    for option in ("cutoff=x", "vacuum=-1", "template=missing", "template=noise", "processes=x"):
        label = ("label", "good.xyz", "--out", "l.xyz", "--labeler", "cp2k", "--executor", "serial")
        yield (*label, "--option", option, "--no-progress")
    yield (*SERIAL, "--labeler", "xbt", "--no-progress")
    yield ("label", "good.xyz", "--out", "l.xyz", "--executor", "cluster", "--no-progress")
    yield ("label", "good.xyz", "--out", "good.xyz", "--executor", "serial", "--no-progress")
    for where in ("atoms<=x", "contains=Qq", "labelled=charge", "atoms>99", "contains="):
        yield ("convert", "good.xyz", "store", "--where", where, "--no-progress")
    yield ("convert", "good.xyz", "good.xyz", "--no-progress")
    yield ("convert", "good.xyz", "directory", "--no-progress")
    for option in ("--energy-key=no", "--energy-unit=foot", "--length-unit=yard"):
        yield ("info", "good.xyz", option)
        yield ("evaluate", "model.eip", "good.xyz", option, "--no-progress")
    yield ("info", "good.xyz", "--verify")
    yield ("calibrate", "model.eip", "good.xyz", "--method", "magic", "--no-progress")
    yield ("build", "molecule", "H2Q", "--out", "a.xyz")
    yield ("build", "molecule", "H2O", "--out", "a.nonsense")
    yield ("reproduce", "fig9")
    yield ("reproduce", "fig2", "--scale", "large")
    yield ("fetch", "nothing")
    yield ("analyze", "good.xyz", "--kind", "crystal")
    yield ("analyze", "good.xyz", "--labels", "a,b")
    yield ("analyze", "good.xyz", "good.xyz", "--labels", "a,a")
    yield ("nonsense",)
    yield ("md",)
    yield ("md", "model.eip", "good.xyz", "--nonsense")


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def verdict(run: Run, folder: Path, arguments: tuple[str, ...]) -> str:
    """What is wrong with how a command ended; "" if nothing."""
    before = listing(folder)
    code, _, said = run(*arguments)
    left = sorted(listing(folder) - before)
    for name in left:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if code not in (1, 2):
        return f"exit code {code}: {said}"
    if "should not" in said and "should not be" not in said:
        return said
    if not said.startswith(("Error: ", "Warning: ")) or len(said) > 1000:
        return f"no one sentence: {said[:300]}"
    return f"leaves {left[:5]}: {said}" if left else ""


def test_bad_arguments_are_one_sentence(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    part = os.environ.get("EIP_FUZZ_PART", "")
    wrong = {
        " ".join(arguments): found
        for arguments in calls()
        if part in arguments[:1] or not part
        if (found := verdict(run, folder, arguments))
    }
    assert not wrong, "\n".join(f"eip {call}\n    {found}" for call, found in wrong.items())
