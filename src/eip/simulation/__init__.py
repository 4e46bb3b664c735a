"""Potentials at work: an ASE calculator, dynamics that knows when to stop, and UDD.

Names are imported on first use: a calculator needs nothing of what dynamics imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer

if TYPE_CHECKING:
    from eip.simulation.bias import LARGEST_OVER_D as LARGEST_OVER_D
    from eip.simulation.bias import UDDParameters as UDDParameters
    from eip.simulation.bias import UDDPotential as UDDPotential
    from eip.simulation.calculator import BiasedCalculator as BiasedCalculator
    from eip.simulation.calculator import Calculator as Calculator
    from eip.simulation.dynamics import run_dynamics as run_dynamics
    from eip.simulation.dynamics import settled as settled
    from eip.simulation.monitors import Ending as Ending
    from eip.simulation.monitors import Monitor as Monitor
    from eip.simulation.monitors import State as State
    from eip.simulation.proposal import UDDProposal as UDDProposal
    from eip.simulation.proposal import propose_udd as propose_udd
    from eip.simulation.settings import DynamicsSettings as DynamicsSettings
    from eip.simulation.settings import Ensemble as Ensemble
    from eip.simulation.settings import Limiter as Limiter
    from eip.simulation.settings import UDDSettings as UDDSettings
    from eip.simulation.summary import DynamicsSummary as DynamicsSummary
    from eip.simulation.together import Together as Together

__getattr__, __all__ = importer(
    __name__,
    {
        "eip.simulation.bias": "LARGEST_OVER_D UDDParameters UDDPotential",
        "eip.simulation.calculator": "BiasedCalculator Calculator",
        "eip.simulation.dynamics": "run_dynamics settled",
        "eip.simulation.monitors": "Ending Monitor State",
        "eip.simulation.proposal": "UDDProposal propose_udd",
        "eip.simulation.settings": "DynamicsSettings Ensemble Limiter UDDSettings",
        "eip.simulation.summary": "DynamicsSummary",
        "eip.simulation.together": "Together",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
