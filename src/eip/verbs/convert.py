"""`eip convert`: frames as a store, which training maps into memory, or as other packages read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eip.data import Labels
from eip.data import convert as conversion
from eip.data import export as exports
from eip.errors import InputError
from eip.verbs.arguments import as_paths


def convert(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    labels: Labels | Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
    *,
    to: str | None = None,
    keys: str = "ase",
    tick: Callable[[conversion.Progress], None] = lambda progress: None,
) -> conversion.Converted | exports.Exported:
    """Converts files of frames and stores to a store; the same call goes on where it was stopped.

    Or to what other packages read: extended xyz, DeePMD's folders.

    Args:
        out: a folder; a file of extended xyz, if it ends in .xyz.
        labels: keys and units, of all sources that are not stores.
        where: only frames of which all of these hold: "atoms<=200", "elements=H,C,O" (no others),
            "contains=Li", "without=Pb,U", "labelled=forces".
        to: "store", "extxyz" or "deepmd" (a system for each composition); None: by ``out``.
        keys: of labels in extended xyz: "ase" (energy, forces, stress) or "mace" (REF_energy, …).
        tick: is told of progress a few times a second.

    Raises:
        InputError: if a condition is none, or there is no such form; else as
            `eip.data.convert.convert` and `eip.data.export.export`.
    """
    if labels is not None:
        labels = Labels.of(labels, "labels")
    files, chosen = as_paths(sources), conversion.Where(where)
    form = exports.form_of(Path(out), to)
    if form is not None:
        return exports.export(files, out, form, labels, chosen, keys=keys, tick=tick)
    if keys != "ase":
        raise InputError(f"keys={keys} are of extended xyz, and {out} would be a store")
    return conversion.convert(files, out, labels, chosen, tick=tick)
