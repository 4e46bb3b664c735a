"""Scans of bonds find the minima that are there and no others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.potential import Differentiable, Potential
from eip.prediction import Prediction
from eip.testing import energy_drift, scan_bonds


def morse(r: Tensor) -> Tensor:
    return (1.0 - torch.exp(-2.0 * (r - 1.0))) ** 2


def falling(r: Tensor) -> Tensor:
    """Ever lower below 0.75 Å."""
    return morse(r) - 40.0 * (0.75 - r).clamp(min=0.0)


def dipped(r: Tensor) -> Tensor:
    """A second minimum at 1.5 Å."""
    return morse(r) - 0.5 * torch.exp(-(((r - 1.5) / 0.05) ** 2))


def spring(r: Tensor) -> Tensor:
    return 6.0 * (r - 1.2) ** 2


class Pairs(Potential):
    """``wrong`` is a force that is no energy's gradient, (eV/Å)/Å."""

    def __init__(self, pair: Callable[[Tensor], Tensor], wrong: float = 0.0) -> None:
        super().__init__()
        self.pair, self.wrong = pair, wrong
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    @property
    def cutoff(self) -> float:
        return 2.5

    @property
    def elements(self) -> tuple[int, ...]:
        return (1, 6, 8)

    def forward(
        self,
        graph: AtomGraph,
        *,
        forces: bool = True,
        stress: bool = False,
        differentiable: Differentiable = "nothing",
    ) -> Prediction:
        positions = graph.positions.detach().requires_grad_()
        r = graph.with_positions(positions).edge_vectors().norm(dim=1)
        energy = torch.zeros(graph.n_frames, dtype=torch.float64)
        energy = energy.index_add(0, graph.frame[graph.centers], 0.5 * self.pair(r))
        (slope,) = torch.autograd.grad(energy.sum(), [positions])
        axis = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand_as(slope)
        around = torch.linalg.cross(axis, graph.positions)
        return Prediction(energy=energy.detach(), forces=-slope + self.wrong * around)


@pytest.mark.parametrize(("pair", "expected"), [(morse, ()), (falling, (0.6,)), (dipped, (1.5,))])
def test_minima_beside_the_own_one_are_found(
    pair: Callable[[Tensor], Tensor], expected: tuple[float, ...]
) -> None:
    (scan,) = scan_bonds(Pairs(pair), Atoms("OH", [[0, 0, 0], [0, 0.6, 0.8]]))
    assert scan.bond == (0, 1) and scan.length == pytest.approx(1.0)
    assert scan.false_minima == pytest.approx(expected, abs=0.02)
    assert scan.energies[np.isclose(scan.factors, 1.0)] == pytest.approx(0.0, abs=1e-3)


def test_the_smaller_part_moves_as_a_whole() -> None:
    seen = []

    class Watching(Pairs):
        def forward(self, graph: AtomGraph, **options: object) -> Prediction:  # type: ignore[override]
            seen.append(graph.positions.clone().reshape(graph.n_frames, -1, 3))
            return super().forward(graph, **options)  # type: ignore[arg-type]

    ethanol = molecule("CH3CH2OH")
    scans = scan_bonds(Watching(morse), ethanol, [1.0, 1.5])
    assert len(scans) == len(seen) == 8
    (between,) = (k for k, s in enumerate(scans) if set(ethanol.symbols[list(s.bond)]) == {"C"})
    moved = (seen[between][1] - seen[between][0]).norm(dim=1) > 1e-9
    # Of C2H5OH's nine atoms the methyl group's four.
    assert int(moved.sum()) == 4
    lengths = (seen[between][1] - torch.from_numpy(ethanol.positions)).norm(dim=1)[moved]
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.5 * scans[between].length))


def test_atoms_of_rings_and_crystals_move_alone() -> None:
    for atoms, bonds in ((molecule("C6H6"), 12), (bulk("C", cubic=True), 16)):
        scans = scan_bonds(Pairs(morse), atoms, np.linspace(0.7, 1.4, 15))
        assert len(scans) == bonds
        assert all(np.isfinite(s.energies).all() for s in scans)


# Energy in dynamics without a thermostat.


def test_energy_is_kept_by_forces_that_are_its_gradient() -> None:
    drift = energy_drift(Pairs(spring), molecule("H2O"), steps=1000)
    assert abs(drift.slope) < 1e-3 and drift.fluctuation < 1e-3
    half = energy_drift(Pairs(spring), molecule("H2O"), steps=1000, timestep_fs=0.25)
    assert drift.fluctuation / half.fluctuation == pytest.approx(4.0, rel=0.25)


def test_energy_drifts_where_they_are_not() -> None:
    assert energy_drift(Pairs(spring, wrong=0.02), molecule("H2O"), steps=1000).slope > 1e-2
