"""OpenMM, by its package for machine-learning potentials.

    from openmmml import MLPotential

    system = MLPotential("eip", model="model.eip").createSystem(topology)

finds this module by the entry point ``openmmml.potentials``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from eip.errors import InputError
from eip.potential import Potential
from eip.simulation.calculator import BiasedCalculator, Results, check_elements
from eip.units import ENERGY_IN_EV

try:
    import openmm
    from openmm import unit
    from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory
except ImportError as error:
    raise ImportError(
        "eip.engines.openmm needs OpenMM and its OpenMM-ML: pip install 'eip[openmm]'"
    ) from error

_KJ_PER_MOL = ENERGY_IN_EV["kJ/mol"]

#: Is told all that was predicted at each evaluation, under the names of `eip.Prediction`.
Watch = Callable[[Mapping[str, Any]], None]


class EIPPotentialImplFactory(MLPotentialImplFactory):
    """Makes an `EIPPotentialImpl` of ``MLPotential("eip", model=...)``."""

    def createImpl(
        self, name: str, model: str | Path | Potential | None = None, **others: Any
    ) -> EIPPotentialImpl:
        """
        Raises:
            InputError: if no model is named, or something else is.
        """
        if model is None or others:
            unknown = f", got {', '.join(others)}" if others else ""
            raise InputError(
                f'MLPotential("{name}", model="model.eip") takes a model and nothing else{unknown}'
            )
        return EIPPotentialImpl(model)


class EIPPotentialImpl(MLPotentialImpl):
    """Adds a potential to an OpenMM system as one force; forces are exact, a bias is in them.

    The energy is the potential's own and never holds a bias.

    Args:
        model: path of a model.eip, or a potential, `eip.UDDPotential` for dynamics with a bias.
    """

    def __init__(self, model: str | Path | Potential) -> None:
        self._model = model

    def addForces(
        self,
        topology: Any,
        system: Any,
        atoms: Iterable[int] | None,
        forceGroup: int,
        watch: Watch = lambda said: None,
        device: str | None = None,
        **others: Any,
    ) -> None:
        """What ``createSystem`` and ``createMixedSystem`` call; its keywords come from them.

        Args:
            watch: see `Watch`: for σ, which OpenMM has no place for.
            device: "cpu" or "cuda"; None: as the model is.

        Raises:
            InputError: if an atom has no element or one that the potential was not made for, or
                there is a keyword of another potential.
        """
        if others:
            raise InputError(f"the potential eip takes watch and device, got {', '.join(others)}")
        included = list(topology.atoms())
        chosen = None if atoms is None else list(atoms)
        if chosen is not None:
            included = [included[index] for index in chosen]
        nameless = [atom.index for atom in included if atom.element is None]
        if nameless:
            raise InputError(f"atoms {nameless[:10]} of the topology have no element")
        periodic = topology.getPeriodicBoxVectors() is not None
        structure = Atoms([atom.element.atomic_number for atom in included], pbc=periodic)
        calculator = BiasedCalculator(self._model, device=device)
        check_elements(calculator.potential, structure.numbers)
        structure.calc = calculator

        def compute(state: Any) -> tuple[float, np.ndarray]:
            structure.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
            if periodic:
                box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
                structure.set_cell(box)
            forces = calculator.get_forces(structure)
            results = calculator.results
            assert isinstance(results, Results)
            watch(results.everything())
            return results["energy"] / _KJ_PER_MOL, forces * (10.0 / _KJ_PER_MOL)

        force = openmm.PythonForce(compute)
        force.setForceGroup(forceGroup)
        force.setUsesPeriodicBoundaryConditions(periodic)
        if chosen is not None:
            force.setParticles(chosen)
        system.addForce(force)
