"""What lies in a store's folder: columns, and a table of contents that knows their checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eip.errors import InputError
from eip.files import json_text, to_json, write_whole

VERSION = 1
PER_ATOM: dict[str, tuple[str, tuple[int, ...]]] = {
    "numbers": ("|u1", ()),
    "positions": ("<f8", (3,)),
    "forces": ("<f8", (3,)),
}
PER_FRAME: dict[str, tuple[str, tuple[int, ...]]] = {
    "offsets": ("<i8", ()),  # frames + 1 entries
    "cell": ("<f8", (3, 3)),
    "pbc": ("|b1", (3,)),
    "energy": ("<f8", ()),
    "stress": ("<f8", (3, 3)),
    "has_energy": ("|b1", ()),
    "has_forces": ("|b1", ()),
    "has_stress": ("|b1", ()),
    "source": ("<i4", ()),
    "source_frame": ("<i8", ()),
    "group": ("<i4", ()),  # into the table of groups; -1: none
    "electrons": ("<i4", ()),  # into the table of (charge, multiplicity); -1: says nothing
}
#: Indices into a table of the contents; a store of older date lacks them.
INDICES = ("group", "electrons")
COLUMNS = PER_ATOM | PER_FRAME
#: The checksum of store.json in itself.
SUM = "sha256"
#: Bytes that checksums read at once.
BLOCK = 2**18


def read_contents(folder: Path) -> dict[str, Any]:
    """The table of contents of a store, of a version that can be read."""
    file = folder / "store.json"
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is not a frame store: it has no store.json") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(contents, dict) or contents.get("format") != "eip-frames":
        raise InputError(f"{file} is not the table of contents of a frame store")
    if contents.get("version") != VERSION:
        raise InputError(
            f"{folder} is a frame store of version {contents.get('version')}, this eIP "
            f"reads version {VERSION}; convert the source files again"
        )
    if SUM in contents and contents[SUM] != _sum(contents):
        raise InputError(f"{file} is damaged: its checksum is not that of what was written")
    return contents


def write_contents(folder: Path, contents: Mapping[str, Any]) -> None:
    contents = {**contents, SUM: _sum(contents)}
    write_whole(folder / "store.json", json_text(contents))


def _sum(contents: Mapping[str, Any]) -> str:
    """Checksum of a table of contents."""
    plain = {key: value for key, value in contents.items() if key != SUM}
    return hashlib.sha256(json.dumps(to_json(plain), sort_keys=True).encode()).hexdigest()


def is_store(path: str | Path) -> bool:
    """Whether a path is a store, by its table of contents."""
    return (Path(path) / "store.json").is_file()


def checksums(
    folder: Path, sizes: Mapping[str, int], tick: Callable[[int, int], None] | None
) -> dict[str, str]:
    """The sha256 of each column."""
    total, done = sum(sizes.values()), 0
    sums = {}
    for name in sizes:
        digest = hashlib.sha256()
        with open(folder / f"{name}.npy", "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                done += len(block)
                if tick is not None:
                    tick(done, total)
        sums[name] = digest.hexdigest()
    return sums
