"""Files as a store that is made once, and found again while they are the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eip.data.checks import LabelTally, check_require
from eip.data.frame import LABELS, Frame
from eip.data.labels import Labels
from eip.data.readers import stream_frames
from eip.data.store.layout import BLOCK, VERSION, is_store, write_contents
from eip.data.store.reader import FrameStore
from eip.data.store.writer import write_store
from eip.errors import InputError


def open_frames(
    paths: str | Path | Sequence[str | Path],
    labels: Labels | None = None,
    cache_dir: str | Path | None = None,
    require: Sequence[str] = (),
) -> FrameStore:
    """The frames of files, one file after the other, as a store.

    Files are converted once: the store in ``cache_dir`` is named by the files' names, sizes, times
    of change and ends and by the labels, and found again. Without ``cache_dir`` it is temporary and
    lives as long as the object. A single path that is a store itself is read where it is, and
    ``cache_dir`` gets a reference to it; several are joined by copying.

    Args:
        require: labels that each frame must have, of "energy", "forces", "stress".

    Raises:
        InputError: whatever `readers.read_frames` raises; if there are no paths.

    Warns:
        LabelWarning: if energy or stress is there in some frames only.
    """
    require = check_require(require)
    labels = labels or Labels()
    files = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not files:
        raise InputError("open_frames needs at least one file, got none")
    if len(files) == 1 and is_store(files[0]) and cache_dir is None:
        store = FrameStore(files[0]).verify_once()
    else:
        keep_alive = None
        if cache_dir is None:
            keep_alive = tempfile.TemporaryDirectory(prefix="eip-frames-")
            cache_dir = keep_alive.name
        cached = [Path(cache_dir) / name for name in cache_names(files, labels)]
        path = next(filter(is_store, cached), cached[0])
        if is_store(path):
            store = FrameStore(path).verify_once()
        elif len(files) == 1 and is_store(files[0]):
            store = _refer(path, files[0])
        else:
            store = write_store(_convert(files, labels, require), path)
        store._keep_alive = keep_alive
    _check_labels(store, require)
    return store


def _refer(path: Path, store: Path) -> FrameStore:
    """A store that is nothing but where another one is; what is there now is found again."""
    contents = {
        "format": "eip-frames",
        "version": VERSION,
        "store": str(store.resolve()),
        "holds": FrameStore(store).verify_once().checksums(),
    }
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        write_contents(temporary, contents)
        try:
            temporary.rename(path)
        except OSError:
            if not is_store(path):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FrameStore(path)


def _convert(files: list[Path], labels: Labels, require: tuple[str, ...]) -> Iterator[Frame]:
    # The tally is not finished here: what it would warn of is warned of from the store, so that
    # a store from the cache is warned of too.
    tally = LabelTally(require)
    for file in files:
        read = (
            FrameStore(file).verify_once().with_isolated()
            if is_store(file)
            else stream_frames(file, labels)
        )
        for frame in read:
            if not frame.isolated:
                tally.add({label: frame.has(label) for label in LABELS}, frame.source)
            yield frame


def _check_labels(store: FrameStore, require: tuple[str, ...]) -> None:
    has = {label: store.has(label) for label in LABELS}
    mixed = any(column.any() and not column.all() for column in has.values())
    if not mixed and all(has[label].all() for label in require):
        return
    tally = LabelTally(require)
    for index in range(len(store)):
        tally.add({label: bool(has[label][index]) for label in LABELS}, store.source(index))
    tally.finish()


def cache_names(files: Sequence[Path], labels: Labels) -> list[str]:
    """Names of the store of files in a cache: ours, then that of earlier versions."""
    return [f"{files[0].stem}-{print_}" for print_ in fingerprints(files, labels)]


def fingerprints(files: Sequence[Path], labels: Labels) -> list[str]:
    """Of the files as they are on disk, cheap however large they are; wherever they are.

    The first is ours; others are what earlier versions made of the same.
    """
    parts: list[Any] = [VERSION, labels.given()]
    for file in files:
        for part, _, size, changed in states(file):
            parts.append([part.relative_to(file.parent).as_posix(), size, changed, _ends(part)])
    before: list[Any] = [VERSION, labels.fingerprint()]
    for file in files:
        before += [[str(part), *state] for part, *state in states(file)]
    return [_digest(parts), _digest(before)]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _ends(file: Path) -> str:
    """Of the file's first and last bytes: clocks of some file systems tick in seconds."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        digest.update(opened.read(BLOCK))
        opened.seek(max(0, file.stat().st_size - BLOCK))
        digest.update(opened.read(BLOCK))
    return digest.hexdigest()[:16]


def states(file: Path) -> Iterator[tuple[Path, str, int, int]]:
    """Path, resolved path, size and time of change of a file, or of each one in a folder."""
    # Without hidden files: which of a store's columns were found whole is none of its content.
    found = (p for p in file.rglob("*") if p.is_file() and not p.name.startswith("."))
    inside = sorted(found) if file.is_dir() else [file]
    for part in inside:
        try:
            state = os.stat(part)
        except OSError:
            continue  # the reader says what is wrong with it, better than we could here
        yield part, str(part.resolve()), state.st_size, state.st_mtime_ns
