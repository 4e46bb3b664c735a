"""Potentials at work: an ASE calculator, dynamics that knows when to stop, and UDD.

Names are imported on first use: a calculator needs nothing of what dynamics imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer

if TYPE_CHECKING:
    from eip.simulation.bias import LARGEST_OVER_D as LARGEST_OVER_D
    from eip.simulation.bias import Limiter as Limiter
    from eip.simulation.bias import UDDParameters as UDDParameters
    from eip.simulation.bias import UDDPotential as UDDPotential
    from eip.simulation.bias import UDDProposal as UDDProposal
    from eip.simulation.bias import propose_udd as propose_udd
    from eip.simulation.calculator import BiasedCalculator as BiasedCalculator
    from eip.simulation.calculator import Calculator as Calculator
    from eip.simulation.dynamics import DynamicsSummary as DynamicsSummary
    from eip.simulation.dynamics import run_dynamics as run_dynamics
    from eip.simulation.monitors import Ending as Ending
    from eip.simulation.monitors import Monitor as Monitor
    from eip.simulation.monitors import State as State
    from eip.simulation.settings import DynamicsSettings as DynamicsSettings
    from eip.simulation.settings import Ensemble as Ensemble

_MODULES = {
    "bias": (
        "LARGEST_OVER_D",
        "Limiter",
        "UDDParameters",
        "UDDPotential",
        "UDDProposal",
        "propose_udd",
    ),
    "calculator": (
        "BiasedCalculator",
        "Calculator",
    ),
    "dynamics": (
        "DynamicsSummary",
        "run_dynamics",
    ),
    "monitors": (
        "Ending",
        "Monitor",
        "State",
    ),
    "settings": (
        "DynamicsSettings",
        "Ensemble",
    ),
}

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

__getattr__ = importer(
    __name__,
    {name: (f"{__name__}.{module}", name) for module, names in _MODULES.items() for name in names},
)


def __dir__() -> list[str]:
    return sorted(__all__)
