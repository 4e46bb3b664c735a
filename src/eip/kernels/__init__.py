"""Compiled kernels behind PaiNN on a CPU: found, compiled once for this machine, and loaded."""

from eip.kernels.library import Library, library

__all__ = ["Library", "library"]
