"""`eip export`: a model as another program takes it."""

from __future__ import annotations

from pathlib import Path

from eip.errors import InputError, did_you_mean
from eip.model_file import load_model
from eip.verbs.info import model_in

#: What a model can be written for, and the ending that the file gets.
TARGETS = {"lammps": ".lmp.eip", "metatomic": ".pt"}


def export(model: str | Path, for_: str = "lammps", out: str | Path | None = None) -> Path:
    """Writes a model for another program; gives the file's path.

    Args:
        model: a model.eip, or a run folder with one.
        for_: "lammps", whose plugin `eip lammps build` compiles, or "metatomic".
        out: by default beside the model, as model.lmp.eip or model.pt.

    Raises:
        InputError: if ``out`` is the model, there is no such program, it is needed and not
            installed, the model cannot be read, or it has what the program cannot run.
    """
    if for_ not in TARGETS:
        raise InputError(f"--for {for_}: no such program; {did_you_mean(for_, TARGETS)}")
    path = model_in(model)
    target = path.with_suffix(TARGETS[for_]) if out is None else Path(out)
    if target.exists() and target.samefile(path):
        raise InputError(f"--out {target} is the model itself: choose another name")
    potential = load_model(path, device="cpu")
    try:
        if for_ == "lammps":
            from eip.engines import lammps

            lammps.export(potential, target)
        else:
            from eip.engines import metatomic

            metatomic.export(potential, target)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ImportError as error:
        raise InputError(f"--for {for_}: {error}") from error
    return target
