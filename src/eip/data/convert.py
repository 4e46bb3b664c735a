"""Files of any size → one store, in runs that may be stopped at any moment and gone on with."""

from __future__ import annotations

import itertools
import json
import operator
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from eip.data.checks import check_require
from eip.data.extxyz import Position
from eip.data.frame import Frame
from eip.data.labels import Labels
from eip.data.readers import stream_chunks
from eip.data.store import FrameStore, StoreWriter, fingerprints, is_store, states
from eip.errors import InputError, did_you_mean
from eip.files import json_text, to_json, write_whole
from eip.locks import LOCK
from eip.run_folder import RECORD, RunFolder, working_in

#: Beside the store, while it is being written; what was converted so far is in it.
PARTIAL = ".partial"
_STATE = "conversion.json"
_COMPRESSED = (".gz", ".bz2", ".xz")
_COMPARISONS: dict[str, Callable[[Any, int], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_ATOMS = re.compile(r"atoms(<=|>=|!=|<|>|=)(\d+)", re.ASCII)
_WORDS = re.compile(r"(elements|contains|without|labelled)=(\S+)")


class Where:
    """Which frames are taken: those for which all conditions hold.

    Args:
        conditions: ``atoms<=200`` (and <, =, !=, >, >=), ``elements=H,C,O`` (no others),
            ``contains=Li,O`` (each of them), ``without=Pb,U`` (none of them), ``labelled=forces``;
            several of them in one text are parted by blanks.

    Raises:
        InputError: if one is none of these, or an element is unknown.
    """

    def __init__(self, conditions: Iterable[str] = ()) -> None:
        self.conditions = tuple(word for text in conditions for word in text.split())
        self._sizes: list[tuple[Callable[[Any, int], Any], int]] = []
        self._allowed = np.ones(256, dtype=bool)
        self._contained: list[int] = []
        self._labels: list[str] = []
        for text in self.conditions:
            if match := _ATOMS.fullmatch(text):
                self._sizes.append((_COMPARISONS[match[1]], int(match[2])))
            elif match := _WORDS.fullmatch(text):
                self._add_words(match[1], match[2].split(","))
            else:
                raise InputError(
                    f"--where '{text}' is not understood, expected atoms<=200, elements=H,C,O, "
                    "contains=Li, without=Pb,U or labelled=forces say"
                )

    def _add_words(self, kind: str, words: list[str]) -> None:
        if kind == "labelled":
            self._labels += check_require(words)
            return
        unknown = [w for w in words if not atomic_numbers.get(w)]
        if unknown:
            hint = did_you_mean(unknown[0], list(atomic_numbers))
            raise InputError(f"--where: unknown element '{unknown[0]}', {hint}")
        numbers = [atomic_numbers[word] for word in words]
        if kind == "contains":
            self._contained += numbers
            return
        mentioned = np.zeros(256, dtype=bool)
        mentioned[numbers] = True
        self._allowed &= mentioned if kind == "elements" else ~mentioned

    def __call__(self, frame: Frame) -> bool:
        return (
            all(compare(len(frame), size) for compare, size in self._sizes)
            and bool(self._allowed[frame.numbers].all())
            and all((frame.numbers == number).any() for number in self._contained)
            and all(map(frame.has, self._labels))
        )


@dataclass(frozen=True)
class Progress:
    """How far a conversion is.

    Attributes:
        doing: the source that is read, or what else is done.
        share: of the sources' bytes, 0 to 1; None where that cannot be said.
        frames: written so far.
    """

    doing: str
    share: float | None
    frames: int


@dataclass(frozen=True)
class Converted:
    """A store, how many frames were left out of it, and whether it had been there before."""

    store: FrameStore
    left_out: int
    was_there: bool = False


def convert(
    sources: Sequence[str | Path],
    out: str | Path,
    labels: Labels | None = None,
    where: Where | None = None,
    *,
    tick: Callable[[Progress], None] | None = None,
    checkpoint_s: float = 5.0,
) -> Converted:
    """Frames of files and of stores, one source after the other, as a new store.

    Memory does not grow with the sources. What was converted is kept in ``OUT.partial``, and the
    same call goes on from there after whatever stopped the last one; a store made in several
    attempts has the same bytes as one made in one.

    Args:
        labels: keys and units, of all sources that are not stores.
        where: which frames are taken; all where None.
        tick: is told of progress a few times a second.
        checkpoint_s: seconds after which what was converted is made safe.

    Raises:
        InputError: if ``out`` exists and is not what this call makes, ``OUT.partial`` is of other
            sources or another request, another process is at it, a source cannot be read, or no
            frame is left.
    """
    out, labels, where = Path(out), labels or Labels(), where or Where()
    files = check_sources(sources, out)
    asked = _asked(files, labels, where)
    there = _made_before(out, asked, files, labels)
    if there is None:
        folder = out.with_name(out.name + PARTIAL)
        with working_in(
            folder,
            "convert",
            asked,
            resume=True,
            result=lambda: (folder / _STATE).exists() or is_store(folder),
            earlier=lambda: _asked_earlier(folder, asked, files, labels),
            makes=("*.npy", "*.json"),
            scratch=("*.npy", "*.json"),
            remedy="delete it to begin anew",
        ) as run:
            # The winner of two that began at once may have finished in between.
            there = _made_before(out, asked, files, labels)
            if there is None:
                _Conversion(files, labels, where, run, tick, checkpoint_s).run(out)
    # Of a process that was killed when all was done but this.
    (out / LOCK).unlink(missing_ok=True)
    if there is not None:
        return there
    contents = json.loads((out / "store.json").read_text())
    return Converted(FrameStore(out), int(contents["left_out"]))


def check_sources(sources: Sequence[str | Path], out: Path) -> list[Path]:
    """The sources as paths; an InputError if there is none, one is missing or is the output."""
    files = [Path(source) for source in sources]
    if not files:
        raise InputError("convert needs at least one file, got none")
    for file in files:
        if not file.exists():
            raise InputError(f"{file} does not exist")
        if out.resolve() == file.resolve():
            raise InputError(f"{out} is both what is read and what is to be written")
    return files


def _asked(files: Sequence[Path], labels: Labels, where: Where) -> dict[str, Any]:
    names = ", ".join(file.name for file in files)
    return {
        "sources": f"{names} (as of {fingerprints(files, labels)[0]})",
        "labels": to_json(labels.given()),
        "where": list(where.conditions),
    }


def _asked_earlier(
    folder: Path, asked: Mapping[str, Any], files: Sequence[Path], labels: Labels
) -> dict[str, Any] | None:
    """What a conversion without a record was asked for: one of an earlier version, or a whole one
    that has yet to get its name."""
    file = folder / _STATE
    if file.exists():
        request = _read(file, folder).get("request")
    elif is_store(folder):
        request = _read(folder / "store.json", folder).get("conversion")
    else:
        return None
    if not isinstance(request, dict):
        raise InputError(f"{folder} holds no conversion; choose another output")
    if request.get("sources") in fingerprints(files, labels):
        return {**request, "sources": asked["sources"]}
    return request


def _made_before(
    out: Path, asked: Mapping[str, Any], files: Sequence[Path], labels: Labels
) -> Converted | None:
    if not out.exists():
        return None
    request = _asked_earlier(out, asked, files, labels) if is_store(out) else None
    if request != asked:
        raise InputError(f"{out} exists already; a store is never written over")
    contents = json.loads((out / "store.json").read_text())
    return Converted(FrameStore(out), int(contents["left_out"]), was_there=True)


def _read(file: Path, folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged; delete {folder} to begin anew") from error


class _Conversion:
    """One attempt: goes on from the last state that was made safe."""

    def __init__(
        self,
        files: list[Path],
        labels: Labels,
        where: Where,
        run: RunFolder,
        tick: Callable[[Progress], None] | None,
        checkpoint_s: float,
    ) -> None:
        self._files, self._run, self._labels, self._where = files, run, labels, where
        self._folder, self._tick, self._checkpoint_s = run.path, tick, checkpoint_s
        self._sizes = [sum(size for _, _, size, _ in states(file)) for file in files]
        self._left_out = 0  # frames

    def run(self, out: Path) -> None:
        if not self._is_whole():
            self._write(out, _read(self._folder / _STATE, self._folder) if self._begun() else {})
            (self._folder / _STATE).unlink(missing_ok=True)
        (self._folder / RECORD).unlink(missing_ok=True)
        self._folder.rename(out)

    def _begun(self) -> bool:
        return (self._folder / _STATE).exists()

    def _is_whole(self) -> bool:
        """Whether all that is left to do is to give it its name."""
        return not self._begun() and is_store(self._folder)

    def _write(self, out: Path, state: dict[str, Any]) -> None:
        first, start = state.get("source", 0), Position(*state.get("position", ()))
        self._left_out = state.get("left_out", 0)
        with StoreWriter(self._folder, state.get("writer")) as writer:
            for number in range(first, len(self._files)):
                self._convert(writer, number, start if number == first else Position())
                self._save(writer, number + 1, Position())
            if writer.frames == 0:
                raise InputError(
                    f"{out}: there are no frames to write, {self._left_out} were left out for "
                    f"'{' '.join(self._where.conditions)}'{writer.but_isolated()}"
                )

            def summing(done: int, total: int) -> None:
                self._say("checksums", done / total, writer)

            writer.finish(summing, left_out=self._left_out, conversion=self._run.asked)

    def _convert(self, writer: StoreWriter, number: int, start: Position) -> None:
        file, position = self._files[number], start
        saved = told = time.monotonic()
        for frames, position in chunks(file, self._labels, start):
            chosen = [frame for frame in frames if frame.isolated or self._where(frame)]
            writer.append(chosen)
            self._left_out += len(frames) - len(chosen)
            now = time.monotonic()
            if now - saved > self._checkpoint_s:
                self._save(writer, number, position)
                saved = time.monotonic()
            if now - told > 0.2:
                self._say(str(file), self._share(number, position), writer)
                told = now
        if position.frame == 0:
            raise InputError(f"{file}: no frames")

    def _share(self, number: int, position: Position) -> float | None:
        done = sum(self._sizes[:number])
        if self._files[number].suffix not in _COMPRESSED:  # whose positions are of what comes out
            done += position.offset
        return done / sum(self._sizes) if done else None

    def _say(self, doing: str, share: float | None, writer: StoreWriter) -> None:
        if self._tick is not None:
            self._tick(Progress(doing, share, writer.frames))

    def _save(self, writer: StoreWriter, source: int, position: Position) -> None:
        if not writer.frames:
            return  # nothing to go on from
        writer.flush()
        state = {
            "source": source,
            "position": list(position),
            "left_out": self._left_out,
            "writer": writer.state(),
        }
        write_whole(self._folder / _STATE, json_text(state))


def chunks(source: Path, labels: Labels, start: Position) -> Iterator[tuple[list[Frame], Position]]:
    """The frames of a file or a store, checked, in runs, each with the position after it."""
    if not is_store(source):
        yield from stream_chunks(source, labels, start)
        return
    store = FrameStore(source)
    store.verify_once()
    if start.frame == 0 and store.isolated_atoms:
        yield list(itertools.islice(store.with_isolated(), len(store.isolated_atoms))), start
    for block in store.blocks(np.arange(start.frame, len(store)), atoms=8192):
        yield [store[index] for index in block], Position(int(block[-1]) + 1)
