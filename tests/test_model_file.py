"""model.eip: what comes back is what went in, and nothing else comes in."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from safetensors import safe_open
from safetensors.torch import save_file

import eip.model_file as model_file
from eip.errors import InputError
from eip.files import UncheckedFile
from eip.model_file import FORMAT, load_model, read_model_info, save_model
from eip.models.short_range import ShortRangeSettings
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Calibration
from eip.uncertainty.evidential import EvidenceMethod, EvidentialPotential
from eip.uncertainty.names import METHODS

HEADS = [n for n in METHODS.names() if isinstance(METHODS.get(n), EvidenceMethod)]

STRUCTURES = [molecule("H2O"), molecule("CO2"), bulk("C", "diamond", a=3.6)]


def potential(head: str = "tensor", dtype: torch.dtype = torch.float32) -> EvidentialPotential:
    torch.manual_seed(3)
    return EvidentialPotential(
        elements=(1, 6, 8),
        element_energies={1: -13.605693, 6: -1037.0 / 3, 8: -2042.1},
        force_scale=0.9 / 7,
        head=head,
        channels=8,
        interactions=2,
        radial_functions=5,
        cutoff=4.0,
    ).to(dtype)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.eip"
    save_model(potential(), path, {"note": "α"})
    return path


def rewrite(path: Path, change: Any) -> Path:
    """The same weights with another header."""
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["eip"])
    changed = change(header)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    save_file(weights, path, metadata={"eip": text, "sha256": "0" * 64})
    model_file.seal(path)
    return path


# There and back.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", HEADS)
def test_predictions_come_back_bit_for_bit(tmp_path: Path, head: str, dtype: torch.dtype) -> None:
    before = potential(head, dtype)
    save_model(before, tmp_path / "model.eip")
    after = load_model(tmp_path / "model.eip", device="cpu")
    assert after.dtype == dtype and not after.training
    assert not any(parameter.requires_grad for parameter in after.parameters())
    one, two = before.predict(STRUCTURES), after.predict(STRUCTURES)
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert torch.equal(a, b), name


def test_a_calibration_comes_back_too(tmp_path: Path) -> None:
    calibration = Calibration(
        method="per_element",
        factor=1 / 3,
        element_factors={1: 0.1, 8: 2.0 / 7},
        interval_levels=(0.5, 0.9),
        interval_widths=(0.6, 1.7),
        n_frames=3,
        n_atoms=12,
        created="2026-01-01T00:00:00+00:00",
    )
    before = CalibratedPotential(potential(), calibration)
    save_model(before, tmp_path / "model.eip")
    after = load_model(tmp_path / "model.eip", device="cpu")
    assert isinstance(after, CalibratedPotential) and after.calibration == calibration
    one, two = before.predict(STRUCTURES), after.predict(STRUCTURES)
    assert torch.equal(one.force_uncertainty, two.force_uncertainty)  # type: ignore[arg-type]
    assert torch.equal(one.force_covariance, two.force_covariance)  # type: ignore[arg-type]


def test_where_the_data_begin_comes_back(tmp_path: Path) -> None:
    before, begins = potential(), ShortRangeSettings({(1, 8): 1.2, (6, 8): 1.1})
    before.energy_model.begin_at(begins)
    save_model(before, tmp_path / "model.eip")
    after = load_model(tmp_path / "model.eip", device="cpu")
    assert after.energy_model.short_range.settings == begins
    one, two = before.predict(STRUCTURES), after.predict(STRUCTURES)
    assert torch.equal(one.forces, two.forces)  # type: ignore[arg-type]
    assert torch.equal(one.force_uncertainty, two.force_uncertainty)  # type: ignore[arg-type]


def test_a_model_of_before_there_was_a_repulsion_stays_what_it_was(saved: Path) -> None:
    assert "short_range" not in read_model_info(saved)["potential"]["settings"]
    model = load_model(saved, device="cpu")
    assert model.energy_model.short_range is None
    close = molecule("H2O")
    close.set_distance(0, 1, 0.2, fix=0)
    assert torch.equal(potential().predict(close).energy, model.predict(close).energy)


def test_another_dtype_on_request(saved: Path) -> None:
    double = load_model(saved, dtype=torch.float64, device="cpu")
    assert double.dtype == torch.float64
    single = load_model(saved, device="cpu")
    torch.testing.assert_close(
        double.predict(STRUCTURES).energy, single.predict(STRUCTURES).energy, rtol=0, atol=1e-5
    )


def test_the_header_can_be_read_alone(saved: Path) -> None:
    header = read_model_info(saved)
    assert header["format"] == FORMAT
    assert header["dtype"] == "float32"
    assert header["info"] == {"note": "α"}
    assert header["potential"]["kind"] == "evidential"
    assert header["potential"]["settings"]["element_energies"]["6"] == -1037.0 / 3
    assert set(header["written_by"]) == {"eip", "torch"}


def test_paths_may_be_strings_and_folders_are_made(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "folder" / "model.eip")
    save_model(potential(), path)
    assert load_model(path, device="cpu").elements == (1, 6, 8)


def test_saving_leaves_the_potential_alone(tmp_path: Path) -> None:
    model = potential().train()
    save_model(model, tmp_path / "model.eip")
    assert model.training and all(p.requires_grad for p in model.parameters())


# Writing is all or nothing.


def test_an_old_file_is_replaced_whole_or_not_at_all(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def half_way(weights: object, path: str, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(model_file, "save_file", half_way)
        save_model(potential("none"), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["model.eip"]

    save_model(potential("none"), saved)
    assert saved.read_bytes() != before
    assert os.listdir(saved.parent) == ["model.eip"]


def test_info_that_json_cannot_hold_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        save_model(potential(), saved, {"model": object()})
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["model.eip"]


# What is read is what was written.


def test_a_flipped_bit_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for place in [*range(0, header, 7), *rng.integers(header, len(whole), 200)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(flipped)
        for read in (read_model_info, load_model):
            with pytest.raises(InputError, match=r"model\.eip: .*(damaged|not one that eIP wrote)"):
                read(saved)
    saved.write_bytes(whole)
    load_model(saved)


def test_a_checksum_in_the_users_words_is_not_the_files(tmp_path: Path) -> None:
    info = {"note": '"sha256":"' + "a" * 64 + '"'}
    save_model(potential(), tmp_path / "model.eip", info)
    assert read_model_info(tmp_path / "model.eip")["info"] == info


def test_a_model_of_format_1_is_read_with_a_warning(saved: Path) -> None:
    """As eIP wrote them before checksums."""
    expected = load_model(saved, device="cpu").predict(STRUCTURES)
    with safe_open(saved, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["eip"])
    for given, match in ((1, None), (2, "lacks its checksum")):
        metadata = {"eip": json.dumps(header | {"format": given})}
        save_file(weights, saved, metadata=metadata)
        if match:
            with pytest.raises(InputError, match=match):
                load_model(saved)
            continue
        with pytest.warns(UncheckedFile, match=r"model\.eip: written by an earlier eIP"):
            old = load_model(saved, device="cpu").predict(STRUCTURES)
        assert torch.equal(old.forces, expected.forces)


# Files that are not ours, or no longer.


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.eip", tmp_path):
        with pytest.raises(InputError, match="no such model file"):
            load_model(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\0" * 100, b"<html>" * 100])
def test_not_a_model_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.eip"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.eip: not a readable model file"):
        load_model(path)


def test_a_safetensors_file_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "model.eip"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(InputError, match="but not one that eIP wrote"):
            load_model(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="not a readable model file, or damaged"):
        load_model(saved)


def test_a_newer_format_says_who_wrote_it(saved: Path) -> None:
    newer = {"format": FORMAT + 1, "written_by": {"eip": "9.1"}}
    rewrite(saved, lambda header: {**header, **newer})
    with pytest.raises(
        InputError, match=rf"format {FORMAT + 1} is newer than this eIP reads.*eIP 9\.1: upgrade"
    ):
        load_model(saved)
    with pytest.raises(InputError, match="upgrade"):
        read_model_info(saved)


@pytest.mark.parametrize("header", ["{", "", "[]", "null", '"text"', "3", "{}", '{"potential": 3}'])
def test_a_damaged_header(saved: Path, header: str) -> None:
    rewrite(saved, lambda _: header)
    with pytest.raises(InputError, match="header is damaged"):
        load_model(saved)


def damaged(**changes: Any) -> Any:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        header["potential"]["settings"].update(changes)
        return header

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda h: {k: v for k, v in h.items() if k != "potential"},
        lambda h: {k: v for k, v in h.items() if k != "dtype"},
        lambda h: {**h, "dtype": "float7"},
        lambda h: {**h, "potential": None},
        lambda h: {**h, "potential": {"kind": ["evidential"], "settings": {}}},
        lambda h: {**h, "potential": {"kind": "evidential", "settings": "none"}},
        damaged(channels=9),
        damaged(channels="many"),
        damaged(interactions=1),
        damaged(unheard_of=1),
        damaged(elements=[1, 6]),
        damaged(elements=[1, 6, 999]),
        damaged(elements=None),
        damaged(element_energies=[1.0, 2.0, 3.0]),
        damaged(element_energies={"1": 0.0}),
        damaged(element_energies={"one": 0.0}),
        damaged(force_scale=-1.0),
        damaged(force_scale="large"),
        damaged(head="isotropic"),
    ],
)
def test_a_description_that_the_weights_do_not_fit(saved: Path, change: Any) -> None:
    rewrite(saved, change)
    with pytest.raises(InputError, match=r"model\.eip"):
        load_model(saved)


def test_an_unknown_kind_gets_a_proposal(saved: Path) -> None:
    rewrite(saved, lambda h: {**h, "potential": {**h["potential"], "kind": "evidentual"}})
    with pytest.raises(InputError, match=r"'evidentual': did you mean 'evidential'"):
        load_model(saved)


# Nothing in a file is run.


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch-old"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    path, target = tmp_path / "model.eip", tmp_path / "boom"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(
            {"weights": Bomb(target)}, path, _use_new_zipfile_serialization=writer == "torch"
        )
    with pytest.raises(InputError, match="not a readable model file"):
        load_model(path)
    assert not target.exists()


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a network, as up to format 2: the keys of a backbone beside its name."""
    backbone = dict(settings["backbone"])
    return {**settings, "backbone": backbone.pop("name"), **backbone}


@pytest.mark.parametrize("limit", [None, 2.0])
def test_a_model_of_format_2_is_read(tmp_path: Path, limit: float | None) -> None:
    torch.manual_seed(0)
    written = EvidentialPotential(
        elements=(1, 6, 8),
        element_energies={1: -13.0, 6: -1037.0, 8: -2042.0},
        force_scale=1.0,
        backbone={"name": "cartesian_ace", "channels": 16, "interactions": 1, "cutoff": 4.0,
                  "mean_neighbors": 11.25, "feature_limit": limit},
    )  # fmt: skip
    save_model(written.eval(), tmp_path / "model.eip")

    def change(header: dict[str, Any]) -> dict[str, Any]:
        header["potential"]["settings"] = flat(header["potential"]["settings"])
        if limit is None:  # what was not limited did not say so
            del header["potential"]["settings"]["feature_limit"]
        return header | {"format": 2}

    found = load_model(rewrite(tmp_path / "model.eip", change), device="cpu")
    assert found.settings() == written.settings()
    expected = written.predict(STRUCTURES)
    torch.testing.assert_close(found.predict(STRUCTURES).forces, expected.forces, rtol=0, atol=0)


def test_a_model_from_before_there_were_other_backbones_is_a_painn(saved: Path) -> None:
    before = load_model(saved, device="cpu").predict(STRUCTURES)

    def change(header: dict[str, Any]) -> dict[str, Any]:
        header["potential"]["settings"] = flat(header["potential"]["settings"])
        assert header["potential"]["settings"].pop("backbone") == "painn"
        return header

    after = load_model(rewrite(saved, change), device="cpu").predict(STRUCTURES)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=0)


def test_a_model_of_another_backbone_comes_back_and_is_none_of_a_painn(tmp_path: Path) -> None:
    path = tmp_path / "model.eip"
    torch.manual_seed(0)
    written = EvidentialPotential(
        elements=(1, 6, 8),
        element_energies={1: -13.0, 6: -1037.0, 8: -2042.0},
        force_scale=1.0,
        channels=16,
        interactions=2,
        cutoff=4.0,
        backbone="cartesian_ace",
        mean_neighbors=11.25,
    )
    save_model(written.eval(), path)
    found = load_model(path, device="cpu")
    assert found.settings() == written.settings()
    assert found.settings()["backbone"]["mean_neighbors"] == 11.25
    expected = written.predict(STRUCTURES)
    torch.testing.assert_close(found.predict(STRUCTURES).forces, expected.forces, rtol=0, atol=0)

    def change(backbone: str) -> Any:
        def changed(header: dict[str, Any]) -> dict[str, Any]:
            header["potential"]["settings"]["backbone"]["name"] = backbone
            return header

        return changed

    with pytest.raises(InputError, match="the backbone painn has no mean_neighbors"):
        load_model(rewrite(path, change("painn")))
    with pytest.raises(InputError, match="unknown backbone 'cartesian_acee': did you mean 'cart"):
        load_model(rewrite(path, change("cartesian_acee")))
