"""i-PI: a driver whose σ goes into the extras.

i-PI loads this file by its path, in a process of its own or inside itself:

    i-pi-driver-py -m custom -P path/of/ipi_driver.py -u -a NAME \\
        -o model=model.eip,template=start.xyz

    <ffdirect name='eip'> <pes>custom</pes> <pes_path>path/of/ipi_driver.py</pes_path>
      <parameters> {model: model.eip, template: start.xyz} </parameters> </ffdirect>

`eip serve` is the first of them without i-PI being installed where it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from eip.data.structures import read_structures
from eip.engines.lists import VerletLists
from eip.errors import InputError
from eip.potential import Potential, prepared
from eip.prediction import check_finite
from eip.simulation.calculator import as_potential, check_elements
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM

# i-PI reads these two without running the file.
__DRIVER_NAME__ = "eip"
__DRIVER_CLASS__ = "EIPDriver"

#: Energy, forces, virial in atomic units, and the extras.
Answer = tuple[float, np.ndarray, np.ndarray, str]

_HARTREE, _BOHR = ENERGY_IN_EV["Hartree"], LENGTH_IN_ANGSTROM["Bohr"]


class Said(NamedTuple):
    """Of one structure: energy (eV), forces (eV/Å), virial (−∂E/∂ε, eV), extras (JSON)."""

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    virial: Float[np.ndarray, "3 3"]
    extras: str


class EIPDriver:
    """A potential as i-PI takes a driver: cell and positions in, energy, forces, virial out.

    The extras are a JSON object of whatever else the potential says, in eV and Å under its names
    (`eip.prediction.Prediction`): ``force_uncertainty`` of each atom, ``uncertainty`` of the
    structure, …; an output of i-PI writes one by ``extra_type='force_uncertainty'``.

    Args:
        model: path of a model.eip, or a potential.
        template: a file with one structure: its elements, in i-PI's order of atoms, and its
            periodic directions. Its positions are not looked at.
        device: where to predict; None: as the model is.
        others: what i-PI says of itself (verbose, verbosity).

    Raises:
        InputError: if a file cannot be read, or the potential does not know an element.
    """

    def __init__(
        self,
        model: str | Path | Potential,
        template: str | Path,
        device: str | None = None,
        **others: Any,
    ) -> None:
        self.potential = prepared(as_potential(model, device=device))
        _, start = next(read_structures(template, index=0))
        check_elements(self.potential, start.numbers)
        self.numbers = torch.tensor(start.numbers, device=self.potential.device)
        self._pbc = torch.tensor(start.pbc, device=self.potential.device)
        self._template = template
        self._neighbors = VerletLists(self.potential.cutoff)

    def __call__(self, cell: Any, pos: Any) -> Answer | list[Answer]:
        """What i-PI asks: of one structure, or of a list of them, which are predicted at once.

        Args:
            cell: lattice vectors as columns, Bohr; or a list.
            pos: positions, Bohr, atoms × 3; or a list.

        Returns:
            energy (Hartree), forces (Hartree/Bohr), virial (Hartree) and the extras; or a list.

        Raises:
            InputError: if there are more or fewer atoms than in the template.
            NonFinitePrediction: where something predicted is NaN or infinite.
        """
        several = isinstance(cell, list)
        cells, positions = (cell, pos) if several else ([cell], [pos])
        answers = [
            (
                said.energy / _HARTREE,
                said.forces * (_BOHR / _HARTREE),
                said.virial / _HARTREE,
                said.extras,
            )
            for said in self.evaluate(
                np.array(cells).transpose(0, 2, 1) * _BOHR, np.array(positions) * _BOHR
            )
        ]
        return answers if several else answers[0]

    def evaluate(
        self,
        cells: Float[np.ndarray, "structures 3 3"],
        positions: Float[np.ndarray, "structures atoms 3"],
    ) -> list[Said]:
        """As the call, in eV and Å, lattice vectors as rows.

        Raises:
            InputError, NonFinitePrediction: see there.
        """
        count, atoms, _ = positions.shape
        if atoms != len(self.numbers):
            raise InputError(
                f"i-PI asks for {atoms} atoms, and {self._template} has {len(self.numbers)}: the "
                "template should be of the same structure"
            )
        device = self.potential.device
        cell = torch.tensor(cells, device=device)
        graph = self._neighbors(
            self.numbers.repeat(count),
            torch.tensor(positions.reshape(-1, 3), device=device),
            cell,
            self._pbc.expand(count, 3),
            torch.arange(count, device=device).repeat_interleave(atoms),
        )
        graph = graph.in_cell(cell)
        prediction = self.potential(graph, stress=True)
        check_finite(prediction, graph, "structure {}".format)
        said = {}
        for of, value in prediction.figures():
            if not of.internal:
                array = value.cpu().numpy().astype(np.float64)
                rows = (count, atoms) if of.level == "atom" else (count,)
                said[of.name] = array.reshape(*rows, *array.shape[1:])
        energy, forces, stress = (said.pop(name) for name in ("energy", "forces", "stress"))
        virial = -stress * np.abs(np.linalg.det(cells))[:, None, None]
        return [
            Said(
                float(energy[index]),
                forces[index],
                virial[index],
                json.dumps({name: value[index].tolist() for name, value in said.items()}),
            )
            for index in range(count)
        ]
