"""Lists that follow a batch hold what fresh ones hold, and are built no oftener than they must."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from torch import Tensor

from eip.engines.lists import VerletLists
from eip.neighbors import build_graph
from eip.testing import engine_structures

CUTOFF = 4.0


def batch(structures: list[Atoms]) -> list[Tensor]:
    graph = build_graph(structures, CUTOFF)
    return [graph.numbers, graph.positions, graph.cell, graph.pbc, graph.frame]


def pairs(numbers: Tensor, graph: object) -> set[tuple[int, ...]]:
    near = graph.edge_vectors().square().sum(dim=1) < CUTOFF**2  # type: ignore[attr-defined]
    table = torch.cat(
        [graph.centers[:, None], graph.neighbors[:, None], graph.shifts.long()],
        dim=1,  # type: ignore[attr-defined]
    )
    return {tuple(row) for row in table[near].tolist()}


@pytest.fixture
def structures() -> list[Atoms]:
    found = engine_structures((1, 8, 14), CUTOFF)
    return [found[name] for name in ("liquid water", "a molecule", "silica", "a slab along z")]


def test_they_follow_a_batch(structures: list[Atoms]) -> None:
    lists, generator = VerletLists(CUTOFF, 0.6), torch.Generator().manual_seed(0)
    arrays = batch(structures)
    for _ in range(8):
        arrays[1] = arrays[1] + 0.08 * torch.randn(arrays[1].shape, generator=generator).double()
        now = [Atoms(a.numbers, cell=a.cell, pbc=a.pbc) for a in structures]
        start = 0
        for atoms in now:
            atoms.positions = arrays[1][start : start + len(atoms)].numpy()
            start += len(atoms)
        assert pairs(arrays[0], lists(*arrays)) == pairs(arrays[0], build_graph(now, CUTOFF))
    assert 4 < lists.rebuilds < 32


def test_only_what_moved_is_built_anew(structures: list[Atoms]) -> None:
    lists, arrays = VerletLists(CUTOFF, 0.5), batch(structures)
    lists(*arrays)
    assert lists.rebuilds == 4
    lists(*arrays)
    assert lists.rebuilds == 4
    moved = arrays[1].clone()
    moved[len(structures[0])] += 0.3
    lists(arrays[0], moved, *arrays[2:])
    assert lists.rebuilds == 5
    lists(arrays[0], moved, *arrays[2:])
    assert lists.rebuilds == 5
    cell = arrays[2].clone()
    cell[2] *= 1.01
    lists(arrays[0], moved, cell, *arrays[3:])
    assert lists.rebuilds == 6
    other = batch(structures[:3])
    lists(*other)
    assert lists.rebuilds == 9


def test_atoms_that_are_put_back_into_their_cell_need_no_new_list(structures: list[Atoms]) -> None:
    lists, arrays = VerletLists(CUTOFF, 0.5), batch(structures)
    before = lists(*arrays).edge_vectors()
    water, slab = structures[0], structures[3]
    moved = arrays[1].clone()
    moved[2] += torch.from_numpy(water.cell.array[0] - 2 * water.cell.array[2])
    moved[-1] += torch.from_numpy(slab.cell.array[1])
    after = lists(arrays[0], moved, *arrays[2:]).edge_vectors()
    assert lists.rebuilds == 4
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    # In another cell it is another place.
    cell = 1.02 * arrays[2]
    other = lists(arrays[0], moved, cell, *arrays[3:])
    torch.testing.assert_close(other.positions, moved, rtol=0, atol=0)


def test_what_is_wrong_with_a_structure_is_said(structures: list[Atoms]) -> None:
    lists, arrays = VerletLists(CUTOFF), batch(structures)
    lists(*arrays)
    broken = arrays[1].clone()
    broken[len(structures[0])] = torch.nan
    for _ in range(2):
        with pytest.raises(ValueError, match=r"structure 1: positions of atoms .* are not finite"):
            lists(arrays[0], broken, *arrays[2:])
    assert lists(*arrays).n_frames == 4
    with pytest.raises(ValueError, match="at least 0 Å, got -1"):
        VerletLists(CUTOFF, -1.0)
