"""CP2K as a labeler: attempts at the SCF, one folder each, until one converges."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from ase import Atoms

from eip.active_learning.labelers.base import Labeler, LabelFailure, labelled_copy
from eip.active_learning.labelers.cp2k.input import (
    PROJECT,
    SCF_LADDER,
    START,
    InputFile,
    placeholders,
    read_template,
)
from eip.active_learning.labelers.cp2k.output import read_output
from eip.active_learning.labelers.cp2k.process import as_command, found_command, run
from eip.data.electrons import check_multiplicity
from eip.errors import InputError
from eip.files import replacing


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
        self._command = as_command(command)
        self._processes, self._threads = processes, threads
        self._timeout = timeout_seconds
        text = read_template(template)
        self._ladder = tuple(scf_ladder)
        if isinstance(scf_ladder, str) or not self._ladder:
            raise InputError("cp2k: scf_ladder must be a list of at least one &SCF section")
        if "scf" not in placeholders(text):
            self._ladder = ("",)
        self._wavefunctions: Path | None = None
        if wavefunctions is not None:
            lacking = {"scf", "restart"} - placeholders(text)
            if lacking:
                raise InputError(
                    f"cp2k: the template cannot start from kept wavefunctions without "
                    f"{' and '.join('{{' + name + '}}' for name in sorted(lacking))}"
                )
            self._wavefunctions = Path(wavefunctions).expanduser().absolute()
        self._input = InputFile(
            text,
            cutoff,
            basis,
            pseudopotential,
            charge,
            multiplicity,
            vacuum,
            box,
            keep_wavefunction=wavefunctions is not None,
        )

    def check(self, atoms: Atoms) -> None:
        self._input.electrons(atoms)
        if atoms.pbc.any() and not atoms.pbc.all():
            raise InputError(
                "cp2k: a structure must be periodic in all three directions or in none, got pbc "
                f"{atoms.pbc.tolist()}"
            )

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        command = found_command(self._command, self._processes)
        self.check(atoms)
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
                shutil.copyfile(start, place / START)
            (place / "cp2k.inp").write_text(self.input_for(atoms, scf, restart=start is not None))
            try:
                status = run(command, place, self._threads, deadline - time.monotonic())
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
                    _keep(place / f"{PROJECT}-RESTART.wfn", kept)
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
        return self._input.text(atoms, scf, restart=restart)

    def _wavefunction_of(self, atoms: Atoms) -> Path | None:
        """Where the last wavefunction of this composition is kept, in this order of atoms."""
        if self._wavefunctions is None:
            return None
        described = "\n".join(
            [
                self._input.template,
                self._input.basis,
                self._input.pseudopotential,
                f"{self._input.electrons(atoms)} {atoms.pbc.tolist()}",
                *atoms.symbols,
            ]
        )
        digest = sha256(described.encode()).hexdigest()[:16]
        return self._wavefunctions / f"{atoms.get_chemical_formula()[:60]}-{digest}.wfn"


def _keep(wavefunction: Path, at: Path) -> None:
    """Replaces the kept wavefunction at once: another worker may be reading it."""
    if wavefunction.is_file():
        with replacing(at) as temporary:
            shutil.copyfile(wavefunction, temporary)
