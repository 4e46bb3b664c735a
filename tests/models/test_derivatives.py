"""Forces and stress of a potential whose derivatives are known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eip.graph import AtomGraph
from eip.models.derivatives import forces_and_stress, strained
from eip.neighbors import build_graph


def pair_energy(graph: AtomGraph) -> torch.Tensor:
    """½ Σ exp(−r²) over directed edges."""
    r2 = graph.edge_vectors().square().sum(dim=1)
    per_atom = torch.zeros(graph.n_atoms, dtype=r2.dtype).index_add(
        0, graph.centers, 0.5 * torch.exp(-r2)
    )
    return graph.sum_by_frame(per_atom)


def derivatives(
    structures: Atoms | list[Atoms], **options: bool
) -> tuple[AtomGraph, torch.Tensor, torch.Tensor]:
    graph = build_graph(structures, 5.0)
    positions = graph.positions.requires_grad_()
    bent, strain = strained(graph.with_positions(positions))
    forces, stress = forces_and_stress(
        pair_energy(bent),
        positions,
        strain,
        bent.cell,
        retain_graph=False,
        create_graph=options.get("create_graph", False),
    )
    assert stress is not None
    return graph, forces, stress


def crystal() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=3.4)
    shear = np.array([[1.0, 0.1, 0.0], [0.0, 1.0, -0.2], [0.0, 0.0, 1.1]])
    atoms.set_cell(atoms.cell.array @ shear)
    atoms.positions += [[0, 0, 0], [0.2, -0.1, 0.3]]
    return atoms


def test_forces_and_stress_are_sums_over_pairs() -> None:
    atoms = crystal()
    graph, forces, stress = derivatives(atoms)
    vectors = graph.edge_vectors()
    # dE/dr⃗ of one directed edge: −r⃗ exp(−r²) (half of it from each direction of the pair).
    pull = -vectors * torch.exp(-vectors.square().sum(1))[:, None]
    expected = torch.zeros(2, 3, dtype=torch.float64).index_add(0, graph.centers, 2.0 * pull)
    torch.testing.assert_close(forces, expected)
    virial = (vectors[:, :, None] * pull[:, None, :]).sum(0)
    torch.testing.assert_close(stress[0], virial / atoms.get_volume())
    torch.testing.assert_close(stress[0], stress[0].T)


def test_stress_is_the_slope_of_the_energy_under_strain() -> None:
    atoms = crystal()
    _, _, stress = derivatives(atoms)
    h = 1e-5
    for a, b in [(0, 0), (1, 2), (0, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * sign * h
            strain[b, a] += 0.5 * sign * h
            bent = atoms.copy()
            bent.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(pair_energy(build_graph(bent, 5.0)).item())
        slope = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert abs(slope - stress[0, a, b].item()) < 1e-8


def test_a_zero_strain_changes_nothing() -> None:
    graph = build_graph(crystal(), 5.0)
    bent, strain = strained(graph)
    assert torch.equal(bent.positions, graph.positions) and torch.equal(bent.cell, graph.cell)
    assert strain.requires_grad and strain.shape == (1, 3, 3)


def test_frames_of_a_batch_are_strained_one_by_one() -> None:
    small, large = crystal(), crystal().repeat((2, 1, 1))
    _, _, together = derivatives([small, large])
    torch.testing.assert_close(together[0], derivatives(small)[2][0])
    torch.testing.assert_close(together[1], together[0])


def test_without_a_volume_there_is_no_stress() -> None:
    slab = crystal()
    slab.pbc = [True, True, False]
    _, forces, stress = derivatives([molecule("H2O"), slab, crystal()])
    assert forces.isfinite().all()
    assert stress[:2].isnan().all() and stress[2].isfinite().all()


def test_gradients_of_the_stress_are_finite_beside_a_molecule() -> None:
    """A loss on the crystals of a mixed batch must not put NaN into the weights."""
    graph = build_graph([molecule("H2O"), crystal()], 5.0)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    positions = graph.positions.requires_grad_()
    bent, strain = strained(graph.with_positions(positions))
    _, stress = forces_and_stress(
        weight * pair_energy(bent),
        positions,
        strain,
        bent.cell,
        retain_graph=True,
        create_graph=True,
    )
    assert stress is not None
    stress[~stress.isnan()].sum().backward()
    assert weight.grad is not None and weight.grad.isfinite() and weight.grad != 0


def test_a_left_handed_cell_has_the_same_stress() -> None:
    atoms = crystal()
    mirrored = atoms.copy()
    mirrored.set_cell(atoms.cell.array[[1, 0, 2]])
    torch.testing.assert_close(derivatives(mirrored)[2], derivatives(atoms)[2])


def test_forces_alone() -> None:
    graph = build_graph(crystal(), 5.0)
    positions = graph.positions.requires_grad_()
    energy = pair_energy(replace(graph, positions=positions))
    forces, stress = forces_and_stress(
        energy, positions, None, graph.cell, retain_graph=False, create_graph=False
    )
    assert stress is None
    torch.testing.assert_close(forces, derivatives(crystal())[1])
