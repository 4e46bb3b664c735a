"""Any ASE calculator as a labeler, made in the worker by a function of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from eip.active_learning.labelers.base import (
    Labeler,
    LabelFailure,
    bare_copy,
    labelled_copy,
    one_line,
)
from eip.data.convergence import unconverged_in
from eip.data.electrons import electrons_of, given_electrons
from eip.errors import InputError, did_you_mean
from eip.run_folder import file_identity


class CalculatorLabeler(Labeler):
    """Any ASE calculator.

    An exception from the calculator, a ``converged`` attribute that is False afterwards, and an
    output of VASP, Quantum ESPRESSO, ORCA, Gaussian, NWChem or ABINIT that says so in the folder
    of the calculation, is a failure. A calculator that returns unconverged energies and keeps
    silent about it cannot be told from a good one: have its factory raise.

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
        # A session that edits the file and begins anew means what the file says now.
        self._known_by = (self._factory, file_identity(str(calculator)).get("sha256"))
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
            raise LabelFailure(f"{self.name}: {one_line(error)}", folder) from error
        if getattr(calculator, "converged", None) is False:
            self._forget()
            raise LabelFailure(f"{self.name}: not converged", folder)
        if said := unconverged_in(folder):
            raise LabelFailure(f"{self.name}: not converged ({said})", folder)
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
        factory = _FACTORIES.get(self._known_by)
        if factory is None:
            factory = _FACTORIES[self._known_by] = _import_factory(self._factory)
        arguments = _electron_arguments(factory, atoms, self.name)
        key = (self._known_by, threading.get_ident(), *arguments.items())
        found = _CALCULATORS.get(key)
        if found is None:
            found = _CALCULATORS[key] = factory(**arguments)
        if hasattr(found, "reset"):
            # Nothing of the structure before must reach this one's label.
            found.reset()
        return found

    def _forget(self) -> None:
        if isinstance(self._factory, str):
            own = (self._known_by, threading.get_ident())
            for key in [k for k in _CALCULATORS if k[:2] == own]:
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


#: Of this process, by name and content: a file is run once.
_FACTORIES: dict[tuple[Any, ...], Callable[..., Any]] = {}
#: Of this process, by factory and thread: labelers are unpickled anew for each task.
_CALCULATORS: dict[tuple[Any, ...], Any] = {}


def calculator_function(text: str) -> Callable[..., Any]:
    """The function "file.py:function" or "package.module:function", which makes a calculator.

    Raises:
        InputError: if the name is neither, or the function cannot be imported.
    """
    return _import_factory(_named_factory(text))


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
        raise InputError(f"calculator '{name}': cannot be imported: {one_line(error)}") from error
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
