"""A labeler made of a name and options."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from eip.active_learning.labelers.base import Labeler
from eip.active_learning.names import LABELERS
from eip.errors import InputError, did_you_mean
from eip.potential import Potential


def make_labeler(kind: str, **options: Any) -> Labeler:
    """A labeler by name: "xtb", "cp2k", "pyscf", "ase", "model", or what an installed package adds.

    Args:
        options: what `XTBLabeler`, `CP2KLabeler`, `PySCFLabeler`, `CalculatorLabeler` and
            `PotentialLabeler` take.

    Raises:
        InputError: on an unknown kind or option, a missing option, or a value out of range; if
            what a package adds cannot be imported or is no `Labeler`.
    """
    made = LABELERS.get(kind)
    if not (isinstance(made, type) and issubclass(made, Labeler)):
        raise InputError(f"the labeler '{kind}' is no subclass of {Labeler.__qualname__}: {made!r}")
    parameters = dict(inspect.signature(made.__init__).parameters)
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
        option: _as_annotated(kind, option, given, _annotation(parameters[option]))
        for option, given in options.items()
    }
    return made(**told)


def _annotation(parameter: inspect.Parameter) -> str:
    said = parameter.annotation
    return said if isinstance(said, str) else inspect.formatannotation(said)


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
