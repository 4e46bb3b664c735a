"""Structures to start from: crystals, polymers, liquids and molecules, none of them labelled."""

from eip.builders.crystals import lifepo4
from eip.builders.files import write_structure
from eip.builders.liquids import water
from eip.builders.molecules import molecule
from eip.builders.polymers import pdms

__all__ = ["lifepo4", "molecule", "pdms", "water", "write_structure"]
