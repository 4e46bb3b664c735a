"""Compiled kernels for the CPU: found, compiled once for this machine, and loaded."""

from eip.kernels.build import Library, kernels_for, library, reference_path, variant

__all__ = ["Library", "kernels_for", "library", "reference_path", "variant"]
