"""Runs of the verbs: begun, moved, interrupted, out of room, and those of earlier versions."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.io import read, write

from eip.data import Labels, open_frames
from eip.data.convert import convert
from eip.data.kept import kept_frames
from eip.data.store import write_store
from eip.errors import InputError
from eip.locks import locked
from eip.run_folder import RECORD
from eip.simulation.records import Checkpoint

Run = Callable[..., tuple[int, str, str]]

CONFIG = """
run_dir: run
data: {train: data/train.xyz, validation: 4, test: data/test.xyz}
model: {channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.0, latent_distance: false}
training: {epochs: 2, num_workers: 0, device: cpu}
"""
LEARN = """
run_dir: learned
model: {channels: 8, interactions: 1, radial_functions: 6, cutoff: 3.5, latent_distance: false}
training: {epochs: 1, device: cpu}
learn: {starts: start.xyz, labeler: ase, labeler_options: {calculator: CALC}, generations: 1,
  initial: 6, labels: 2, length_ps: 0.01, lower: 1.0e-6, upper: 1.0e+6, executor: serial}
"""


def project(folder: Path, demo_data: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    write(folder / "data" / "train.xyz", read(demo_data / "ethanol_300K.xyz", ":16"))
    write(folder / "data" / "test.xyz", read(demo_data / "ethanol_300K_test.xyz", ":4"))
    write(folder / "start.xyz", molecule("CH3OH"))
    (folder / "calc.py").write_text(
        "from ase.calculators.emt import EMT\ndef make():\n    return EMT()\n"
    )
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "learn.yaml").write_text(LEARN.replace("CALC", f"{folder / 'calc.py'}:make"))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Path:
    """A project with a run of training."""
    from eip.cli import main

    folder = project(tmp_path_factory.mktemp("runs") / "project", demo_data)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(folder / "config.yaml"), "--no-progress"])
    assert not ended.value.code
    return folder


# --- what is wrong leaves nothing ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "config", "change"),
    [
        ("train", "config.yaml", "data.train=data/trian.xyz"),
        ("train", "config.yaml", "data.test=[data/test.xyz, data/tset.xyz]"),
        ("train", "config.yaml", "data.labels={energy: my_energy}"),
        ("compare", "config.yaml", "data.ood=nowhere.xyz"),
        ("learn", "learn.yaml", "learn.starts=strat.xyz"),
        ("learn", "learn.yaml", "data.train=nowhere.xyz"),
    ],
)
def test_a_misspelt_name_claims_no_folder(
    tmp_path: Path, demo_data: Path, run: Run, verb: str, config: str, change: str
) -> None:
    folder = project(tmp_path / "project", demo_data)
    before = sorted(folder.rglob("*"))
    code, _, said = run(verb, folder / config, "--no-progress", "--set", change)
    assert code == 2 and "should not" not in said, said
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_takes_no_folder(tmp_path: Path, demo_data: Path, run: Run) -> None:
    folder = project(tmp_path / "project", demo_data)
    code, _, said = run(
        "learn", folder / "learn.yaml", "--dry-run", "--set", "data.train=data/train.xyz"
    )
    assert code == 0, said
    assert not (folder / "learned").exists()


def test_labels_of_a_method_that_never_worked_give_way(
    tmp_path: Path, demo_data: Path, run: Run
) -> None:
    folder = project(tmp_path / "project", demo_data)
    (folder / "bad.py").write_text((folder / "calc.py").read_text().replace("EMT()", "1 / 0"))
    command = ("label", folder / "start.xyz", "--out", folder / "out.xyz", "--labeler", "ase",
               "--executor", "serial", "--no-progress", "--option")  # fmt: skip
    code, _, said = run(*command, f"calculator={folder / 'bad.py'}:make")
    assert code == 2 and "no label could be made" in said
    code, _, said = run(*command, f"calculator={folder / 'calc.py'}:make")
    assert code == 0, said
    code, _, said = run(*command, f"calculator={folder / 'bad.py'}:make")
    assert code == 2 and "asked otherwise" in said


# --- runs go anywhere ----------------------------------------------------------------------------


def test_a_run_goes_on_in_another_place(trained: Path, tmp_path: Path, run: Run) -> None:
    """The project under another name, then the run alone, then without the frames' files."""
    moved = tmp_path / "mounted" / "elsewhere"
    shutil.copytree(trained, moved)  # other times of change as well
    for file in (moved / "data").iterdir():
        os.utime(file)
    before = json.loads((moved / "run" / "metrics.json").read_text())
    config = moved / "config.yaml"
    code, _, said = run("train", config, "--resume", "--no-progress")
    assert code == 0, said
    assert json.loads((moved / "run" / "metrics.json").read_text()) == before
    for path in (moved / "run").rglob("*"):
        if path.name in (RECORD, "config.yaml", "store.json") and path.parent.name != "run":
            continue
        if path.name in (RECORD, "config.yaml"):
            assert str(trained) not in path.read_text()
    (moved / "run").rename(tmp_path / "alone")
    shutil.rmtree(moved / "data")
    code, _, said = run(
        "train", config, "--resume", "--no-progress", "--set", f"run_dir={tmp_path / 'alone'}"
    )
    assert code == 0, said
    assert "train.xyz: no such file; the run goes on with the frames that it has" in said
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text()) == before


def test_the_kept_configuration_goes_on_as_well(trained: Path, run: Run) -> None:
    code, _, said = run("train", trained / "run" / "config.yaml", "--resume", "--no-progress")
    assert code == 0, said


def earlier_version(folder: Path) -> None:
    """Makes of a run what the version before run.json left."""
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    config["run_dir"] = str(folder / "run")
    for key in ("train", "test"):
        config["data"][key] = [str(folder / "data" / f"{key}.xyz")]
        (store,) = (folder / "run" / "data" / key).iterdir()
        file = folder / "data" / f"{key}.xyz"
        state = file.stat()
        parts = [1, None, [str(file), str(file.resolve()), state.st_size,
                                       state.st_mtime_ns]]  # fmt: skip
        labels = {k: None for k in ("energy", "forces", "stress", "energy_unit", "length_unit",
                                    "group")}  # fmt: skip
        parts[1] = labels
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        store.rename(store.with_name(f"{key}-{digest}"))
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run" / RECORD).unlink()


@pytest.mark.parametrize("moved", [False, True])
def test_runs_of_the_version_before_go_on(
    trained: Path, tmp_path: Path, run: Run, moved: bool
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    before = json.loads((folder / "run" / "metrics.json").read_text())
    earlier_version(folder)
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    code, _, said = run("train", folder / "config.yaml", "--resume", "--set", "training.epochs=3")
    assert code == 2 and "training.epochs was 2, now 3" in said
    code, _, said = run("train", folder / "config.yaml", "--resume", "--no-progress")
    assert code == 0, said
    assert json.loads((folder / "run" / "metrics.json").read_text()) == before


def test_dynamics_of_the_version_before_goes_on(trained: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "md"
    command = ("md", trained / "run/model.eip", trained / "start.xyz", "--out", out,
               "--break-bonds", "--no-progress", "--every", 1)  # fmt: skip
    assert run(*command, "--steps", 3)[0] == 0
    asked = json.loads((out / RECORD).read_text())["asked"]
    checkpoint = Checkpoint.read(out / "checkpoint.npz")
    settings = {k: v for k, v in asked.items() if k != "udd"}
    meta = checkpoint.meta | {"settings": settings, "udd": None}
    Checkpoint(checkpoint.arrays, meta).write(out / "checkpoint.npz")
    (out / RECORD).unlink()
    code, _, said = run(*command, "--steps", 6, "--timestep", 0.25, "--resume")
    assert code == 2 and "timestep_fs was 0.5, now 0.25" in said
    shutil.move(out, tmp_path / "moved")
    code, _, said = run(*command[:4], tmp_path / "moved", *command[5:], "--steps", 6, "--resume")
    assert code == 0, said
    assert "/" not in json.loads((tmp_path / "moved" / "summary.json").read_text())["trajectory"]


def test_learning_goes_on_in_another_place(tmp_path: Path, demo_data: Path, run: Run) -> None:
    folder = project(tmp_path / "project", demo_data)
    code, _, said = run("learn", folder / "learn.yaml", "--no-progress")
    assert code == 0, said
    folder = folder.rename(tmp_path / "elsewhere")
    (folder / "learn.yaml").write_text(LEARN.replace("CALC", f"{folder / 'calc.py'}:make"))
    code, _, said = run("learn", folder / "learn.yaml", "--no-progress", "--resume")
    assert code == 0, said
    for name in ("learning.json", "learning.md", RECORD, "generation-000/generation.json"):
        text = (folder / "learned" / name).read_text()
        assert str(tmp_path / "project") not in text.replace(f"{tmp_path / 'project'}/calc.py", "")


# --- frames --------------------------------------------------------------------------------------


def test_frames_are_known_by_what_they_hold(tmp_path: Path, demo_data: Path) -> None:
    frames = read(demo_data / "ethanol_300K.xyz", ":6")
    (tmp_path / "a").mkdir()
    file, kept = tmp_path / "a" / "train.xyz", tmp_path / "run" / "train"
    write(file, frames)
    energies = np.array(kept_frames([file], Labels(), kept, begun=False).energies)
    (kept / ".train-x.0123").mkdir()  # of a conversion that was killed
    other = tmp_path / "b.xyz"
    shutil.copy(file, other)
    moved = kept_frames([other], Labels(), kept, begun=True)
    assert np.array_equal(energies, moved.energies)
    assert [p.name.split("-")[0] for p in kept.iterdir()] == ["b"]
    file.unlink()
    other.rename(file)
    write(file, frames[:5])
    with pytest.raises(InputError, match="the train files have changed since the run was begun"):
        kept_frames([file], Labels(), kept, begun=True)
    assert len(list(kept.iterdir())) == 1
    assert len(kept_frames([file], Labels(), kept, begun=False)) == 5
    file.unlink()
    with pytest.warns(match="no such file; the run goes on"):
        assert len(kept_frames([file], Labels(), kept, begun=True)) == 5


def test_a_store_that_moved_is_found_where_it_is(tmp_path: Path, demo_data: Path) -> None:
    frames = list(open_frames(demo_data / "ethanol_300K.xyz"))[:6]
    write_store(frames, tmp_path / "a")
    kept = tmp_path / "run" / "train"
    kept_frames([tmp_path / "a"], Labels(), kept, begun=False)
    (tmp_path / "a").rename(tmp_path / "b")
    again = kept_frames([tmp_path / "b"], Labels(), kept, begun=True)
    assert len(again) == 6
    write_store(frames[:5], tmp_path / "c")
    with pytest.raises(InputError, match="have changed"):
        kept_frames([tmp_path / "c"], Labels(), kept, begun=True)


def test_a_conversion_goes_on_in_another_place(tmp_path: Path, demo_data: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    file = tmp_path / "a" / "train.xyz"
    write(file, read(demo_data / "ethanol_300K.xyz", ":40"))

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert([file, file], tmp_path / "a" / "out", tick=_after(stop, 1), checkpoint_s=0.0)
    (tmp_path / "a" / "out.partial").rename(tmp_path / "b" / "out.partial")
    assert (tmp_path / "b" / "out.partial" / "conversion.json").is_file()
    file = file.rename(tmp_path / "b" / "train.xyz")
    assert len(convert([file, file], tmp_path / "b" / "out").store) == 80
    names = {path.name for path in (tmp_path / "b" / "out").iterdir()}
    assert not names & {RECORD, ".lock", "conversion.json"}
    assert convert([file, file], tmp_path / "b" / "out").was_there


def _after(function: Callable[[object], None], count: int) -> Callable[[object], None]:
    left = [count]

    def call(value: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            function(value)

    return call


# --- two at once ---------------------------------------------------------------------------------


def test_a_second_process_is_refused(trained: Path, tmp_path: Path, run: Run) -> None:
    """By the folder that each verb works in; with and without --resume."""
    md = ("md", trained / "run/model.eip", trained / "start.xyz", "--out", tmp_path / "md")
    calc = f"calculator={trained / 'calc.py'}:make"
    label = ("label", trained / "start.xyz", "--out", tmp_path / "out.xyz", "--labeler", "ase",
             "--option", calc)  # fmt: skip
    commands: dict[tuple[object, ...], Path] = {
        ("train", trained / "config.yaml", "--set", f"run_dir={tmp_path / 't'}"): tmp_path / "t",
        ("compare", trained / "config.yaml", "--set", f"run_dir={tmp_path / 'c'}"): tmp_path / "c",
        ("learn", trained / "learn.yaml", "--set", f"run_dir={tmp_path / 'l'}"): tmp_path / "l",
        md: tmp_path / "md",
        (*md, "--resume"): tmp_path / "md",
        label: tmp_path / "out.xyz.labels",
        ("convert", trained / "data/train.xyz", tmp_path / "s"): tmp_path / "s.partial",
        ("reproduce", "fig4", "--out", tmp_path): tmp_path / "fig4-small",
    }
    for command, folder in commands.items():
        with locked(folder):
            code, _, said = run(*command)
        assert code == 2 and f"another process is at work in {folder}" in said, said
        assert not folder.exists()


# --- Ctrl-C and SIGTERM --------------------------------------------------------------------------


def eip(folder: Path, command: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Runs a command in a folder, in a fork of this process; its exit code and what it said."""
    log = folder / "said.log"
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), log.read_text()
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w") for number in (1, 2))
        os.chdir(folder)
        from rich.console import Console

        import eip.cli
        from eip.cli import printing

        printing.out, printing.err = Console(file=sys.stdout), Console(file=sys.stderr)
        # In a background job it is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        try:
            eip.cli.main(command.split())
        except SystemExit as error:
            code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def signals_at(where: str, number: int) -> Callable[[], None]:
    """Sends this process a signal when a function (``module:Class.method``) is called."""

    def prepare() -> None:
        module, _, names = where.partition(":")
        *path, name = names.split(".")
        owner = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        original = getattr(owner, name)

        def now(*arguments: object, **options: object) -> object:
            os.kill(os.getpid(), number)
            return original(*arguments, **options)

        setattr(owner, name, now)

    return prepare


TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)
TRAIN = "train config.yaml --set run_dir=stopped"
EPOCH = "eip.training.module:TrainingModule.validation_step"


@pytest.mark.parametrize(
    ("number", "where", "command", "said"),
    [
        (TERM, EPOCH, TRAIN, "the same command with --resume goes on"),
        (INT, EPOCH, TRAIN, "the same command with --resume goes on"),
        (TERM, "eip.data.kept:cache_names", TRAIN, "the same command with --resume goes on"),
        (
            TERM,
            EPOCH,
            "compare config.yaml --methods mve --set run_dir=stopped",
            "the same command goes on: eip compare config.yaml",
        ),
        (
            TERM,
            "eip.simulation.integrators:Integrator.step",
            "md run/model.eip start.xyz --out stopped --steps 50",
            "Interrupted at step 1 of 50; the same command with --resume goes on in stopped",
        ),
        (
            INT,
            "eip.simulation.integrators:Integrator.step",
            "md run/model.eip start.xyz --out stopped --steps 50",
            "Interrupted at step 1 of 50; the same command with --resume goes on in stopped",
        ),
        (
            TERM,
            "eip.active_learning.loop:explore",
            "learn learn.yaml --set run_dir=stopped",
            "the same command with --resume goes on",
        ),
        (
            TERM,
            "eip.active_learning.labelling:read_label",
            "label start.xyz --out stopped --labeler ase --option calculator=calc.py:make "
            "--executor serial",
            "finished labels are kept in stopped.labels, and the same command goes on",
        ),
        (
            TERM,
            "eip.data.convert:StoreWriter.append",
            "convert data/train.xyz stopped",
            "what was converted is kept in stopped.partial, and the same command goes on",
        ),
    ],
)
def test_a_signal_ends_a_run_that_goes_on(
    trained: Path, tmp_path: Path, number: int, where: str, command: str, said: str
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    (folder / "learn.yaml").write_text(LEARN.replace("CALC", "calc.py:make"))
    command += " --no-progress"
    code, text = eip(folder, command, signals_at(where, number))
    assert code == 128 + number, text
    assert said in " ".join(text.split()) and "Traceback" not in text
    if not command.startswith("compare"):  # whose costs are measured in processes of their own
        resume = " --resume" if command.split()[0] in ("train", "md", "learn") else ""
        code, text = eip(folder, command + resume)
        assert code == 0, text


# --- a full disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "command", "resume"),
    [
        (2_000, "train config.yaml --set run_dir=full", "--resume"),
        (30_000, "train config.yaml --set run_dir=full", "--resume"),
        (2_000, "md run/model.eip start.xyz --out full --steps 60 --every 1", "--resume"),
        (500, "label start.xyz --out full --labeler ase --option calculator=calc.py:make "
              "--executor serial", ""),
        (2_000, "convert data/train.xyz full", ""),
        (2_000, "evaluate run/model.eip data/test.xyz --out full", ""),
        (500, "init full.yaml", ""),
    ],
)  # fmt: skip
def test_no_room_and_then_room(
    trained: Path, tmp_path: Path, room: int, command: str, resume: str
) -> None:
    """Files may be of so many bytes and no more, which fails where a full disk does."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    (folder / "learn.yaml").write_text(LEARN.replace("CALC", "calc.py:make"))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    command += "" if command.startswith("init") else " --no-progress"
    code, said = eip(folder, command, limit)
    said = " ".join(said.split())
    assert code == 2, said
    assert "no room left on the disk" in said and "make room" in said
    assert "should not" not in said and "Traceback" not in said
    begun = resume and "and --resume" in said
    code, said = eip(folder, f"{command} {resume}" if begun else command)
    assert code == 0, said


def test_no_room_while_learning(trained: Path, tmp_path: Path) -> None:
    """When the labels are there and the frames of a training are written."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    (folder / "learn.yaml").write_text(LEARN.replace("CALC", "calc.py:make"))

    def full() -> None:
        import eip.active_learning.loop as loop

        def write_frames(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        loop.write_frames = write_frames

    command = "learn learn.yaml --set run_dir=full --no-progress"
    code, said = eip(folder, command, full)
    assert code == 2 and "no room left on the disk of full" in " ".join(said.split()), said
    code, said = eip(folder, f"{command} --resume")
    assert code == 0, said
