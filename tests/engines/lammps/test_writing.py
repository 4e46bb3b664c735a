"""The file for LAMMPS' plugin: whole, with all of the model, or refused."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eip
from eip.engines.lammps import export
from eip.engines.lammps.writing import MAGIC
from eip.errors import InputError
from eip.kernels import cartesian
from eip.models.cartesian_ace import CartesianACE
from eip.potential import Potential
from eip.uncertainty.ensemble import EnsemblePotential

_DTYPES = {0: "<f4", 1: "<f8", 2: "<i8"}


def read(path: Path) -> dict[str, Any]:
    """What the layout in weights.h says."""
    content = path.read_bytes()
    assert content[:8] == MAGIC
    version, size, checksum = struct.unpack("<qqq", content[8:32])
    assert (version, size, checksum) == (1, len(content) - 32, zlib.crc32(content[32:]))
    found: dict[str, Any] = {}
    at = 32

    def take(count: int) -> bytes:
        nonlocal at
        here, at = content[at : at + count], at + (count + 7) // 8 * 8
        return here

    def numbers(count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", take(8 * count))

    while at < len(content):
        name = take(numbers(1)[0]).decode()
        kind, axes = numbers(2)
        shape = numbers(axes)
        if kind == 3:
            found[name] = take(shape[0]).decode()
        else:
            dtype = np.dtype(_DTYPES[kind])
            data = take(int(np.prod(shape)) * dtype.itemsize)
            found[name] = np.frombuffer(data, dtype).reshape(shape)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_file_holds_the_whole_model(
    trained: Callable[[torch.dtype], Potential], tmp_path: Path, dtype: torch.dtype
) -> None:
    calibrated: Any = trained(dtype)
    latent = calibrated.potential
    network = latent.potential
    export(calibrated, tmp_path / "m")
    found = read(tmp_path / "m")
    assert found["elements"] == "H O Si" and found["network"] == "cartesian_ace"
    backbone = network.energy_model.backbone
    embedding = backbone.embedding.weight
    assert found["embedding"].dtype == embedding.numpy().dtype
    np.testing.assert_array_equal(found["embedding"], embedding)
    of = cartesian.named(backbone.weights(), backbone.cutoff, 8, backbone.mean_neighbors)
    for k, maps in enumerate(of.maps):
        np.testing.assert_array_equal(found[f"layer.{k}.table"], of.tables[k])
        for name, weight in (maps | of.arrays[k]).items():
            if weight is None:
                assert f"layer.{k}.{name}" not in found
            else:
                np.testing.assert_array_equal(found[f"layer.{k}.{name}"], weight)
    np.testing.assert_array_equal(found["latent.whitening"], latent.whitening)
    np.testing.assert_array_equal(found["latent.guard"], latent.guard.table()[:, [1, 8, 14]].T)
    np.testing.assert_array_equal(found["calibration.factors"], [0.8, 1.3, 1.1])
    assert found["calibration.knots"].shape == (4, 2)
    np.testing.assert_allclose(found["short.begins"][:2, :2], [[1.4, 0.9], [0.9, 0.99]], rtol=1e-6)
    assert found["head.scale"] == found["force_scale"] == 1.3


def test_a_model_without_uncertainty_has_none_in_its_file(
    network: Callable[..., Potential], tmp_path: Path
) -> None:
    export(network("none"), tmp_path / "m")
    found = read(tmp_path / "m")
    assert not [name for name in found if name.split(".")[0] in ("head", "latent", "calibration")]


class Another(CartesianACE):
    """A network of its own, for all that anybody knows."""


def another(network: Callable[..., Potential]) -> Potential:
    made: Any = network()
    made.energy_model.backbone.__class__ = Another
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda network: network("isotropic"),
            "σ of the method tensor, and none of the method isotropic",
        ),
        (lambda network: network(zbl=True), "repulsion of earlier versions"),
        (
            lambda network: EnsemblePotential([network(), network()]),
            "one network with evidence.*ensemble",
        ),
    ],
)
def test_what_the_plugin_cannot_run_is_refused(
    made: Callable[..., Potential], said: str, network: Callable[..., Potential], tmp_path: Path
) -> None:
    path = tmp_path / "m"
    path.write_text("of before")
    with pytest.raises(InputError, match=said):
        export(made(network), path)
    assert path.read_text() == "of before" and list(tmp_path.iterdir()) == [path]


def test_the_command_writes_beside_the_model(
    run: Callable[..., tuple[int, str, str]], network: Callable[..., Potential], tmp_path: Path
) -> None:
    eip.save(network(), tmp_path / "model.eip")
    code, out, _ = run("export", tmp_path / "model.eip", "--for", "lammps")
    assert code == 0 and "model.lmp.eip" in out
    first = (tmp_path / "model.lmp.eip").read_bytes()
    assert eip.export(tmp_path, out=tmp_path / "other") == tmp_path / "other"
    assert (tmp_path / "other").read_bytes() == first
    before = (tmp_path / "model.eip").read_bytes()
    code, _, said = run("export", tmp_path / "model.eip", "--out", tmp_path / "model.eip")
    assert code == 2 and "is the model itself" in said
    assert (tmp_path / "model.eip").read_bytes() == before
    code, _, said = run("export", tmp_path / "model.eip", "--for", "lamps")
    assert code == 2 and "--for lamps: no such program; did you mean 'lammps'?" in said
    eip.save(network("isotropic"), tmp_path / "model.eip")
    code, _, said = run("export", tmp_path / "model.eip")
    assert code == 2 and "model.eip: LAMMPS' plugin has σ of the method tensor" in said


def test_a_program_that_is_not_installed_is_named(
    run: Callable[..., tuple[int, str, str]],
    network: Callable[..., Potential],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eip.save(network(), tmp_path / "model.eip")
    monkeypatch.delitem(sys.modules, "eip.engines.metatomic", raising=False)
    monkeypatch.setitem(sys.modules, "metatensor.torch", None)
    code, _, said = run("export", tmp_path / "model.eip", "--for", "metatomic")
    assert code == 2 and "needs metatomic: pip install 'eip[metatomic]'" in said
