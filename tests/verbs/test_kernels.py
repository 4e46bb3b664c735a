"""A run takes the kernels that its configuration asks for."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from eip.errors import InputError
from eip.kernels import variant


@pytest.mark.parametrize(
    ("verb", "stop_at", "config"),
    [
        ("md", "load_model", "{model: model.eip, start: start.xyz, kernels: reference}"),
        ("train", "read_sets", "{data: {train: train.xyz}, training: {kernels: reference}}"),
    ],
)
def test_of_dynamics_and_of_training(
    verb: str,
    stop_at: str,
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from eip.cli import main

    seen = []

    def stop(*_: object, **__: object) -> None:
        seen.append(variant())
        raise InputError("far enough")

    before = variant()
    monkeypatch.setattr(importlib.import_module(f"eip.verbs.{verb}"), stop_at, stop)
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(SystemExit) as ended:
        main([verb, *(["--config"] if verb == "md" else []), str(tmp_path / "config.yaml")])
    assert ended.value.code == 2 and "far enough" in capsys.readouterr().err
    assert seen == ["reference"] and variant() == before


def test_another_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eip.cli import main

    (tmp_path / "config.yaml").write_text("{data: {train: a.xyz}, training: {kernels: cuda}}")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "config.yaml")])
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2 and "training.kernels" in said and "expected one of native" in said
