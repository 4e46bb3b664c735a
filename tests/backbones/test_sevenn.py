"""SevenNet says through eIP what it says by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from eip.backbones.settings import SevenNetSettings
from eip.neighbors import build_graph
from eip.testing import check_batching, check_beyond_cutoff, check_rotation, check_wrapping
from eip.testing.contract import subject_of_backbone

pytest.importorskip("sevenn", reason="sevenn is not installed: pip install 'eip[sevenn]'")
from eip.backbones.sevenn import SevenNetBackbone

from .thawing import check_thawing


@pytest.fixture(scope="module")
def network() -> SevenNetBackbone:
    return SevenNetSettings().pretrained().build(2)


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.6)
    atoms.rattle(0.1, seed=1)
    sheared = atoms.cell @ (np.eye(3) + 0.02 * np.random.default_rng(0).normal(size=(3, 3)))
    atoms.set_cell(sheared, scale_atoms=True)
    return atoms


def test_energy_and_forces(network: SevenNetBackbone) -> None:
    from sevenn.calculator import SevenNetCalculator

    atoms = salt()
    graph = build_graph(atoms, network.cutoff)
    positions = graph.positions.requires_grad_()
    energy = network(graph, graph.numbers, graph.edge_vectors(torch.float32)).energy.sum()
    forces = -torch.autograd.grad(energy, positions)[0]
    atoms.calc = SevenNetCalculator("7net-0", device="cpu")
    assert float(energy.detach()) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert np.allclose(forces.numpy(), atoms.get_forces(), atol=1e-4)


def test_the_contract_of_backbones(network: SevenNetBackbone) -> None:
    structures = [salt(), bulk("Na", "bcc", 4.2)]
    subject = subject_of_backbone(network, (11, 17))
    for law in (check_rotation, check_wrapping, check_batching, check_beyond_cutoff):
        law(subject, structures, tolerance=1e-3, seed=0)


def test_thawed_it_stands_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_thawing(SevenNetSettings().pretrained(), salt(), tmp_path, monkeypatch)
