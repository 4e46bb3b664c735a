"""The frames of a run: converted once, and the same ever after."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from eip.data.frame import LabelWarning
from eip.data.labels import Labels
from eip.data.store import FrameStore, cache_names, is_store, open_frames
from eip.errors import InputError


def kept_frames(
    paths: Sequence[str | Path],
    labels: Labels,
    folder: Path,
    require: Sequence[str] = (),
    *,
    begun: bool,
) -> FrameStore:
    """The frames of files as a store in a run's folder, which holds those of the run already.

    Files that were moved, copied or touched are converted again and compared with what the run
    has: what counts is what they hold. Where they are gone, the run goes on with what it has.

    Args:
        folder: of this set of frames alone; its name is what the set is called in errors.
        begun: whether the run has made something of the frames that are there; if not, those of
            other files give way.

    Raises:
        InputError: as `open_frames`; if the files hold other frames than the run was begun with.

    Warns:
        LabelWarning: as `open_frames`; if frames cannot be compared.
    """
    files = [Path(path) for path in paths]
    for stray in folder.glob(".*"):  # of a conversion that was killed
        shutil.rmtree(stray, ignore_errors=True)
    there = [path for path in folder.glob("*") if is_store(path)]
    names = cache_names(files, labels)
    if not begun:
        for other in there:
            if other.name not in names:
                shutil.rmtree(other)
        there = []
    if not there or any(path.name in names for path in there):
        return open_frames(files, labels, folder, require)
    kept, gone = there[0], [file for file in files if not file.exists()]
    contents = json.loads((kept / "store.json").read_text(encoding="utf-8"))
    if gone and "store" not in contents:
        warnings.warn(
            f"{gone[0]}: no such file; the run goes on with the frames that it has of it in {kept}",
            LabelWarning,
            stacklevel=2,
        )
        return FrameStore(kept).verify_once()
    before = contents["holds"] if "holds" in contents else _checksums(kept)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        now = open_frames(files, labels, temporary, require)
        if before is None:
            warnings.warn(
                f"{now.path} is taken for what the run was begun with: the store that it was "
                "begun with is gone and has left no checksums",
                LabelWarning,
                stacklevel=2,
            )
        elif not _same(before, now.checksums()):
            raise InputError(
                f"cannot resume: the {folder.name} files have changed since the run was begun "
                f"({', '.join(map(str, files))})"
            )
        # Under its present name it is found at once the next time.
        if "store" in contents:
            now.path.rename(folder / names[0])
            shutil.rmtree(kept)
        else:
            kept.rename(folder / names[0])
    return FrameStore(folder / names[0]).verify_once()


def _checksums(kept: Path) -> dict[str, str] | None:
    try:
        return FrameStore(kept).checksums()
    except InputError:  # a reference to a store that is gone
        return None


def _same(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Where frames came from may differ, and columns that earlier versions did not write."""
    common = (before.keys() & now.keys()) - {"source"}
    return bool(common) and all(before[name] == now[name] for name in common)
