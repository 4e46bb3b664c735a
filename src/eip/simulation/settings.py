"""What a run of dynamics is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ase import Atoms

from eip.errors import InputError, did_you_mean
from eip.simulation.monitors import (
    BrokenBond,
    ClosestApproach,
    EnergyDrift,
    Monitor,
    NonFinite,
    Temperature,
    Uncertainty,
)

#: "nvt-berendsen" is the paper's; "npt" is isotropic Martyna–Tobias–Klein, which samples the
#: ensemble and needs no guess of the compressibility, as a Berendsen barostat does.
Ensemble = Literal["langevin", "bussi", "nose-hoover", "nvt-berendsen", "nve", "npt"]

_POSITIVE = ("timestep_fs", "taut_fs", "taup_fs", "friction")
_POSITIVE_IF_GIVEN = ("max_uncertainty", "max_temperature", "max_bond_stretch", "max_energy_drift")
_AT_LEAST_ONE = ("log_interval", "trajectory_interval", "checkpoint_interval")


@dataclass(frozen=True)
class DynamicsSettings:
    """Settings of a run.

    Attributes:
        steps: length of the whole run, continuations included.
        ensemble: see `Ensemble`.
        temperature: K; of the thermostat and of the Maxwell–Boltzmann start.
        timestep_fs: fs.
        taut_fs: time of the thermostat, fs (Bussi, Nosé–Hoover, Berendsen, NPT).
        friction: 1/fs (Langevin).
        pressure: eV/Å³ (NPT); 1 bar is 6.24e-7.
        taup_fs: time of the barostat, fs (NPT).
        seed: of the start and of the thermostat's noise.
        keep_momenta: start from the structure's momenta instead of drawing new ones.
        log_interval, trajectory_interval, checkpoint_interval: steps between log lines, between
            frames of the trajectory, and between checkpoints.
        approach_frames: how many of the last steps are written when a run does not finish.
        max_uncertainty: stops the run where σ of the structure passes it, eV/Å; None: never.
        max_temperature: K; None: the larger of ten times ``temperature`` and 3000 K.
        min_distance: no two atoms closer, Å.
        min_distance_ratio: nor closer than this part of the sum of their covalent radii.
        max_bond_stretch: no covalent bond of the start longer than this many times the sum of the
            two covalent radii; None: bonds may break.
        max_energy_drift: of what NVE conserves, eV/atom; None: not looked at.

    Raises:
        InputError: if a value makes no sense.
    """

    steps: int = 20_000
    ensemble: str = "langevin"
    temperature: float = 300.0
    timestep_fs: float = 0.5
    taut_fs: float = 100.0
    friction: float = 0.01
    pressure: float = 0.0
    taup_fs: float = 1000.0
    seed: int = 0
    keep_momenta: bool = False
    log_interval: int = 10
    trajectory_interval: int = 100
    checkpoint_interval: int = 1000
    approach_frames: int = 20
    max_uncertainty: float | None = None
    max_temperature: float | None = None
    min_distance: float = 0.5
    min_distance_ratio: float = 0.4
    max_bond_stretch: float | None = 2.0
    max_energy_drift: float | None = None

    def __post_init__(self) -> None:
        ensembles = get_args(Ensemble)
        if self.ensemble not in ensembles:
            raise InputError(
                f"unknown ensemble '{self.ensemble}': {did_you_mean(str(self.ensemble), ensembles)}"
            )
        for name in _POSITIVE:
            self._demand(name, "> 0", lambda x: math.isfinite(x) and x > 0)
        for name in _POSITIVE_IF_GIVEN:
            self._demand(name, "> 0 or none", lambda x: x is None or x > 0)
        for name in _AT_LEAST_ONE:
            self._demand(name, "≥ 1", lambda x: x >= 1)
        for name in ("steps", "approach_frames", "min_distance", "min_distance_ratio", "seed"):
            self._demand(name, "≥ 0", lambda x: x >= 0)
        self._demand("pressure", "finite", math.isfinite)
        if self.ensemble == "nve":
            self._demand("temperature", "≥ 0", lambda x: math.isfinite(x) and x >= 0)
        else:
            self._demand("temperature", "> 0", lambda x: math.isfinite(x) and x > 0)
            if self.max_energy_drift is not None:
                raise InputError(
                    f"max_energy_drift looks at what NVE conserves, but the ensemble is "
                    f"'{self.ensemble}'"
                )

    def _demand(self, name: str, expected: str, holds: Callable[[Any], bool]) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise InputError(f"dynamics needs {name} {expected}, got {value}")

    @property
    def temperature_bound(self) -> float:
        """K; what counts as collapsed above it."""
        # A small molecule's kinetic energy fluctuates widely: at three degrees of freedom ten
        # times the mean is a chance of 1e-6, five times one of 1e-3.
        return self.max_temperature or max(10 * self.temperature, 3000.0)

    def monitors(self, start: Atoms) -> list[Monitor]:
        """What watches a run that began at ``start``; the worst first."""
        monitors: list[Monitor] = [
            NonFinite(),
            ClosestApproach(self.min_distance, self.min_distance_ratio),
        ]
        if self.max_bond_stretch is not None:
            monitors.append(BrokenBond.of(start, self.max_bond_stretch))
        monitors.append(Temperature(self.temperature_bound))
        if self.max_energy_drift is not None:
            monitors.append(EnergyDrift(self.max_energy_drift))
        if self.max_uncertainty is not None:
            monitors.append(Uncertainty(self.max_uncertainty))
        return monitors
