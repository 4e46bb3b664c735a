"""What stands between a run and the one who watches it: signals and the progress bar."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eip.simulation.monitors import State
from eip.simulation.settings import DynamicsSettings


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
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(settings: DynamicsSettings, visible: bool) -> Iterator[Callable[[State], None]]:
    """A bar on stderr with temperature and σ, fed with states."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[live]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not visible,
    )
    task = bar.add_task(settings.ensemble, total=settings.steps, live="")

    def show(state: State) -> None:
        sigma = state.results.get("uncertainty")
        live = f"T {state.temperature:.0f} K"
        live += "" if sigma is None else f"  σ {sigma:.4f} eV/Å"
        bar.update(task, completed=state.step, live=live)

    with bar if visible else nullcontext():
        yield show
