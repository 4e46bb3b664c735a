"""A folder that is one process's alone, by a lock that dies with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from eip.errors import InputError

#: The file in a folder that is locked; gone when the work is over, left (unlocked) after a kill.
LOCK = ".lock"
#: Seconds between two tries to get it.
_LOOK = 0.1
_CANNOT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
#: Descriptors that a forked child must not keep: the lock would outlive this process in it.
_held: set[int] = set()
_watches_forks = False


class LockWarning(UserWarning):
    """A lock that does not keep everybody out."""


@contextmanager
def locked(folder: str | os.PathLike[str], patience: float = 0.0) -> Iterator[None]:
    """The folder is this process's alone; made if need be, and gone again if it stays empty.

    The lock is flock's on a file in the folder. Over NFS that is a lock of the server, which holds
    on all machines; where a file system has no such locks, or only of one machine, a warning says
    so. (`filelock` would fall back to a file whose existence is the lock, and a killed process
    leaves that behind.)

    Args:
        patience: seconds to wait for another process that is about to end.

    Raises:
        InputError: if another process has it.

    Warns:
        LockWarning: if the file system cannot lock.
    """
    folder = Path(folder)
    there = existing(folder)
    descriptor = _acquire(folder, time.monotonic() + patience)
    _close_in_forks(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not so in a forked child
            # Before it is let go: whoever holds the file that has the name holds the folder.
            with suppress(OSError):
                if _has_the_name(descriptor, folder / LOCK):
                    (folder / LOCK).unlink()
            _held.discard(descriptor)
            os.close(descriptor)
            _remove_empty(folder, there)


def is_held(folder: Path) -> bool:
    """Whether a process has the folder, on this machine or another; true where nobody can say."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def existing(path: Path) -> Path:
    """The path, or the nearest folder round it that there is."""
    return next(folder for folder in _with_parents(path) if folder.exists())


def _with_parents(path: Path) -> tuple[Path, ...]:
    return path, *path.absolute().parents


def _remove_empty(path: Path, there: Path) -> None:
    """The folder and those round it that were made for it."""
    for folder in _with_parents(path):
        if folder == there:
            return
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _acquire(folder: Path, deadline: float) -> int:
    path, told = folder / LOCK, False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # For writing: NFS gives an exclusive lock of no other file.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the folder was renamed or removed meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _CANNOT:
                _warn(folder, f"the file system has no locks ({error.strerror})")
                return descriptor
            who = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if (left := deadline - time.monotonic()) > 0:
                if not told and left > 1.0:
                    told = True
                    text = f"{folder}: another process is at work there{f' ({who})' if who else ''}"
                    warnings.warn(f"{text}; waiting up to {left:.0f} s", LockWarning, stacklevel=3)
                time.sleep(_LOOK)
                continue
            raise InputError(
                f"another process is at work in {folder}{f' ({who})' if who else ''}; wait for "
                "it, or choose another folder"
            ) from None
        if _has_the_name(descriptor, path):
            break
        os.close(descriptor)  # of one that ended meanwhile
    if reach := _only_here(folder):
        _warn(folder, reach)
    with suppress(OSError):  # on a full disk it is locked all the same
        os.ftruncate(descriptor, 0)
        now = datetime.now().isoformat(" ", "seconds")
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}, {now}".encode())
    return descriptor


def _has_the_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _warn(folder: Path, why: str) -> None:
    warnings.warn(
        f"{folder} cannot be kept from processes on other machines: {why}; start no second one "
        "there",
        LockWarning,
        stacklevel=4,
    )


def _only_here(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Why a lock of the folder holds on this machine alone though others see it; "" if not so."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    resolved, found = str(folder.resolve()), ("", "", "")
    for line in lines:
        before, _, after = line.partition(" - ")
        where = before.split(" ")[4].encode().decode("unicode_escape")
        kind, _, options = after.split(" ", 2)
        inside = resolved == where or resolved.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(found[0]):
            found = where, kind, f"{before.split(' ')[5]},{options}"
    where, kind, options = found
    local = {"nolock", "local_lock=all", "local_lock=flock", "localflock"} & set(options.split(","))
    if kind.startswith(("nfs", "lustre")) and local:
        return f"{where} is mounted with {sorted(local)[0]}"
    return ""


def _close_in_forks(descriptor: int) -> None:
    global _watches_forks
    _held.add(descriptor)
    if not _watches_forks:
        os.register_at_fork(after_in_child=_close_held)
        _watches_forks = True


def _close_held() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()
