"""The JSON schema of each verb's file, and the file that `eip init` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import eip
from eip.config import ROOTS, default_config_yaml, load_config
from eip.errors import InputError
from eip.settings.explain import all_keys


@pytest.mark.parametrize("verb", ROOTS)
def test_every_key_has_a_meaning_in_the_schema(verb: str) -> None:
    schema = json.loads(json.dumps(eip.schema(verb)))

    def look(of: dict, path: str) -> set[str]:
        found = set()
        if "anyOf" in of:  # one of several kinds, or its name: the kind that it is by default
            of = next(kind for kind in of["anyOf"] if "properties" in kind)
        for key, inner in of["properties"].items():
            found.add(path + key)
            refs = [inner, *inner.get("anyOf", [])]
            section = next((r["$ref"].rpartition("/")[2] for r in refs if "$ref" in r), None)
            if section:
                found |= look(schema["$defs"][section], f"{path}{key}.")
            else:
                assert inner.get("description"), path + key
        assert of["additionalProperties"] is False
        return found

    assert look(schema, "") == set(all_keys(ROOTS[verb]))


@pytest.mark.parametrize("verb", ROOTS)
def test_the_written_file_is_read_and_has_every_default(verb: str, tmp_path: Path) -> None:
    path = tmp_path / f"{verb}.yaml"
    text = default_config_yaml(root=ROOTS[verb])
    assert max(map(len, text.splitlines())) <= 100
    path.write_text(text)
    config = load_config(path, root=ROOTS[verb])
    least = {k: v for k, v in yaml.safe_load(text).items() if k in _needed(verb)}
    path.write_text(yaml.safe_dump(least))
    assert load_config(path, root=ROOTS[verb]) == config


def _needed(verb: str) -> set[str]:
    return {"train": {"data"}, "learn": {"learn"}, "md": {"model", "start"},
            "label": {"files", "out"}, "analyze": {"runs"}}[verb]  # fmt: skip


def test_a_verb_without_a_file_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown verb 'trian': did you mean 'train'\?"):
        eip.schema("trian")
