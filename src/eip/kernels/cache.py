"""Where compiled kernels are kept, and whether what lies there may be loaded.

A library runs with all rights of whoever loads it. So it is loaded only if it, and the folder that
it is in, belong to this user or to root and nobody else can write to them, and if its content has
the digest that its name says: a file that was cut off or altered is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from eip.files import replacing


class NotTrusted(Exception):
    """Why a folder or a library in it is passed over."""


def folders() -> Iterator[Path]:
    """The user's cache, then a folder of temporary files for where that cannot be used."""
    chosen = os.environ.get("EIP_CACHE_DIR")
    if chosen:
        yield Path(chosen)
    else:
        with suppress(RuntimeError):  # a user without a home
            if sys.platform == "darwin":
                yield Path.home() / "Library" / "Caches" / "eip"
            else:
                yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eip"
    with suppress(OSError):  # no folder of temporary files can be written to
        yield Path(tempfile.gettempdir()) / f"eip-kernels-{os.geteuid()}"


def find(folder: Path, key: str) -> Path | None:
    """The library of this key, whole and trusted; None where the folder has none.

    Raises:
        NotTrusted: if others could have put something there, or what is there is not whole.
    """
    try:
        if not folder.is_dir():
            return None
        _check_owner(folder)
        reason = None
        for path in sorted(folder.glob(f"{key}-*.so")):
            try:
                _check_owner(path)
                if path.name == _name(key, path.read_bytes()):
                    return path
                reason = f"{path} is damaged"
            except NotTrusted as error:
                reason = str(error)
    except OSError as error:
        raise NotTrusted(f"{folder} cannot be read ({error})") from error
    if reason is not None:
        raise NotTrusted(reason)
    return None


def make(folder: Path) -> None:
    """Makes a folder that nobody else can write to, if need be.

    Raises:
        NotTrusted: if it is there and others can write to it.
        OSError: if it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(folder)


def keep(folder: Path, key: str, content: bytes) -> Path:
    """Puts a library into a folder, which is made if need be; gives its path.

    Raises:
        NotTrusted: if others can write there.
        OSError: if it cannot be written.
    """
    make(folder)
    path = folder / _name(key, content)
    # Renamed, not written in place: another process may be writing or loading it too.
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    for other in folder.glob(f"{key}-*.so"):  # damaged ones; who has one loaded keeps it
        if other != path:
            with suppress(OSError):
                other.unlink()
    return path


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _check_owner(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise NotTrusted(f"{path} belongs to another user (number {found.st_uid})")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotTrusted(
            f"others can write to {path} (mode {stat.S_IMODE(found.st_mode):o}; "
            "chmod go-w takes that away)"
        )
