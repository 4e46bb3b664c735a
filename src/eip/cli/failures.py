"""What went wrong, as one paragraph and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from eip.cli import printing
from eip.errors import InputError, full_disk
from eip.signals import exit_code


class Interrupted(Exception):
    """Stopped by Ctrl-C or SIGTERM; what was done so far is kept."""


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """An interrupt inside is told with how to go on."""
    try:
        yield
    except (InterruptedError, KeyboardInterrupt):
        raise Interrupted(f"Interrupted; {how}") from None


def explain(error: BaseException) -> tuple[str, int]:
    """An error as a paragraph, and the exit code."""
    if isinstance(error, Interrupted):
        return str(error), exit_code()
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "Interrupted.", exit_code()
    if isinstance(error, InputError):
        return f"Error: {error}", 2
    if what := full_disk(error):
        return f"Error: there is no room left on the disk ({what}); make room, then try again", 2
    if hasattr(error, "format_message"):  # of typer: an option or argument is wrong
        said = error.format_message().strip()
        if not said:  # help was printed instead
            return "", 2
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "eip"
        return f"Error: {said.rstrip('.')}. See '{verb} --help'.".replace("?.", "?"), 2
    # By name, or every failure would first import Lightning.
    if type(error).__name__ == "NonFiniteLoss":
        return f"Error: {error}", 2
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "Error: the GPU's memory is full; set training.batch_size or training.max_atoms lower, "
            "or --device cpu",
            2,
        )
    if isinstance(error, OSError) and error.filename is not None:
        # Of a rename the second is the name that the user gave.
        return f"Error: {error.filename2 or error.filename}: {error.strerror}", 2
    said = " ".join(str(error).split()) or "no message"
    return (
        f"Error: eip failed in a way that it should not ({type(error).__name__}: {said}). "
        f"Please report it, with what '--debug' added to the command prints.",
        2,
    )


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """In place of `warnings.showwarning`."""
    # Of libraries below ours a user can change nothing.
    if category.__module__.startswith("eip."):
        printing.warn(f"Warning: {message}")
