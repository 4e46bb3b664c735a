"""eIP: machine-learning interatomic potentials that know their own error.

    atoms.calc = eip.Calculator("model.eip")
    potential = eip.load("model.eip")
    prediction = potential.predict(list_of_atoms)

What the command line does, as functions: `init`, `fetch`, `convert`, `info`, `train`, `attach`,
`evaluate`, `calibrate`, `compare`, `md`, `analyze`, `label`, `learn`, `serve`, `export`, with
`load_config` and `schema`.

Names are imported on first use, so that ``import eip`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eip._lazy import importer
from eip._version import __version__

if TYPE_CHECKING:
    from eip.config import load_config as load_config
    from eip.config import schema as schema
    from eip.data.readers import read_frames as read_frames
    from eip.errors import InputError as InputError
    from eip.errors import NonFinitePrediction as NonFinitePrediction
    from eip.graph import AtomGraph as AtomGraph
    from eip.model_file import load_model as load  # noqa: F401
    from eip.model_file import save_model as save  # noqa: F401
    from eip.neighbors import build_graph as build_graph
    from eip.potential import Potential as Potential
    from eip.potential import prepared as prepared
    from eip.prediction import Prediction as Prediction
    from eip.simulation.annotation import annotate as annotate
    from eip.simulation.bias import UDDParameters as UDDParameters
    from eip.simulation.bias import UDDPotential as UDDPotential
    from eip.simulation.calculator import Calculator as Calculator
    from eip.verbs.analyze import analyze as analyze
    from eip.verbs.attach import attach as attach
    from eip.verbs.calibrate import calibrate as calibrate
    from eip.verbs.compare import compare as compare
    from eip.verbs.convert import convert as convert
    from eip.verbs.evaluate import evaluate as evaluate
    from eip.verbs.export import export as export
    from eip.verbs.fetch import fetch as fetch
    from eip.verbs.info import info as info
    from eip.verbs.init import init as init
    from eip.verbs.label import label as label
    from eip.verbs.learn import learn as learn
    from eip.verbs.md import md as md
    from eip.verbs.serve import serve as serve
    from eip.verbs.train import train as train

__getattr__, __all__ = importer(
    __name__,
    {
        "eip.config": "load_config schema",
        "eip.data.readers": "read_frames",
        "eip.errors": "InputError NonFinitePrediction",
        "eip.graph": "AtomGraph",
        "eip.model_file": "load=load_model save=save_model",
        "eip.neighbors": "build_graph",
        "eip.potential": "Potential prepared",
        "eip.prediction": "Prediction",
        "eip.simulation.annotation": "annotate",
        "eip.simulation.bias": "UDDParameters UDDPotential",
        "eip.simulation.calculator": "Calculator",
        "eip.verbs.analyze": "analyze",
        "eip.verbs.attach": "attach",
        "eip.verbs.calibrate": "calibrate",
        "eip.verbs.compare": "compare",
        "eip.verbs.convert": "convert",
        "eip.verbs.evaluate": "evaluate",
        "eip.verbs.export": "export",
        "eip.verbs.fetch": "fetch",
        "eip.verbs.info": "info",
        "eip.verbs.init": "init",
        "eip.verbs.label": "label",
        "eip.verbs.learn": "learn",
        "eip.verbs.md": "md",
        "eip.verbs.serve": "serve",
        "eip.verbs.train": "train",
    },
)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)
