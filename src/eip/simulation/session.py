"""What a run shows to the one who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eip.simulation.monitors import State
from eip.simulation.settings import DynamicsSettings


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
