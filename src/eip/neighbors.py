"""Structures → graphs. Neighbor lists by vesin; a Verlet skin for dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import vesin
from ase import Atoms
from ase.geometry import complete_cell
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from eip.device_search import Edges, can_search_on, search_on_device
from eip.graph import AtomGraph, batch_graphs

#: Up to so many atoms, a structure without periodic directions is searched pair by pair, many
#: structures in one go; beyond, vesin's cells are faster.
_PAIRWISE_ATOMS = 64
#: Pairs, or edges, that are looked at in one go: bounds the memory of what is in between.
_AT_ONCE = 2**20

#: Neighbors of an atom beyond which a structure is none: matter pressed to a tenth of its volume
#: has some thousands. A cell of 0.01 Å would ask for all memory there is.
_MOST_NEIGHBORS = 20_000


class TooDense(ValueError):
    """Atoms lie so close that a neighbor list would not fit anywhere."""


def find_edges(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Sequence[bool] | Bool[np.ndarray, "3"],
    cutoff: float,
) -> tuple[Int[np.ndarray, "edges"], Int[np.ndarray, "edges"], Int[np.ndarray, "edges 3"]]:
    """All pairs closer than the cutoff, periodic images and cells smaller than the cutoff included.

    Returns:
        centers, neighbors, shifts; sorted by centre. Vector = R_neighbor + shift·cell − R_center.

    Raises:
        ValueError: if a position or the cell is not finite, or a periodic direction has no
            lattice vector.
    """
    periodic = np.asarray(pbc, dtype=bool)
    centers, neighbors, shifts = _edges(positions, cell, periodic, cutoff)
    return centers.numpy(), neighbors.numpy(), shifts.numpy().astype(np.int64)


def _edges(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, "3"],
    cutoff: float,
) -> Edges:
    """`find_edges` as tensors; shifts as float32, in which a graph holds them."""
    positions = np.asarray(positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise ValueError(f"positions of atoms {bad[:10].tolist()} are not finite")
    if _is_pairwise(len(positions), periodic):
        centers, neighbors = _pairwise_edges(positions, [len(positions)], cutoff)
        return centers, neighbors, torch.zeros(len(centers), 3)
    box = np.zeros((3, 3))
    wraps = None
    if periodic.any():
        positions, box, wraps = _boxed(positions, cell, periodic, cutoff)
        _demand_room(len(positions), box, cutoff)
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    # Views of vesin's own memory: each is copied once, into the form that it is wanted in.
    pairs, images = search.compute(
        points=positions, box=box, periodic=bool(periodic.any()), quantities="PS", copy=False
    )
    first, second = torch.from_numpy(pairs.view(np.int64)).unbind(1)
    centers, neighbors = first.contiguous(), second.contiguous()
    shifts = torch.from_numpy(images).to(torch.float32, copy=True)
    if wraps is not None and wraps.any():
        away = torch.from_numpy(wraps)
        for part, i, j in zip(
            shifts.split(_AT_ONCE), centers.split(_AT_ONCE), neighbors.split(_AT_ONCE), strict=True
        ):
            part += away.index_select(0, i) - away.index_select(0, j)
    return centers, neighbors, shifts


def _edges_of(
    positions: Float[Tensor, "atoms 3"],
    cell: Float[Tensor, "3 3"],
    pbc: Bool[Tensor, "3"],
    cutoff: float,
) -> Edges:
    """`_edges` of tensors, on their device if vesin can search there.

    What is not periodic in all directions is left to the CPU: an atom that flew off would ask for
    memory without end; and so is what is not finite, of which the error is to tell.
    """
    positions, cell = positions.detach(), cell.detach()
    if can_search_on(positions.device):
        box = cell.cpu().numpy()
        sound = bool(pbc.all() & torch.isfinite(positions).all()) and np.isfinite(box).all()
        if sound and np.linalg.matrix_rank(box) == 3:
            _demand_room(len(positions), box, cutoff)
            found = search_on_device(positions, cell, cutoff)
            if found is not None:
                return found
    places, vectors, axes = (a.cpu().numpy() for a in (positions, cell, pbc))
    centers, neighbors, shifts = _edges(places, vectors, axes, cutoff)
    home = positions.device
    return centers.to(home), neighbors.to(home), shifts.to(home)


def _boxed(
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, "3"],
    cutoff: float,
) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"], Int[np.ndarray, "atoms 3"]]:
    """Positions and box for a search that takes all directions for periodic.

    Returns:
        positions in the box; the box; by how many lattice vectors each atom was moved there.
    """
    if not np.isfinite(cell).all():
        raise ValueError(f"cell is not finite: {np.asarray(cell).tolist()}")
    # A direction that is not periodic may have no vector, a dummy one, or one that atoms
    # stick out of; none of that may matter, so it gets a vector that spans all atoms.
    box = np.where(periodic[:, None], cell, 0.0)
    if np.linalg.matrix_rank(box) < periodic.sum():
        raise ValueError(
            f"pbc is {periodic.tolist()} but the cell's periodic vectors are zero or linearly "
            f"dependent: {np.asarray(cell).tolist()}"
        )
    box = complete_cell(box)
    fractional = positions @ np.linalg.inv(box)
    # Atoms many cells away are brought home first: the images searched start from the cell.
    wraps = np.where(periodic, np.floor(fractional), 0).astype(np.int64)
    wrapped = positions - wraps @ box
    if not periodic.all():
        # complete_cell's vectors are orthogonal to the periodic ones and each other: beyond the
        # cutoff as well as the atoms, they leave no image within reach and may count as
        # periodic. (vesin is slow by orders of magnitude where just one direction is.)
        for axis in np.flatnonzero(~periodic):
            unit = box[axis] / np.linalg.norm(box[axis])
            along = wrapped @ unit
            closed = _close_gaps(along, 2 * cutoff)
            wrapped = wrapped + np.outer(closed - along, unit)
            box[axis] = unit * (closed.max() + 2 * cutoff + 1.0)
    return wrapped, box, wraps


def _demand_room(n_atoms: int, box: Float[np.ndarray, "3 3"], cutoff: float) -> None:
    volume = abs(float(np.linalg.det(box)))
    neighbors = n_atoms * 4.0 / 3.0 * np.pi * cutoff**3 / max(volume, 1e-300)
    if neighbors > _MOST_NEIGHBORS:
        raise TooDense(
            f"{n_atoms} atoms in {volume:.3g} Å³ would have {neighbors:.2g} neighbors each within "
            f"{cutoff:g} Å; is the cell in Å?"
        )


def _is_pairwise(n_atoms: int, periodic: Bool[np.ndarray, "3"]) -> bool:
    return n_atoms <= _PAIRWISE_ATOMS and not periodic.any()


def _pairwise_edges(
    positions: Float[np.ndarray, "atoms 3"], n_atoms: Sequence[int], cutoff: float
) -> tuple[Int[Tensor, "edges"], Int[Tensor, "edges"]]:
    """Centers and neighbors of structures that follow each other, none periodic."""
    counts = np.array(n_atoms, dtype=np.int64)
    # Of each atom: how many pairs begin at it, the first atom of its structure, its first pair.
    pairs = counts.repeat(counts)
    first = (counts.cumsum() - counts).repeat(counts)
    begin = pairs.cumsum() - pairs
    i = np.arange(len(pairs)).repeat(pairs)
    j = np.arange(len(i)) + (first - begin)[i]
    distance2 = ((positions[j] - positions[i]) ** 2).sum(axis=1)
    keep = np.flatnonzero((distance2 < cutoff**2) & (i != j))
    return torch.from_numpy(i[keep]), torch.from_numpy(j[keep])


def _close_gaps(
    coordinates: Float[np.ndarray, "atoms"], widest: float
) -> Float[np.ndarray, "atoms"]:
    """From 0 upwards, gaps wider than ``widest`` cut down to it: no pair in reach is touched.

    An atom that flew off must not make the search visit the void (or overflow its count of cells).
    """
    order = np.argsort(coordinates)
    gaps = np.diff(coordinates[order], prepend=coordinates[order[:1]])
    closed = np.empty_like(coordinates)
    closed[order] = np.minimum(gaps, widest).cumsum()
    return closed


def build_graph(
    structures: Atoms | Sequence[Atoms],
    cutoff: float,
    *,
    device: torch.device | str = "cpu",
) -> AtomGraph:
    """One graph of one or more ASE structures; positions are taken as they are, in Å.

    Raises:
        ValueError: if there is no structure, one has no atoms, or one's geometry is not finite.
    """
    structures = [structures] if isinstance(structures, Atoms) else structures
    graphs: list[AtomGraph] = []
    small: list[Atoms] = []
    pairs = 0
    for index, atoms in enumerate(structures):
        n_atoms = len(atoms)
        if n_atoms == 0:
            raise ValueError(f"structure {index} has no atoms")
        pairwise = _is_pairwise(n_atoms, atoms.pbc) and np.isfinite(atoms.positions).all()
        if small and (not pairwise or pairs + n_atoms**2 > _AT_ONCE):
            graphs.append(_pairwise_graph(small, cutoff))
            small, pairs = [], 0
        if pairwise:
            small.append(atoms)
            pairs += n_atoms**2
            continue
        try:
            graphs.append(_graph_of(atoms, cutoff, torch.device(device)))
        except ValueError as error:
            raise type(error)(f"structure {index}: {error}") from error
    if small:
        graphs.append(_pairwise_graph(small, cutoff))
    if len({graph.positions.device for graph in graphs}) > 1:
        graphs = [graph.to(device) for graph in graphs]
    return batch_graphs(graphs).to(device=device)


def _graph_of(atoms: Atoms, cutoff: float, device: torch.device) -> AtomGraph:
    """Of one structure: on the device, if that is where its edges are looked for."""
    if not can_search_on(device):
        return graph_from_arrays(
            atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff
        )
    try:
        return graph_from_tensors(
            _numbers(atoms.numbers).to(device),
            torch.tensor(atoms.positions, dtype=torch.float64, device=device),
            torch.tensor(atoms.cell.array[None], dtype=torch.float64, device=device),
            torch.tensor(atoms.pbc[None], device=device),
            cutoff,
        )
    except ValueError as error:
        raise type(error)(str(error).removeprefix("structure 0: ")) from error


def _pairwise_graph(structures: Sequence[Atoms], cutoff: float) -> AtomGraph:
    """One graph of small structures that are not periodic."""
    n_atoms = [len(atoms) for atoms in structures]
    positions = np.concatenate([atoms.positions for atoms in structures])
    centers, neighbors = _pairwise_edges(positions, n_atoms, cutoff)
    return AtomGraph(
        numbers=_numbers(np.concatenate([atoms.numbers for atoms in structures])),
        positions=torch.tensor(positions, dtype=torch.float64),
        cell=torch.zeros(len(structures), 3, 3, dtype=torch.float64),
        pbc=torch.zeros(len(structures), 3, dtype=torch.bool),
        frame=torch.from_numpy(np.arange(len(structures)).repeat(n_atoms)),
        centers=centers,
        neighbors=neighbors,
        shifts=torch.zeros(len(centers), 3),
    )


def graph_from_arrays(
    numbers: Int[np.ndarray, "atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    cell: Float[np.ndarray, "3 3"],
    pbc: Sequence[bool] | Bool[np.ndarray, "3"],
    cutoff: float,
) -> AtomGraph:
    """One graph of one structure. Lattice vectors of directions that are not periodic become 0."""
    periodic = np.array(pbc, dtype=bool)
    centers, neighbors, shifts = _edges(positions, cell, periodic, cutoff)
    return AtomGraph(
        numbers=_numbers(numbers),
        positions=torch.tensor(positions, dtype=torch.float64),
        cell=torch.tensor(np.where(periodic[:, None], cell, 0.0)[None], dtype=torch.float64),
        pbc=torch.from_numpy(periodic[None]),
        frame=torch.zeros(len(numbers), dtype=torch.int64),
        centers=centers,
        neighbors=neighbors,
        shifts=shifts,
    )


def graph_from_tensors(
    numbers: Int[Tensor, "atoms"],
    positions: Float[Tensor, "atoms 3"],
    cell: Float[Tensor, "frames 3 3"],
    pbc: Bool[Tensor, "frames 3"],
    cutoff: float,
    *,
    frame: Int[Tensor, "atoms"] | None = None,
    owned: Bool[Tensor, "atoms"] | None = None,
    edges: tuple[Int[Tensor, "edges"], Int[Tensor, "edges"], Shaped[Tensor, "edges 3"]]
    | None = None,
) -> AtomGraph:
    """One graph of what an engine holds: a batch of structures as tensors, on any device.

    To be made when the list of edges is; until the next one, `AtomGraph.with_positions` follows.

    Args:
        positions: Å, of all structures one after the other.
        cell: lattice vectors as rows, Å.
        frame: which structure each atom belongs to, ascending; None: there is one.
        owned: see `eip.graph.AtomGraph`; ghosts are to reach as far as the potential's layers
            together, and their forces are to be added to those of the atoms that they stand for.
        edges: centers, neighbors and shifts of the engine's own list, full, in any order, at least
            up to the cutoff; None: vesin finds them, on an NVIDIA card where the positions are
            there and all directions periodic, else on the CPU.

    Raises:
        ValueError: if frames do not ascend, there is a structure without atoms, the geometry is not
            finite, or the engine's list is not full.
    """
    device, n_frames = positions.device, len(cell)
    frame = torch.zeros_like(numbers) if frame is None else frame
    counts = torch.bincount(frame, minlength=n_frames)
    if bool((frame.diff() < 0).any()) or len(counts) != n_frames or bool((counts == 0).any()):
        raise ValueError(
            f"frame should ascend from 0 to {n_frames - 1}, each with at least one atom"
        )
    cell = torch.where(pbc[:, :, None], cell, 0.0).double()
    positions = positions.double()
    if edges is None:
        found, first = [], 0
        parts = zip(positions.split(counts.tolist()), cell, pbc, strict=True)
        for index, (part, box, periodic) in enumerate(parts):
            try:
                i, j, shift = _edges_of(part, box, periodic, cutoff)
            except ValueError as error:
                raise type(error)(f"structure {index}: {error}") from error
            found.append((i + first, j + first, shift))
            first += len(part)
        edges = tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[assignment]
    else:
        _demand_full(edges, len(numbers))
        order = torch.argsort(edges[0], stable=True)
        edges = tuple(part.index_select(0, order) for part in edges)  # type: ignore[assignment]
    assert edges is not None
    centers, neighbors, shifts = (part.to(device) for part in edges)
    return AtomGraph(
        *(numbers, positions, cell, pbc, frame, centers.long(), neighbors.long()),
        shifts=shifts.float(),
        owned=owned,
    )


def _demand_full(edges: Edges, n_atoms: int) -> None:
    """With an edge there is its reverse."""
    centers, neighbors, shifts = (part.detach().long() for part in edges)
    out = torch.cat([centers[:, None], neighbors[:, None], shifts], dim=1)
    back = torch.cat([neighbors[:, None], centers[:, None], -shifts], dim=1)
    same = torch.equal(torch.unique(out, dim=0), torch.unique(back, dim=0))
    if not same or (len(out) and not 0 <= int(out[:, :2].min()) <= int(out[:, :2].max()) < n_atoms):
        raise ValueError(
            f"the list of edges should be full (each pair both ways) and of {n_atoms} atoms"
        )


def _numbers(numbers: Int[np.ndarray, "atoms"]) -> Int[Tensor, "atoms"]:
    """A copy: the structure's own may change."""
    return torch.tensor(numbers, dtype=torch.int64)


class VerletList:
    """A graph that follows one structure through dynamics and is rebuilt only when it must be.

    The list holds pairs up to cutoff + skin; it stays right until two atoms together have moved
    by the skin, so it is rebuilt when one has moved by half of it, or when cell, periodicity or
    species change. Edges beyond the cutoff weigh nothing in a potential.
    """

    def __init__(
        self,
        cutoff: float,
        skin: float = 0.5,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if skin < 0:
            raise ValueError(f"skin must be at least 0 Å, got {skin}")
        self.cutoff, self.skin, self.device = cutoff, skin, device
        self.rebuilds = 0
        self._graph: AtomGraph | None = None
        self._built_at = Atoms()

    def __call__(self, atoms: Atoms) -> AtomGraph:
        """The graph of the structure as it is now."""
        if self._graph is None or self._outdated(atoms):
            self._graph = build_graph(atoms, self.cutoff + self.skin, device=self.device)
            # Not atoms.copy(): constraints and arrays that dynamics adds are no business of ours.
            self._built_at = Atoms(
                numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
            )
            self.rebuilds += 1
        positions = torch.tensor(atoms.positions, dtype=torch.float64, device=self.device)
        return self._graph.with_positions(positions)

    def _outdated(self, atoms: Atoms) -> bool:
        built = self._built_at
        if len(atoms) != len(built):
            return True
        moved = atoms.positions - built.positions
        farthest2 = np.einsum("na,na->n", moved, moved).max()
        # "not <": true of NaN, which the search will then report.
        return bool(
            not 4 * farthest2 < self.skin**2
            or (atoms.numbers != built.numbers).any()
            or (atoms.cell.array != built.cell.array).any()
            or (atoms.pbc != built.pbc).any()
        )
