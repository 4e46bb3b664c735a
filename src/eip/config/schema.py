"""What each verb may be told in a file, and the JSON schema of it, for editors."""

from __future__ import annotations

from typing import Any

from eip.config.learning import LearningConfig
from eip.config.runs import AnalyzeConfig, LabelConfig, MDConfig
from eip.config.training import Config
from eip.errors import InputError, did_you_mean
from eip.settings import Settings

#: By verb, the class of its file.
ROOTS: dict[str, type[Settings]] = {
    "train": Config,
    "learn": LearningConfig,
    "md": MDConfig,
    "label": LabelConfig,
    "analyze": AnalyzeConfig,
}


def root_of(verb: str) -> type[Settings]:
    """The class of a verb's file.

    Raises:
        InputError: if the verb is told nothing in a file.
    """
    if verb not in ROOTS:
        raise InputError(f"unknown verb '{verb}': {did_you_mean(verb, ROOTS)}")
    return ROOTS[verb]


def schema(verb: str = "train") -> dict[str, Any]:
    """JSON schema (2020-12) of a verb's YAML file, with which editors complete and check it.

    Raises:
        InputError: as `root_of`.
    """
    content = root_of(verb).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}
