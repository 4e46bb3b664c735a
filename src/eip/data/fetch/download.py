"""A download that was cut goes on where it stopped; checksums of files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests

from eip.errors import InputError
from eip.files import write_whole

CHUNK = 1 << 20
_PIECE = 1 << 16  # what a cut costs at most: requests drops a piece that is not whole
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
_ATTEMPTS = 5  # in a row in which nothing arrives
_SERVER_BUSY = (429, 500, 502, 503, 504)

#: Told how many bytes of a file are there, and of how many (None: the server does not say).
Report = Callable[[int, int | None], None]


def git_id(path: Path) -> str:
    """The object id that git gives a file: it names the content, as a checksum does."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def wrong_checksum(name: str, known: str | None, then: str, found: str = "another") -> InputError:
    return InputError(f"{name} has a wrong checksum: expected {known}, got {found}; {then}")


def session_of_requests() -> requests.Session:
    session = requests.Session()
    # Compressed in transit, a file could not be continued at a byte.
    session.headers["Accept-Encoding"] = "identity"
    return session


class ResumingDownload:
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
            found = git_id(self._part)
            if self._known != f"git:{found}":
                self._forget()
                raise wrong_checksum(self._name, self._known, "the download is thrown away", found)
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
        with self._session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
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
