"""What a trajectory shows: order parameters, and how widely it sampled them; its structure.

Names are imported on first use, so that settings are read before what they are of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer

if TYPE_CHECKING:
    from eip.analysis.averages import Average as Average
    from eip.analysis.averages import Deviations as Deviations
    from eip.analysis.averages import average as average
    from eip.analysis.averages import deviations_of as deviations_of
    from eip.analysis.diffusion import Displacements as Displacements
    from eip.analysis.distributions import PairDistribution as PairDistribution
    from eip.analysis.entropy import configurational_entropy as configurational_entropy
    from eip.analysis.entropy import coverage_growth as coverage_growth
    from eip.analysis.entropy import entropy_growth as entropy_growth
    from eip.analysis.entropy import histogram_entropy as histogram_entropy
    from eip.analysis.entropy import shared_ranges as shared_ranges
    from eip.analysis.entropy import torsion_entropy as torsion_entropy
    from eip.analysis.kinds import Kind as Kind
    from eip.analysis.kinds import Measure as Measure
    from eip.analysis.kinds import guess_kind as guess_kind
    from eip.analysis.kinds import kind_named as kind_named
    from eip.analysis.kinds import measure_of as measure_of
    from eip.analysis.molecules import Molecules as Molecules
    from eip.analysis.order_parameters import Phosphates as Phosphates
    from eip.analysis.order_parameters import chain_shapes as chain_shapes
    from eip.analysis.order_parameters import coordination_numbers as coordination_numbers
    from eip.analysis.order_parameters import phosphate_geometry as phosphate_geometry
    from eip.analysis.order_parameters import radius_of_gyration as radius_of_gyration
    from eip.analysis.order_parameters import torsions as torsions
    from eip.analysis.settings import BINS as BINS
    from eip.analysis.settings import AnalysisSettings as AnalysisSettings
    from eip.analysis.trajectories import Sampling as Sampling
    from eip.analysis.trajectories import Trajectory as Trajectory
    from eip.analysis.trajectories import analyze_trajectory as analyze_trajectory
    from eip.analysis.trajectories import common_measure as common_measure
    from eip.analysis.trajectories import compare_sampling as compare_sampling
    from eip.analysis.trajectories import read_trajectory as read_trajectory
    from eip.analysis.trajectories import sampling_of as sampling_of

__getattr__, __all__ = importer(
    __name__,
    {
        "eip.analysis.averages": "Average Deviations average deviations_of",
        "eip.analysis.diffusion": "Displacements",
        "eip.analysis.distributions": "PairDistribution",
        "eip.analysis.entropy": (
            "configurational_entropy coverage_growth entropy_growth histogram_entropy "
            "shared_ranges torsion_entropy"
        ),
        "eip.analysis.kinds": "Kind Measure guess_kind kind_named measure_of",
        "eip.analysis.molecules": "Molecules",
        "eip.analysis.order_parameters": (
            "Phosphates chain_shapes coordination_numbers phosphate_geometry "
            "radius_of_gyration torsions"
        ),
        "eip.analysis.settings": "BINS AnalysisSettings",
        "eip.analysis.trajectories": (
            "Sampling Trajectory analyze_trajectory common_measure compare_sampling "
            "read_trajectory sampling_of"
        ),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
