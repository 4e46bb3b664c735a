"""Which steps of a program's output are of an SCF that did not converge.

ASE reads them like any others; their energies and forces are no labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

from ase.io.formats import open_with_compression

from eip.errors import InputError

# What other programs say; where in the file it stands does not tell ASE's number of the step.
_SAID = {
    "espresso-out": rb"convergence NOT achieved",
    "gaussian-out": rb"Convergence failure -- run terminated",
    "gpaw-out": rb"Did not converge!",
    "nwchem-out": rb"Calculation failed to converge",
    "abinit-out": rb"was not enough SCF cycles to converge",
}
_ORCA_FAILS = re.compile(rb"SCF NOT CONVERGED|not fully converged|NOT FULLY CONVERGED")
_ORCA_ENDS = (b"ORCA TERMINATED NORMALLY", b"ORCA GEOMETRY RELAXATION STEP")


def unconverged_steps(path: Path, kind: str) -> dict[int, str]:
    """Steps, as ASE counts them, with what the output says of each.

    Args:
        kind: ASE's name of the format; nothing is found in those that say nothing.

    Raises:
        InputError: if a program says that an SCF did not converge, and not which.
    """
    with cast(BufferedIOBase, open_with_compression(str(path), "rb")) as file:
        if kind == "vasp-out":
            return dict(_outcar(file))
        if kind == "vasp-xml":
            return dict(_vasprun(file))
        if kind == "orca-output":
            return dict(_orca(file))
        if kind in _SAID:
            said = re.compile(_SAID[kind])
            for number, line in enumerate(file):
                if said.search(line):
                    raise InputError(
                        f"{path}, line {number + 1}: an SCF did not converge "
                        f"('{line.strip()[:80].decode(errors='replace')}'), so what follows from "
                        "it is no label; convert what is sound to extended xyz"
                    )
    return {}


#: Outputs as ASE's calculators name them, and what ASE calls their format.
_OUTPUTS = {
    "OUTCAR": "vasp-out",
    "vasprun.xml": "vasp-xml",
    "*.pwo": "espresso-out",
    "orca.out": "orca-output",
    "Gaussian.log": "gaussian-out",
    "*.nwo": "nwchem-out",
    "*.abo": "abinit-out",
}


def unconverged_in(folder: Path) -> str:
    """What the outputs of a program in a folder say of an SCF that did not converge; "" if none.

    For calculators that give energies all the same.
    """
    for pattern, kind in _OUTPUTS.items():
        for path in sorted(folder.glob(pattern)):
            try:
                steps = unconverged_steps(path, kind)
            except InputError as error:
                return str(error)
            if steps:
                return f"{path.name}: {next(iter(steps.values()))}"
    return ""


def output_of_cp2k(path: Path) -> str:
    """Why an output of CP2K is no file of frames."""
    said = ""
    with path.open("rb") as file:
        for line in file:
            if b"SCF run NOT converged" in line or b"FAILED to converge" in line:
                said = (
                    f" (and it says '{' '.join(line.decode(errors='replace').split('*')).strip()}')"
                )
                break
    return (
        f"{path} is an output of CP2K, which neither eIP nor ASE reads frames from; take the "
        f"positions and forces that it writes as xyz and make extended xyz of them{said}"
    )


def _outcar(file: BufferedIOBase) -> Iterator[tuple[int, str]]:
    step, iterations, reached = 0, 0, False
    for line in file:
        if b"Iteration" in line and b"---" in line:
            iterations += 1
        elif b"EDIFF is reached" in line:
            reached = True
        elif b"FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            if iterations and not reached:  # a step of a machine-learned force field has none
                yield step, f"EDIFF is not reached in {iterations} iterations (NELM)"
            step, iterations, reached = step + 1, 0, False


def _vasprun(file: BufferedIOBase) -> Iterator[tuple[int, str]]:
    step, iterations, most = 0, 0, 0
    try:
        for _, element in ElementTree.iterparse(file):
            if element.tag == "i" and element.get("name") == "NELM":
                most = int(element.text or 0)
            elif element.tag == "scstep":
                iterations += 1
                element.clear()
            elif element.tag == "calculation":
                if most and iterations >= most:
                    yield step, f"it took all {most} iterations (NELM)"
                step, iterations = step + 1, 0
                element.clear()
    except (ElementTree.ParseError, ValueError):
        return  # ASE's reader says what is wrong with the file


def _orca(file: BufferedIOBase) -> Iterator[tuple[int, str]]:
    step, said = 0, ""
    for line in file:
        if _ORCA_FAILS.search(line):
            said = said or " ".join(line.decode(errors="replace").split())
        elif any(end in line for end in _ORCA_ENDS):
            if said:
                yield step, f"'{said}'"
            step, said = step + 1, ""
    if said:
        yield step, f"'{said}'"
