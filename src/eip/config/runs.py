"""md.yaml, label.yaml, analyze.yaml: what `eip md`, `label` and `analyze` may be told in a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from eip.active_learning.settings import ReferenceSettings
from eip.analysis.settings import AnalysisSettings
from eip.settings import Settings
from eip.settings.values import ConfigPath, Count, Files, Kernels, Symbols
from eip.simulation.settings import DynamicsSettings, UDDSettings


class MDConfig(Settings):
    """All of a run of dynamics."""

    run_dir: ConfigPath = Field(
        Path("md"), validate_default=True, description="folder for everything that comes out"
    )
    model: ConfigPath = Field(description="a model.eip", examples=["model.eip"])
    start: ConfigPath = Field(
        description="structure to start from, any format of ASE", examples=["start.xyz"]
    )
    frame: int = Field(0, description="which frame of start, from 0; -1 is the last")
    elements: Symbols | None = Field(
        None, description="of types 1, 2, … of LAMMPS' files, as [O, H]"
    )
    device: str | None = Field(None, description="cpu or cuda; empty: a GPU if there is one")
    kernels: Kernels | None = Field(
        None, description="whose kernels, in place of EIP_KERNELS; empty: as that says"
    )
    dynamics: DynamicsSettings = DynamicsSettings()
    udd: UDDSettings | None = Field(
        None,
        description="the bias to where the potential is uncertain; {}: as proposed; empty: none",
    )


class Structures(Settings):
    """What is labelled, and where labels go."""

    files: Files = Field(
        description="structures; labels that they have are not looked at",
        examples=[["structures.xyz"]],
        min_length=1,
    )
    out: ConfigPath = Field(description="extended XYZ to write", examples=["labelled.xyz"])
    every: Count = Field(1, ge=1, description="every n-th frame of each file, from the first")
    elements: Symbols | None = Field(
        None, description="of types 1, 2, … of LAMMPS' files, as [O, H]"
    )


class LabelConfig(ReferenceSettings, Structures):
    """All of a labelling by a reference method."""


class Trajectories(Settings):
    """What is analyzed, and where figures go."""

    runs: Files = Field(
        description="folders of 'eip md', or files that ASE reads",
        examples=[["md", "udd"]],
        min_length=1,
    )
    labels: list[str] | None = Field(None, description="names of the runs; empty: from their paths")
    out: ConfigPath = Field(
        Path("runs/analysis"), validate_default=True, description="folder for figures and plots"
    )


class AnalyzeConfig(AnalysisSettings, Trajectories):
    """All of an analysis."""
