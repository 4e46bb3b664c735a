"""What goes wrong because of what the user gave, and how it is said."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from difflib import get_close_matches


class InputError(ValueError):
    """What the user gave is wrong; the message is one readable paragraph.

    It names the file, frame, key or argument, what was expected and what came. The command line
    prints it without a traceback and ends with exit code 2.
    """


class MissingLabel(InputError):
    """A frame lacks a label that it must have.

    Attributes:
        label: "energy", "forces" or "stress".
    """

    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label


class NonFinitePrediction(InputError):
    """What a potential says of a structure is NaN or infinite; the message names the atoms."""


class GPUMemoryFull(InputError):
    """A GPU's memory does not hold what a batch of structures needs; the message has its size."""

    def __init__(self, n_atoms: int, n_edges: int) -> None:
        super().__init__(
            f"the GPU's memory is full: it does not hold {n_atoms:,} atoms with {n_edges:,} pairs "
            "within the cutoff at once. Take fewer (training.batch_size, training.max_atoms or "
            "training.max_edges; predict(..., atoms_per_batch=...)), a smaller box, or --device cpu"
        )


def unknown_elements(
    numbers: Iterable[int], known: Iterable[int], where: str = "the structure"
) -> InputError:
    """The error about elements, as atomic numbers, that a potential was not made for."""
    # Not at the top: the command line, which imports this, answers before ASE has been read.
    from ase.data import chemical_symbols

    def symbols(which: Iterable[int]) -> str:
        return ", ".join(chemical_symbols[z] for z in sorted(set(which)))

    return InputError(
        f"{where} holds {symbols(numbers)}, which the potential was not made for; it knows "
        f"{symbols(known)}"
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of an error about a misspelt key: the near one if there is one, else the choice."""
    by_folded = {key.casefold(): key for key in known}
    near = get_close_matches(given.casefold(), by_folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{by_folded[near[0]]}'?"
    return f"expected one of {', '.join(by_folded.values())}"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: As libraries put it that write by themselves: SQLite, safetensors and torch.
_FULL_WORDS = ("disk is full", "No space left", "File too large", "Disk quota", "failed writing")


def full_disk(error: BaseException) -> str:
    """Which disk an error says is full, or by its own words that one is; "" of other errors."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            return str(link.filename or link.strerror)
        if not isinstance(link, InputError) and any(word in str(link) for word in _FULL_WORDS):
            return " ".join(str(link).split())
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
