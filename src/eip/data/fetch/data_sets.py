"""The catalogue: what can be fetched, and where from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as package_files
from typing import Any
from urllib.parse import urljoin

import yaml

from eip.errors import InputError, did_you_mean


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
