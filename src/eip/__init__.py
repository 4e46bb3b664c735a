"""eIP: machine-learning interatomic potentials that know their own error.

    atoms.calc = eip.Calculator("model.eip")
    potential = eip.load("model.eip")
    prediction = potential.predict(list_of_atoms)

What the command line does, as functions: `train`, `evaluate`, `calibrate`, `compare`, `md`,
`analyze`, `learn`, with `load_config`.

Names are imported on first use, so that ``import eip`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer
from eip._version import __version__

if TYPE_CHECKING:
    from eip.comparison import compare_methods as compare
    from eip.config import load_config as load_config
    from eip.data.readers import read_frames as read_frames
    from eip.errors import InputError as InputError
    from eip.errors import NonFinitePrediction as NonFinitePrediction
    from eip.graph import AtomGraph as AtomGraph
    from eip.learning import learn as learn
    from eip.model_file import load_model as load
    from eip.model_file import save_model as save
    from eip.neighbors import build_graph as build_graph
    from eip.potential import Potential as Potential
    from eip.potential import prepared as prepared
    from eip.prediction import Prediction as Prediction
    from eip.simulation.bias import UDDPotential as UDDPotential
    from eip.simulation.calculator import Calculator as Calculator
    from eip.workflow import analyze_runs as analyze
    from eip.workflow import calibrate_model as calibrate
    from eip.workflow import evaluate_model as evaluate
    from eip.workflow import run_md as md
    from eip.workflow import train_model as train

#: Public name → where it lives, and under what name there.
_HOMES = {
    "AtomGraph": ("eip.graph", "AtomGraph"),
    "Calculator": ("eip.simulation.calculator", "Calculator"),
    "InputError": ("eip.errors", "InputError"),
    "NonFinitePrediction": ("eip.errors", "NonFinitePrediction"),
    "Potential": ("eip.potential", "Potential"),
    "Prediction": ("eip.prediction", "Prediction"),
    "UDDPotential": ("eip.simulation.bias", "UDDPotential"),
    "analyze": ("eip.workflow", "analyze_runs"),
    "build_graph": ("eip.neighbors", "build_graph"),
    "calibrate": ("eip.workflow", "calibrate_model"),
    "compare": ("eip.comparison", "compare_methods"),
    "evaluate": ("eip.workflow", "evaluate_model"),
    "learn": ("eip.learning", "learn"),
    "load": ("eip.model_file", "load_model"),
    "load_config": ("eip.config", "load_config"),
    "md": ("eip.workflow", "run_md"),
    "prepared": ("eip.potential", "prepared"),
    "read_frames": ("eip.data.readers", "read_frames"),
    "save": ("eip.model_file", "save_model"),
    "train": ("eip.workflow", "train_model"),
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
    "analyze",
    "build_graph",
    "calibrate",
    "compare",
    "evaluate",
    "learn",
    "load",
    "load_config",
    "md",
    "prepared",
    "read_frames",
    "save",
    "train",
]


__getattr__ = importer(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
