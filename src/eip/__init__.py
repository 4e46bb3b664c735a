"""eIP: machine-learning interatomic potentials that know their own error.

    atoms.calc = eip.Calculator("model.eip")
    potential = eip.load("model.eip")
    prediction = potential.predict(list_of_atoms)

Names are imported on first use, so that ``import eip`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer
from eip._version import __version__

if TYPE_CHECKING:
    from eip.data.readers import read_frames as read_frames
    from eip.errors import InputError as InputError
    from eip.errors import NonFinitePrediction as NonFinitePrediction
    from eip.graph import AtomGraph as AtomGraph
    from eip.model_file import load_model as load
    from eip.model_file import save_model as save
    from eip.neighbors import build_graph as build_graph
    from eip.potential import Potential as Potential
    from eip.potential import Prediction as Prediction
    from eip.potential import prepared as prepared
    from eip.simulation.bias import UDDPotential as UDDPotential
    from eip.simulation.calculator import Calculator as Calculator

#: Public name → where it lives, and under what name there.
_HOMES = {
    "AtomGraph": ("eip.graph", "AtomGraph"),
    "Calculator": ("eip.simulation.calculator", "Calculator"),
    "InputError": ("eip.errors", "InputError"),
    "NonFinitePrediction": ("eip.errors", "NonFinitePrediction"),
    "Potential": ("eip.potential", "Potential"),
    "Prediction": ("eip.potential", "Prediction"),
    "UDDPotential": ("eip.simulation.bias", "UDDPotential"),
    "build_graph": ("eip.neighbors", "build_graph"),
    "load": ("eip.model_file", "load_model"),
    "prepared": ("eip.potential", "prepared"),
    "read_frames": ("eip.data.readers", "read_frames"),
    "save": ("eip.model_file", "save_model"),
}

__all__ = [
    "AtomGraph",
    "Calculator",
    "InputError",
    "NonFinitePrediction",
    "Potential",
    "Prediction",
    "UDDPotential",
    "__version__",
    "build_graph",
    "load",
    "prepared",
    "read_frames",
    "save",
]


__getattr__ = importer(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
