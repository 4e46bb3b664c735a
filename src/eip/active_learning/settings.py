"""What a learning run is told: plain values, free of torch: reading a configuration is quick."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from eip.active_learning.names import LABELERS
from eip.settings import Settings
from eip.settings.values import (
    MOST,
    Count,
    Options,
    PerhapsPath,
    Seed,
    Temperatures,
    one_of,
)

Selection = Literal["uncertainty", "window", "random"]


class ReferenceSettings(Settings):
    """Who labels, which labels are believed, and where the work runs."""

    labeler: Annotated[str, one_of(LABELERS)] = Field(
        "xtb",
        description="reference method: xtb (GFN2-xTB), cp2k, pyscf, ase (any calculator), model, "
        "or what an installed package adds",
    )
    labeler_options: Options = Field(
        {}, description="of the labeler, as {method: GFN1-xTB} or {calculator: 'calc.py:make'}"
    )
    max_force: float = Field(50.0, gt=0, description="eV/Å, of a label believed")
    max_net_force: float = Field(0.5, gt=0, description="eV/Å, of the sum of a label's forces")
    executor: PerhapsPath = Field(
        "processes", description="processes, serial or parsl:site.py (Slurm, PBS, Kubernetes)"
    )
    workers: int = Field(1, ge=1, le=1024, description="processes that explore and label")
    retries: Count = Field(2, ge=0, description="of a task whose worker was lost")


class LearningSettings(ReferenceSettings):
    """How to explore, select, label and stop."""

    generations: Count = Field(6, ge=1, description="at most")
    initial: Count = Field(
        30,
        ge=0,
        description="frames labelled before the first training where data.train is empty: the "
        "starts, rattled; 0 with model.start_from: the first generation explores by that model",
    )
    rattle: float = Field(0.06, gt=0, description="Å, standard deviation of a rattle")
    labels: Count = Field(30, ge=1, description="a generation, at most")
    label_hours: float | None = Field(
        None,
        gt=0,
        description="hours of a worker that the labels of a generation are expected to take, at "
        "most; empty: no bound but their number",
    )
    max_labels: Count | None = Field(None, ge=1, description="in all; empty: no bound")
    max_hours: float | None = Field(None, gt=0, description="of wall time in all; empty: no bound")
    temperatures: Temperatures = Field((300.0,), description="K; each start runs at each of them")
    replicas: int = Field(
        1, ge=1, le=1000, description="runs of each, that differ in their random numbers"
    )
    together: int = Field(
        1,
        ge=1,
        le=1024,
        description="runs that share each call of the model; for small structures 16 to 64",
    )
    length_ps: float = Field(5.0, gt=0, description="ps, of each run of dynamics")
    timestep_fs: float = Field(0.5, gt=0, le=1000, description="fs")
    udd: bool = Field(True, description="beside each run one driven by the uncertainty")
    push: float = Field(
        0.3, gt=0, le=3, description="largest force of UDD's bias, in RMS forces at the start"
    )
    hover: float | None = Field(
        None,
        gt=1,
        description="extrapolation grade at which that bias turns round; empty: it never does",
    )
    memory: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="fs that the bias is averaged over, 50 say; empty: it is that of the moment",
    )
    soft: bool = Field(
        False,
        description="the bias pushes along what gives way, as torsions do, and not along bonds",
    )
    push_interval: int = Field(
        1, ge=1, le=100, description="steps between two pushes, each as strong as all it stands for"
    )
    frame_interval: Count = Field(20, ge=1, description="steps between frames that are looked at")
    selection: Selection = Field(
        "uncertainty", description="uncertainty, or random, to see what it is worth"
    )
    lower: float | None = Field(
        None,
        gt=0,
        description="eV/Å; largest σ of an atom from which on a frame is a candidate; empty: a "
        "fifth of the RMS force of the first training set",
    )
    upper: float | None = Field(
        None, gt=0, description="eV/Å; above it is no more worth a label; empty: that RMS"
    )
    min_distance_ratio: float = Field(
        0.55,
        gt=0,
        description="closest atoms of a candidate, in sums of covalent radii",
    )
    max_bond_stretch: float | None = Field(
        2.0,
        gt=0,
        description="covalent bonds of the start, likewise; empty: bonds may break",
    )
    fragment_radius: float | None = Field(
        None,
        ge=2,
        le=100,
        description="Å; of a frame with few uncertain atoms the molecules within this radius of "
        "the worst are labelled, in vacuum; empty: whole frames are",
    )
    validation: float = Field(0.15, gt=0, lt=1, description="share of the labels that validates")
    target: float | None = Field(
        None,
        gt=0,
        description="eV/Å; done when the forces of a frame of MD err by no more (RMSE), as labels "
        "say that nothing was trained on; empty: done when little is uncertain",
    )
    checks: Count = Field(
        10, ge=1, description="frames of MD a generation, labelled for that target alone"
    )
    confidence: float = Field(
        0.9, gt=0, lt=1, description="with which a frame errs by no more than the target"
    )
    candidate_ratio: float = Field(
        0.02,
        ge=0,
        le=1,
        description="converged when all MD is stable and no larger share of UDD's frames uncertain",
    )
    overlap: bool = Field(
        False,
        description="labels are computed while the next generation, which does without them, "
        "trains and explores; for labels that other machines compute",
    )
    seed: Seed = Field(0, description="of all that is drawn")

    @model_validator(mode="after")
    def _goes_together(self) -> LearningSettings:
        if self.lower is not None and self.upper is not None and self.upper <= self.lower:
            raise ValueError(f"learning needs upper > lower, got {self.upper} and {self.lower}")
        if self.length_ps > (longest := MOST * self.timestep_fs / 1000.0):
            raise ValueError(
                f"learn.length_ps is {self.length_ps:g}, expected at most {longest:g}: "
                f"{MOST:,} steps of {self.timestep_fs:g} fs (learn.timestep_fs)"
            )
        if self.fragment_radius is not None:
            given = {name: self.labeler_options.get(name) for name in ("charge", "multiplicity")}
            if given["charge"] or given["multiplicity"] not in (None, 1):
                said = ", ".join(f"{name} {value}" for name, value in given.items() if value)
                raise ValueError(
                    f"labeler_options give each structure {said}, which a fragment has not: leave "
                    "fragment_radius empty"
                )
        for name in ("hover", "memory", "soft", "push_interval"):
            if not self.udd and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of UDD, and udd is false")
        if self.overlap and self.executor == "serial":
            raise ValueError(
                "overlap needs workers beside the process that trains, and executor is serial: "
                "use processes, or parsl:site.py"
            )
        fewest = math.ceil(round(self.confidence / (1.0 - self.confidence), 9))
        if self.target is not None and self.checks < fewest:
            raise ValueError(
                f"a confidence of {self.confidence:g} needs {fewest} checks a generation or more, "
                f"got {self.checks}"
            )
        return self
