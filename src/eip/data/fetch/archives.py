"""Archives → files."""

from __future__ import annotations

import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from eip.errors import InputError


def unpack(archive: Path, folder: Path) -> dict[str, int]:
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
