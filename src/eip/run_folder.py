"""The folder of a run: one process's alone, with one record of what was asked.

    with working_in(folder, "train", asked, resume=resume, result=lambda: checkpoint.exists()):
        ...

``run.json`` holds the verb and what was asked for. The folder is claimed by what is worth keeping:
until there is any, the record gives way to whatever is asked next, and an error of the user leaves
no trace; then the run goes on with the same or not at all. No decision hangs on where the folder
is, or on where a file that was asked for is: of files, names and contents are compared.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eip._version import __version__
from eip.errors import InputError, full_disk
from eip.files import json_text, to_json, write_whole
from eip.locks import LOCK, locked

RECORD = "run.json"
_FORMAT = 1
#: What `eip.files.replacing` leaves where the process is killed.
_STRAY = re.compile(r"\..+\.[a-z0-9_]{8}")

#: Verbs that go on where they were only if they are told to; others do by themselves.
_RESUMED = ("train", "md", "learn")

Asked = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process works in; see `working_in`, which makes one.

    Attributes:
        path: of the folder.
        verb: of the command line, "train" say.
        asked: what makes the result, as in JSON.
        begun: whether there was something worth keeping when it was opened.
        replaces: whether another run is there until this one has its result, see `settle`.
    """

    path: Path
    verb: str
    asked: dict[str, Any]
    begun: bool
    replaces: bool = False

    def settle(self) -> None:
        """Takes the place of the run that was to be replaced, whose files are gone by now."""
        if self.replaces:
            _write_record(self.path, self.verb, self.asked)


def read_json(path: Path) -> Any:
    """What a file of ours holds.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is damaged ({error!r}): restore it from a copy, or delete it and give the same "
        "command again; what else is in the folder stays"
    )


def _write_record(path: Path, verb: str, asked: Asked) -> None:
    record = {"format": _FORMAT, "eip": __version__, "verb": verb, "asked": asked}
    write_whole(path / RECORD, json_text(record))


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a run; None where there is none.

    Raises:
        InputError: if it cannot be read or is of a later eIP.
    """
    path = folder / RECORD
    try:
        record = read_json(path)
        version = record["format"]
        _ = record["verb"], record["asked"].items()
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    if version > _FORMAT:
        raise InputError(f"{path} has format {version}, this eIP reads up to {_FORMAT}: update eip")
    return dict(record)


@contextmanager
def working_in(
    path: str | Path,
    verb: str,
    asked: Asked,
    *,
    resume: bool,
    result: Callable[[], bool],
    may_change: frozenset[str] = frozenset(),
    defaults: Asked | None = None,
    earlier: Callable[[], Asked | None] = lambda: None,
    own: Sequence[str] | None = None,
    makes: Sequence[str] = (),
    scratch: Sequence[str] = (),
    remedy: str = "choose another folder",
    of_the_same: str = "",
    replaced: Sequence[str] = (),
    edited: Callable[[Mapping[str, Sequence[str]]], None] = lambda files: None,
    patience: float = 0.0,
) -> Iterator[RunFolder]:
    """Locks a folder for a run that begins, or goes on where there is one.

    A full disk is an `InputError` that says how to go on.

    Args:
        asked: see `RunFolder`; a file is given by `file_identity`.
        resume: go on with what is there, or begin where nothing is.
        result: whether the folder holds something worth keeping.
        may_change: keys in which a run that goes on may differ from what it was.
        defaults: of keys that the record of an earlier eIP does not have.
        earlier: what was asked of a run of an eIP without such records; None if there is none.
        own: names of files that show that the folder is in use; all but hidden ones where None.
        makes: patterns of names that go where a run gives way to another.
        scratch: those that go after an error, as long as there is nothing else.
        remedy: what a user whose run this is not can do.
        of_the_same: what else, where it is a run of the same verb.
        replaced: names that may go where such a run, or nothing but them, is in the folder: the
            user wants it replaced. Who does so removes it when the new result is made, and calls
            `RunFolder.settle`: a run that fails costs nothing.
        edited: is told, by key, of files of the same name whose content has changed since a run
            that goes on was begun; what it raises leaves the record as it was.
        patience: seconds to wait for another process that is about to end.

    Raises:
        InputError: if another process is at work there; if the folder is in use and ``resume`` is
            not set; if it was asked for something else.
    """
    path, now = Path(path), to_json(asked)
    try:
        with locked(path, patience):
            used, record = _used(path, own), read_record(path)
            if record is not None and record["verb"] != verb and _used(path, None) != [RECORD]:
                raise InputError(f"{path} holds a run of 'eip {record['verb']}'; {remedy}")
            rest = _others(path, used, replaced)
            replaces = bool(replaced) and (record is not None or not rest)
            if replaces:
                used, record = rest, None
            remedy = remedy if replaced else of_the_same + remedy
            before = record["asked"] if record else earlier() if used else None
            begun = before is not None and (record is None or result())
            if not resume and (begun or (record is None and used)):
                raise InputError(
                    f"the run folder {path} is not empty ({_some(used)}): go on with --resume "
                    f"(resume=True), or {remedy}"
                )
            if before is None and used and own is None:
                raise InputError(
                    f"nothing to resume: {path} holds no run, but {_some(used)}; {remedy}"
                )
            changed = [
                f"{key} was {_text(old)}, now {_text(new)}"
                for key, old, new in _changes(before or {}, now, defaults or {})
                if key not in may_change
            ]
            if changed and begun:
                raise InputError(
                    f"cannot go on with {path}, which was asked otherwise: {'; '.join(changed)}; "
                    f"{remedy}"
                )
            if begun and (files := _edited(before or {}, now)):
                edited(files)
            if changed and record is not None:
                clear(path, makes)
            for stray in path.iterdir():
                if _STRAY.fullmatch(stray.name) and stray.is_file():
                    stray.unlink(missing_ok=True)
            kept = _with_sums(now, before) if before and begun else now
            new = record is None or record["asked"] != kept or record["verb"] != verb
            if new and not replaces:
                _write_record(path, verb, kept)
            try:
                yield RunFolder(path, verb, now, begun, replaces)
            except Exception:
                if not begun and not result():
                    clear(path, scratch)
                raise
            finally:
                if _used(path, None) == [RECORD]:
                    (path / RECORD).unlink()
    except Exception as error:
        if what := full_disk(error):
            how = _go_on(verb) if path.exists() and result() else "try again"
            raise InputError(
                f"there is no room left on the disk of {path} ({what}); make room, then {how}"
            ) from error
        raise


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _go_on(verb: str) -> str:
    """With which command a run goes on."""
    return f"go on with the same command{' and --resume' if verb in _RESUMED else ''}"


def clear(folder: Path, patterns: Sequence[str]) -> None:
    """Removes what has one of these names."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _others(folder: Path, used: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """What has none of these names, nor is the record."""
    named = {path.name for pattern in patterns for path in folder.glob(pattern)}
    return [name for name in used if name not in named | {RECORD}]


def _used(folder: Path, own: Sequence[str] | None) -> list[str]:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if own is not None:
        return [name for name in names if name in own]
    return [name for name in names if name != LOCK and not _STRAY.fullmatch(name)]


def _changes(before: Asked, now: Asked, defaults: Asked) -> Iterator[tuple[str, Any, Any]]:
    for key, new in now.items():
        # A key that was not asked about then, and that has no default, makes no difference.
        old = before.get(key, to_json(defaults.get(key, new)))
        if not _same(old, new):
            yield key, old, new


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if "file" in one and "file" in other:
            return _same_file(one, other)
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    for this, that in ((one, other), (other, one)):  # an earlier eIP kept a file's name alone
        if isinstance(this, str) and isinstance(that, Mapping) and "file" in that:
            return _same_file({"file": this}, that)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _same_file(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    sums = [of.get("sha256") for of in (one, other)]
    if one["file"] == other["file"]:  # edited or not: see `edited` of `working_in`
        return True
    if None in sums:
        return Path(one["file"]).name == Path(other["file"]).name
    return sums[0] == sums[1]


def _edited(before: Asked, now: Asked) -> dict[str, list[str]]:
    """By key, files that are asked for as before and hold something else."""
    found: dict[str, list[str]] = {}
    for key in before.keys() & now.keys():
        kept = {file["file"]: file.get("sha256") for file in _files_in(before[key])}
        for file in _files_in(now[key]):
            # What is gone has not changed: whoever needs it will say so.
            if "sha256" in file and kept.get(file["file"]) not in (None, file["sha256"]):
                found.setdefault(key, []).append(str(file["file"]))
    return found


def _with_sums(now: Any, before: Any) -> Any:
    """What is asked, with the sums of files that are gone as they were known before."""
    if not isinstance(now, Mapping) or not isinstance(before, Mapping):
        return now
    if "file" in now:
        same = now["file"] == before.get("file") and "sha256" not in now
        return {**before, **now} if same else now
    return {key: _with_sums(value, before.get(key)) for key, value in now.items()}


def _files_in(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if "file" in value:
            yield value
        for part in value.values():
            yield from _files_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from _files_in(part)


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and "file" in value:
        return str(value["file"])
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def file_identity(given: str | Path) -> dict[str, str]:
    """What stands for a file in what was asked: as it was given, and the sum of its content.

    ``calc.py:make`` is the file before the colon; of what is no file there is no sum.
    """
    text = str(given)
    for name in (text, text.rpartition(":")[0]):
        if name and (path := Path(name).expanduser()).is_file():
            return {"file": text, "sha256": _digest(path)}
    return {"file": text}


def _digest(path: Path) -> str:
    """Of the content of a file; of a Python file with the modules beside it that it imports."""
    with path.open("rb") as file:  # which may be larger than memory
        digest = hashlib.file_digest(file, "sha256")
    for module in _imported_from_beside(path) if path.suffix == ".py" else ():
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _imported_from_beside(path: Path) -> list[Path]:
    """Files in the same folder, or where the process works, that a Python file imports, and so
    on."""
    seen, open_ = {path.resolve()}, [path]
    while open_:
        try:
            nodes = list(ast.walk(ast.parse(open_.pop().read_bytes())))
        except (SyntaxError, ValueError):  # whoever runs it will say so
            continue
        names = [
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        ]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        for name in filter(None, names):
            for folder in (path.parent, Path()):
                found = (folder / f"{name.split('.')[0]}.py").resolve()
                if found.is_file() and found not in seen:
                    seen.add(found)
                    open_.append(found)
    return sorted(seen - {path.resolve()})


def with_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of which some may be files: those by their identity."""
    out = dict(options)
    for key, value in options.items():
        if isinstance(value, str) and "sha256" in (identity := file_identity(value)):
            out[key] = identity
    return out
