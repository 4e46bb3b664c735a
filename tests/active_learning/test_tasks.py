"""When a run did what: a torn line is left out, and lanes hold no two at once."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from eip.active_learning.tasks import TaskTime, lanes, note, read_tasks


def test_lines_come_back_and_a_torn_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    assert list(read_tasks(path)) == []
    tasks = [
        TaskTime("training", "generation-000", 1.7e9 + 0.125, 12.5),
        TaskTime("dynamics", "start, of a name-300K-md", 1.7e9 + 13.0, 0.25),
    ]
    for task in tasks:
        note(path, task)
    with path.open("a") as file:
        file.write("label,c01")
    assert list(read_tasks(path)) == tasks


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=30))
def test_lanes(spans: list[tuple[int, int]]) -> None:
    tasks = [TaskTime("label", str(k), float(b), float(s)) for k, (b, s) in enumerate(spans)]
    found = lanes(tasks)
    for lane in set(found):
        own = sorted(
            (t for t, k in zip(tasks, found, strict=True) if k == lane), key=lambda t: t.begun
        )
        assert all(a.ended <= b.begun for a, b in itertools.pairwise(own))
    # No more lanes than tasks at once.
    busiest = max((sum(t.begun <= at < t.ended for t in tasks) for at in range(80)), default=0)
    assert len(set(found)) == busiest
