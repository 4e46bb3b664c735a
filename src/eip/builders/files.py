"""A built structure as a file of any format that ASE writes."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

from eip.errors import InputError
from eip.files import replacing


def write_structure(path: Path, atoms: Atoms) -> None:
    """Writes a structure; the format is that of the file's name (``a.xyz``, ``a.cif``, ``POSCAR``).

    Raises:
        InputError: if the name is of no format that ASE writes, or the format cannot hold the
            structure.
    """
    try:
        kind = filetype(str(path), read=False)
        writable = get_ioformat(kind).can_write
    except (UnknownFileTypeError, ValueError) as error:
        raise InputError(
            f"{path}: ASE knows no format of that name; '.xyz', '.cif' or '.traj' say which"
        ) from error
    if not writable:
        raise InputError(f"{path}: ASE reads the format '{kind}' but does not write it")
    kind = "extxyz" if kind == "xyz" else kind  # which keeps the cell
    with replacing(path) as temporary:
        temporary.unlink()  # ASE's databases would add to a file that is there, if empty
        try:
            ase.io.write(str(temporary), atoms, format=kind)
        except Exception as error:  # each format has its own ways of saying no
            temporary.touch()
            raise InputError(
                f"{path}: the format '{kind}' does not take this structure: "
                f"{type(error).__name__}: {error}"
            ) from error
