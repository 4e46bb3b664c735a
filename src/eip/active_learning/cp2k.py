"""CP2K as a labeler: one input file, one process, one output that is believed only if it is whole.

CP2K ends with an energy and exit status 0 when its SCF did not converge. So an output counts only
if it says that the SCF converged, nowhere that it did not, and that the program ended.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float

from eip.active_learning.electrons import given_electrons
from eip.active_learning.labelers import (
    Labeler,
    LabelFailure,
    check_multiplicity,
    labelled_copy,
)
from eip.errors import InputError, did_you_mean
from eip.files import replacing
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM

#: Contents of &SCF, tried in this order. The ground state is the same for all of them: a rung
#: that smears the occupation would give energies of another method.
SCF_LADDER = (
    """\
EPS_SCF 5.0E-6
MAX_SCF 40
&OT
  MINIMIZER DIIS
  PRECONDITIONER FULL_ALL
&END OT
&OUTER_SCF
  EPS_SCF 5.0E-6
  MAX_SCF 4
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

_PROJECT = "label"
_EXECUTABLES = ("cp2k.psmp", "cp2k.popt", "cp2k.ssmp", "cp2k")
_START = "start.wfn"
_GPA = 1e9 * 1e-30 / 1.602176634e-19  # eV/Å³ (the charge of an electron is exact since 2019)
_STRESS_IN_EV_PER_A3 = {"GPa": _GPA, "bar": 1e-4 * _GPA, "kbar": 0.1 * _GPA}


class CP2KLabeler(Labeler):
    """Density-functional theory by CP2K, by default PBE-D3(BJ) in GPW with DZVP-MOLOPT-SR-GTH.

    A structure periodic in all directions is calculated in its cell, with stress; one periodic in
    none, in an empty cube with open boundaries (wavelet Poisson solver), without. Another mix of
    directions is refused.

    Each attempt at the SCF runs in a folder of its own, ``attempt-1``, ``attempt-2``, … in the
    folder of the calculation, from which input and output are never removed: those of failed
    attempts show what happened. What lies there from an earlier, interrupted call is replaced.

    A template is a CP2K input in which ``{{name}}`` stands for

    ``project``       name of the project
    ``cell``          contents of &CELL: A, B, C in Å and PERIODIC (required)
    ``coordinates``   contents of &COORD: symbol and position in Å (required)
    ``kinds``         a &KIND section for each element, of ``basis`` and ``pseudopotential``
    ``poisson``       the &POISSON section
    ``scf``           the &SCF section of the attempt; a template with its own has one attempt
    ``restart``       WFN_RESTART_FILE_NAME, or nothing (required for ``wavefunctions``)
    ``cutoff``        in Ry
    ``charge``        in e
    ``multiplicity``  2S + 1
    ``uks``           TRUE where the multiplicity is not 1
    ``stress``        ANALYTICAL for a periodic structure, else NONE

    It must print forces (&FORCE_EVAL &PRINT &FORCES), to the output and not to another file.

    Args:
        command: what runs CP2K, arguments before ``-i`` included ("mpiexec -np 2 cp2k.psmp");
            None: the cp2k.psmp, cp2k.popt, cp2k.ssmp or cp2k that is found.
        processes: MPI processes; more than one puts ``mpiexec -np`` before the command.
        threads: OpenMP threads of each process. Processes are far faster than threads.
        template: path of an input file with placeholders; None: the one that comes with eIP.
        cutoff: of the plane waves, Ry. With the template of eIP, which smooths the density for the
            functional (NN50), forces on one water sum to 0.02 to 0.04 eV/Å at 400 Ry and at 600
            alike, and those on its hydrogens are 0.010 and 0.008 from a calculation at 1000 Ry
            without smoothing. Without it the sum is up to 0.22 at 400 Ry, 0.12 at 600, 0.015 at
            800: for more than the default gives, a template without &XC_GRID at 800 Ry.
        basis, pseudopotential: as CP2K's data files call them, for every element. The default
            basis is made for matter: it misses a free hydrogen atom by 0.9 eV, so element energies
            must be fitted to labels and not be calculated with it (with "TZV2P-GTH" they can).
        charge: of each structure, e; None: what its info says, else 0.
        multiplicity: 2S + 1; None: what its info says, else the lowest that the number of
            electrons allows.
        vacuum: Å on each side of a molecule without periodicity; the cube's side is rounded up to
            2 Å, so that a molecule's frames share a box.
        box: Å, side of that cube; None: by ``vacuum``.
        scf_ladder: contents of &SCF without SCF_GUESS and &PRINT, to be tried one after another.
        wavefunctions: a folder to keep the last wavefunction of each composition in and to start
            from; the label then depends on the one before within the SCF's threshold. None: every
            calculation starts from atoms.
        timeout_seconds: of one structure, all attempts together; None: no bound.

    Raises:
        InputError: on a value out of range, a template with an unknown placeholder or without one
            that is required; in a worker, if CP2K is not installed, or a structure is periodic in
            one or two directions.
    """

    name = "CP2K"

    def __init__(
        self,
        *,
        command: str | Sequence[str] | None = None,
        processes: int = 1,
        threads: int = 1,
        template: str | Path | None = None,
        cutoff: float = 400.0,
        basis: str = "DZVP-MOLOPT-SR-GTH",
        pseudopotential: str = "GTH-PBE",
        charge: int | None = None,
        multiplicity: int | None = None,
        vacuum: float = 5.0,
        box: float | None = None,
        scf_ladder: Sequence[str] = SCF_LADDER,
        wavefunctions: str | Path | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        for option, value in (
            ("processes", processes),
            ("threads", threads),
            ("cutoff", cutoff),
            ("vacuum", vacuum),
            ("box", box),
            ("timeout_seconds", timeout_seconds),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"cp2k: {option} must be > 0, got {value}")
        check_multiplicity(multiplicity)
        self._command = _as_command(command)
        self._processes, self._threads = processes, threads
        self._cutoff, self._basis, self._pseudopotential = cutoff, basis, pseudopotential
        self._charge, self._multiplicity = charge, multiplicity
        self._vacuum, self._box = vacuum, box
        self._timeout = timeout_seconds
        self._template = _read_template(template)
        self._ladder = tuple(scf_ladder)
        if isinstance(scf_ladder, str) or not self._ladder:
            raise InputError("cp2k: scf_ladder must be a list of at least one &SCF section")
        if "scf" not in _placeholders(self._template):
            self._ladder = ("",)
        self._wavefunctions: Path | None = None
        if wavefunctions is not None:
            lacking = {"scf", "restart"} - _placeholders(self._template)
            if lacking:
                raise InputError(
                    f"cp2k: the template cannot start from kept wavefunctions without "
                    f"{' and '.join('{{' + name + '}}' for name in sorted(lacking))}"
                )
            self._wavefunctions = Path(wavefunctions).expanduser().absolute()

    def check(self, atoms: Atoms) -> None:
        given_electrons(atoms, self._charge, self._multiplicity, self.name)

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        command = self._found_command()
        if atoms.pbc.any() and not atoms.pbc.all():
            raise InputError(
                "cp2k: a structure must be periodic in all three directions or in none, got pbc "
                f"{atoms.pbc.tolist()}"
            )
        deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
        kept = self._wavefunction_of(atoms)
        attempts: list[tuple[str, Path | None]] = [(scf, None) for scf in self._ladder]
        if kept is not None and kept.is_file():
            attempts.insert(0, (self._ladder[0], kept))
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("attempt-*"):
            # A process that outlived its worker may still write there: into a folder without name.
            shutil.rmtree(earlier, ignore_errors=True)
        reasons = []
        for number, (scf, start) in enumerate(attempts, start=1):
            place = folder / f"attempt-{number}"
            place.mkdir()
            if start is not None:
                shutil.copyfile(start, place / _START)
            (place / "cp2k.inp").write_text(self.input_for(atoms, scf, restart=start is not None))
            try:
                status = _run(command, place, self._threads, deadline - time.monotonic())
                result = read_output(place / "cp2k.out", len(atoms), status)
            except LabelFailure as failure:
                reasons.append(f"attempt-{number}: {failure.reason}")
                continue
            except subprocess.TimeoutExpired:
                reasons.append(f"attempt-{number}: not done")
                raise LabelFailure(
                    f"CP2K: stopped after {self._timeout:g} s ({'; '.join(reasons)})", folder
                ) from None
            else:
                if kept is not None:
                    _keep(place / f"{_PROJECT}-RESTART.wfn", kept)
                stress = result.stress if atoms.pbc.all() else None
                return labelled_copy(atoms, result.energy, result.forces, stress, folder=folder)
            finally:
                # Large, and of no use to whoever looks for what went wrong.
                for wavefunction in place.glob("*.wfn*"):
                    wavefunction.unlink(missing_ok=True)
        raise LabelFailure(f"CP2K: {'; '.join(reasons)}", folder)

    def input_for(self, atoms: Atoms, scf: str = SCF_LADDER[0], *, restart: bool = False) -> str:
        """The input file for a structure, to look at before a long campaign.

        Args:
            scf: contents of &SCF.
            restart: whether it starts from ``start.wfn``.
        """
        charge, multiplicity = given_electrons(atoms, self._charge, self._multiplicity, self.name)
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
        keep = "ON" if self._wavefunctions is not None else "OFF"
        lines = {
            "project": [_PROJECT],
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
                    f"  BASIS_SET {self._basis}",
                    f"  POTENTIAL {self._pseudopotential}",
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
            "restart": [f"WFN_RESTART_FILE_NAME {_START}"] if restart else [],
            "cutoff": [f"{self._cutoff:g}"],
            "charge": [str(charge)],
            "multiplicity": [str(multiplicity)],
            "uks": ["TRUE" if multiplicity != 1 else "FALSE"],
            "stress": ["ANALYTICAL" if periodic else "NONE"],
        }
        return _fill(self._template, lines)

    def _side(self, positions: Float[np.ndarray, "atoms 3"]) -> float:
        extent = float(np.ptp(positions, axis=0).max())
        if self._box is None:
            return 2.0 * math.ceil((extent + 2 * self._vacuum) / 2.0)
        if extent + 2.0 > self._box:
            raise LabelFailure(f"CP2K: a molecule {extent:.1f} Å long in a box of {self._box:g} Å")
        return self._box

    def _wavefunction_of(self, atoms: Atoms) -> Path | None:
        """Where the last wavefunction of this composition is kept, in this order of atoms."""
        if self._wavefunctions is None:
            return None
        described = "\n".join(
            [
                self._template,
                self._basis,
                self._pseudopotential,
                f"{given_electrons(atoms, self._charge, self._multiplicity, self.name)} "
                f"{atoms.pbc.tolist()}",
                *atoms.symbols,
            ]
        )
        digest = sha256(described.encode()).hexdigest()[:16]
        return self._wavefunctions / f"{atoms.get_chemical_formula()[:60]}-{digest}.wfn"

    def _found_command(self) -> list[str]:
        command = list(self._command)
        if not command:
            command = [next((name for name in _EXECUTABLES if shutil.which(name)), "cp2k.psmp")]
        # "env OMP_NUM_THREADS=1 mpiexec -np 2 cp2k.psmp": what comes first, and CP2K itself.
        named = [word for word in command[1:] if Path(word).name.startswith("cp2k")]
        for program in (command[0], *named[:1]):
            if shutil.which(program) is None:
                raise InputError(
                    f"cp2k: there is no program '{program}' here; on Debian and Ubuntu: apt-get "
                    "install cp2k. Or give the command that runs it, command: 'srun "
                    "/opt/cp2k/bin/cp2k.psmp' say"
                )
        if self._processes > 1:
            if shutil.which("mpiexec") is None:
                raise InputError(f"cp2k: {self._processes} processes need mpiexec, which is absent")
            command = ["mpiexec", "-np", str(self._processes), *command]
        return command


# ---------------------------------------------------------------------------- the process


def _as_command(command: str | Sequence[str] | None) -> tuple[str, ...]:
    if command is None:
        return ()
    words = tuple(shlex.split(command)) if isinstance(command, str) else tuple(command)
    if not words:
        raise InputError("cp2k: the command is empty")
    return words


def _run(command: Sequence[str], folder: Path, threads: int, seconds: float) -> int:
    """Runs CP2K on cp2k.inp to cp2k.out and gives its exit status.

    Raises:
        LabelFailure: if it could not be started.
        subprocess.TimeoutExpired: if it took longer; it is gone then, and all that it started.
    """
    environment = {
        # Two Open MPI jobs on one machine would both be bound to its first core.
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
    }
    if os.geteuid() == 0:  # containers, where Open MPI would refuse
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    words = [*command, "-i", "cp2k.inp", "-o", "cp2k.out"]
    if shutil.which("setpriv") is not None:
        # A worker that is killed cannot stop what it started; the kernel does (Linux).
        words = ["setpriv", "--pdeathsig", "TERM", *words]
    if seconds <= 0:
        raise subprocess.TimeoutExpired(words, seconds)
    with (folder / "messages").open("wb") as messages:
        try:
            process = subprocess.Popen(
                words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise LabelFailure(f"cannot be started: {error}", folder) from error
        try:
            return process.wait(None if math.isinf(seconds) else seconds)
        finally:
            # Timeout, Ctrl-C, an error in between: nothing of it stays behind.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _keep(wavefunction: Path, at: Path) -> None:
    """Replaces the kept wavefunction at once: another worker may be reading it."""
    if wavefunction.is_file():
        with replacing(at) as temporary:
            shutil.copyfile(wavefunction, temporary)


# ---------------------------------------------------------------------------- the template


def _read_template(path: str | Path | None) -> str:
    if path is None:
        text = files("eip.active_learning").joinpath("templates", "cp2k.inp").read_text()
        where = "the template"
    else:
        where = str(path)
        try:
            text = Path(path).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cp2k: cannot read the template {path} ({error})") from error
    found = _placeholders(text)
    for name in sorted(found - set(PLACEHOLDERS)):
        hint = did_you_mean(name, PLACEHOLDERS)
        raise InputError(f"cp2k: {where} holds {{{{{name}}}}}, which is no placeholder: {hint}")
    for name in ("cell", "coordinates"):
        if name not in found:
            raise InputError(f"cp2k: {where} lacks {{{{{name}}}}}: the structure could not enter")
    if re.search(r"^\s*&FORCES\b(?!\s+OFF)", text, re.MULTILINE | re.IGNORECASE) is None:
        raise InputError(f"cp2k: {where} prints no forces; &FORCE_EVAL needs &PRINT &FORCES ON")
    return text


def _placeholders(template: str) -> set[str]:
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


# ---------------------------------------------------------------------------- the output


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
    if len(heads) != 1 or heads[0][1] not in _STRESS_IN_EV_PER_A3:
        return None
    rows: dict[str, list[float]] = {}
    for line in text[heads[0].end() :].splitlines()[:6]:
        match = _STRESS.match(line)
        if match:
            rows[match[1]] = [_number(match[i]) for i in (2, 3, 4)]
    if set(rows) != set("xyz"):
        return None
    stress = np.array([rows[axis] for axis in "xyz"]) * _STRESS_IN_EV_PER_A3[heads[0][1]]
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
