"""`eip label`: structures labelled by a reference method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from eip.active_learning.labelers import LabelLimits
from eip.active_learning.labelling import Labelling, label_frames
from eip.data import read_structures
from eip.errors import InputError
from eip.verbs.arguments import as_paths
from eip.verbs.messages import Log, silent


def label(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    labeler: str = "xtb",
    options: Mapping[str, Any] | None = None,
    *,
    every: int = 1,
    elements: tuple[str, ...] | None = None,
    executor: str = "processes",
    workers: int = 1,
    retries: int = 2,
    max_force: float = LabelLimits.max_force,
    max_net_force: float | None = LabelLimits.max_net_force,
    progress: bool = True,
    log: Log = silent,
) -> Labelling:
    """Labels the structures of files and writes them to an extended XYZ file.

    Each calculation is kept in ``OUT.labels``: the same call goes on where it was stopped, and
    tries again what failed.

    Args:
        labeler, options: see `eip.active_learning.labelers.make_labeler`.
        every: every so many frames of each file, from the first.
        elements: of types 1, 2, … of LAMMPS' files.
        executor, workers, retries: see `eip.executors.Pool`.
        max_force: largest force that is believed, eV/Å.
        max_net_force: largest sum of the forces of a label that is believed, eV/Å.
        log: is told why a frame is left out, as it happens.

    Raises:
        InputError: as `eip.active_learning.labelling.label_frames`, and if a file cannot be read.
    """
    if every < 1:
        raise InputError(f"every expects a number from 1, got {every}")
    structures: dict[str, Atoms] = {}
    for path in as_paths(files):
        for name, atoms in read_structures(path, index=slice(None, None, every), elements=elements):
            # Frames of a store are named by where they came from: two may have one name.
            while name in structures:
                name += " (again)"
            structures[name] = atoms
    return label_frames(
        structures,
        Path(out),
        labeler,
        options or {},
        executor=executor,
        workers=workers,
        retries=retries,
        limits=LabelLimits(max_force=max_force, max_net_force=max_net_force),
        progress=progress,
        say=log,
    )
