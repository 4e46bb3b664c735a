"""Labelers: what turns a structure into a label, and what is believed of what comes back.

A labeler is a description of a reference method. It is pickled and sent to a worker; whatever is
heavy (a model, a calculator, a process) is made there, in `Labeler.label`. What cannot be
calculated, or did not converge, raises `LabelFailure` and is never a label.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from eip.active_learning.electrons import electrons_of, given_electrons
from eip.errors import InputError, NonFinitePrediction, did_you_mean
from eip.potential import Potential

XTB_METHODS = ("GFN2-xTB", "GFN1-xTB")


class LabelFailure(Exception):
    """A calculation that failed or did not converge: the structure has no label.

    Attributes:
        reason: one readable sentence.
        folder: where its outputs were kept, if it left any.
    """

    def __init__(self, reason: str, folder: Path | None = None) -> None:
        # Both, because an exception is unpickled by calling its class with its args.
        super().__init__(reason, folder)
        self.reason, self.folder = reason, folder

    def __str__(self) -> str:
        return self.reason if self.folder is None else f"{self.reason} (outputs in {self.folder})"


class Labeler(ABC):
    """A reference method: picklable, cheap to make; the work is done in `label`.

    Attributes:
        name: of the method, "GFN2-xTB" say.
    """

    name: str

    @abstractmethod
    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        """The structure with its label.

        Args:
            atoms: not changed. Only numbers, positions, cell, pbc, and charge and multiplicity in
                its info (see `electrons_of`) count: constraints, initial charges and magnetic
                moments, a calculator and whatever else it carries do not.
            folder: of this calculation alone; made if missing, and the place of its outputs.

        Returns:
            A bare copy (numbers, positions, cell, pbc) whose ``calc`` holds energy (eV), forces
            (eV/Å) and, where the structure is periodic and the method has it, stress (eV/Å³).

        Raises:
            LabelFailure: if the calculation failed or did not converge.
            InputError: if the labeler itself is set up wrongly, so that no structure will succeed.
        """

    def check(self, atoms: Atoms) -> None:
        """Looks at a structure before any is calculated.

        Raises:
            InputError: if it has a charge or multiplicity that the method cannot take, which is
                any but the usual where a method does not say otherwise.
        """
        own = electrons_of(atoms)
        if not own.is_plain(atoms):
            raise InputError(
                f"the structure has charge {own.charge or 0}"
                + (f" and multiplicity {own.multiplicity}" if own.multiplicity else "")
                + f", which {self.name} cannot be told"
            )


def bare_copy(atoms: Atoms) -> Atoms:
    """Numbers, positions, cell and pbc, sharing no memory with the original."""
    return Atoms(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        pbc=atoms.pbc.copy(),
    )


def labelled_copy(
    atoms: Atoms,
    energy: float,
    forces: np.ndarray,
    stress: np.ndarray | None = None,
    *,
    folder: Path | None = None,
) -> Atoms:
    """A bare copy with a label.

    Args:
        energy: eV.
        forces: ``[atoms, 3]``, eV/Å.
        stress: ``[6]`` in Voigt order, eV/Å³.
        folder: of the calculation, named if it failed.

    Raises:
        LabelFailure: if something in it is not finite or the forces are not one for each atom.
    """
    energy, forces = float(energy), np.array(forces, dtype=np.float64)
    if forces.shape != (len(atoms), 3):
        raise LabelFailure(f"forces of shape {forces.shape} for {len(atoms)} atoms", folder)
    results: dict[str, Any] = {"energy": energy, "forces": forces}
    if stress is not None:
        stress = np.array(stress, dtype=np.float64)
        if stress.shape != (6,):
            raise LabelFailure(f"a stress of shape {stress.shape}, expected 6 components", folder)
        results["stress"] = stress
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise LabelFailure(f"{name} not finite", folder)
    copy = bare_copy(atoms)
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


# ---------------------------------------------------------------------------- ASE calculators


class CalculatorLabeler(Labeler):
    """Any ASE calculator.

    An exception from the calculator, and a ``converged`` attribute that is False afterwards, is a
    failure. A calculator that returns unconverged energies and keeps silent about it cannot be
    told from a good one: have its factory raise.

    Args:
        calculator: a function that makes it: picklable, or "calc.py:make" (a file), or
            "package.module:function". By a name it is made once in each worker thread
            and reset between structures; a function given directly is called for each structure.
            It has no arguments, or ``charge`` and ``multiplicity`` (2S + 1), which then are those
            of the structure: one that has a charge is refused where they cannot be passed on.
            A calculator with a ``directory`` works in the folder of the calculation.
        name: by default the class of the calculator as given.
        stress: whether to ask for the stress of structures periodic in all three directions; a
            calculator that has none is not asked again.

    Raises:
        InputError: if the name is none of these forms or the file is missing; in a worker, if the
            function cannot be imported or is none.
    """

    def __init__(
        self,
        calculator: str | Path | Callable[[], Any],
        *,
        name: str | None = None,
        stress: bool = True,
    ) -> None:
        self._factory: str | Callable[[], Any]
        if callable(calculator):
            self._factory = calculator
            called = getattr(calculator, "__name__", type(calculator).__name__)
        else:
            called = self._factory = _named_factory(str(calculator))
            called = called.rpartition("/")[2]
        self.name = called if name is None else name
        self._stress = stress

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        folder.mkdir(parents=True, exist_ok=True)
        structure = bare_copy(atoms)
        calculator = self._calculator(atoms)
        if hasattr(calculator, "directory"):
            calculator.directory = str(folder)
        structure.calc = calculator
        stress = None
        try:
            energy = structure.get_potential_energy()
            forces = structure.get_forces()
            if self._stress and structure.pbc.all():
                try:
                    stress = structure.get_stress()
                except (PropertyNotImplementedError, NotImplementedError):
                    stress = None
        except InputError:
            raise
        except Exception as error:
            # A calculator whose process died would fail at every structure from here on.
            self._forget()
            raise LabelFailure(f"{self.name}: {_said(error)}", folder) from error
        if getattr(calculator, "converged", None) is False:
            self._forget()
            raise LabelFailure(f"{self.name}: not converged", folder)
        return labelled_copy(structure, energy, forces, stress, folder=folder)

    def check(self, atoms: Atoms) -> None:
        own = electrons_of(atoms)
        if own.is_plain(atoms):
            return
        factory = self._factory
        factory = _import_factory(factory) if isinstance(factory, str) else factory
        taken = _electron_arguments(factory, atoms, self.name)
        for name, given in (("charge", own.charge), ("multiplicity", own.multiplicity)):
            if given is not None and name not in taken:
                raise InputError(
                    f"the structure has {name} {given}, which {self.name} cannot be told; give "
                    f"its function the argument '{name}'"
                )

    def _calculator(self, atoms: Atoms) -> Any:
        if not isinstance(self._factory, str):
            return self._factory(**_electron_arguments(self._factory, atoms, self.name))
        factory = _FACTORIES.get(self._factory)
        if factory is None:
            factory = _FACTORIES[self._factory] = _import_factory(self._factory)
        arguments = _electron_arguments(factory, atoms, self.name)
        key = (self._factory, threading.get_ident(), *arguments.items())
        found = _CALCULATORS.get(key)
        if found is None:
            found = _CALCULATORS[key] = factory(**arguments)
        if hasattr(found, "reset"):
            # Nothing of the structure before must reach this one's label.
            found.reset()
        return found

    def _forget(self) -> None:
        if isinstance(self._factory, str):
            for key in [k for k in _CALCULATORS if k[:2] == (self._factory, threading.get_ident())]:
                _CALCULATORS.pop(key, None)


def _electron_arguments(factory: Callable[..., Any], atoms: Atoms, method: str) -> dict[str, int]:
    """Charge and multiplicity of a structure, as far as the function takes them."""
    try:
        names = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of a class in C, say
        return {}
    if not {"charge", "multiplicity"} & set(names):
        return {}
    charge, multiplicity = given_electrons(atoms, None, None, method)
    found = {"charge": charge, "multiplicity": multiplicity}
    return {name: value for name, value in found.items() if name in names}


#: Of this process, by name: a file is run once.
_FACTORIES: dict[str, Callable[..., Any]] = {}
#: Of this process, by factory and thread: labelers are unpickled anew for each task.
_CALCULATORS: dict[tuple[Any, ...], Any] = {}


def _named_factory(text: str) -> str:
    """The name with a file's path made absolute: a worker may run in another folder."""
    module, colon, function = text.rpartition(":")
    if not colon or not module or not function.isidentifier():
        raise InputError(
            f"calculator '{text}': expected 'file.py:function' or 'package.module:function', a "
            "function without arguments that returns an ASE calculator"
        )
    if not module.endswith(".py"):
        return text
    path = Path(module).expanduser().absolute()
    if not path.is_file():
        raise InputError(f"calculator '{text}': there is no file {path}")
    return f"{path}:{function}"


def _import_factory(name: str) -> Callable[..., Any]:
    where, _, function = name.rpartition(":")
    try:
        module = _module_of_file(Path(where)) if where.endswith(".py") else _module(where)
    except Exception as error:
        raise InputError(f"calculator '{name}': cannot be imported: {_said(error)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        hint = did_you_mean(function, [key for key in vars(module) if not key.startswith("_")])
        raise InputError(f"calculator '{name}': there is no function '{function}'; {hint}")
    return found


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _module_of_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_labeler_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# ---------------------------------------------------------------------------- xTB


class XTBLabeler(Labeler):
    """GFN2-xTB or GFN1-xTB through tblite, with stress where periodic.

    Each structure starts from tblite's own guess, so a label does not depend on the one before.

    Args:
        method: "GFN2-xTB" or "GFN1-xTB".
        charge: of each structure, e; None: what its info says, else 0.
        multiplicity: 2S + 1; None: what its info says, else the lowest that the number of
            electrons allows, 1 or 2.
        accuracy: tblite's; smaller is tighter.
        electronic_temperature: K, of the Fermi smearing; the energy is the free energy at it.
        max_iterations: of the self-consistent charges.

    Raises:
        InputError: on a value out of range; in a worker, if tblite is not installed, an element is
            beyond the method, or the multiplicity does not fit the number of electrons.
    """

    def __init__(
        self,
        method: str = "GFN2-xTB",
        *,
        charge: int | None = None,
        multiplicity: int | None = None,
        accuracy: float = 1.0,
        electronic_temperature: float = 300.0,
        max_iterations: int = 250,
    ) -> None:
        if method not in XTB_METHODS:
            raise InputError(f"xtb: unknown method '{method}', {did_you_mean(method, XTB_METHODS)}")
        check_multiplicity(multiplicity)
        for option, value in (
            ("accuracy", accuracy),
            ("electronic_temperature", electronic_temperature),
            ("max_iterations", max_iterations),
        ):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"xtb: {option} must be > 0, got {value}")
        self.name = method
        self._charge, self._multiplicity = charge, multiplicity
        self._options: dict[str, Any] = {
            "accuracy": float(accuracy),
            "electronic_temperature": float(electronic_temperature),
            "max_iterations": int(max_iterations),
        }

    def check(self, atoms: Atoms) -> None:
        given_electrons(atoms, self._charge, self._multiplicity, self.name)

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        try:
            from tblite.ase import TBLite
        except ImportError as error:
            raise InputError(
                f"{self.name} needs tblite, which is not installed: pip install 'eip[reference]'"
            ) from error
        from ase.calculators.calculator import InputError as CalculatorInputError

        folder.mkdir(parents=True, exist_ok=True)
        structure = bare_copy(atoms)
        charge, multiplicity = given_electrons(atoms, self._charge, self._multiplicity, self.name)
        structure.calc = TBLite(
            method=self.name,
            charge=charge,
            multiplicity=multiplicity,
            verbosity=0,
            **self._options,
        )
        try:
            energy, forces = structure.get_potential_energy(), structure.get_forces()
            # tblite's virial is that of three dimensions; for slabs and chains it means little.
            stress = structure.get_stress() if structure.pbc.all() else None
        except CalculatorInputError as error:
            raise InputError(f"{self.name}: {error}") from error
        except Exception as error:
            raise LabelFailure(f"{self.name}: {_said(error)}", folder) from error
        return labelled_copy(structure, energy, forces, stress, folder=folder)


def check_multiplicity(multiplicity: int | None) -> None:
    """Raises an InputError unless it is None or a whole number from 1 on."""
    if multiplicity is not None and multiplicity < 1:
        raise InputError(f"multiplicity must be 1 (a singlet) or more, got {multiplicity}")


# ---------------------------------------------------------------------------- a teacher


class PotentialLabeler(Labeler):
    """A potential as the reference: the teacher in a test of the loop, or a larger model's student.

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
            raise LabelFailure(f"{self.name}: {_said(error)}", folder) from error
        return labelled_copy(structure, energy, forces, stress, folder=folder)


#: Of this process, by file, its time and device.
_POTENTIALS: dict[tuple[str, int, str | None], Potential] = {}


# ---------------------------------------------------------------------------- by name


def make_labeler(kind: str, **options: Any) -> Labeler:
    """A labeler by name: "xtb", "cp2k", "ase" or "model".

    Args:
        options: what `XTBLabeler`, `CP2KLabeler`, `CalculatorLabeler`, `PotentialLabeler` take.

    Raises:
        InputError: on an unknown kind or option, a missing option, or a value out of range.
    """
    from eip.active_learning.cp2k import CP2KLabeler

    kinds: dict[str, type[Labeler]] = {
        "xtb": XTBLabeler,
        "cp2k": CP2KLabeler,
        "ase": CalculatorLabeler,
        "model": PotentialLabeler,
    }
    if kind not in kinds:
        raise InputError(f"unknown labeler '{kind}': {did_you_mean(kind, kinds)}")
    parameters = dict(inspect.signature(kinds[kind].__init__).parameters)
    del parameters["self"]
    for option in options:
        if option not in parameters:
            raise InputError(
                f"labeler '{kind}' has no option '{option}': {did_you_mean(option, parameters)}"
            )
    for option, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise InputError(f"labeler '{kind}' needs the option '{option}'")
    told = {
        option: _as_annotated(kind, option, given, str(parameters[option].annotation))
        for option, given in options.items()
    }
    return kinds[kind](**told)


def _as_annotated(kind: str, option: str, given: Any, annotation: str) -> Any:
    """The value; an InputError if it is not of the kind that the option's annotation says."""
    wanted = [word.strip() for word in annotation.split("|")]
    if given is None and "None" in wanted:
        return given
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if {"int", "float"} & set(wanted) and "str" not in wanted:
        if number and "float" in wanted and abs(given) < 1e300:
            return float(given)
        if number and isinstance(given, float) and "float" in wanted:
            return given  # for the labeler to refuse by name
        if number and isinstance(given, int):
            return given
        what = "a number" if "float" in wanted else "a whole number"
    elif "bool" in wanted:
        if isinstance(given, bool):
            return given
        what = "true or false"
    elif "str" in wanted or "Path" in wanted:
        if isinstance(given, str | Path | Potential) or callable(given) or "Seq" in annotation:
            return given
        what = "text"
    else:
        return given
    raise InputError(f"{kind}: {option} should be {what}, got {given!r}"[:300])


# ---------------------------------------------------------------------------- what is believed


@dataclass(frozen=True)
class LabelLimits:
    """What a label must keep to be believed.

    Attributes:
        max_force: of any atom, eV/Å.
        max_net_force: |ΣF| of the structure, eV/Å; None: not looked at. Exact forces sum to zero;
            what is left is the error of grids and of unconverged densities.
        energy_per_atom_window: (lowest, highest) eV per atom after ``element_energies`` are
            subtracted; None: not looked at.
        element_energies: eV by atomic number; None: zero.

    Raises:
        InputError: if a bound is not positive or the window is empty.
    """

    max_force: float = 50.0
    max_net_force: float | None = 0.5
    energy_per_atom_window: tuple[float, float] | None = None
    element_energies: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        for name in ("max_force", "max_net_force"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be > 0, got {value}")
        window = self.energy_per_atom_window
        if window is not None and not window[0] < window[1]:
            raise InputError(f"energy_per_atom_window must be (lower, upper), got {window}")


def check_label(labelled: Atoms, limits: LabelLimits) -> str | None:
    """Why a label is not to be believed; None if it is.

    Args:
        labelled: with a calculator that holds its results.

    Raises:
        InputError: if ``element_energies`` lacks an element of the structure.
    """
    results = getattr(labelled.calc, "results", None) or {}
    if results.get("energy") is None or results.get("forces") is None:
        return "it has no energy or no forces"
    energy, forces = float(results["energy"]), np.asarray(results["forces"], dtype=np.float64)
    if forces.shape != (len(labelled), 3):
        return f"forces of shape {forces.shape} for {len(labelled)} atoms"
    stress = results.get("stress")
    for name, values in (("energy", energy), ("forces", forces), ("stress", stress)):
        if values is not None and not np.isfinite(values).all():
            return f"{name} not finite"
    largest = np.linalg.norm(forces, axis=1)
    atom = int(largest.argmax())
    if largest[atom] > limits.max_force:
        return (
            f"force of {largest[atom]:.1f} eV/Å on atom {atom} "
            f"({chemical_symbols[labelled.numbers[atom]]}), more than {limits.max_force:g}"
        )
    net = float(np.linalg.norm(forces.sum(axis=0)))
    if limits.max_net_force is not None and net > limits.max_net_force:
        return f"net force of {net:.2f} eV/Å, more than {limits.max_net_force:g}"
    if limits.energy_per_atom_window is not None:
        lowest, highest = limits.energy_per_atom_window
        bound = (energy - _energy_of_elements(labelled, limits.element_energies)) / len(labelled)
        if not lowest <= bound <= highest:
            return (
                f"energy of {bound:.3f} eV per atom off the scale of the elements, expected "
                f"{lowest:g} to {highest:g}"
            )
    return None


def _energy_of_elements(atoms: Atoms, energies: Mapping[int, float] | None) -> float:
    if energies is None:
        return 0.0
    missing = set(atoms.numbers.tolist()) - set(energies)
    if missing:
        names = ", ".join(chemical_symbols[z] for z in sorted(missing))
        raise InputError(f"element_energies lack {names}")
    return float(sum(energies[z] for z in atoms.numbers.tolist()))
