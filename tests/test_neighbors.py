"""Neighbor lists, held against ASE's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

import eip.neighbors
from eip import device_search
from eip.graph import AtomGraph, batch_graphs
from eip.neighbors import TooDense, VerletList, build_graph, find_edges, graph_from_tensors

Edges = set[tuple[int, int, int, int, int]]


def edges(i: np.ndarray, j: np.ndarray, shifts: np.ndarray, keep: np.ndarray) -> Edges:
    return {
        (int(a), int(b), *(int(x) for x in s))
        for a, b, s in zip(i[keep], j[keep], shifts[keep], strict=True)
    }


def ours(atoms: Atoms, cutoff: float) -> tuple[Edges, np.ndarray]:
    i, j, shifts = find_edges(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    lengths = np.linalg.norm(vectors, axis=1)
    assert (lengths <= cutoff * (1 + 1e-12)).all()
    assert len(set(zip(i.tolist(), j.tolist(), map(tuple, shifts.tolist()), strict=True))) == len(i)
    # On the edge of the cutoff, either answer is right.
    return edges(i, j, shifts, lengths < cutoff - 1e-9), i


def of_ase(atoms: Atoms, cutoff: float) -> Edges:
    i, j, shifts, lengths = neighbor_list("ijSd", atoms, cutoff)
    return edges(i, j, shifts, lengths < cutoff - 1e-9)


def random_structure(seed: int, pbc: tuple[bool, ...], spare_vectors: str, spread: float) -> Atoms:
    """Triclinic, of either hand, each height at least 1.2 Å; ``spread``: how far atoms stray."""
    rng = np.random.default_rng(seed)
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1.5, 6.0, size=(3, 1))
        heights = abs(np.linalg.det(cell)) / np.linalg.norm(
            np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1
        )
        if heights.min() > 1.2:
            break
    fractional = rng.random((int(rng.integers(1, 7)), 3))
    positions = (fractional + rng.uniform(-spread, spread, size=fractional.shape)) @ cell
    for axis in range(3):
        if not pbc[axis]:
            cell[axis] = {
                "kept": cell[axis],
                "zero": np.zeros(3),
                "short": 0.05 * cell[axis],
                "dummy": 50.0 * np.eye(3)[axis],
            }[spare_vectors]
    return Atoms(numbers=[1] * len(positions), positions=positions, cell=cell, pbc=pbc)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    spare_vectors=st.sampled_from(["kept", "zero", "short", "dummy"]),
    spread=st.sampled_from([0.0, 0.5, 20.0]),
    cutoff=st.floats(0.8, 5.0),
)
def test_the_edges_are_those_of_ase(
    seed: int, pbc: tuple[bool, ...], spare_vectors: str, spread: float, cutoff: float
) -> None:
    atoms = random_structure(seed, pbc, spare_vectors, spread)
    found, centers = ours(atoms, cutoff)
    # ASE takes vectors of directions that are not periodic at their word where the cell is
    # singular or tiny; what it says of the same atoms without them is the reference.
    reference = atoms.copy()
    reference.set_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    assert found == of_ase(reference, cutoff)
    assert (np.diff(centers) >= 0).all()
    assert found == {(j, i, -a, -b, -c) for i, j, a, b, c in found}
    assert not any(shift for edge in found for shift in np.array(edge[2:])[~atoms.pbc])


@pytest.mark.parametrize("length", [1.0, 2.4, 4.9])
def test_a_cell_smaller_than_the_cutoff(length: float) -> None:
    atoms = Atoms("H", cell=[length] * 3, pbc=True)
    images = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(images * length, axis=1)
    expected = int(((lengths < 5.0 - 1e-9) & (lengths > 0)).sum())
    found, _ = ours(atoms, 5.0)
    assert len(found) == expected


def test_atoms_far_outside_the_cell_have_the_same_vectors() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    away = atoms.copy()
    away.positions += np.array([[40, -300, 7], [-1000, 12, 5]]) @ atoms.cell.array
    for one in (atoms, away):
        graph = build_graph(one, 4.5)
        vectors = graph.edge_vectors().numpy().round(6) + 0.0
        rows = sorted(zip(graph.centers.tolist(), map(tuple, vectors.tolist()), strict=True))
        if one is atoms:
            expected = rows
    np.testing.assert_allclose([row[1] for row in rows], [row[1] for row in expected], atol=2e-6)


@pytest.mark.parametrize("pbc", [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
@pytest.mark.parametrize("distance", [300.0, 1e5, 1e9])
def test_a_fragment_that_flew_off_costs_nothing(pbc: list[int], distance: float) -> None:
    """Neither time nor, as it once did inside vesin, the process."""
    pair = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
    away = np.where(pbc, 0.0, distance)
    atoms = Atoms("H4", np.vstack([pair, pair + away]), cell=np.eye(3) * 10, pbc=pbc)
    found, _ = ours(atoms, 4.0)
    assert found == {(i, j, 0, 0, 0) for i, j in [(0, 1), (1, 0), (2, 3), (3, 2)]}


def test_no_neighbors_and_one_atom() -> None:
    graph = build_graph([Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 9]])], 5.0)
    assert graph.n_edges == 0
    assert graph.edge_vectors().shape == (0, 3)
    assert graph.positions.dtype == graph.cell.dtype == torch.float64


def test_no_atoms_give_no_edges() -> None:
    centers, neighbors, shifts = find_edges(np.zeros((0, 3)), np.eye(3), [True] * 3, 5.0)
    assert centers.shape == neighbors.shape == (0,) and shifts.shape == (0, 3)


def test_vectors_of_directions_that_are_not_periodic_become_zero() -> None:
    graph = build_graph(Atoms("H", cell=np.eye(3) * 50, pbc=[True, False, True]), 5.0)
    assert graph.cell[0, 1].abs().sum() == 0.0
    assert graph.cell[0, 0, 0] == graph.cell[0, 2, 2] == 50.0


def test_positions_stay_as_given() -> None:
    atoms = Atoms("H", positions=[[17.0, -3.0, 2.0]], cell=np.eye(3) * 4.0, pbc=True)
    graph = build_graph(atoms, 3.0)
    assert graph.positions.tolist() == [[17.0, -3.0, 2.0]]


def test_errors_say_which_structure_and_atom() -> None:
    good, bad = Atoms("H2", [[0, 0, 0], [0, 0, 1]]), Atoms("H2", [[0, 0, 0], [0, 0, np.nan]])
    with pytest.raises(ValueError, match=r"structure 1: positions of atoms \[1\] are not finite"):
        build_graph([good, bad], 5.0)
    with pytest.raises(ValueError, match="structure 1 has no atoms"):
        build_graph([good, Atoms()], 5.0)
    with pytest.raises(ValueError, match=r"pbc is \[True, True, False\].*zero or linearly depend"):
        build_graph(Atoms("H", cell=[3, 0, 3], pbc=[True, True, False]), 5.0)
    with pytest.raises(ValueError, match="linearly dependent"):
        build_graph(Atoms("H", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True), 5.0)
    cell = np.eye(3)
    cell[0, 0] = np.inf
    with pytest.raises(ValueError, match="cell is not finite"):
        find_edges(np.zeros((1, 3)), cell, [True] * 3, 5.0)
    with pytest.raises(ValueError, match="at least one graph"):
        build_graph([], 5.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cutoff=st.floats(0.8, 5.0))
def test_small_and_large_molecules_are_searched_alike(seed: int, cutoff: float) -> None:
    atoms = random_structure(seed, (False, False, False), "zero", 0.5)
    pairwise, _ = ours(atoms, cutoff)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eip.neighbors, "_PAIRWISE_ATOMS", 0)
        assert ours(atoms, cutoff)[0] == pairwise


@pytest.mark.parametrize("at_once", [1, 30, 2**20])
def test_many_structures_give_what_each_gives_alone(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small and large molecules and crystals in any order, however many are searched in one go."""
    monkeypatch.setattr(eip.neighbors, "_AT_ONCE", at_once)
    large = bulk("Cu", "fcc", a=3.6, cubic=True).repeat(3)
    large.set_pbc(False)
    crystal_away = crystal()
    crystal_away.positions += 100.0
    structures = [
        *(molecule(name) for name in ("H2O", "CH4", "O")),
        large,
        crystal_away,
        *(molecule(name) for name in ("C6H6", "H2")),
    ]
    assert len(large) > 64
    batch = build_graph(structures, 4.0)
    alone = batch_graphs([build_graph(atoms, 4.0) for atoms in structures])
    for name in AtomGraph.__dataclass_fields__:
        one, other = getattr(batch, name), getattr(alone, name)
        if name == "owned":
            assert one is other is None
            continue
        assert one.dtype == other.dtype and torch.equal(one, other), name
    assert batch.edge_vectors().norm(dim=1).max() < 4.0 + 1e-9


def test_a_graph_shares_no_memory_with_the_structure() -> None:
    for atoms in (molecule("H2O"), crystal()):
        graph = build_graph(atoms, 3.0)
        before = [getattr(graph, name).clone() for name in ("numbers", "positions", "cell", "pbc")]
        atoms.numbers[:] = 3
        atoms.positions += 1.0
        atoms.cell *= 2.0
        atoms.pbc = ~atoms.pbc
        after = [getattr(graph, name) for name in ("numbers", "positions", "cell", "pbc")]
        assert all(map(torch.equal, before, after))


# The Verlet list.


def crystal() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    return atoms


def within(graph_atoms: Atoms, verlet: VerletList, cutoff: float) -> Edges:
    graph = verlet(graph_atoms)
    lengths = graph.edge_vectors().norm(dim=1).numpy()
    shifts = graph.shifts.numpy().astype(int)
    return edges(graph.centers.numpy(), graph.neighbors.numpy(), shifts, lengths < cutoff - 1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), skin=st.sampled_from([0.0, 0.2, 0.6, 1.5]))
def test_a_verlet_list_is_a_fresh_list_along_a_random_walk(seed: int, skin: float) -> None:
    rng = np.random.default_rng(seed)
    atoms, cutoff = crystal(), 4.2
    verlet = VerletList(cutoff, skin)
    steps = 25
    for _ in range(steps):
        assert within(atoms, verlet, cutoff) == ours(atoms, cutoff)[0]
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
    if skin == 0.0:
        assert verlet.rebuilds == steps
    elif skin >= 0.6:
        assert verlet.rebuilds < steps


def test_it_is_rebuilt_once_an_atom_has_moved_half_the_skin() -> None:
    atoms = crystal()
    verlet = VerletList(4.0, 0.5)
    verlet(atoms)
    atoms.positions[3, 1] += 0.249
    graph = verlet(atoms)
    assert verlet.rebuilds == 1
    assert torch.equal(graph.positions, torch.from_numpy(atoms.positions))
    atoms.positions[3, 1] += 0.002
    verlet(atoms)
    assert verlet.rebuilds == 2
    verlet(atoms)
    assert verlet.rebuilds == 2


def test_it_is_rebuilt_when_the_structure_is_another() -> None:
    atoms = crystal()
    verlet = VerletList(4.0, 0.5)
    verlet(atoms)
    atoms.set_cell(atoms.cell * 1.0001)
    assert verlet(atoms).cell[0].numpy() == pytest.approx(atoms.cell.array)
    assert verlet.rebuilds == 2
    atoms.numbers[0] = 19
    assert verlet(atoms).numbers[0] == 19
    assert verlet.rebuilds == 3
    atoms.pbc = [True, True, False]
    assert not verlet(atoms).pbc[0, 2]
    assert verlet.rebuilds == 4
    assert verlet(atoms[:3]).n_atoms == 3
    assert verlet.rebuilds == 5


def test_two_walkers_do_not_share_a_list() -> None:
    atoms = crystal()
    first = VerletList(4.0, 1.0)
    kept = first(atoms)
    before = kept.positions.clone()
    atoms.positions[0] += 0.1
    assert torch.equal(kept.positions, before)


def test_errors_of_a_verlet_list() -> None:
    with pytest.raises(ValueError, match="skin must be at least 0 Å, got -1"):
        VerletList(4.0, -1.0)
    atoms = crystal()
    verlet = VerletList(4.0)
    verlet(atoms)
    atoms.positions[2] = np.nan
    with pytest.raises(ValueError, match=r"atoms \[2\] are not finite"):
        verlet(atoms)


def test_a_cell_that_would_take_all_memory_is_refused() -> None:
    with pytest.raises(TooDense, match="is the cell in Å"):
        build_graph(Atoms("O", cell=[0.01] * 3, pbc=True), 4.0)
    # Many images are no error.
    assert build_graph(Atoms("O", cell=[1.0] * 3, pbc=True), 4.0).n_edges > 200


# What engines hand over.


def edge_set(graph: AtomGraph) -> Edges:
    i, j, shifts = (part.numpy() for part in (graph.centers, graph.neighbors, graph.shifts))
    return edges(i, j, shifts, np.ones(len(i), dtype=bool))


def test_a_batch_of_tensors_is_the_graph_of_its_structures() -> None:
    structures = [crystal(), molecule("CH3CH2OH"), bulk("Si")]
    expected = build_graph(structures, 4.0)
    found = graph_from_tensors(
        *(expected.numbers, expected.positions, expected.cell, expected.pbc, 4.0),
        frame=expected.frame,
    )
    for field in ("numbers", "positions", "cell", "pbc", "frame"):
        assert torch.equal(getattr(found, field), getattr(expected, field))
    assert edge_set(found) == edge_set(expected)


def test_an_engines_list_may_be_in_any_order() -> None:
    expected = build_graph(crystal(), 4.0)
    order = torch.randperm(expected.n_edges, generator=torch.Generator().manual_seed(1))
    shuffled = tuple(
        part[order] for part in (expected.centers, expected.neighbors, expected.shifts.int())
    )
    found = graph_from_tensors(
        expected.numbers, expected.positions, expected.cell, expected.pbc, 4.0, edges=shuffled
    )
    assert edge_set(found) == edge_set(expected)
    assert bool((found.centers.diff() >= 0).all())


def test_half_a_list_is_refused() -> None:
    graph = build_graph(crystal(), 4.0)
    half = graph.centers < graph.neighbors
    edges = tuple(part[half] for part in (graph.centers, graph.neighbors, graph.shifts))
    with pytest.raises(ValueError, match="should be full"):
        graph_from_tensors(graph.numbers, graph.positions, graph.cell, graph.pbc, 4.0, edges=edges)


def test_frames_that_do_not_ascend_are_refused() -> None:
    graph = build_graph([molecule("H2O"), molecule("H2O")], 4.0)
    with pytest.raises(ValueError, match="should ascend from 0 to 1"):
        graph_from_tensors(
            *(graph.numbers, graph.positions, graph.cell, graph.pbc, 4.0),
            frame=graph.frame.flip(0),
        )


# Where the positions are: on a card, of which arrays of the CPU stand in.


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """vesin's search by tensors serves on the CPU too; the positions that it was given."""
    given = []
    search = eip.neighbors.search_on_device

    def counted(positions: torch.Tensor, *rest: object) -> object:
        given.append(positions)
        return search(positions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(eip.neighbors, "can_search_on", lambda _: not device_search._FAILURES)
    monkeypatch.setattr(eip.neighbors, "search_on_device", counted)
    return given


def tilted(seed: int) -> Atoms:
    """Atoms in and far outside a small, left-handed cell."""
    generator = np.random.default_rng(seed)
    cell = np.diag([3.0, 4.0, -5.0]) + generator.normal(0, 0.4, (3, 3))
    return Atoms("OH3", positions=generator.normal(0, 9, (4, 3)), cell=cell, pbc=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_search_by_tensors_finds_the_same(there: list[torch.Tensor], seed: int) -> None:
    structures = [tilted(seed), crystal(), Atoms("He", cell=[9.0] * 3, pbc=True)]
    found = build_graph(structures, 4.0)
    assert [len(one) for one in there] == [4, len(crystal()), 1]
    for atoms, graph in zip(structures, split(found), strict=True):
        keys = torch.cat([graph[0][:, None], graph[1][:, None], graph[2].long()], dim=1)
        assert len(torch.unique(keys, dim=0)) == len(keys)
        i, j, shifts = find_edges(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
        expected = edges(i, j, shifts, np.ones(len(i), dtype=bool))
        assert edges(*(part.numpy() for part in graph), np.ones(len(keys), bool)) == expected
    assert found.shifts.dtype == torch.float32 and found.centers.dtype == torch.int64


def split(graph: AtomGraph) -> list[tuple[torch.Tensor, ...]]:
    """Centers, neighbors and shifts of each structure, counted from its first atom."""
    frame = graph.frame[graph.centers]
    first = torch.bincount(graph.frame).cumsum(0) - torch.bincount(graph.frame)
    return [
        (graph.centers[on] - first[k], graph.neighbors[on] - first[k], graph.shifts[on])
        for k in range(graph.n_frames)
        for on in [frame == k]
    ]


def test_the_order_of_edges_is_not_that_in_which_they_are_found(
    there: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card finds them in an order of chance, and the same input is to give the same bits."""

    class Shuffling(device_search.vesin.NeighborList):
        def compute(self, points: object, **rest: object) -> object:
            found = super().compute(points=points, **rest)
            return tuple(torch.tensor(part.numpy()[::-1].copy()) for part in found)

    expected = build_graph(tilted(0), 4.0)
    monkeypatch.setattr(device_search.vesin, "NeighborList", Shuffling)
    found = build_graph(tilted(0), 4.0)
    for name in ("centers", "neighbors", "shifts"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert bool((found.centers.diff() >= 0).all()) and len(there) == 2


def test_what_a_search_by_tensors_cannot_do_the_cpu_does(there: list[torch.Tensor]) -> None:
    """Directions that are not periodic; and errors are those of before."""
    wire = Atoms("HF", [[0, 0, 0], [0, 0, 900.0]], cell=[3, 0, 0], pbc=[True, False, False])
    assert build_graph(wire, 4.0).n_edges == 4 and not there
    broken = crystal()
    broken.positions[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"^structure 1: positions of atoms \[1\] are not finite"):
        build_graph([crystal(), broken], 4.0)
    with pytest.raises(TooDense, match=r"^structure 0: .*is the cell in Å"):
        build_graph(Atoms("O", cell=[0.01] * 3, pbc=True), 4.0)


def test_a_list_on_the_device_is_rebuilt_when_half_the_skin_is_gone(
    there: list[torch.Tensor],
) -> None:
    atoms = crystal()
    verlet = VerletList(4.0, 0.6)
    for moved, searches in ((0.0, 1), (0.25, 1), (0.31, 2), (0.5, 2)):
        atoms.positions[0] = crystal().positions[0] + [moved, 0, 0]
        graph = verlet(atoms)
        assert len(there) == searches
    assert edge_set(graph) >= edge_set(build_graph(atoms, 4.0))


def test_where_vesin_fails_the_cpu_goes_on_and_one_warning_says_so(
    there: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = edge_set(build_graph(crystal(), 4.0))

    class Failing(device_search.vesin.NeighborList):
        def compute(self, points: object, **rest: object) -> object:
            if isinstance(points, torch.Tensor):
                raise RuntimeError("no NVRTC\n  here")
            return super().compute(points=points, **rest)

    monkeypatch.setattr(device_search, "_FAILURES", [])
    monkeypatch.setattr(device_search.vesin, "NeighborList", Failing)
    with pytest.warns(device_search.NeighborWarning, match="on the CPU.*: no NVRTC here") as said:
        found = [edge_set(build_graph(crystal(), 4.0)) for _ in range(2)]
    assert found == [expected, expected] and len(said) == 1
