"""The process of CP2K: found, run in a folder, and gone when it is no more wanted."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from eip.active_learning.labelers.base import LabelFailure
from eip.errors import InputError

_EXECUTABLES = ("cp2k.psmp", "cp2k.popt", "cp2k.ssmp", "cp2k")


def as_command(command: str | Sequence[str] | None) -> tuple[str, ...]:
    if command is None:
        return ()
    words = tuple(shlex.split(command)) if isinstance(command, str) else tuple(command)
    if not words:
        raise InputError("cp2k: the command is empty")
    return words


def found_command(given: Sequence[str], processes: int) -> list[str]:
    """The words that run CP2K, up to its own arguments.

    Args:
        given: what the user said; empty: one of the usual names that is there.

    Raises:
        InputError: if a program is not there.
    """
    command = list(given)
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
    if processes > 1:
        if shutil.which("mpiexec") is None:
            raise InputError(f"cp2k: {processes} processes need mpiexec, which is absent")
        command = ["mpiexec", "-np", str(processes), *command]
    return command


def run(command: Sequence[str], folder: Path, threads: int, seconds: float) -> int:
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
