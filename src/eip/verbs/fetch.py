"""`eip fetch`: published data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eip.data import fetch as catalog
from eip.verbs.messages import Log, silent


def fetch(
    name: str,
    to: str | Path = "data",
    *,
    only: str | None = None,
    reporter: Callable[[str], catalog.Report] = lambda name: catalog.nothing_to_report,
    log: Log = silent,
) -> Path:
    """Brings a data set's files to ``to/<name>``; a download that was cut goes on.

    Args:
        name: of the catalog (`eip.data.fetch.catalog`), as ``eip fetch --list`` shows it.
        only: a pattern (``*aspirin*``) or a part of a file's name; all files where None.
        reporter: makes for a file the function that is told of its progress.

    Returns:
        The data set's folder.

    Raises:
        InputError: if there is no such data set; else as `eip.data.fetch.fetch`.
    """
    data_set = catalog.find_data_set(name)
    return catalog.fetch(data_set, to, only=only, reporter=reporter, say=log)
