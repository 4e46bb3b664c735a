"""Settings → YAML: every key with its meaning and default, or what a run was told."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from eip.config.learning import LearningConfig
from eip.config.training import Config
from eip.models.settings import BackboneSettings
from eip.settings import Settings
from eip.settings.explain import needed_keys, nested


def default_config_yaml(train: Sequence[str] = (), root: type[Settings] = Config) -> str:
    """A commented YAML file with every key and its default; ``train`` fills ``data.train``."""
    needed = needed_keys(root)
    alone = "are" if len(needed) > 1 else "alone is"
    lines = [
        "# eIP configuration. Paths are relative to this file; units are eV, Å, fs, K.",
        "# What is shown is the default and may be left out; "
        f"{' and '.join(needed)} {alone} needed.",
        "",
        *_section_yaml(root, "", {"data.train": list(train)} if train else {}),
    ]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _section_yaml(
    section: type[BaseModel], indent: str, given: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for place, (key, field) in enumerate(section.model_fields.items()):
        inner = nested(section, key)
        if inner is not None and place:
            yield ""
        if inner is not None and field.default is None:  # left out, as long as it is not wanted
            yield from _comment(field.description or "", indent)
            yield f"{indent}{key}:"
            yield from _left_out(inner, f"{indent}#  ")
            continue
        if inner is not None:
            yield from _comment(inner.__doc__ or "", indent)
            yield f"{indent}{key}:"
            if issubclass(inner, BackboneSettings):  # other keys are of this backbone alone
                yield from _backbone_yaml(inner, indent + "  ")
            else:
                yield from _section_yaml(inner, indent + "  ", given, f"{prefix}{key}.")
            continue
        yield from _comment(field.description or "", indent)
        default = (field.examples or [None])[0] if field.is_required() else field.default
        value = given.get(prefix + key, default)
        yield f"{indent}{key}: {_scalar(value)}".rstrip()


def _backbone_yaml(backbone: type[BackboneSettings], indent: str) -> Iterator[str]:
    name = backbone.model_fields["name"]
    yield from _comment(name.description or "", indent)
    yield f"{indent}name: {_scalar(name.default)}"
    yield from _left_out(backbone, f"{indent}# ", but=("name",))


def _left_out(section: type[BaseModel], indent: str, but: Collection[str] = ()) -> Iterator[str]:
    """Keys with their defaults, as comments."""
    shown = {
        f"{name}: {_scalar(of.default)}".rstrip(): of.description
        for name, of in section.model_fields.items()
        if name not in but
    }
    width = max(map(len, shown))
    for setting, about in shown.items():
        yield f"{indent}{setting:{width}}  # {about}"


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, 100, initial_indent=prefix, subsequent_indent=prefix)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Path):
        value = str(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def config_yaml(config: Config, run_dir: Path) -> str:
    """A configuration as YAML, to be kept in its run folder: its paths are relative to that."""

    def relative(paths: list[Path]) -> list[str]:
        return [os.path.relpath(path, run_dir) for path in paths]

    values = config.to_dict()
    values["run_dir"] = "."
    for key in ("train", "validation", "test", "ood"):
        paths = getattr(config.data, key)
        if isinstance(paths, list):
            values["data"][key] = relative(paths)
    if isinstance(config, LearningConfig):
        values["learn"]["starts"] = relative(config.learn.starts)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
