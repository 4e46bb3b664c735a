"""CP2K's output, which is believed only if it is whole.

CP2K ends with an energy and exit status 0 when its SCF did not converge. So an output counts only
if it says that the SCF converged, nowhere that it did not, and that the program ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float

from eip.active_learning.labelers.base import LabelFailure
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM, PRESSURE_IN_EV_A3


@dataclass(frozen=True)
class CP2KResult:
    """What an output says.

    Attributes:
        energy: eV.
        forces: eV/Å.
        stress: Voigt order, eV/Å³, positive when stretched as in ASE; None: not printed.
    """

    energy: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, " 6"] | None


_NUMBER = r"[-+]?\d+\.\d*(?:[EeDd][-+]?\d+)?"
_ENERGY = re.compile(
    rf"^ *ENERGY\| Total FORCE_EVAL \( *(\w+) *\) energy \[(?:a\.u\.|hartree)\]:? +({_NUMBER}) *$",
    re.MULTILINE,
)
# Until 2024 a table of its own, since then lines that begin with FORCES|.
_FORCES_HEAD = re.compile(
    r"^ *(?:ATOMIC FORCES in \[a\.u\.\]|FORCES\| Atomic forces \[hartree/bohr\]) *$", re.MULTILINE
)
_FORCE = re.compile(
    rf"^ *(?:(\d+) +\d+ +\S+|FORCES\| +(\d+)) +({_NUMBER}) +({_NUMBER}) +({_NUMBER})"
    rf"(?: +{_NUMBER})? *$"
)
_STRESS_HEAD = re.compile(r"^ *STRESS\| Analytical stress tensor \[(\w+)\] *$", re.MULTILINE)
_STRESS = re.compile(rf"^ *STRESS\| +([xyz]) +({_NUMBER}) +({_NUMBER}) +({_NUMBER}) *$")
_CONVERGED = re.compile(r"SCF run converged in|outer SCF loop converged in")
_UNCONVERGED = re.compile(r"SCF run NOT converged|outer SCF loop FAILED to converge")


def read_output(path: Path, atoms: int, status: int = 0) -> CP2KResult:
    """What a CP2K output says, if it is whole and converged.

    Args:
        path: of the output.
        atoms: how many there must be forces for.
        status: with which the process ended.

    Raises:
        LabelFailure: in all other cases.
    """
    folder = path.parent
    try:
        text = path.read_text(errors="replace")
    except OSError:
        text = ""
    # First: a newer CP2K aborts over it, which is a consequence.
    if _UNCONVERGED.search(text):
        raise LabelFailure("SCF not converged", folder)
    if status != 0:
        raise LabelFailure(f"ended with exit status {status}{_abort_message(text)}", folder)
    if "PROGRAM ENDED AT" not in text:
        raise LabelFailure(f"the output is cut off{_abort_message(text)}", folder)
    energies = _ENERGY.findall(text)
    if len(energies) != 1:
        raise LabelFailure(f"{len(energies)} energies in the output, expected one", folder)
    method, energy = energies[0]
    if method == "QS" and not _CONVERGED.search(text):
        raise LabelFailure("the output does not say that the SCF converged", folder)
    hartree, bohr = ENERGY_IN_EV["Hartree"], LENGTH_IN_ANGSTROM["Bohr"]
    forces = _forces(text)
    if sorted(forces) != list(range(1, atoms + 1)):
        raise LabelFailure(f"forces on {len(forces)} atoms in the output of {atoms}", folder)
    return CP2KResult(
        energy=_number(energy) * hartree,
        forces=np.array([forces[i + 1] for i in range(atoms)]) * (hartree / bohr),
        stress=_stress(text),
    )


def _number(text: str) -> float:
    return float(text.replace("D", "E").replace("d", "e"))


def _forces(text: str) -> dict[int, list[float]]:
    """In Hartree/Bohr by atom, counted from 1; none if they were printed twice."""
    heads = list(_FORCES_HEAD.finditer(text))
    if len(heads) != 1:
        return {}
    forces: dict[int, list[float]] = {}
    for line in text[heads[0].end() :].splitlines():
        match = _FORCE.match(line)
        if match:
            forces[int(match[1] or match[2])] = [_number(match[i]) for i in (3, 4, 5)]
        elif forces:
            break  # the table has ended
    return forces


def _stress(text: str) -> Float[np.ndarray, " 6"] | None:
    heads = list(_STRESS_HEAD.finditer(text))
    if len(heads) != 1 or heads[0][1] not in PRESSURE_IN_EV_A3:
        return None
    rows: dict[str, list[float]] = {}
    for line in text[heads[0].end() :].splitlines()[:6]:
        match = _STRESS.match(line)
        if match:
            rows[match[1]] = [_number(match[i]) for i in (2, 3, 4)]
    if set(rows) != set("xyz"):
        return None
    stress = np.array([rows[axis] for axis in "xyz"]) * PRESSURE_IN_EV_A3[heads[0][1]]
    # CP2K's is a pressure: positive when compressed.
    return -full_3x3_to_voigt_6_stress((stress + stress.T) / 2)


def _abort_message(text: str) -> str:
    """What stands in CP2K's box of asterisks, after ": "; empty if there is none."""
    _, found, rest = text.partition("[ABORT]")
    if not found:
        return ""
    words = []
    for line in rest.splitlines()[1:8]:
        body = line.strip().strip("*").strip()
        if not line.strip() or set(line.strip()) == {"*"}:
            break
        words.append(re.sub(r"^(?:\\___/|\||O/\||/\| \||/ \\)\s*", "", body))
    return ": " + " ".join(" ".join(words).split())
