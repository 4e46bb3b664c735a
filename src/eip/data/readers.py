"""Files → frames in eV and Å, one after the other; nothing holds a file as a whole.

Read are extended xyz, ASE databases (SchNetPack's with them) and whatever else ASE reads, npz
files of two styles (MD17: one molecule, ``z R E F`` or ``nuclear_charges coords energies forces``;
periodic: ``symbols positions cells energies forces``), MPtrj's JSON, DeePMD's npy directories (or
a folder of many, as DP-GEN leaves them), and what installed packages add (`eip.data.formats`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat
from ase.utils import string2index

from eip.data.ase_formats import read_ase, read_database, registered_format
from eip.data.bulk_checks import doubtful
from eip.data.checks import check_frame, check_labels
from eip.data.convergence import output_of_cp2k
from eip.data.deepmd import read_deepmd, read_systems, systems_in
from eip.data.extxyz import ExtxyzReader, Position, read_extxyz
from eip.data.formats import format_of
from eip.data.frame import LABELS, Frame
from eip.data.labels import Labels as Labels
from eip.data.npz import read_npz
from eip.errors import InputError, did_you_mean

_DATABASES = ("db", "json", "aselmdb")
_CP2K, _SNIFFED = b"CP2K|", 2**14
# These formats unpickle or run what the file holds.
_UNSAFE = ("trj", "bundletrajectory", "py")
# Frames are checked so many at a time, or so many atoms.
_FRAMES_AT_ONCE, _ATOMS_AT_ONCE = 256, 8192


def read_frames(
    path: str | Path,
    labels: Labels | None = None,
    *,
    index: str | int | slice = ":",
    require: Sequence[str] = (),
) -> Iterator[Frame]:
    """Streams the frames of a file or of a DeePMD directory, in eV and Å, checked.

    Args:
        labels: keys and units of the labels.
        index: which frames, as in ASE: ``":"``, ``"-50:"``, ``7``.
        require: labels that each frame must have, of "energy", "forces", "stress".

    Raises:
        InputError: if the file is missing, empty, damaged or of no known format; if a key or unit
            is unknown; if a label is missing that is required or that only some frames have
            (forces); if a frame holds something that cannot be (see `checks.check_frame`). The
            message names file and frame.

    Warns:
        LabelWarning: at the end, if energy or stress is there in some frames only.
    """
    return check_labels(stream_frames(path, labels, index=index), require)


def stream_frames(
    path: str | Path, labels: Labels | None = None, *, index: str | int | slice = ":"
) -> Iterator[Frame]:
    """`read_frames` without its check that frames are labelled alike."""
    path, labels, wanted = Path(path), labels or Labels(), slice_of(index)
    read = reader_of(path)
    none = True
    for chunk, _ in checked(read(path, labels, wanted)):
        none = False
        yield from chunk
    if none:
        raise InputError(f"{path}: no frames" + (f" in {index}" if index != ":" else ""))


def stream_chunks(
    path: Path, labels: Labels, start: Position | None = None
) -> Iterator[tuple[list[Frame], Position]]:
    """`stream_frames` in runs of many frames, each with the position to go on from after it.

    Args:
        start: a position that came with a run of the same file; its first frame where None.
    """
    start = start or Position()
    read = reader_of(path)
    if read is read_extxyz:
        reader = ExtxyzReader(path, labels, start=start)
        for chunk, whole in checked(iter(reader)):
            if whole:  # else an error comes next, and the position is past where it is
                yield chunk, reader.position
        return
    # Keys that the user named must be in the first frame of some formats: it has to be read. And
    # where steps are left out, the number of a frame is not that of its step.
    named = any(getattr(labels, label) is not None for label in LABELS)
    every = named or labels.skip_unconverged
    frames: Iterator[Frame] = read(path, labels, slice(None if every else start.frame, None))
    if every:
        frames = itertools.islice(frames, start.frame, None)
    number = start.frame
    for chunk, _ in checked(frames):
        number += len(chunk)
        yield chunk, Position(number)


def checked(frames: Iterator[Frame]) -> Iterator[tuple[list[Frame], bool]]:
    """Runs of frames that passed `check_frame`, and whether it is all that was read.

    An error comes after the frames before it.
    """
    size, failure = 1, None
    while failure is None:
        chunk: list[Frame] = []
        atoms = 0
        try:
            for frame in frames:
                chunk.append(frame)
                atoms += len(frame)
                if len(chunk) == size or atoms >= _ATOMS_AT_ONCE:
                    break
        except InputError as error:
            failure = error
        if not chunk and failure is None:
            return
        for number in np.flatnonzero(doubtful(chunk)).tolist():
            try:
                check_frame(chunk[number])
            except InputError as error:
                failure, chunk = error, chunk[:number]
                break
        if chunk:
            yield chunk, failure is None
        size = min(2 * size, _FRAMES_AT_ONCE)
    raise failure


def slice_of(index: str | int | slice) -> slice:
    given = index
    if isinstance(index, str):
        try:
            index = string2index(index)
        except ValueError:
            index = ""
    if isinstance(index, int):
        index = slice(index, index + 1 or None)
    if not isinstance(index, slice) or (index.step is not None and index.step < 1):
        raise InputError(f"index '{given}' is not understood, expected '3', ':100' or '-50:' say")
    return index


def reader_of(path: Path) -> Callable[[Path, Labels, slice], Iterator[Frame]]:
    """The function that reads this path; an InputError if there is none."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, siblings) if siblings else ""
        hint = f", {near}" if near.startswith("did") else ""
        raise InputError(f"{path} does not exist{hint}")
    if path.is_dir():
        if (path / "type.raw").exists():
            return read_deepmd
        if systems_in(path):
            return read_systems
        raise InputError(f"{path} is a directory without type.raw, so no system of DeePMD")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    if path.suffix == ".npz":
        return read_npz
    registered = format_of(path)
    if registered is not None:
        return registered_format(registered)
    # By content: ASE's databases are .json too. ijson is read for such files alone.
    if path.suffixes[-1:] == [".json"] or path.suffixes[-2:] == [".json", ".gz"]:
        from eip.data.mptrj import is_mptrj, read_mptrj

        if is_mptrj(path):
            return read_mptrj
    with path.open("rb") as file:
        if _CP2K in file.read(_SNIFFED):  # by its suffix ASE may take it for another program's
            raise InputError(output_of_cp2k(path))
    try:
        kind = filetype(str(path))
        readable = get_ioformat(kind).can_read  # a guess by suffix is looked up only here
    except (UnknownFileTypeError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is of no format that eIP or ASE reads: {error}") from error
    if not readable:
        raise InputError(f"{path} is of format '{kind}', which ASE writes but does not read")
    if kind in _UNSAFE:
        raise InputError(f"{path} is of format '{kind}', which runs what the file holds; refused")
    if kind in _DATABASES:
        return read_database
    if kind == "extxyz":
        return read_extxyz
    return read_ase
