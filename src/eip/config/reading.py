"""A YAML file, or a mapping, → validated settings; errors quote file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, overload

import yaml
from pydantic import ValidationError

from eip.config.schema import ROOTS
from eip.config.training import Config
from eip.errors import InputError
from eip.settings import Settings
from eip.settings.explain import KeyPath, explain

C = TypeVar("C", bound=Settings)


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: str | Path, overrides: Sequence[str] = (), *, root: type[C]) -> C: ...


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, root: type[Any] = Config
) -> Any:
    """Reads and checks a YAML file.

    Args:
        path: paths inside the file are relative to its folder.
        overrides: ``"training.epochs=20"``, each on top of the file.
        root: what is in it, `Config` or `LearningConfig`.

    Raises:
        InputError: naming file, line and key of everything that is wrong, and the right key.
    """
    path = Path(path)
    values, places = read_yaml(path, root)
    for change in overrides:
        changed = override(values, change)
        # What stood there, and below it, is not what counts.
        places = {key: at for key, at in places.items() if key[: len(changed)] != changed}
        option = f"--set {change}" if len(change) <= 80 else f"--set {change[:79]}…"
        places[changed] = option
        # What is wrong with a section as a whole may be either's fault.
        section = changed[:-1]
        places[section] = f"{places[section]}, and {option}" if section in places else option
    return parse_config(values, base=path.parent, name=str(path), places=places, root=root)


def read_yaml(path: Path, root: type[Settings]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The values of a YAML file, unchecked, and where each key stands.

    Raises:
        InputError: if it is none, or a key is given twice.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a YAML file")
    if not path.is_file():
        verb = next((name for name, of in ROOTS.items() if of is root), "train")
        of_verb = "" if verb == "train" else f"--for {verb} "
        raise InputError(
            f"{path}: no such file. 'eip init {of_verb}{path}' writes one to start from."
        )
    node, values = _yaml(_text(path), str(path))
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: expected sections {', '.join(root.model_fields)}, found "
            f"{'nothing' if values is None else type(values).__name__}"
        )
    lines: dict[KeyPath, int] = {}
    for key, line in _lines(node):
        if key in lines:
            raise InputError(
                f"{path}, line {line}: '{'.'.join(key)}' is given twice, first in line {lines[key]}"
            )
        lines[key] = line
    return values, {key: f"{path}, line {line}" for key, line in lines.items()}


#: A configuration is written by hand, or lists files; what is larger is another file by mistake.
_MOST_BYTES = 2**20
#: Values that aliases may unfold a file to: a few lines of them can say 10¹² values.
_MOST_VALUES = 100_000


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: larger than 1 MiB, so hardly a configuration")
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not text in UTF-8 (byte 0x{content[error.start]:02x}); save it "
            "as UTF-8"
        ) from None


def _yaml(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """The nodes and the values of a YAML text.

    Raises:
        InputError: if it is not valid, nested too deeply, or unfolds to more than is sensible.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _unfolded(node, {}) > _MOST_VALUES:
            raise InputError(
                f"{where}: its aliases (*name) unfold to more than {_MOST_VALUES:,} values"
            )
        return node, yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            where = f"{where}, line {mark.line + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{where}: not valid YAML ({problem})") from error
    except RecursionError:
        raise InputError(f"{where}: nested too deeply for a configuration") from None
    except InputError:
        raise
    except Exception as error:  # dates, numbers and tags raise whatever Python's conversions do
        raise InputError(f"{where}: not valid YAML ({error})") from error


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds where each alias counts as what it stands for."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # what it is if it holds itself
        inside = (
            [part for pair in node.value for part in pair]
            if isinstance(node, yaml.MappingNode)
            else node.value
        )
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in inside)
    return known[id(node)]


@overload
def parse_config(
    values: Mapping[str, Any],
    *,
    base: str | Path = ".",
    name: str = "config",
    places: Mapping[KeyPath, str] = ...,
) -> Config: ...


@overload
def parse_config(
    values: Mapping[str, Any],
    *,
    base: str | Path = ".",
    name: str = "config",
    places: Mapping[KeyPath, str] = ...,
    root: type[C],
) -> C: ...


def parse_config(
    values: Mapping[str, Any],
    *,
    base: str | Path = ".",
    name: str = "config",
    places: Mapping[KeyPath, str] = MappingProxyType({}),
    root: type[Any] = Config,
) -> Any:
    """Checks settings that are a mapping already.

    Args:
        base: what paths are relative to.
        name: of the whole, for errors.
        places: where a key was given, for errors.
        root: whose values they are.

    Raises:
        InputError: if anything is wrong.
    """
    try:
        return root.model_validate(values, context={"base": base})
    except ValidationError as error:
        raise InputError(explain(error, name, places, root)) from None


def override(values: dict[str, Any], override: str, option: str = "--set") -> KeyPath:
    """Sets ``a.b=value``, as an option of the command line gave it, in nested mappings.

    Returns:
        The path of the key.

    Raises:
        InputError: if it is no key and value.
    """
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise InputError(f"{option} expects key=value, got '{override[:80]}'")
    shown = override if len(override) <= 80 else f"{override[:79]}…"
    value = _yaml(text, f"{option} {shown}")[1]
    target = values
    for depth, part in enumerate(parts[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
        elif part == "backbone":  # it may be a name alone, with its keys beside it
            if isinstance(target[part], str):
                target[part] = {"name": target[part]}
            target.pop(parts[-1], None)
        if not isinstance(target[part], dict):
            raise InputError(
                f"{option} {shown}: '{'.'.join(parts[:depth])}' holds a value, not keys of its own"
            )
        target = target[part]
    target[parts[-1]] = value
    return parts


def _lines(node: yaml.Node | None, path: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    """The line of each key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
