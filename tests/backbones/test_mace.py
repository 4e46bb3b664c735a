"""MACE says through eIP what it says by itself; a small one, trained by nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import eip
from eip.backbones.packages import TRUSTED, sha256_of
from eip.backbones.settings import MACESettings
from eip.errors import InputError
from eip.neighbors import build_graph
from eip.testing import check_batching, check_beyond_cutoff, check_rotation, check_wrapping
from eip.testing.contract import subject_of_backbone

pytest.importorskip("mace", reason="mace-torch is not installed")
from e3nn import o3
from mace import modules

from eip.backbones.mace import MACEBackbone

from .thawing import check_thawing


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    network = modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=4,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([-1.0, -2.0, -3.0, -4.0]),
        avg_num_neighbors=10.0,
        atomic_numbers=[1, 6, 8, 11],
        correlation=2,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    path = tmp_path_factory.mktemp("mace") / "small.model"
    torch.save(network, path)
    return path


def oxide() -> Atoms:
    atoms = bulk("NaO", "rocksalt", 4.6)
    atoms.rattle(0.1, seed=1)
    sheared = atoms.cell @ (np.eye(3) + 0.02 * np.random.default_rng(0).normal(size=(3, 3)))
    atoms.set_cell(sheared, scale_atoms=True)
    return atoms


def test_energy_and_forces(weights: Path) -> None:
    from mace.calculators import MACECalculator

    network = MACEBackbone.of_file(weights, None)
    assert network.elements == (1, 6, 8, 11) and network.channels == 3 * 8
    atoms = oxide()
    graph = build_graph(atoms, network.cutoff)
    positions = graph.positions.requires_grad_()
    energy = network(graph, graph.numbers, graph.edge_vectors(torch.float32)).energy.sum()
    forces = -torch.autograd.grad(energy, positions)[0]
    theirs = torch.load(weights, weights_only=False)
    atoms.calc = MACECalculator(models=[theirs], device="cpu", default_dtype="float32")
    assert float(energy.detach()) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert np.allclose(forces.numpy(), atoms.get_forces(), atol=1e-4)


def test_the_contract_of_backbones(weights: Path) -> None:
    subject = subject_of_backbone(MACEBackbone.of_file(weights, None), (8, 11))
    for law in (check_rotation, check_wrapping, check_batching, check_beyond_cutoff):
        law(subject, [oxide(), bulk("Na", "bcc", 4.2)], tolerance=1e-6, seed=0)


def test_a_file_is_opened_where_the_user_trusts_it(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MACESettings(weights=str(weights))
    with pytest.raises(InputError, match=r"to open small\.model runs what is in it.*EIP_TRUSTED"):
        settings.build(2)
    known = MACESettings(weights="small.model", weights_sha256=sha256_of(weights))
    monkeypatch.setenv(TRUSTED, str(weights))
    assert isinstance(known.build(2), MACEBackbone)
    with pytest.raises(InputError, match=r"MACE brings no weights: name the file"):
        MACESettings().pretrained()
    with pytest.raises(InputError, match=r"these weights are not those that the model stands on"):
        MACESettings(weights=str(weights), trust_weights=True, weights_sha256="0" * 64).build(2)


def test_what_is_no_mace(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "linear.model")
    with pytest.raises(InputError, match=r"expected a network as MACE saves it whole.* got Linear"):
        MACEBackbone.of_file(tmp_path / "linear.model", None)
    (tmp_path / "text.model").write_text("no network")
    with pytest.raises(InputError, match=r"text\.model: this is no network that MACE saved"):
        MACEBackbone.of_file(tmp_path / "text.model", None)


def test_attached(
    weights: Path,
    demo_data: Path,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames, out = tmp_path / "frames.xyz", tmp_path / "my.eip"
    ase.io.write(frames, ase.io.read(demo_data / "ethanol_300K.xyz", index=":50"))
    asked = ("attach", "mace", frames, "--weights", weights, "--out", out, "--no-progress")
    code, _, errors = run(*asked)
    assert code == 2 and "--trust-weights" in errors and not out.exists()
    code, _, errors = run(*asked, "--trust-weights")
    assert code == 0, errors
    backbone = eip.info(out)["network"]["backbone"]
    assert backbone["weights"] == "small.model" and "trust_weights" not in backbone
    assert backbone["cutoff"] == 4.0
    # Trust is of the user, not of the file.
    with pytest.raises(InputError, match="EIP_TRUSTED_WEIGHTS=FILE"):
        eip.load(out)
    monkeypatch.setenv(TRUSTED, str(weights))
    assert eip.load(out).predict(ase.io.read(frames, index=0)).force_uncertainty.min() > 0


def test_thawed_it_stands_on_its_own(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MACESettings(weights=str(weights), trust_weights=True)
    check_thawing(settings, oxide(), tmp_path, monkeypatch)
