"""Files that are whole or not there, checksums, and JSON without what JSON does not have."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file to write to, which takes the path's place when the block ends.

    If the block fails, an older file stays as it was and nothing half-written is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replaces a file at once, or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


_SEAL = b"\neip-sha256:"


def sealed(content: bytes) -> bytes:
    """Content with its sha256 behind it, for formats that do not mind (zip: .npz, .ckpt)."""
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def unsealed(content: bytes) -> tuple[bytes, bool]:
    """What was sealed, and whether it had been: a file of older date has no seal.

    Raises:
        ValueError: if it is not what was sealed.
    """
    start = len(content) - len(_SEAL) - 64
    if start < 0 or content[start : start + len(_SEAL)] != _SEAL:
        return content, False
    found = hashlib.sha256(content[:start]).hexdigest()
    if found.encode() != content[-64:]:
        raise ValueError("its checksum is not that of what was written: it is damaged")
    return content[:start], True


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """A .npz with a checksum, written whole."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, sealed(content.getvalue()))


def load_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], bool]:
    """All arrays of a .npz, and whether they were compared with a checksum.

    Raises:
        ValueError: if it is damaged.
        OSError: if it cannot be read.
    """
    content, checked = unsealed(Path(path).read_bytes())
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}, checked
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise ValueError(str(error)) from error


class UncheckedFile(UserWarning):
    """A file of older date, which has no checksum, was opened."""


def warn_unchecked(what: object) -> None:
    """Says that something was written by an eIP that kept no checksums."""
    warnings.warn(
        f"{what}: written by an earlier eIP, without a checksum, so damage would go unseen",
        UncheckedFile,
        stacklevel=3,
    )


def to_json(value: Any) -> Any:
    """Plain lists, mappings and numbers; null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def json_text(value: Any) -> str:
    """What `to_json` makes of it as text that people read too.

    Raises:
        TypeError: if something in it is no JSON.
    """
    return json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
