"""What is wrong with settings, as sentences: where, which key, what was expected and what came."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from eip.errors import did_you_mean

KeyPath = tuple[str, ...]


def nested(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The class of a key that holds keys of its own; None of any other."""
    field = section.model_fields.get(key)
    # What is a section of one of several kinds is first of all what it is by default.
    kinds = (type(field.default), field.annotation, *get_args(field.annotation)) if field else ()
    found = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(found, None)


def explain(
    error: ValidationError, name: str, places: Mapping[KeyPath, str], root: type[BaseModel]
) -> str:
    """All of an error of pydantic's, a line for each value.

    Args:
        name: of the whole, where no place is known.
        places: where a key was given: a file and line, an option.
        root: the class whose values they are.
    """
    found = error.errors()
    within = {e["loc"][:end] for e in found for end in range(len(e["loc"]))}
    # Of a list without its wrong items pydantic says as well that it is too short.
    true = (e for e in found if e["type"] != "too_short" or e["loc"] not in within)
    said = (_sentence(e, name, places, root) for e in true)
    return "\n".join(dict.fromkeys(said))


def _sentence(
    error: ErrorDetails, name: str, places: Mapping[KeyPath, str], root: type[BaseModel]
) -> str:
    path = _keys_only(error["loc"], root)
    # A key may have been spelt one level higher, as those of a backbone may.
    spelt = [path, path[:-2] + path[-1:], *(path[:end] for end in range(len(path) - 1, 0, -1))]
    where = next((places[one] for one in spelt if one in places), name)
    key, kind, context = ".".join(path), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{where}: unknown key '{key}': {_proposal(path, root)}"
    if kind == "missing":
        return f"{where}: '{key}' is missing; {_description(path, root)}"
    given = error["input"]
    shown = f"got {given if isinstance(given, dict | list) else json.dumps(given, default=str)}"
    if len(shown) > 80:
        shown = f"{shown[:77]}…"
    if kind == "literal_error":
        choice = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        return f"{where}: '{key}': {did_you_mean(str(given), choice)} ({shown})"
    if kind in ("model_type", "model_attributes_type"):
        return f"{where}: '{key}' should be a section with keys of its own, {shown}"
    message = error["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input ")
    if not path or nested(_owner(path, root), path[-1]):  # of several keys together
        return f"{where}: {message}"
    shown = f" ({shown})" if message.endswith("?") else f", {shown}"
    return f"{where}: '{key}' {message[0].lower()}{message[1:]}{shown}"


def _keys_only(loc: tuple[int | str, ...], root: type[BaseModel]) -> KeyPath:
    """A pydantic location without list indices and names of union members."""
    section: type[BaseModel] | None = root
    path: list[str] = []
    for part in loc:
        if section is None:
            break
        path.append(str(part))
        section = nested(section, str(part))
    return tuple(path)


def _owner(path: KeyPath, root: type[BaseModel]) -> type[BaseModel]:
    """The class that has the last key of a path."""
    section = root
    for part in path[:-1]:
        section = nested(section, part) or section
    return section


def needed_keys(root: type[BaseModel], path: KeyPath = ()) -> list[str]:
    """Those of `all_keys` that have a value and no default."""
    found: list[str] = []
    for key, field in root.model_fields.items():
        if inner := nested(root, key):
            found += needed_keys(inner, (*path, key)) if field.default is not None else []
        elif field.is_required():
            found.append(".".join((*path, key)))
    return found


def all_keys(section: type[BaseModel], path: KeyPath = ()) -> Iterator[str]:
    """Every key, with those of the sections that it is in: "training.epochs"."""
    for key in section.model_fields:
        yield ".".join((*path, key))
        if inner := nested(section, key):
            yield from all_keys(inner, (*path, key))


#: What other packages call keys of ours.
_OTHER_NAMES = {
    "layers": "interactions",
    "n_layers": "interactions",
    "num_layers": "interactions",
    "num_interactions": "interactions",
    "n_interactions": "interactions",
    "features": "channels",
    "hidden_channels": "channels",
    "num_channels": "channels",
    "r_max": "cutoff",
    "n_rbf": "radial_functions",
    "num_radial_basis": "radial_functions",
    "lr": "learning_rate",
    "max_epochs": "epochs",
    "max_num_epochs": "epochs",
    "forces_weight": "force_weight",
    "clip_grad": "gradient_clip",
    "valid": "validation",
    "val": "validation",
    "default_dtype": "dtype",
}


def _proposal(path: KeyPath, root: type[BaseModel]) -> str:
    """The key that was meant: by its name in another section, or by likeness in its own."""
    siblings = list(_owner(path, root).model_fields)
    if meant := _OTHER_NAMES.get(path[-1]):
        if meant in siblings:
            return f"did you mean '{meant}'?"
        below = (key for key in all_keys(root) if key.startswith(".".join(path[:-1])))
        if found := [key for key in below if key.endswith(f".{meant}")]:
            return f"did you mean '{found[0]}'?"
    near = did_you_mean(path[-1], siblings)
    if near.startswith("did you mean"):
        return near
    everywhere = list(all_keys(root))
    same = [key for key in everywhere if key.split(".")[-1] == path[-1]]
    if same:
        return f"it belongs to another section: did you mean '{same[0]}'?"
    last = {key.split(".")[-1]: key for key in everywhere}
    # In another section only what is a slip of the finger.
    far = get_close_matches(path[-1], last, n=1, cutoff=0.8)
    return f"did you mean '{last[far[0]]}'?" if far else near


def _description(path: KeyPath, root: type[BaseModel]) -> str:
    section = _owner(path, root)
    inner = nested(section, path[-1])
    if inner is not None:
        return f"it is the section of {', '.join(inner.model_fields)}"
    return f"it is: {section.model_fields[path[-1]].description}"
