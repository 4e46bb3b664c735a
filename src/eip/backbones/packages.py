"""Where weights of others lie, and whether they are those that a model stands on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from eip.errors import InputError

#: Environment variable: files of weights that may be unpickled, which runs what is in them.
TRUSTED = "EIP_TRUSTED_WEIGHTS"


@dataclass(frozen=True)
class Found:
    """An installed package's version, a file with weights in it, and that file's sha256."""

    version: str
    weights: Path
    sha256: str


@dataclass(frozen=True)
class Package:
    """A package with a network.

    Attributes:
        name: as it is installed.
        extra: what to install to get it.
        folder: of the weights that its wheel brings, in the package.
        module: as it is imported; by default its name.
    """

    name: str
    extra: str
    folder: str = ""
    module: str | None = None

    def installed(self, of_version: str | None) -> tuple[str, Path]:
        """Its version and where it lies; nothing of it is imported.

        Args:
            of_version: what a model stands on; None: whatever there is.

        Raises:
            InputError: if it is not installed, or of another version.
        """
        try:
            installed, spec = version(self.name), find_spec(self.module or self.name)
        except PackageNotFoundError:
            installed, spec = "", None
        if spec is None or not spec.submodule_search_locations:
            wanted = f'pip install "{self.extra}"' + (
                f" {self.name}=={of_version}" if of_version else ""
            )
            raise InputError(
                f"this needs the package {self.name}, whose network it stands on, and it is not "
                f"installed: {wanted}"
            )
        if of_version is not None and installed != of_version:
            raise InputError(
                f"the model stands on {self.name} {of_version}, and {installed} is installed: "
                f"pip install {self.name}=={of_version}, or attach or train it again with what is "
                "installed"
            )
        return installed, Path(next(iter(spec.submodule_search_locations)))

    def found(self, pattern: str, of_version: str | None, sha256: str | None) -> Found:
        """The weights that the installed package brings.

        Args:
            pattern: of the file's name in the folder; there is one of it.
            of_version, sha256: what a model stands on; None: whatever there is.

        Raises:
            InputError: as `installed`, and if the weights are not there, or others.
        """
        installed, place = self.installed(of_version)
        folder = place / self.folder
        files = sorted(folder.glob(pattern))
        if len(files) != 1:
            raise InputError(
                f"{folder}: expected one file of weights {pattern} in {self.name} {installed}, "
                f"found {len(files)}; install the package again"
            )
        here = sha256_of(files[0])
        if sha256 is not None and here != sha256:
            raise InputError(
                f"{files[0]}: these weights are not those that the model stands on (sha256 "
                f"{here[:12]}…, expected {sha256[:12]}…); install {self.name} {installed} again"
            )
        return Found(installed, files[0], here)


def trusted(sha256: str) -> Path | None:
    """The file of these weights among those that `TRUSTED` names, by colons (by ; on Windows).

    Raises:
        InputError: if a file that it names is not there.
    """
    for name in filter(None, os.environ.get(TRUSTED, "").split(os.pathsep)):
        if sha256_of(Path(name)) == sha256:
            return Path(name)
    return None


def sha256_of(path: Path) -> str:
    """Of a file.

    Raises:
        InputError: if there is none.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of weights")
    return _sha256(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(path: Path, changed: int) -> str:
    """Of a file as it was at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
