"""Fetches, checks, unpacks and keeps account of a data set's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pooch
import requests

from eip.data.fetch.archives import unpack
from eip.data.fetch.data_sets import DataSet, RemoteFile
from eip.data.fetch.download import (
    TIMEOUT,
    Report,
    ResumingDownload,
    git_id,
    session_of_requests,
    wrong_checksum,
)
from eip.errors import InputError, did_you_mean, full_disk
from eip.files import json_text, write_whole
from eip.locks import locked

RECORD = "fetched.json"
FIGSHARE_API = "https://api.figshare.com/v2/articles/"

Say = Callable[[str], None]


def nothing_to_report(there: int, total: int | None) -> None:
    """A `Report` that says nothing."""


def fetch(
    data_set: DataSet,
    to: str | Path,
    *,
    only: str | None = None,
    reporter: Callable[[str], Report] = lambda name: nothing_to_report,
    say: Say = lambda text: None,
    retry_wait: float = 1.0,
) -> Path:
    """Brings a data set's files to ``to/<name>``; what is there already is not fetched again.

    A file has its name when it is whole and agrees with its checksum; until then it is
    ``.<name>.part``, from which the next call goes on.

    Args:
        only: a pattern (``*aspirin*``) or a part of a file's name; all files where None.
        reporter: makes for a file the function that is told of its progress.
        retry_wait: seconds before the second attempt after a cut; doubles with each.

    Returns:
        The data set's folder.

    Raises:
        InputError: if nothing matches ``only``; if there is no network or the server refuses; if a
            file does not agree with its checksum; if another process fetches the same file; if the
            disk is too small.
    """
    if data_set.by_hand:
        raise InputError(
            f"{data_set.name} cannot be fetched by a program: see {data_set.page} "
            f"({data_set.title})"
        )
    chosen = [f for f in data_set.files if only is None or _matches(f.name, only)]
    if not chosen:
        names = [f.name for f in data_set.files]
        raise InputError(
            f"{data_set.name} has no file like '{only}': {did_you_mean(str(only), names)}"
        )
    folder = Path(to) / data_set.name
    try:
        with locked(folder), session_of_requests() as session:
            for remote in chosen:
                if not _is_there(folder, remote):
                    _fetch_file(remote, folder, session, reporter(remote.name), say, retry_wait)
    except Exception as error:
        if what := full_disk(error):
            raise InputError(
                f"there is no room left on the disk of {folder} ({what}); make room, then the "
                "same command goes on"
            ) from error
        raise
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()
    return folder


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or pattern in name


def _fetch_file(
    remote: RemoteFile,
    folder: Path,
    session: requests.Session,
    report: Report,
    say: Say,
    retry_wait: float,
) -> None:
    path = folder / remote.name
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _published(remote, session, say)
    if path.exists():
        _check(path, known, "is there already; move it away to fetch it anew")
    else:
        download = ResumingDownload(session, path, remote.size, known, report, retry_wait)
        try:
            with _quiet():
                pooch.retrieve(
                    remote.url,
                    # What pooch cannot check has been checked by the download itself.
                    known_hash=known if known and not known.startswith("git:") else None,
                    fname=path.name,
                    path=path.parent,
                    downloader=download,
                )
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise wrong_checksum(path.name, known, "the download is thrown away") from error
    record: dict[str, Any] = {
        "url": remote.url,
        "size": path.stat().st_size,
        "sha256": pooch.file_hash(str(path)),
        "checked against": known or "nothing: no checksum is published",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if known is None:
        say(
            f"{remote.name}: no checksum is published to check it against; its sha256, "
            f"{record['sha256']}, is kept in {folder / RECORD}"
        )
    if remote.unpack:
        say(f"{remote.name}: unpacking")
        record["unpacked"] = unpack(path, folder)
    _write_record(folder, remote.name, record)
    if remote.unpack:
        path.unlink()


# --- what is there -------------------------------------------------------------------------------


def _records(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{folder / RECORD} is damaged: {error}; delete it") from error
    return dict(found)


def _write_record(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    write_whole(folder / RECORD, json_text({**_records(folder), name: record}))


def _is_there(folder: Path, remote: RemoteFile) -> bool:
    record = _records(folder).get(remote.name)
    if record is None:
        return False
    sizes = record.get("unpacked", {remote.name: record["size"]})
    paths = {folder / name: size for name, size in sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


@contextmanager
def _quiet() -> Iterator[None]:
    """pooch logs what we say already."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


# --- checksums -----------------------------------------------------------------------------------


def _published(remote: RemoteFile, session: requests.Session, say: Say) -> str | None:
    """The checksum in a form that can be computed; None where there is none."""
    if remote.checksum is None or not remote.checksum.startswith("figshare:"):
        return remote.checksum
    article, version, file = remote.checksum.removeprefix("figshare:").split("/")
    try:
        answer = session.get(f"{FIGSHARE_API}{article}/versions/{version}", timeout=TIMEOUT)
        answer.raise_for_status()
        listed = {str(item["id"]): item for item in answer.json()["files"]}
        return f"md5:{listed[file]['computed_md5']}"
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        say(f"{remote.name}: Figshare does not tell the checksum ({error})")
        return None


def _check(path: Path, known: str | None, then: str) -> None:
    if known is None:
        return
    algorithm, _, expected = known.partition(":")
    found = git_id(path) if algorithm == "git" else pooch.file_hash(str(path), alg=algorithm)
    if found != expected:
        raise wrong_checksum(str(path), known, then, found)
