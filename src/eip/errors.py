"""What goes wrong because of what the user gave, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What the user gave is wrong; the message is one readable paragraph.

    It names the file, frame, key or argument, what was expected and what came. The command line
    prints it without a traceback and ends with exit code 2.
    """


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of an error about a misspelt key: the near one if there is one, else the choice."""
    known = list(known)
    near = get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
