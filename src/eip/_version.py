"""The one place of the version: packaging, model files and ``eip --version`` read it here."""

__version__ = "0.1.0"
