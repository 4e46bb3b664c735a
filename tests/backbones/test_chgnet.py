"""CHGNet says through eIP what it says by itself."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eip.backbones.settings import CHGNetSettings
from eip.errors import InputError
from eip.neighbors import build_graph
from eip.testing import (
    check_batching,
    check_beyond_cutoff,
    check_permutation,
    check_rotation,
    check_supercell,
    check_translation,
    check_wrapping,
)
from eip.testing.contract import subject_of_backbone

pytest.importorskip("chgnet", reason="chgnet is not installed: pip install 'eip[chgnet]'")
from eip.backbones.chgnet import CHGNetBackbone

from .thawing import check_thawing


@pytest.fixture(scope="module")
def network() -> CHGNetBackbone:
    return CHGNetSettings().build(2)


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.6) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    sheared = atoms.cell @ (np.eye(3) + 0.02 * np.random.default_rng(0).normal(size=(3, 3)))
    atoms.set_cell(sheared, scale_atoms=True)
    return atoms


def test_energy_and_forces(network: CHGNetBackbone) -> None:
    from chgnet.model.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = salt()
    graph = build_graph(atoms, network.cutoff)
    positions = graph.positions.requires_grad_()
    energy = network(graph, graph.numbers, graph.edge_vectors(torch.float32)).energy.sum()
    forces = -torch.autograd.grad(energy, positions)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = CHGNet.load(use_device="cpu").predict_structure(
            AseAtomsAdaptor.get_structure(atoms), task="ef"
        )
    assert float(energy.detach()) == pytest.approx(float(theirs["e"]) * len(atoms), abs=1e-4)
    assert np.allclose(forces.numpy(), theirs["f"], atol=1e-4)


def test_the_contract_of_backbones(network: CHGNetBackbone) -> None:
    structures = [salt(), molecule("H2O"), bulk("Na", "bcc", 4.2)]
    structures[1].symbols = "ClNa2"
    structures[1].positions *= 2.0
    subject = subject_of_backbone(network, (11, 17))
    for law in (
        check_rotation,
        check_translation,
        check_permutation,
        check_wrapping,
        check_batching,
        check_beyond_cutoff,
        check_supercell,
    ):
        law(subject, structures, tolerance=1e-7, seed=0)


def test_an_atom_that_is_alone_is_refused(network: CHGNetBackbone) -> None:
    graph = build_graph([salt(), Atoms("NaCl", [[0, 0, 0], [0, 0, 9]])], network.cutoff)
    with pytest.raises(InputError, match=r"within 6 Å: atom 0 \(Na\) of structure 1 is alone"):
        network(graph, graph.numbers, graph.edge_vectors(torch.float32))


def test_thawed_it_stands_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_thawing(CHGNetSettings(), salt(), tmp_path, monkeypatch)
