"""What a run of dynamics is told: plain values, free of torch and ASE."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from eip.settings import Settings
from eip.settings.values import Count, Seed

if TYPE_CHECKING:
    from ase import Atoms

    from eip.simulation.monitors import Monitor

#: "nvt-berendsen" is the paper's; "npt" is isotropic Martyna–Tobias–Klein, which samples the
#: ensemble and needs no guess of the compressibility, as a Berendsen barostat does.
Ensemble = Literal["langevin", "bussi", "nose-hoover", "nvt-berendsen", "nve", "npt"]
#: What the limiter of the bias measures, see `eip.simulation.bias.limit_bias`. "global": one factor
#: for a structure, from its largest ‖F_bias‖: direction, zero net force and zero torque are kept.
#: "atom": each atom's own norm, net force then removed. "component": each Cartesian component, as
#: the authors' code does; it breaks rotation and pushes the whole structure, and is here for
#: comparison. "saturating": as "global", but what is larger than C stays at the largest instead of
#: being taken away; for a push whose size something else bounds, the grade to hover at.
Limiter = Literal["global", "atom", "component", "saturating"]


def usual_limiter(hover: float | None) -> Limiter:
    """Saturating where a grade says how strong the push is and nothing else is to, else global."""
    return "global" if hover is None else "saturating"


def _bound(value: object) -> object:
    if value is None or value == "auto":
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < math.inf:
        raise ValueError("should be a number of eV/Å above 0, or auto")
    return number


class DynamicsSettings(Settings):
    """A run of dynamics: how long, which ensemble, what is written, what ends it."""

    steps: Count = Field(20_000, ge=0, description="of the whole run, continuations included")
    ensemble: Ensemble = Field(
        "langevin", description="langevin, bussi, nose-hoover, nvt-berendsen, nve or npt"
    )
    temperature: float = Field(
        300.0, ge=0, description="K, of the thermostat and of the Maxwell–Boltzmann start"
    )
    timestep_fs: float = Field(0.5, gt=0, description="fs")
    taut_fs: float = Field(
        100.0, gt=0, description="fs, time of the thermostat (all but langevin's)"
    )
    friction: float = Field(0.01, gt=0, description="1/fs, of langevin")
    pressure: float = Field(0.0, description="eV/Å³, of npt; 1 bar is 6.24e-7")
    taup_fs: float = Field(1000.0, gt=0, description="fs, time of the barostat, of npt")
    seed: Seed = Field(0, description="of momenta and of the thermostat's noise")
    keep_momenta: bool = Field(
        False, description="start from the structure's momenta instead of drawing new ones"
    )
    log_interval: Count = Field(10, ge=1, description="steps between lines of the log")
    trajectory_interval: Count = Field(
        100, ge=1, description="steps between frames of the trajectory"
    )
    checkpoint_interval: Count = Field(1000, ge=1, description="steps between checkpoints")
    approach_frames: Count = Field(
        20, ge=0, description="last steps that are written when a run does not finish"
    )
    max_uncertainty: Annotated[float | Literal["auto"] | None, BeforeValidator(_bound)] = Field(
        None,
        description="eV/Å; stop where σ of the structure passes it; auto: the largest that a "
        "held-out frame had; empty: never",
    )
    max_grade: float | None = Field(
        None,
        gt=0,
        description="stop where an atom's extrapolation grade passes it: 1 is the edge of what "
        "was seen; empty: never",
    )
    max_temperature: float | None = Field(
        None, gt=0, description="K; stop above it; empty: ten times temperature, at least 3000"
    )
    min_distance: float = Field(0.5, ge=0, description="Å; stop where two atoms are closer")
    min_distance_ratio: float = Field(
        0.4, ge=0, description="stop where they are closer, in sums of their covalent radii"
    )
    max_bond_stretch: float | None = Field(
        2.0,
        gt=0,
        description="stop where a covalent bond of the start is longer, in sums of covalent "
        "radii; empty: bonds may break",
    )
    max_energy_drift: float | None = Field(
        None, gt=0, description="eV/atom, of what nve conserves; stop above it; empty: never"
    )

    @field_validator("ensemble", mode="before")
    @classmethod
    def _which_nvt(cls, value: object) -> object:
        if str(value).lower() == "nvt":  # by likeness it would be nve
            raise ValueError("has several for nvt: langevin, bussi, nose-hoover or nvt-berendsen")
        return value

    @model_validator(mode="after")
    def _fits_the_ensemble(self) -> DynamicsSettings:
        if self.pressure and self.ensemble != "npt":
            raise ValueError(
                f"pressure is of the ensemble npt alone, but the ensemble is '{self.ensemble}'"
            )
        if self.ensemble == "nve":
            return self
        if not self.temperature:
            raise ValueError(f"dynamics needs temperature > 0, got {self.temperature}")
        if self.max_energy_drift is not None:
            raise ValueError(
                f"max_energy_drift looks at what NVE conserves, but the ensemble is "
                f"'{self.ensemble}'"
            )
        return self

    @property
    def temperature_bound(self) -> float:
        """K; what counts as collapsed above it."""
        # A small molecule's kinetic energy fluctuates widely: at three degrees of freedom ten
        # times the mean is a chance of 1e-6, five times one of 1e-3.
        return self.max_temperature or max(10 * self.temperature, 3000.0)

    @property
    def uncertainty_bound(self) -> float | None:
        """eV/Å; of settings that `eip.simulation.settled` has seen."""
        assert self.max_uncertainty != "auto"
        return self.max_uncertainty

    def monitors(self, start: Atoms) -> list[Monitor]:
        """What watches a run that began at ``start``; the worst first."""
        # Not at the top: the command line makes its options of what is here, without ASE.
        from eip.simulation.monitors import (
            BrokenBond,
            ClosestApproach,
            EnergyDrift,
            ExtrapolationGrade,
            NonFinite,
            Temperature,
            Uncertainty,
        )

        monitors: list[Monitor] = [
            NonFinite(),
            ClosestApproach(self.min_distance, self.min_distance_ratio),
        ]
        if self.max_bond_stretch is not None:
            monitors.append(BrokenBond.of(start, self.max_bond_stretch))
        monitors.append(Temperature(self.temperature_bound))
        if self.max_energy_drift is not None:
            monitors.append(EnergyDrift(self.max_energy_drift))
        if self.uncertainty_bound is not None:
            monitors.append(Uncertainty(self.uncertainty_bound))
        if self.max_grade is not None:
            monitors.append(ExtrapolationGrade(self.max_grade))
        return monitors


class UDDSettings(Settings):
    """The bias to where the potential is uncertain; what is empty is proposed from the model."""

    A: float | None = Field(None, gt=0, description="eV, depth of the bias; empty: proposed")
    B: float | None = Field(None, gt=0, description="eV/Å, its width; empty: proposed")
    C: float | None = Field(
        None, gt=0, description="eV/Å, bias force that the limiter lets through; empty: proposed"
    )
    D: float | None = Field(None, gt=0, description="eV/Å, height of the limiter; empty: proposed")
    max_bias_force: float | None = Field(
        None, gt=0, description="eV/Å, largest bias force, in place of D"
    )
    limiter: Limiter | None = Field(
        None,
        description="global, atom, component, saturating; empty: the last if hover is given",
    )
    hover: float | None = Field(
        None,
        gt=1,
        description="extrapolation grade at which the push turns round; empty: it never does",
    )
    memory: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="fs that the bias is averaged over, 50 say; empty: it is that of the moment",
    )
    soft: bool = Field(
        False, description="push along what gives way, as torsions do, and not along bonds"
    )
    interval: int = Field(
        1, ge=1, le=100, description="steps between two pushes, each as strong as all it stands for"
    )

    @model_validator(mode="after")
    def _one_height(self) -> UDDSettings:
        if self.D is not None and self.max_bias_force is not None:
            raise ValueError("give either D or the largest bias force: one follows from the other")
        return self
