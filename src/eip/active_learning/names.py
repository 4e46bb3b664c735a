"""Labelers by name; importing this imports none of them.

A package of yours adds to them by an entry point:

    [project.entry-points."eip.labelers"]
    mine = "my_package.labeler:MyLabeler"
"""

from eip.plugins import Registry

LABELERS = Registry(
    "eip.labelers",
    "labeler",
    {
        "xtb": "eip.active_learning.labelers.xtb:XTBLabeler",
        "cp2k": "eip.active_learning.labelers.cp2k.labeler:CP2KLabeler",
        "ase": "eip.active_learning.labelers.calculator:CalculatorLabeler",
        "pyscf": "eip.active_learning.labelers.pyscf:PySCFLabeler",
        "model": "eip.active_learning.labelers.model:PotentialLabeler",
    },
)
