"""What an analysis of trajectories is told: plain values, free of NumPy and ASE."""

from __future__ import annotations

from pydantic import Field

from eip.settings import Settings
from eip.settings.values import ConfigPath, Count

#: Cells along each order parameter, the paper's.
BINS = 40


class AnalysisSettings(Settings):
    """Which order parameters, over which frames, on which grid."""

    kind: str = Field(
        "auto",
        description="lifepo4: P-O-Fe angle and PO4 distortion; polymer (or pdms): end-to-end "
        "distance and radius of gyration; molecule: torsions; none; auto finds out",
    )
    bins: Count = Field(BINS, ge=1, description="cells along each order parameter")
    every: Count = Field(1, ge=1, description="take every n-th frame")
    skip_ps: float = Field(0.0, ge=0, description="ps; leave out what comes earlier")
    model: ConfigPath | None = Field(
        None,
        description="the model.eip that drove the runs: averages get their error, the potential's "
        "part of it too",
    )
    temperature: float | None = Field(None, gt=0, description="K, of the runs; asked with a model")
    cutoff: float = Field(6.0, gt=0, le=100, description="Å, of radial distribution functions")
