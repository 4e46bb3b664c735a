"""Potentials at work: an ASE calculator, dynamics that knows when to stop, and UDD."""

from eip.simulation.bias import (
    LARGEST_OVER_D,
    Limiter,
    UDDParameters,
    UDDPotential,
    UDDProposal,
    propose_udd,
)
from eip.simulation.calculator import BiasedCalculator, Calculator
from eip.simulation.dynamics import DynamicsSummary, run_dynamics
from eip.simulation.monitors import Ending, Monitor, State
from eip.simulation.settings import DynamicsSettings, Ensemble

__all__ = [
    "LARGEST_OVER_D",
    "BiasedCalculator",
    "Calculator",
    "DynamicsSettings",
    "DynamicsSummary",
    "Ending",
    "Ensemble",
    "Limiter",
    "Monitor",
    "State",
    "UDDParameters",
    "UDDPotential",
    "UDDProposal",
    "propose_udd",
    "run_dynamics",
]
