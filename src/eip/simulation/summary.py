"""How a run of dynamics went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eip.simulation.monitors import EndingKind


@dataclass(frozen=True)
class DynamicsSummary:
    """How a run went; summary.json holds the same keys.

    Attributes:
        ending: "finished", "stopped" or "collapsed".
        cause: "steps", "interrupted", "uncertainty", "extrapolation_grade", "non_finite",
            "closest_approach", "broken_bond", "temperature" or "energy_drift".
        reason: the same as a sentence with its figures.
        steps, time_fs: how far the run came, continuations included.
        wall_seconds: of all sessions together.
        steps_per_second: of this session; null if it made no step.
        mean_temperature: K.
        mean_uncertainty, max_uncertainty: σ of the structure, eV/Å, over all steps.
        max_force_uncertainty: largest σ_i of any atom at any step, eV/Å.
        final_energy: unbiased, eV.
        bias_work: work done by the limited bias force, ∫ F_lim·v dt, eV; null without a bias.
        max_bias_force: largest ‖F_lim‖ of any atom at any step, eV/Å; null without a bias.
        closest_distance: of any two atoms at any step, Å; null if never within the cutoff.
        energy_drift: of what NVE conserves, eV/atom; null in other ensembles.
        last_good_step, last_good_frame: the last state that no monitor called collapsed, and the
            file that holds it; null if there was none.
        approach: file with the last steps before an ending that is not "finished"; else null.
        trajectory, log: files.
        settings, udd: what was asked for.
    """

    ending: EndingKind
    cause: str
    reason: str
    steps: int
    time_fs: float
    wall_seconds: float
    steps_per_second: float | None
    mean_temperature: float | None
    mean_uncertainty: float | None
    max_uncertainty: float | None
    max_force_uncertainty: float | None
    final_energy: float | None
    bias_work: float | None
    max_bias_force: float | None
    closest_distance: float | None
    energy_drift: float | None
    last_good_step: int | None
    last_good_frame: str | None
    approach: str | None
    trajectory: str
    log: str
    settings: dict[str, Any]
    udd: dict[str, Any] | None


@dataclass
class Totals:
    """Sums and extremes over all states of a run, the start included."""

    states: int = 0
    temperature: float = 0.0
    sigma: float = 0.0
    max_sigma: float = 0.0
    max_force_sigma: float = 0.0
    max_bias_force: float = 0.0
    bias_work: float = 0.0
    closest: float | None = None
    wall_seconds: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """One state more, as log.csv has it."""
        self.states += 1
        self.temperature += row["temperature"]
        if row["uncertainty"] is not None:
            self.sigma += row["uncertainty"]
            self.max_sigma = max(self.max_sigma, row["uncertainty"])
        self.max_force_sigma = max(self.max_force_sigma, row["max_force_uncertainty"] or 0.0)
        self.max_bias_force = max(self.max_bias_force, row["max_bias_force"] or 0.0)
        closest = row["closest_distance"]
        if closest is not None:
            self.closest = closest if self.closest is None else min(self.closest, closest)
