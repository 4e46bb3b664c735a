"""`eip convert`: frames as a store, which training maps into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eip.data import Labels
from eip.data import convert as conversion
from eip.verbs.arguments import as_paths


def convert(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    labels: Labels | Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
    *,
    tick: Callable[[conversion.Progress], None] = lambda progress: None,
) -> conversion.Converted:
    """Converts files of frames and stores to a store; the same call goes on where it was stopped.

    Args:
        labels: keys and units, of all sources that are not stores.
        where: only frames of which all of these hold: "atoms<=200", "elements=H,C,O" (no others),
            "contains=Li", "without=Pb,U", "labelled=forces".
        tick: is told of progress a few times a second.

    Raises:
        InputError: if a condition is none; else as `eip.data.convert.convert`.
    """
    if labels is not None:
        labels = Labels.of(labels, "labels")
    return conversion.convert(as_paths(sources), out, labels, conversion.Where(where), tick=tick)
