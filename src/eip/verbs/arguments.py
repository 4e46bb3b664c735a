"""Arguments as a person gives them in Python."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from eip.errors import InputError


def as_paths(given: object) -> list[Path]:
    """One path or several: a lone string is a path, and not its letters.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(given, str | os.PathLike):
        return [Path(given)]
    if isinstance(given, Iterable):
        found = list(given)
        if all(isinstance(one, str | os.PathLike) for one in found):
            return [Path(one) for one in found]
    raise InputError(f"expected a path or several, got {given!r}")
