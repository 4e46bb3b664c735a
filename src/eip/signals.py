"""What ends a process from outside, and what this process makes of it.

SIGTERM is what a batch system sends before it kills. Here it is Ctrl-C by another name: whatever
tidies up after a KeyboardInterrupt tidies up after both.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1
#: Seconds between two looks at the parent, where the system cannot be asked to tell.
_LOOK = 2.0


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


#: Signals that this process has taken notice of.
_came: list[str] = []


def exit_code() -> int:
    """Of a process that was stopped: 128 and the number of the signal, as shells count."""
    return 128 + (signal.SIGTERM if "SIGTERM" in _came else signal.SIGINT)


def _terminate(number: int, frame: object) -> None:
    _came.append("SIGTERM")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; do not disturb the tidying up
    raise Terminated


def heed_termination() -> None:
    """From here on SIGTERM raises `Terminated` in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def heeding_termination() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside; outside it does what it did."""
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    heed_termination()
    try:
        yield
    finally:
        if before is not None:  # None: a handler that is not Python's, which cannot be put back
            signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], str | None]]:
    """Ctrl-C and SIGTERM wait for the end of a step; a second one is let through.

    Half a step would leave positions of one time and momenta of another. Outside the main thread
    Python lets no one wait for signals, and they do what they always do.
    """
    came: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    # None: a handler that is not Python's, which could not be put back.
    found = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler is not None}

    def note(number: int, frame: object) -> None:
        came.append(signal.Signals(number).name)
        _came.append(came[-1])
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with(parent: int) -> None:
    """This process ends when its parent does, however that ends."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:
            if os.getppid() != parent:  # it has died before we could ask
                os._exit(1)
            return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="eip-parent-watch").start()
