"""When a learning run did what: tasks.csv, a line for each task that ended."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["training", "dynamics", "label"]


@dataclass(frozen=True)
class TaskTime:
    """A task.

    Attributes:
        kind: see there.
        name: of the generation, the run of dynamics or the candidate.
        begun: seconds since 1970.
        seconds: how long it took.
    """

    kind: Kind
    name: str
    begun: float
    seconds: float

    @property
    def ended(self) -> float:
        return self.begun + self.seconds


def note(path: Path, task: TaskTime) -> None:
    """Adds a line."""
    with path.open("a", newline="", encoding="utf-8") as file:
        kind, name, begun, seconds = astuple(task)
        csv.writer(file).writerow([kind, name, f"{begun:.3f}", f"{seconds:.3f}"])


def read_tasks(path: Path) -> Iterator[TaskTime]:
    """In the order in which they ended; a line that a kill cut short is left out."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.reader(file):
            try:
                kind, name, begun, seconds = row
                task = TaskTime(kind, name, float(begun), float(seconds))  # type: ignore[arg-type]
            except ValueError:
                continue
            yield task


def lanes(tasks: Sequence[TaskTime]) -> list[int]:
    """A lane for each, in which it meets no other: as many lanes as were at work at once."""
    free: list[float] = []
    found = [0] * len(tasks)
    for index in sorted(range(len(tasks)), key=lambda i: tasks[i].begun):
        task = tasks[index]
        # Clocks of workers and of this process differ by a little.
        lane = next((k for k, end in enumerate(free) if end <= task.begun + 0.01), len(free))
        if lane == len(free):
            free.append(0.0)
        free[lane] = task.ended
        found[index] = lane
    return found
