"""Atoms of a neighboring domain, as engines that divide space have them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from eip.graph import batch_graphs
from eip.neighbors import build_graph, graph_from_tensors
from eip.potential import Potential
from eip.uncertainty.evidential import EvidentialPotential

CUTOFF, LAYERS = 3.0, 2


def potential(backbone: str) -> Potential:
    torch.manual_seed(0)
    made = EvidentialPotential(
        elements=(1, 8),
        element_energies={1: -13.0, 8: -430.0},
        force_scale=1.3,
        head="tensor",
        backbone=backbone,
        channels=16,
        interactions=LAYERS,
        cutoff=CUTOFF,
    )
    return made.double().eval().requires_grad_(False)


def water_box() -> Atoms:
    box = Atoms(cell=[5.2, 4.6, 5.0], pbc=True)
    for i, angle in enumerate((10, 100, 230)):
        water = molecule("H2O")
        water.rotate(angle, (1, 0.4 * i, 0.2))
        water.positions += [0.3 + 2.3 * (i % 2), 0.5 + 2.2 * (i // 2), 0.4 + 1.4 * i]
        box += water
    return box


def with_ghosts(atoms: Atoms, reach: float) -> tuple[Atoms, np.ndarray]:
    """The atoms, then their images within reach of any of them; which atom each one stands for."""
    positions, parents = [atoms.positions], [np.arange(len(atoms))]
    times = [int(np.ceil(reach / length)) + 1 for length in atoms.cell.lengths()]
    for shift in itertools.product(*(range(-n, n + 1) for n in times)):
        if not any(shift):
            continue
        image = atoms.positions + np.array(shift) @ atoms.cell.array
        near = np.linalg.norm(image[:, None] - atoms.positions, axis=2).min(axis=1) < reach
        positions.append(image[near])
        parents.append(np.flatnonzero(near))
    parent = np.concatenate(parents)
    return Atoms(atoms.numbers[parent], np.concatenate(positions)), parent


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
def test_owned_atoms_among_ghosts_are_a_periodic_structure(backbone: str) -> None:
    box, model = water_box(), potential(backbone)
    whole = model(build_graph(box, CUTOFF))
    cluster, parent = with_ghosts(box, LAYERS * CUTOFF)
    graph = build_graph(cluster, CUTOFF)
    owned = torch.arange(len(cluster)) < len(box)
    part = model(replace(graph, owned=owned))
    assert len(cluster) > 5 * len(box)
    torch.testing.assert_close(part.energy, whole.energy, rtol=0, atol=1e-9)
    assert part.forces is not None and whole.forces is not None
    # What pulls at a ghost pulls at the atom that it stands for.
    forces = torch.zeros_like(whole.forces).index_add(0, torch.from_numpy(parent), part.forces)
    torch.testing.assert_close(forces, whole.forces, rtol=0, atol=1e-10)
    assert part.force_uncertainty is not None and whole.force_uncertainty is not None
    torch.testing.assert_close(
        part.force_uncertainty[: len(box)], whole.force_uncertainty, rtol=1e-10, atol=0
    )
    torch.testing.assert_close(part.uncertainty, whole.uncertainty, rtol=1e-10, atol=0)


def test_a_batch_may_mix_structures_with_ghosts_and_without() -> None:
    box, model = water_box(), potential("painn")
    cluster, _ = with_ghosts(box, LAYERS * CUTOFF)
    plain = build_graph(box, CUTOFF)
    arrays = build_graph(cluster, CUTOFF)
    ghosts = graph_from_tensors(
        *(arrays.numbers, arrays.positions, arrays.cell, arrays.pbc, CUTOFF),
        owned=torch.arange(len(cluster)) < len(box),
    )
    both = model(batch_graphs([plain, ghosts, plain]).to("cpu"), forces=False)
    torch.testing.assert_close(both.energy, both.energy[:1].expand(3), rtol=0, atol=1e-9)
