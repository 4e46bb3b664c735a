"""A potential as a labeler: a teacher for tests of the loop, a large model for a small one."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from eip.active_learning.labelers.base import (
    Labeler,
    LabelFailure,
    bare_copy,
    labelled_copy,
    one_line,
)
from eip.errors import InputError, NonFinitePrediction
from eip.potential import Potential


class PotentialLabeler(Labeler):
    """A potential as the reference: the teacher in a test of the loop, or the larger of two models.

    Args:
        model: path of a model.eip, read in the worker, or a potential.
        device: where it predicts; None: a GPU if there is one, else the CPU.

    Raises:
        InputError: if there is no such file or its header is damaged; in a worker, if the rest of
            it is, or a structure holds elements that the potential was not made for.
    """

    def __init__(self, model: str | Path | Potential, *, device: str | None = None) -> None:
        if isinstance(model, Potential):
            self.name = type(model).__name__
            self._model: Path | Potential = model
        else:
            self._model = Path(model).expanduser().absolute()
            if not self._model.is_file():
                raise InputError(f"{model}: no such model file")
            # Not at the top, as in `as_potential`; the header alone, for the work is a worker's.
            from eip.model_file import read_model_info

            read_model_info(self._model)
            self.name = self._model.name
        self._device = device

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        from eip.simulation.calculator import Calculator, as_potential

        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self._model, Path):
            stat = self._model.stat()
            key = (str(self._model), stat.st_mtime_ns, self._device)
            potential = _POTENTIALS.get(key)
            if potential is None:
                _POTENTIALS.clear()  # an older version of the file is not asked again
                potential = _POTENTIALS[key] = as_potential(self._model, device=self._device)
        else:
            potential = as_potential(self._model, device=self._device)
        structure = bare_copy(atoms)
        structure.calc = Calculator(potential)
        try:
            energy, forces = structure.get_potential_energy(), structure.get_forces()
            stress = structure.get_stress() if structure.pbc.all() else None
        except InputError as error:
            if not isinstance(error, NonFinitePrediction):
                raise
            raise LabelFailure(f"{self.name}: {error}", folder) from error
        except Exception as error:
            raise LabelFailure(f"{self.name}: {one_line(error)}", folder) from error
        return labelled_copy(structure, energy, forces, stress, folder=folder)


#: Of this process, by file, its time and device.
_POTENTIALS: dict[tuple[str, int, str | None], Potential] = {}
