"""When a folder is a run's, when it gives way, and when it goes on."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from eip.errors import InputError, full_disk
from eip.run_folder import RECORD, RunFolder, file_identity, read_json, with_files, working_in

ASKED = {"epochs": 5, "model.channels": 8, "data.test": "none"}


def opened(
    folder: Path, asked: dict[str, Any] = ASKED, *, resume: bool = False, **options: Any
) -> AbstractContextManager[RunFolder]:
    options = {"makes": ("log", "*.ckpt"), "scratch": ("data",), **options}
    return working_in(
        folder, "train", asked, resume=resume, result=lambda: (folder / "last.ckpt").exists(),
        **options,
    )  # fmt: skip


def run(folder: Path, asked: dict[str, Any] = ASKED, **options: Any) -> bool:
    """A run that leaves a result; whether it went on with one."""
    with opened(folder, asked, **options) as of:
        (folder / "log").write_text(str(asked))
        (folder / "last.ckpt").touch()
    return of.begun


def fails(folder: Path, error: BaseException, **options: Any) -> None:
    with pytest.raises(type(error)), opened(folder, **options):
        (folder / "data").mkdir()
        raise error


def test_an_error_before_there_is_anything_leaves_nothing(tmp_path: Path) -> None:
    fails(tmp_path / "runs" / "one", InputError("train.xzy: no such file"))
    assert not list(tmp_path.iterdir())
    assert not run(tmp_path / "runs" / "one")


def test_an_interrupt_leaves_what_was_read_and_any_configuration_may_follow(tmp_path: Path) -> None:
    fails(tmp_path, KeyboardInterrupt())
    assert {p.name for p in tmp_path.iterdir()} == {"data", RECORD}
    (tmp_path / "log").write_text("of the first")
    with opened(tmp_path, ASKED | {"epochs": 6}) as of:
        assert not of.begun and not (tmp_path / "log").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_what_was_killed_while_it_read_goes_on(tmp_path: Path, resume: bool) -> None:
    fails(tmp_path, KeyboardInterrupt())
    (tmp_path / ".run.json.abcd1234").touch()  # as SIGKILL leaves it
    (tmp_path / "log").write_text("kept")
    with opened(tmp_path, resume=resume):
        assert (tmp_path / "log").read_text() == "kept"
        assert not (tmp_path / ".run.json.abcd1234").exists()


def test_killed_in_the_first_moment(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.abcd1234").touch()
    assert not run(tmp_path)


def test_a_run_goes_on_with_the_same_or_not_at_all(tmp_path: Path) -> None:
    assert not run(tmp_path)
    with pytest.raises(InputError, match=r"not empty \(last\.ckpt, log.*go on with --resume"):
        run(tmp_path)
    assert run(tmp_path, resume=True)
    with pytest.raises(InputError, match=r"epochs was 5, now 6; choose another folder"):
        run(tmp_path, ASKED | {"epochs": 6}, resume=True)
    assert run(tmp_path, ASKED | {"epochs": 6}, resume=True, may_change=frozenset({"epochs"}))
    assert json.loads((tmp_path / RECORD).read_text())["asked"]["epochs"] == 6
    other = working_in(tmp_path, "md", ASKED, resume=True, result=lambda: True)
    with pytest.raises(InputError, match="holds a run of 'eip train'"), other:
        pass


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"not empty \(thesis\.tex\)"):
        run(tmp_path)
    with pytest.raises(InputError, match=r"nothing to resume: .* holds no run, but thesis\.tex"):
        run(tmp_path, resume=True)
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.tex"}


def test_it_goes_on_wherever_it_is(tmp_path: Path) -> None:
    run(tmp_path / "a" / "run")
    shutil.copytree(tmp_path / "a" / "run", tmp_path / "copied")
    (tmp_path / "a").rename(tmp_path / "b")
    assert run(tmp_path / "copied", resume=True) and run(tmp_path / "b" / "run", resume=True)
    assert str(tmp_path) not in (tmp_path / "copied" / RECORD).read_text()


def test_a_key_of_a_later_version_has_its_default(tmp_path: Path) -> None:
    run(tmp_path)
    later = ASKED | {"training.new": 1}
    with pytest.raises(InputError, match=r"training\.new was 0, now 1"):
        run(tmp_path, later, resume=True, defaults={"training.new": 0})
    assert run(tmp_path, later | {"training.new": 0}, resume=True, defaults={"training.new": 0})


def test_a_run_without_a_record_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(InputError, match="epochs was 5, now 6"):
        run(tmp_path, ASKED | {"epochs": 6}, resume=True, earlier=lambda: ASKED)
    assert run(tmp_path, resume=True, earlier=lambda: ASKED)
    assert run(tmp_path, resume=True)


def test_files_are_the_same_by_name_or_by_content(tmp_path: Path) -> None:
    for name, text in (("a", "water"), ("b", "water"), ("c", "ice")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "start.xyz").write_text(text)
    of = {n: with_files({"start": str(tmp_path / n / "start.xyz"), "k": 1}) for n in "abc"}
    run(tmp_path / "run", ASKED | {"options": of["a"]})
    assert run(tmp_path / "run", ASKED | {"options": of["b"]}, resume=True)
    with pytest.raises(InputError, match="options was"):
        run(tmp_path / "run", ASKED | {"options": of["c"]}, resume=True)
    # A file that was edited in its place is for the caller to judge.
    (tmp_path / "b" / "start.xyz").write_text("steam")
    edited = with_files({"start": str(tmp_path / "b" / "start.xyz"), "k": 1})
    told: list[Any] = []

    def refuse(files: Any) -> None:
        told.append(files)
        raise InputError("another method")

    for _ in range(2):
        with pytest.raises(InputError, match="another method"):
            run(tmp_path / "run", ASKED | {"options": edited}, resume=True, edited=refuse)
    assert told == [{"options": [str(tmp_path / "b" / "start.xyz")]}] * 2
    assert run(tmp_path / "run", ASKED | {"options": edited}, resume=True, edited=told.append)
    assert run(tmp_path / "run", ASKED | {"options": edited}, resume=True, edited=refuse)
    (tmp_path / "calc.py").write_text("make = 1")
    assert file_identity(f"{tmp_path / 'calc.py'}:make").keys() == {"file", "sha256"}
    assert file_identity("xtb:make") == {"file": "xtb:make"}


def test_a_file_that_is_gone_is_remembered(tmp_path: Path) -> None:
    file, content = tmp_path / "start.eip", {}
    for text in ("one", "other"):
        file.write_text(text)
        content[text] = {"model.start_from": file_identity(file)}
    file.unlink()
    gone = {"model.start_from": file_identity(file)}
    run(tmp_path / "run", ASKED | content["one"])
    assert run(tmp_path / "run", ASKED | gone, resume=True)
    told: list[Any] = []
    assert run(tmp_path / "run", ASKED | content["one"], resume=True, edited=told.append)
    assert not told
    run(tmp_path / "run", ASKED | content["other"], resume=True, edited=told.append)
    assert told == [{"model.start_from": [str(file)]}]


def test_modules_beside_a_file_are_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "calc.py").write_text("from settings1 import METHOD\nimport numpy\n")
    alone = file_identity(f"{tmp_path / 'calc.py'}:make")
    (tmp_path / "settings1.py").write_text("import deeper\nMETHOD = 1\n")
    one = file_identity(f"{tmp_path / 'calc.py'}:make")
    (tmp_path / "deeper.py").write_text("import calc  # a circle\n")
    two = file_identity(f"{tmp_path / 'calc.py'}:make")
    (tmp_path / "deeper.py").write_text("def (\n")
    three = file_identity(f"{tmp_path / 'calc.py'}:make")
    assert len({of["sha256"] for of in (alone, one, two, three)}) == 4


def test_what_an_earlier_version_kept_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    (tmp_path / "start.xyz").write_text("water")
    now = {"start": file_identity(tmp_path / "start.xyz")}
    before = {"start": {"file": "/elsewhere/start.xyz"}}
    assert run(tmp_path / "run", now, resume=True, earlier=lambda: before)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "train.csv"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_says_how_to_go_on(tmp_path: Path, error: Exception) -> None:
    words = r"no room left.*make room, then try again"
    with pytest.raises(InputError, match=words), opened(tmp_path / "new"):
        raise error
    run(tmp_path / "begun")
    words = r"no room left.*make room, then go on with the same command and --resume"
    with pytest.raises(InputError, match=words), opened(tmp_path / "begun", resume=True):
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("of a library") from inner
    assert run(tmp_path / "begun", resume=True)


def test_other_errors_are_not_of_the_disk() -> None:
    assert not full_disk(OSError(errno.EACCES, "Permission denied"))
    assert not full_disk(InputError("the unit 'disk is full' is not known"))
    try:
        raise ValueError from OSError(errno.ENOSPC, "No space left on device")
    except ValueError as error:
        assert full_disk(error)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged .*: restore it from a copy"):
        run(tmp_path, resume=True)
    with pytest.raises(InputError, match="delete it and give the same command again"):
        read_json(tmp_path / RECORD)
    for content in ("[]", '{"format": 1}'):
        (tmp_path / RECORD).write_text(content)
        with pytest.raises(InputError, match="delete it and give the same command again"):
            run(tmp_path, resume=True)
    (tmp_path / RECORD).write_text('{"format": 99, "verb": "train", "asked": {}}')
    with pytest.raises(InputError, match="has format 99, this eIP reads up to 1"):
        run(tmp_path, resume=True)
