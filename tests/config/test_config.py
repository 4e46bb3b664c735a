from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eip.config import (
    Config,
    config_yaml,
    default_config_yaml,
    load_config,
    parse_config,
)
from eip.errors import InputError
from eip.settings.explain import all_keys
from eip.training.settings import TrainingSettings


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


MINIMAL = "data:\n  train: a.xyz\n"


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(write(folder, text), overrides)
    return str(caught.value)


def test_written_defaults_read_back_as_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, default_config_yaml()))
    assert config == parse_config({"data": {"train": ["train.xyz"]}}, base=tmp_path)
    assert config.run_dir == tmp_path / "runs" / "eip"
    assert config.data.train == [tmp_path / "train.xyz"]


def test_written_defaults_hold_every_key_with_its_meaning() -> None:
    text = default_config_yaml()
    # Keys of the backbone alone are left out: another one has others.
    in_force = re.sub(r"# (\w+: *\S*)  +# .+", r"\1", text)
    values = yaml.safe_load(in_force)

    def keys(tree: dict, prefix: str = "") -> list[str]:
        out = []
        for key, value in tree.items():
            out.append(prefix + key)
            if isinstance(value, dict):
                out += keys(value, f"{prefix}{key}.")
        return out

    assert keys(values) == list(all_keys(Config))
    for key in TrainingSettings.model_fields:
        assert re.search(rf"# .+\n  {key}:", text), f"{key} has no comment"
    assert max(map(len, text.splitlines())) <= 100


def test_given_files_are_written_into_the_config(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, default_config_yaml(["b.xyz", "c: d.npz"])))
    assert config.data.train == [tmp_path / "b.xyz", tmp_path / "c: d.npz"]


def test_a_kept_config_reads_back(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, MINIMAL + "  validation: v.xyz\n  element_energies: {H: -13.6}\n")
    )
    kept = tmp_path / "elsewhere" / "config.yaml"
    kept.parent.mkdir()
    kept.write_text(text := config_yaml(config, kept.parent))
    assert load_config(kept) == config.model_copy(update={"run_dir": kept.parent})
    assert str(tmp_path) not in text


def test_training_settings_are_the_configuration_s(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["training.epochs=7", "training.quantile="])
    settings = config.training
    assert isinstance(settings, TrainingSettings)
    assert settings.epochs == 7
    assert settings.quantile is None


def test_labels_and_units(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, MINIMAL + "  labels: {energy: E, energy_unit: kcal/mol}\n")
    )
    labels = config.data.label_keys()
    assert (labels.energy, labels.energy_unit, labels.length_unit) == ("E", "kcal/mol", None)


@pytest.mark.parametrize(
    ("value", "expected"), [("0.2", 0.2), ("50", 50), ("50.0", 50), ("[v.xyz]", "v.xyz")]
)
def test_validation_is_fraction_count_or_files(
    tmp_path: Path, value: str, expected: float | str
) -> None:
    config = load_config(write(tmp_path, MINIMAL), [f"data.validation={value}"])
    if isinstance(expected, str):
        expected = [tmp_path / expected]  # type: ignore[assignment]
    assert config.data.validation == expected


@pytest.mark.parametrize("value", ["-1", "0", "1.5", ".inf", ".nan"])
def test_validation_refuses_what_is_neither(tmp_path: Path, value: str) -> None:
    assert "fraction" in message(tmp_path, MINIMAL, f"data.validation={value}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training: {epoch: 3}", r"line 3: unknown key 'training.epoch': did you mean 'epochs'\?"),
        ("epochs: 3", r"line 3: unknown key 'epochs': .* did you mean 'training.epochs'\?"),
        ("trainning: {}", r"line 3: unknown key 'trainning': did you mean 'training'\?"),
        (
            "model:\n  uncertainty: tensr",
            r"line 4: 'model.uncertainty': did you mean 'tensor'\?",
        ),
        (
            "model:\n  cutoff: -5",
            r"line 4: 'model.backbone.cutoff' should be greater than 0, ",
        ),
        (
            "model:\n  cutoff: far",
            r"line 4: 'model.backbone.cutoff' should .*got \"far\"",
        ),
        ("model: 3", r"line 3: 'model' should be a section with keys of its own, got 3"),
        ("  element_energies: {Hh: 1}", r"line 3: 'data.element_energies' 'Hh' is no chemical"),
        ("  element_energies: {No: 1}", r"put No, nobelium, in quotes"),
        ("  labels: {energy_unit: kcal}", r"'data.labels.energy_unit' unknown unit"),
        ("  train: b.xyz", r"line 3: 'data.train' is given twice, first in line 2"),
        (
            "training: {max_atoms: 9, max_edges: 9}",
            r"line 3: training.max_atoms or training.max_edges, not both",
        ),
        ("  train:\n - [", r"line \d: not valid YAML"),
    ],
)
def test_errors_name_line_key_and_the_right_one(tmp_path: Path, text: str, expected: str) -> None:
    assert re.search(expected, message(tmp_path, MINIMAL + text))


def test_every_error_is_said_at_once(tmp_path: Path) -> None:
    said = message(tmp_path, "data: {}\ntraining: {epoch: 3, seed: a}\n")
    assert len(said.splitlines()) == 3
    assert "'data.train' is missing; it is: file or files to train on" in said


def test_missing_section_empty_file_and_missing_file(tmp_path: Path) -> None:
    assert "'data' is missing; it is the section of train, " in message(tmp_path, "run_dir: x")
    assert "found nothing" in message(tmp_path, "# only a comment")
    assert "found list" in message(tmp_path, "- a")
    with pytest.raises(InputError, match=r"no such file. 'eip init"):
        load_config(tmp_path / "no.yaml")


def test_overrides_are_checked_too(tmp_path: Path) -> None:
    assert "did you mean 'epochs'?" in message(tmp_path, MINIMAL, "training.epoch=3")
    assert "expects key=value" in message(tmp_path, MINIMAL, "training.epochs")


@given(st.sampled_from(list(all_keys(Config))), st.integers(0, 30), st.sampled_from("qxz"))
def test_a_key_with_one_letter_wrong_is_recognized(key: str, position: int, letter: str) -> None:
    *sections, last = key.split(".")
    at = position % len(last)
    misspelt = last[:at] + letter + last[at + 1 :]
    if misspelt == last or len(last) < 4:
        return
    values: dict = {"data": {"train": "a.xyz"}}
    target = values
    for section in sections:
        target = target.setdefault(section, {})
    target[misspelt] = 1
    # "devicex" is as near to device as to devices.
    meant = "devices?" if last.startswith("device") else last
    with pytest.raises(InputError, match=rf"did you mean '({meant})'\?"):
        parse_config(values)


def test_config_is_frozen() -> None:
    config = parse_config({"data": {"train": "a.xyz"}})
    with pytest.raises(ValueError, match="frozen"):
        config.run_dir = Path("b")  # type: ignore[misc]
    assert isinstance(config, Config)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 {k: 1}"]
    for level in range(1, levels):
        lines.append(
            f"a{level}: &a{level} {{{', '.join(f'k{i}: *a{level - 1}' for i in range(10))}}}"
        )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bomb(12).encode(), r"config.yaml: its aliases .* unfold to more than 100,000 values"),
        (b"data: &a\n  train: a.xyz\n  more: *a\n", "aliases"),
        (b"data: " + b"[" * 3000 + b"]" * 3000, r"config.yaml: nested too deeply"),
        (b"data:\n  train: caf\xe9.xyz\n", r"config.yaml, line 2: not text in UTF-8 .*0xe9"),
        (MINIMAL.encode("utf-16"), "not text in UTF-8"),
        (b"# \n" * 400_000, "config.yaml: larger than 1 MiB"),
        (b"data: {train: a}\nx: 2001-99-99\n", r"config.yaml: not valid YAML \(month"),
        (b"data: {train: a}\nx: !!bool maybe\n", "config.yaml: not valid YAML"),
        (b"data: {train: a}\n\x00", "config.yaml: not valid YAML"),
        (b"data: {train: a}\n1: 2\n", r"config.yaml, line 2: '1' keys should be strings"),
        (b"data: {train: a}\ntraining: {epochs: yes}", "'training.epochs' should not be true"),
        (b'data: {train: a}\nrun_dir: "a\\0b"', "'run_dir' should be a path"),
        (b"data: {train: ~nobody-of-that-name/a}", "'data.train' should be a path"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        load_config(tmp_path / "config.yaml")


def test_a_mark_of_byte_order_and_sensible_aliases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfdata: {train: &files [a.xyz], test: *files}\n")
    config = load_config(path)
    assert config.data.test == config.data.train == [tmp_path / "a.xyz"]
    with pytest.raises(InputError, match="is a folder, expected a YAML file"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "model.layers=1",
            "--set model.layers=1: unknown key .*mean 'model.backbone.interactions'",
        ),
        ("model.cutof=1", "did you mean 'model.backbone.cutoff'"),
        ("model=3", "--set model=3: 'model' should be a section"),
        ("data.train.x=1", "--set data.train.x=1: 'data.train' holds a value"),
        ("model.cutoff=.inf", "'model.backbone.cutoff' should be a finite number"),
        ("model.cutoff=.nan", "'model.backbone.cutoff'"),
        ("model.cutoff=1e300", "'model.backbone.cutoff' should be less than or equal to 50"),
        (
            "model.channels=1000000000",
            "'model.backbone.channels' should be .* 4096",
        ),
        ("training.epochs=" + "9" * 400, "'training.epochs' should be less than"),
        ("training.epochs=" + "9" * 5000, "--set training.epochs=9+…: not valid YAML"),
        ("training.seed=-1", "'training.seed' should be greater than or equal to 0"),
        ("training.epochs=2001-99-99", "not valid YAML"),
        ("model.cutoff=" + "[" * 3000, "nested too deeply"),
        ("data.validation=.inf", "'data.validation' should be a fraction"),
        ("data.element_energies={H: .nan}", "'data.element_energies' should be a finite number"),
        ("=1", "--set expects key=value, got '=1'"),
        ("model.cutoff", "--set expects key=value"),
    ],
)
def test_a_bad_change_is_named(tmp_path: Path, change: str, expected: str) -> None:
    assert re.search(expected, message(tmp_path, MINIMAL, change))


def test_a_fraction_that_yaml_takes_for_text(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "  validation: 1e-1\n")
    assert load_config(path).data.validation == 0.1
