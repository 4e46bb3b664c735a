"""CP2K's input file: a template, and what a structure and a method put in its placeholders."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from ase import Atoms
from jaxtyping import Float

from eip.active_learning.labelers.base import LabelFailure
from eip.data.electrons import given_electrons
from eip.errors import InputError, did_you_mean

#: Contents of &SCF, tried in this order. The ground state is the same for all of them: a rung
#: that smears the occupation would give energies of another method. The first one makes its
#: preconditioner anew after a few steps: that of the atomic guess hardly works near the end (16
#: water molecules: 14 steps where 40 before it was made anew took 46).
SCF_LADDER = (
    """\
EPS_SCF 5.0E-6
MAX_SCF 8
&OT
  MINIMIZER DIIS
  PRECONDITIONER FULL_ALL
&END OT
&OUTER_SCF
  EPS_SCF 5.0E-6
  MAX_SCF 20
&END OUTER_SCF
""",
    """\
EPS_SCF 5.0E-6
MAX_SCF 30
&OT
  MINIMIZER CG
  LINESEARCH 3PNT
  PRECONDITIONER FULL_ALL
  ENERGY_GAP 0.01
&END OT
&OUTER_SCF
  EPS_SCF 5.0E-6
  MAX_SCF 20
&END OUTER_SCF
""",
    """\
EPS_SCF 1.0E-7
MAX_SCF 300
&DIAGONALIZATION
  ALGORITHM STANDARD
&END DIAGONALIZATION
&MIXING
  METHOD BROYDEN_MIXING
  ALPHA 0.1
  BETA 1.5
  NBROYDEN 8
&END MIXING
""",
    """\
EPS_SCF 5.0E-6
MAX_SCF 100
&OT
  MINIMIZER SD
  LINESEARCH GOLD
  PRECONDITIONER FULL_ALL
  ENERGY_GAP 0.001
&END OT
&OUTER_SCF
  EPS_SCF 5.0E-6
  MAX_SCF 20
&END OUTER_SCF
""",
)

#: What a template may hold between {{ and }}; `CP2KLabeler` says what each becomes.
PLACEHOLDERS = (
    "project",
    "cell",
    "coordinates",
    "kinds",
    "poisson",
    "scf",
    "restart",
    "cutoff",
    "charge",
    "multiplicity",
    "uks",
    "stress",
)

#: Of the files that CP2K writes, and the wavefunction that an input may start from.
PROJECT, START = "label", "start.wfn"


@dataclass(frozen=True)
class InputFile:
    """What all inputs of a method share; `CP2KLabeler` says what each of it is.

    Attributes:
        template: text with placeholders, see `read_template`.
        keep_wavefunction: whether CP2K writes it down at the end.
    """

    template: str
    cutoff: float
    basis: str
    pseudopotential: str
    charge: int | None
    multiplicity: int | None
    vacuum: float
    box: float | None
    keep_wavefunction: bool

    def electrons(self, atoms: Atoms) -> tuple[int, int]:
        """Charge and multiplicity; raises what `given_electrons` does."""
        return given_electrons(atoms, self.charge, self.multiplicity, "CP2K")

    def text(self, atoms: Atoms, scf: str, *, restart: bool) -> str:
        """The input for a structure.

        Args:
            scf: contents of &SCF.
            restart: whether it starts from `START`.
        """
        charge, multiplicity = self.electrons(atoms)
        periodic = bool(atoms.pbc.all())
        positions = atoms.positions
        if periodic:
            cell = [
                f"{name} {x:.12f} {y:.12f} {z:.12f}"
                for name, (x, y, z) in zip("ABC", atoms.cell.array, strict=True)
            ]
            cell.append("PERIODIC XYZ")
            poisson = ["&POISSON", "  PERIODIC XYZ", "  POISSON_SOLVER PERIODIC", "&END POISSON"]
        else:
            side = self._side(positions)
            # The solver wants the density to vanish at the walls: the molecule in the middle.
            middle = (positions.min(axis=0) + positions.max(axis=0)) / 2
            positions = positions - middle + side / 2
            cell = [f"ABC {side:.12f} {side:.12f} {side:.12f}", "PERIODIC NONE"]
            poisson = ["&POISSON", "  PERIODIC NONE", "  POISSON_SOLVER WAVELET", "&END POISSON"]
        keep = "ON" if self.keep_wavefunction else "OFF"
        lines = {
            "project": [PROJECT],
            "cell": cell,
            "coordinates": [
                f"{symbol} {x:.12f} {y:.12f} {z:.12f}"
                for symbol, (x, y, z) in zip(atoms.symbols, positions, strict=True)
            ],
            "kinds": [
                line
                for symbol in sorted(set(atoms.symbols))
                for line in (
                    f"&KIND {symbol}",
                    f"  BASIS_SET {self.basis}",
                    f"  POTENTIAL {self.pseudopotential}",
                    "&END KIND",
                )
            ],
            "poisson": poisson,
            "scf": [
                "&SCF",
                f"  SCF_GUESS {'RESTART' if restart else 'ATOMIC'}",
                *(f"  {line}" for line in scf.strip().splitlines()),
                "  &PRINT",
                f"    &RESTART {keep}",
                "      BACKUP_COPIES 0",
                "    &END RESTART",
                "  &END PRINT",
                "&END SCF",
            ],
            "restart": [f"WFN_RESTART_FILE_NAME {START}"] if restart else [],
            "cutoff": [f"{self.cutoff:g}"],
            "charge": [str(charge)],
            "multiplicity": [str(multiplicity)],
            "uks": ["TRUE" if multiplicity != 1 else "FALSE"],
            "stress": ["ANALYTICAL" if periodic else "NONE"],
        }
        return _fill(self.template, lines)

    def _side(self, positions: Float[np.ndarray, "atoms 3"]) -> float:
        extent = float(np.ptp(positions, axis=0).max())
        if self.box is None:
            return 2.0 * math.ceil((extent + 2 * self.vacuum) / 2.0)
        if extent + 2.0 > self.box:
            raise LabelFailure(f"CP2K: a molecule {extent:.1f} Å long in a box of {self.box:g} Å")
        return self.box


def read_template(path: str | Path | None) -> str:
    if path is None:
        text = files(__package__).joinpath("template.inp").read_text()
        where = "the template"
    else:
        where = str(path)
        try:
            text = Path(path).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cp2k: cannot read the template {path} ({error})") from error
    found = placeholders(text)
    for name in sorted(found - set(PLACEHOLDERS)):
        hint = did_you_mean(name, PLACEHOLDERS)
        raise InputError(f"cp2k: {where} holds {{{{{name}}}}}, which is no placeholder: {hint}")
    for name in ("cell", "coordinates"):
        if name not in found:
            raise InputError(f"cp2k: {where} lacks {{{{{name}}}}}: the structure could not enter")
    if re.search(r"^\s*&FORCES\b(?!\s+OFF)", text, re.MULTILINE | re.IGNORECASE) is None:
        raise InputError(f"cp2k: {where} prints no forces; &FORCE_EVAL needs &PRINT &FORCES ON")
    return text


def placeholders(template: str) -> set[str]:
    return set(re.findall(r"\{\{\s*(.*?)\s*\}\}", template))


def _fill(template: str, lines: dict[str, list[str]]) -> str:
    """Lines in the place of placeholders, as deep as the placeholder stands."""
    filled = []
    for line in template.splitlines():
        depth = line[: len(line) - len(line.lstrip())]

        def content(match: re.Match[str], depth: str = depth) -> str:
            return f"\n{depth}".join(lines[match[1]])

        replaced = re.sub(r"\{\{\s*(.*?)\s*\}\}", content, line)
        if replaced.strip() or not line.strip():
            filled.append(replaced)
    return "\n".join(filled) + "\n"
