"""Options: those that several verbs have, and those that are made of a class of settings.

pydantic-settings, tyro and jsonargparse make whole commands of such classes. What they print of a
wrong value is theirs, of several lines and without "did you mean", and a Typer application takes
none of them; to make Typer's options of a class is these few lines.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from eip.data.labels import LabelKeys, Labels
from eip.settings import Settings
from eip.settings.explain import KeyPath

S = TypeVar("S", bound=Settings)

#: What `takes` gives a verb: by key, what was on the command line.
Options = Mapping[str, Any]

Model = Annotated[Path, typer.Argument(help="A model.eip.", metavar="MODEL")]
Frames = Annotated[list[Path], typer.Argument(help="Labelled frames.", metavar="FILE...")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run was stopped or killed.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Instead of the file: training.epochs=50"),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file of all this; options go on top of it."),
]
Elements = Annotated[
    str | None, typer.Option(help="Elements of LAMMPS' types 1, 2, …, by commas, as O,H.")
]

#: Keys that are called otherwise on the command line, where no section says what they are of.
LABEL_NAMES = {"energy": "energy-key", "forces": "forces-key", "stress": "stress-key",
               "group": "group-key"}  # fmt: skip


def takes(
    settings: type[Settings],
    argument: str,
    names: Mapping[str, str] = MappingProxyType({}),
    without: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a verb an option for each key of a class, in place of one argument.

    The verb is given, as that argument, a mapping of the keys that were on the command line.

    Args:
        names: of options, where they are not those of the keys.
        without: keys that get no option.
    """
    fields = {k: f for k, f in settings.model_fields.items() if k not in without}

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def run(**given: Any) -> None:
            values = {key: given.pop(f"{argument}__{key}") for key in fields}
            found = {k: _split(fields[k], v) for k, v in values.items() if v is not None}
            verb(**given, **{argument: found})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(verb, eval_str=True).parameters.values():
            if parameter.name == argument:
                parameters += [
                    _parameter(f"{argument}__{key}", option_name(key, names), field)
                    for key, field in fields.items()
                ]
            else:
                parameters.append(parameter)
        # What Typer reads: not the signature that was written.
        del run.__wrapped__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def option_name(key: str, names: Mapping[str, str]) -> str:
    """``--energy-unit`` of energy_unit, unless ``names`` has another."""
    return f"--{names.get(key, key.replace('_', '-'))}"


def config_of(
    root: type[S],
    file: Path | None,
    given: Mapping[str, Any],
    *,
    verb: str,
    names: Mapping[str, str] = MappingProxyType({}),
    sections: Mapping[str, tuple[Mapping[str, Any] | None, Mapping[str, str]]] = MappingProxyType(
        {}
    ),
) -> S:
    """A verb's settings: those of a file, and on top of them what the command line has.

    Args:
        file: None where the command line has everything.
        verb: of the command line, for errors.
        given: by key, from arguments and options; what is None was not given.
        names: of options, where they are not those of the keys.
        sections: by key, what options say of one, and their names; None leaves it as it is.
    """
    from eip.config import parse_config, read_yaml

    values: dict[str, Any] = {}
    places: dict[KeyPath, str] = {}
    if file is not None:
        values, places = read_yaml(file, root)
    for key, value in given.items():
        if value is not None:
            value = _split(root.model_fields[key], value) if isinstance(value, str) else value
            # Relative to where the command was given, not to the file.
            values[key] = _absolute(value) if file is not None else value
            places[(key,)] = option_name(key, names)
    for section, (options, of_section) in sections.items():
        if options is None:
            continue
        held = values.get(section)
        values[section] = {**(held if isinstance(held, dict) else {}), **options}
        for key in options:
            places[(section, key)] = option_name(key, of_section)
    base, name = (".", f"eip {verb}") if file is None else (file.parent, str(file))
    return parse_config(values, base=base, name=name, places=places, root=root)


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(part) for part in value]
    return value.absolute() if isinstance(value, Path) else value


def labels_from(given: Mapping[str, Any]) -> Labels | None:
    """Keys and units if any is given; None leaves them to the model's training data."""
    return checked(Labels, given, LABEL_NAMES) if given else None


def checked(settings: type[S], given: Mapping[str, Any], names: Mapping[str, str]) -> S:
    """Settings of options alone; an error names the option."""
    from eip.config import parse_config

    places: dict[KeyPath, str] = {(key,): option_name(key, names) for key in given}
    return parse_config(given, root=settings, places=places)


def _parameter(name: str, option: str, field: FieldInfo) -> inspect.Parameter:
    kind = _plain(field.annotation)
    text = field.description or ""
    if re.match(r"[a-z]+ ", text):  # a word: units and values stay as they are written
        text = text[:1].upper() + text[1:]
    about = escape(f"{text}.")
    if not (field.is_required() or field.default in (None, ()) or field.default is False):
        about += f" [dim]\\[default: {escape(str(field.default))}][/dim]"
    names = [option]
    if kind is bool and field.default is True:
        names = [f"{option}/--no-{option.removeprefix('--')}"]
    told = typer.Option(*names, help=about, show_default=False)
    annotation: Any = Annotated[Optional[kind], told]  # noqa: UP045 (a value, no hint)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _plain(annotation: Any) -> Any:
    """What a single option can hold of a key's type: a list is text, by commas."""
    kind = _bare(annotation)
    members = [get_origin(member) for member in get_args(annotation)]
    if Literal in members:  # a number, or a word in its place
        return str
    return str if get_origin(kind) in (Literal, tuple, list) else kind


def _split(field: FieldInfo, value: Any) -> Any:
    """A text by commas as what it lists, where the key holds several."""
    several = get_origin(_bare(field.annotation)) in (tuple, list)
    return value.replace(",", " ").split() if several else value


def _bare(annotation: Any) -> Any:
    """A type without what may be empty and without what is checked besides."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
        else:
            return annotation


def label_options(verb: Callable[..., None]) -> Callable[..., None]:
    """An option for each key and unit of labels, as the argument ``labels``."""
    return takes(LabelKeys, "labels", LABEL_NAMES)(verb)
