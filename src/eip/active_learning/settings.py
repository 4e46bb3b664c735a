"""What a learning run is told: plain values, free of torch: reading a configuration is quick."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from eip.errors import InputError, did_you_mean

Selection = Literal["uncertainty", "random"]


@dataclass(frozen=True)
class LearningSettings:
    """How to explore, select, label and stop.

    Attributes:
        generations: at most; the first trains on the initial frames.
        initial: frames that are made and labelled before the first training: the starts, rattled.
        rattle: standard deviation of their atoms' displacements, Å (half of them get a third).
        labels: a generation at most.
        max_labels: in all; None: no such bound.
        max_hours: of wall time, all sittings together; None: no such bound.
        temperatures: K; each start runs at each of them.
        length_ps: of each run of dynamics, ps.
        timestep_fs: fs.
        udd: whether each run has a twin driven by the uncertainty.
        frame_interval: steps between the frames that are looked at.
        selection: "uncertainty" (in the window, then the most diverse) or "random" (of all sound
            frames): what the uncertainty is worth shows beside it.
        lower: σ of an atom from which on a frame is a candidate, eV/Å; None: a fifth of the RMS
            force component of the first training set.
        upper: σ above which a frame is no more worth a label, eV/Å; None: that RMS itself.
        min_distance_ratio: closest atoms of a candidate, in sums of covalent radii.
        max_bond_stretch: covalent bonds of the start no longer in a candidate than this many sums
            of covalent radii; None: bonds may break.
        validation: share of the labels that chooses the epoch and fits the calibration.
        candidate_ratio: the run has converged when, with every run of dynamics stable, no more
            than this share of the frames seen under UDD (MD without ``udd``) is a candidate.
        max_force: eV/Å, of a label that is believed; and
        max_net_force: eV/Å, of the sum of its forces.
        executor: "processes", "serial" or "parsl:site.py".
        workers: processes that explore and label.
        retries: of a task whose worker was lost.
        seed: of everything that is drawn.

    Raises:
        InputError: if a value makes no sense.
    """

    generations: int = 6
    initial: int = 30
    rattle: float = 0.06
    labels: int = 30
    max_labels: int | None = None
    max_hours: float | None = None
    temperatures: tuple[float, ...] = (300.0,)
    length_ps: float = 5.0
    timestep_fs: float = 0.5
    udd: bool = True
    frame_interval: int = 20
    selection: Selection = "uncertainty"
    lower: float | None = None
    upper: float | None = None
    min_distance_ratio: float = 0.55
    max_bond_stretch: float | None = 2.0
    validation: float = 0.15
    candidate_ratio: float = 0.02
    max_force: float = 50.0
    max_net_force: float = 0.5
    executor: str = "processes"
    workers: int = 1
    retries: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("generations", "labels", "frame_interval", "workers"):
            self._demand(name, "≥ 1", lambda x: x >= 1)
        for name in ("initial", "retries"):
            self._demand(name, "≥ 0", lambda x: x >= 0)
        for name in ("rattle", "length_ps", "timestep_fs", "min_distance_ratio", "max_force",
                     "max_net_force"):  # fmt: skip
            self._demand(name, "> 0", lambda x: math.isfinite(x) and x > 0)
        for name in ("max_labels", "max_hours", "lower", "upper", "max_bond_stretch"):
            self._demand(name, "> 0 or empty", lambda x: x is None or x > 0)
        self._demand("validation", "between 0 and 1", lambda x: 0 < x < 1)
        self._demand("candidate_ratio", "between 0 and 1", lambda x: 0 <= x <= 1)
        self._demand("temperatures", "some, all > 0", lambda x: len(x) > 0 and min(x) > 0)
        if self.selection not in get_args(Selection):
            raise InputError(
                f"unknown selection '{self.selection}': "
                f"{did_you_mean(str(self.selection), get_args(Selection))}"
            )
        if self.lower is not None and self.upper is not None and self.upper <= self.lower:
            raise InputError(f"learning needs upper > lower, got {self.upper} and {self.lower}")

    def _demand(self, name: str, expected: str, holds: Callable[[Any], bool]) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise InputError(f"learning needs {name} {expected}, got {value}")
