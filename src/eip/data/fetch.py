"""Published data sets → files on disk, by the catalogue beside this module.

pooch fetches, checks and renames; what it lacks is added here: a download that was cut goes on
where it stopped (HTTP ranges), archives are unpacked, and ``fetched.json`` beside the files keeps
from where each came, its sha256, and whether a published checksum vouched for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

import pooch
import requests
import yaml

from eip.errors import InputError, did_you_mean, full_disk
from eip.files import json_text, write_whole
from eip.locks import locked

RECORD = "fetched.json"
FIGSHARE_API = "https://api.figshare.com/v2/articles/"
_CHUNK = 1 << 20
_PIECE = 1 << 16  # what a cut costs at most: requests drops a piece that is not whole
_TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
_ATTEMPTS = 5  # in a row in which nothing arrives
_SERVER_BUSY = (429, 500, 502, 503, 504)

#: Told how many bytes of a file are there, and of how many (None: the server does not say).
Report = Callable[[int, int | None], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set.

    Attributes:
        name: where it lies below the data set's folder.
        checksum: ``sha256:…``, ``md5:…``, ``git:…`` (object id of a blob), ``figshare:article/
            version/file`` (the md5 that Figshare publishes), or None where none is published.
        size: bytes, where known.
        unpack: an archive, of which the contents are wanted.
    """

    name: str
    url: str
    checksum: str | None = None
    size: int | None = None
    unpack: bool = False


@dataclass(frozen=True)
class DataSet:
    """A published data set, or where a person finds it if no program can fetch it."""

    name: str
    title: str
    page: str
    licence: str
    cite: str
    note: str = ""
    by_hand: bool = False
    files: tuple[RemoteFile, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int | None:
        """Bytes of all files together; None where one is not known."""
        sizes = [file.size for file in self.files]
        return None if not sizes or None in sizes else sum(s for s in sizes if s is not None)


@cache
def catalog() -> Mapping[str, DataSet]:
    """The data sets that can be fetched, by name."""
    text = (package_files("eip.data") / "catalog.yaml").read_text(encoding="utf-8")
    return {name: _data_set(name, entry) for name, entry in yaml.safe_load(text).items()}


def _data_set(name: str, entry: dict[str, Any]) -> DataSet:
    base, listed = entry.pop("url", ""), entry.pop("files", {})
    remote = []
    for file, about in listed.items():
        path = about.pop("path", file)
        remote.append(RemoteFile(name=file, url=urljoin(base, path), **about))
    return DataSet(name=name, files=tuple(remote), **entry)


def find_data_set(name: str) -> DataSet:
    """Raises an InputError, with the near one, if there is no data set of that name."""
    known = catalog()
    if name not in known:
        raise InputError(f"no data set is called '{name}': {did_you_mean(name, known)}")
    return known[name]


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
        with locked(folder), _session() as session:
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
        download = _Resuming(session, path, remote.size, known, report, retry_wait)
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
            raise _wrong(path.name, known, "the download is thrown away") from error
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
        record["unpacked"] = _unpack(path, folder)
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
        answer = session.get(f"{FIGSHARE_API}{article}/versions/{version}", timeout=_TIMEOUT)
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
    found = _git_id(path) if algorithm == "git" else pooch.file_hash(str(path), alg=algorithm)
    if found != expected:
        raise _wrong(str(path), known, then, found)


def _git_id(path: Path) -> str:
    """The object id that git gives a file: it names the content, as a checksum does."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _wrong(name: str, known: str | None, then: str, found: str = "another") -> InputError:
    return InputError(f"{name} has a wrong checksum: expected {known}, got {found}; {then}")


# --- download ------------------------------------------------------------------------------------


def _session() -> requests.Session:
    session = requests.Session()
    # Compressed in transit, a file could not be continued at a byte.
    session.headers["Accept-Encoding"] = "identity"
    return session


class _Resuming:
    """A downloader for pooch that continues ``.<name>.part``, within a call and between calls.

    ``.<name>.part.json`` keeps what the server calls the version it sent (ETag or date), and the
    rest is asked for on the condition that the file still is that version: never are halves of
    two files joined.
    """

    def __init__(
        self,
        session: requests.Session,
        path: Path,
        size: int | None,
        known: str | None,
        report: Report,
        wait: float,
    ) -> None:
        self._session, self._size, self._known = session, size, known
        self._report, self._wait = report, wait
        self._name, self._reached = path.name, False
        self._part = path.with_name(f".{path.name}.part")
        self._state = path.with_name(f".{path.name}.part.json")

    def __call__(self, url: str, output_file: str, _: object, check_only: bool = False) -> None:
        failures = 0
        while True:
            before = self._there()
            try:
                self._attempt(url)
                break
            except (requests.RequestException, _Cut) as error:
                failures = 1 if self._there() > before else failures + 1
                if failures >= _ATTEMPTS or not self._reached or not _may_pass(error):
                    raise self._refused(url, error) from error
                time.sleep(self._wait * 2 ** (failures - 1))
        if self._known is not None and self._known.startswith("git:"):
            found = _git_id(self._part)
            if self._known != f"git:{found}":
                self._forget()
                raise _wrong(self._name, self._known, "the download is thrown away", found)
        os.replace(self._part, output_file)
        self._state.unlink(missing_ok=True)

    def _there(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _attempt(self, url: str) -> None:
        version = self._version(url)
        if version is None:
            self._forget()
        start = self._there()
        headers = {"Range": f"bytes={start}-", "If-Range": version} if start and version else {}
        with self._session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            self._reached = True
            if answer.status_code == 416:  # there is nothing behind what we have
                if _range_total(answer) == start:
                    return
                self._forget()
                raise _Cut("the server has another version now")
            answer.raise_for_status()
            if answer.status_code != 206:  # it was not asked for the rest, or does not give it
                self._forget()
                start = 0
            elif _range_start(answer) != start:
                self._forget()
                raise _Cut("the server sent another part than the one asked for")
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length is not None else None
            self._make_room(total if total is not None else self._size, start)
            tag = answer.headers.get("ETag") or ""
            version = (
                tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
            )
            write_whole(self._state, json.dumps({"url": url, "version": version}))
            with self._part.open("ab") as file:
                there = start
                self._report(there, total)
                for chunk in answer.iter_content(_PIECE):
                    file.write(chunk)
                    there += len(chunk)
                    self._report(there, total)
        if total is not None and there < total:
            raise _Cut(f"the connection was cut after {there} of {total} bytes")

    def _version(self, url: str) -> str | None:
        """What the part that is there is a part of; None where it cannot be continued."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return state.get("version") if state.get("url") == url else None

    def _make_room(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if total is not None and total - start > free:
            raise InputError(
                f"{self._name} needs {_size(total - start)}, {self._part.parent} has "
                f"{_size(free)} free"
            )

    def _refused(self, url: str, error: Exception) -> InputError:
        host = urlsplit(url).netloc
        there = self._there()
        kept = (
            f" The {_size(there)} that arrived are kept: the same command goes on." if there else ""
        )
        by_hand = f" By hand: download {url} and put it at {self._part.parent / self._name}."
        response = getattr(error, "response", None)
        if response is not None:
            return InputError(
                f"{self._name}: {host} answers {response.status_code} {response.reason}.{kept}"
                + by_hand
            )
        if isinstance(error, requests.ConnectionError) and not there:
            return InputError(
                f"{self._name}: {host} cannot be reached; there is no network here, or the server "
                f"is down.{by_hand}"
            )
        return InputError(f"{self._name}: {host}: {error}.{kept}{by_hand}")


class _Cut(Exception):
    """A download ended before the file did."""


def _may_pass(error: Exception) -> bool:
    response = getattr(error, "response", None)
    return response is None or response.status_code in _SERVER_BUSY


def _range_start(answer: requests.Response) -> int | None:
    first = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    return int(first) if first.isdigit() else None


def _range_total(answer: requests.Response) -> int | None:
    last = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(last) if last.isdigit() else None


def _size(size: int | float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


# --- archives ------------------------------------------------------------------------------------


def _unpack(archive: Path, folder: Path) -> dict[str, int]:
    """Unpacks the files of an archive below a folder, each whole or not there; names and sizes.

    A folder that all of them lie in is left out.
    """
    out: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as temporary:
        try:
            for name, path in _extract(archive, Path(temporary)):
                out[name] = path.stat().st_size
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise InputError(f"{archive} cannot be unpacked: {error}") from error
        tops = {PurePosixPath(name).parts[0] for name in out}
        deep = all(len(PurePosixPath(name).parts) > 1 for name in out)
        shared = f"{tops.pop()}/" if len(tops) == 1 and deep else ""
        final = {name.removeprefix(shared): size for name, size in out.items()}
        for name in out:
            target = folder / name.removeprefix(shared)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary) / name, target)
    return final


def _extract(archive: Path, to: Path) -> Iterator[tuple[str, Path]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for item in zipped.infolist():
                if not item.is_dir() and not _is_junk(item.filename):
                    path = Path(zipped.extract(item, to))
                    yield path.relative_to(to).as_posix(), path
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and not _is_junk(member.name):
                tar.extract(member, to, filter="data")  # refuses what points outside
                name = PurePosixPath(member.name.lstrip("/")).as_posix()
                yield name, to / name


def _is_junk(name: str) -> bool:
    """What macOS adds to archives."""
    return PurePosixPath(name).name.startswith("._") or "__MACOSX" in PurePosixPath(name).parts
