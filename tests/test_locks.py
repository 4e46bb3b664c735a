"""A folder is one process's alone, and nobody's after a kill."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eip.errors import InputError
from eip.locks import LOCK, LockWarning, _only_here, is_held, locked

HOLDS = """
import sys, time
from eip.locks import locked
with locked(sys.argv[1]):
    print("has it", flush=True)
    time.sleep(600)
"""


def test_whether_a_folder_is_held(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with locked(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    (tmp_path / LOCK).touch()  # left by a kill
    assert not is_held(tmp_path)
    with locked(tmp_path):
        assert is_held(tmp_path)


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    return process


def test_a_second_process_is_told_who_is_there_and_a_killed_one_leaves_no_lock(
    tmp_path: Path,
) -> None:
    other = holder(tmp_path / "run")
    try:
        words = rf"another process is at work in .*run \(process {other.pid} on "
        with pytest.raises(InputError, match=words), locked(tmp_path / "run"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_same_process_has_it_once(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(InputError, match=f"process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_who_is_patient_gets_it(tmp_path: Path) -> None:
    other = holder(tmp_path)
    other.kill()
    with locked(tmp_path, patience=60.0):
        pass
    other.wait()


def test_what_was_made_for_the_lock_goes_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert (tmp_path / "a" / "b" / "kept").exists()


def test_a_folder_that_is_renamed_meanwhile(tmp_path: Path) -> None:
    with locked(tmp_path / "one"):
        (tmp_path / "one").rename(tmp_path / "two")
        with locked(tmp_path / "one"):
            pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", cannot)
    with pytest.warns(LockWarning, match="has no locks"), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("rw,vers=3,nolock", "/home is mounted with nolock"),
        ("rw,vers=3,local_lock=all", "/home is mounted with local_lock=all"),
        ("rw,vers=4.2,local_lock=none", ""),
    ],
)
def test_locks_of_one_machine_alone_are_said(tmp_path: Path, options: str, said: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"36 21 0:32 / /home rw,relatime shared:2 - nfs server:/home {options}\n"
    )
    assert _only_here(Path("/home/someone/run"), mounts) == said
    assert _only_here(Path("/homely/run"), mounts) == ""
