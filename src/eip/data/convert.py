"""Files of any size → one store, in runs that may be stopped at any moment and gone on with."""

from __future__ import annotations

import itertools
import json
import operator
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from eip.data.store import FrameStore, StoreWriter, fingerprint, is_store, states
from eip.errors import InputError, did_you_mean
from eip.files import json_text, locked, to_json, write_whole

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
    files = [Path(source) for source in sources]
    if not files:
        raise InputError("convert needs at least one file, got none")
    for file in files:
        if not file.exists():
            raise InputError(f"{file} does not exist")
        if out.resolve() == file.resolve():
            raise InputError(f"{out} is both what is read and what is to be written")
    request = {
        "sources": fingerprint(files, labels),
        "labels": to_json(labels.given()),
        "where": list(where.conditions),
    }
    if out.exists():
        contents = json.loads((out / "store.json").read_text()) if is_store(out) else {}
        if contents.get("conversion") != request:
            raise InputError(f"{out} exists already; a store is never written over")
        return Converted(FrameStore(out), int(contents["left_out"]), was_there=True)
    folder = out.with_name(out.name + PARTIAL)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            # The winner of two that began at once may have finished in between.
            if not out.exists():
                _Conversion(files, folder, labels, where, request, tick, checkpoint_s).run(out)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is converting into it") from None
    contents = json.loads((out / "store.json").read_text())
    return Converted(FrameStore(out), int(contents["left_out"]))


class _Conversion:
    """One attempt: goes on from the last state that was made safe."""

    def __init__(
        self,
        files: list[Path],
        folder: Path,
        labels: Labels,
        where: Where,
        request: dict[str, Any],
        tick: Callable[[Progress], None] | None,
        checkpoint_s: float,
    ) -> None:
        self._files, self._folder, self._labels, self._where = files, folder, labels, where
        self._request, self._tick, self._checkpoint_s = request, tick, checkpoint_s
        self._sizes = [sum(size for _, _, size, _ in states(file)) for file in files]
        self._left_out = self._safe = 0  # frames

    def run(self, out: Path) -> None:
        for stray in self._folder.glob(".*"):  # of a write that was cut off
            stray.unlink()
        if not self._is_whole():
            state = self._load()
            try:
                self._write(out, state)
            except InputError:
                if not self._safe:  # there is nothing to go on from
                    shutil.rmtree(self._folder)
                raise
            (self._folder / _STATE).unlink()
        self._folder.rename(out)

    def _is_whole(self) -> bool:
        """Whether all that is left to do is to give it its name."""
        if (self._folder / _STATE).exists() or not is_store(self._folder):
            return False
        contents = json.loads((self._folder / "store.json").read_text(encoding="utf-8"))
        self._check_request(contents.get("conversion"))
        return True

    def _write(self, out: Path, state: dict[str, Any]) -> None:
        first, start = state.get("source", 0), Position(*state.get("position", ()))
        self._left_out = state.get("left_out", 0)
        with StoreWriter(self._folder, state.get("writer")) as writer:
            self._safe = writer.frames
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

            writer.finish(summing, left_out=self._left_out, conversion=self._request)

    def _convert(self, writer: StoreWriter, number: int, start: Position) -> None:
        file, position = self._files[number], start
        saved = told = time.monotonic()
        for frames, position in _chunks(file, self._labels, start):
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
        writer.flush()
        state = {
            "request": self._request,
            "source": source,
            "position": list(position),
            "left_out": self._left_out,
            "writer": writer.state(),
        }
        write_whole(self._folder / _STATE, json_text(state))
        self._safe = writer.frames

    def _load(self) -> dict[str, Any]:
        file = self._folder / _STATE
        if not file.exists():
            return {}
        try:
            state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            request = state["request"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged; delete {self._folder} to begin anew") from error
        self._check_request(request)
        return state

    def _check_request(self, request: object) -> None:
        if request != self._request:
            raise InputError(
                f"{self._folder} holds what was converted of other sources, of sources that have "
                "changed since, or by other options; delete it to begin anew"
            )


def _chunks(
    source: Path, labels: Labels, start: Position
) -> Iterator[tuple[list[Frame], Position]]:
    if not is_store(source):
        yield from stream_chunks(source, labels, start)
        return
    store = FrameStore(source)
    if start.frame == 0 and store.isolated_atoms:
        yield list(itertools.islice(store.with_isolated(), len(store.isolated_atoms))), start
    for block in store.blocks(np.arange(start.frame, len(store)), atoms=8192):
        yield [store[index] for index in block], Position(int(block[-1]) + 1)
