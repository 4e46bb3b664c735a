"""Where weights of others lie, and whether they are those that a model stands on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from eip.errors import InputError


@dataclass(frozen=True)
class Found:
    """An installed package's version, a file with weights in it, and that file's sha256."""

    version: str
    weights: Path
    sha256: str


@dataclass(frozen=True)
class Package:
    """A package whose wheel brings weights.

    Attributes:
        name: as it is installed and imported.
        folder: of the weights, in the package.
        extra: what to install to get it.
    """

    name: str
    folder: str
    extra: str

    def found(self, pattern: str, of_version: str | None, sha256: str | None) -> Found:
        """The weights of the installed package; nothing of it is imported.

        Args:
            pattern: of the file's name in the folder; there is one of it.
            of_version, sha256: what a model stands on; None: whatever there is.

        Raises:
            InputError: if the package is not installed, or of another version, or its weights are
                not there, or others.
        """
        try:
            installed, spec = version(self.name), find_spec(self.name)
        except PackageNotFoundError:
            installed, spec = "", None
        if spec is None or not spec.submodule_search_locations:
            wanted = f'pip install "{self.extra}"' + (
                f" {self.name}=={of_version}" if of_version else ""
            )
            raise InputError(
                f"this needs the package {self.name}, whose network and weights it stands on, and "
                f"it is not installed: {wanted}"
            )
        if of_version is not None and installed != of_version:
            raise InputError(
                f"the model stands on {self.name} {of_version}, and {installed} is installed: "
                f"pip install {self.name}=={of_version}, or attach it again to what is installed"
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / self.folder
        files = sorted(folder.glob(pattern))
        if len(files) != 1:
            raise InputError(
                f"{folder}: expected one file of weights {pattern} in {self.name} {installed}, "
                f"found {len(files)}; install the package again"
            )
        here = _sha256(files[0], files[0].stat().st_mtime_ns)
        if sha256 is not None and here != sha256:
            raise InputError(
                f"{files[0]}: these weights are not those that the model stands on (sha256 "
                f"{here[:12]}…, expected {sha256[:12]}…); install {self.name} {installed} again"
            )
        return Found(installed, files[0], here)


@lru_cache(maxsize=32)
def _sha256(path: Path, changed: int) -> str:
    """Of a file as it was at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
