"""LAMMPS: a model as a file for its plugin; the plugin, which holds neither PyTorch nor Python."""

from eip.engines.lammps.compiling import Built, build
from eip.engines.lammps.writing import export

__all__ = ["Built", "build", "export"]
