"""What a trajectory shows: order parameters, and how widely it sampled them; its structure."""

from eip.analysis.diffusion import Displacements
from eip.analysis.distributions import PairDistribution
from eip.analysis.entropy import (
    BINS,
    configurational_entropy,
    coverage_growth,
    entropy_growth,
    histogram_entropy,
    shared_ranges,
    torsion_entropy,
)
from eip.analysis.kinds import Kind, Measure, guess_kind, kind_named, measure_of
from eip.analysis.molecules import Molecules
from eip.analysis.order_parameters import (
    Phosphates,
    chain_shapes,
    coordination_numbers,
    phosphate_geometry,
    radius_of_gyration,
    torsions,
)
from eip.analysis.trajectories import (
    Sampling,
    Trajectory,
    analyze_trajectory,
    common_measure,
    compare_sampling,
    read_trajectory,
    sampling_of,
)

__all__ = [
    "BINS",
    "Displacements",
    "Kind",
    "Measure",
    "Molecules",
    "PairDistribution",
    "Phosphates",
    "Sampling",
    "Trajectory",
    "analyze_trajectory",
    "chain_shapes",
    "common_measure",
    "compare_sampling",
    "configurational_entropy",
    "coordination_numbers",
    "coverage_growth",
    "entropy_growth",
    "guess_kind",
    "histogram_entropy",
    "kind_named",
    "measure_of",
    "phosphate_geometry",
    "radius_of_gyration",
    "read_trajectory",
    "sampling_of",
    "shared_ranges",
    "torsion_entropy",
    "torsions",
]
