"""Who is bonded to whom: molecules, their ends and the bonds that they can turn around."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from eip.neighbors import find_edges

#: Of bonds, unless a caller says otherwise.
_STRETCH = 1.15
#: Degrees: where three atoms are as straight as this, a torsion has no meaning.
_STRAIGHT = 170.0


@dataclass(frozen=True, eq=False)
class Molecules:
    """The bonds of one structure, and what follows from them for every frame of its dynamics.

    Attributes:
        numbers: atomic numbers.
        bonds: pairs of atoms, each once, i < j.
    """

    numbers: Int[np.ndarray, "atoms"]
    bonds: Int[np.ndarray, "bonds 2"]

    @classmethod
    def of(cls, atoms: Atoms, stretch: float = _STRETCH) -> Molecules:
        """Bonds by covalent radii (B. Cordero et al., Dalton Trans. 2008, 2832).

        Args:
            stretch: bonded are atoms closer than this times the sum of theirs.
        """
        radii = covalent_radii[atoms.numbers]
        reach = 2.0 * stretch * float(radii.max(initial=0.1))
        i, j, shifts = find_edges(atoms.positions, atoms.cell.array, atoms.pbc, reach)
        vectors = atoms.positions[j] + shifts @ atoms.cell.array - atoms.positions[i]
        near = np.linalg.norm(vectors, axis=1) < stretch * (radii[i] + radii[j])
        # In a cell of few atoms a pair may be bonded through more than one face.
        pairs = np.unique(np.stack([i, j], axis=1)[near & (i < j)], axis=0)
        return cls(np.asarray(atoms.numbers, dtype=np.int64), pairs.astype(np.int64))

    @cached_property
    def members(self) -> list[Int[np.ndarray, "members"]]:
        """Atoms of each molecule, in their order."""
        if not len(self.numbers):
            return []
        _, labels = connected_components(_graph(len(self.numbers), self.bonds), directed=False)
        order = np.argsort(labels, kind="stable")
        return np.split(order, np.cumsum(np.bincount(labels))[:-1])

    @cached_property
    def _trees(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """By distance from the first atom of each molecule: atoms, and what each hangs on."""
        graph = _graph(len(self.numbers), self.bonds)
        levels: list[tuple[np.ndarray, np.ndarray]] = []
        depth = np.full(len(self.numbers), -1)
        above = np.full(len(self.numbers), -1)
        for atoms in self.members:
            order, parents = breadth_first_order(graph, atoms[0], directed=False)
            depth[order[0]] = 0
            for atom in order[1:]:
                above[atom] = parents[atom]
                depth[atom] = depth[parents[atom]] + 1
        for level in range(1, int(depth.max(initial=0)) + 1):
            at = np.flatnonzero(depth == level)
            levels.append((at, above[at]))
        return levels

    def whole(self, atoms: Atoms) -> Float[np.ndarray, "atoms 3"]:
        """Positions with each atom beside the one that it is bonded to, whatever face is between.

        The first atom of each molecule stays where it is.
        """
        out = atoms.positions.copy()
        if not self._trees or not atoms.pbc.any():
            return out
        children, parents = (np.concatenate(part) for part in zip(*self._trees, strict=True))
        vectors, _ = find_mic(
            atoms.positions[children] - atoms.positions[parents], atoms.cell, atoms.pbc
        )
        start = 0
        for at, above in self._trees:
            out[at] = out[above] + vectors[start : start + len(at)]
            start += len(at)
        return out

    def endless(self, atoms: Atoms) -> bool:
        """Whether some bonded network goes on through the cell's faces, as in most crystals."""
        if not len(self.bonds) or not atoms.pbc.any():
            return False
        whole = self.whole(atoms)
        i, j = self.bonds.T
        vectors, _ = find_mic(atoms.positions[j] - atoms.positions[i], atoms.cell, atoms.pbc)
        return not np.allclose(whole[j] - whole[i], vectors, atol=1e-3)

    @cached_property
    def chains(self) -> list[Int[np.ndarray, "backbone"]]:
        """The backbone of each molecule: heavy atoms on the way between its two ends.

        The ends are the two heavy atoms farthest from each other along bonds; of several as far,
        those with the fewest hydrogens (the O of Si–OH, not the C of Si–CH3), then the first.
        Molecules with rings count by shortest ways. Molecules without a heavy atom have an empty
        one.
        """
        heavy = self.numbers > 1
        graph = _graph(len(self.numbers), self.bonds[heavy[self.bonds].all(axis=1)])
        hydrogens = np.zeros(len(self.numbers), dtype=np.int64)
        for one, other in (self.bonds.T, self.bonds.T[::-1]):
            np.add.at(hydrogens, one, ~heavy[other])
        found = []
        for members in self.members:
            atoms = members[heavy[members]]
            if not len(atoms):
                found.append(atoms)
                continue
            # Twice the farthest, as one finds the diameter of a tree.
            start = atoms[0]
            for _ in range(2):
                order, parents = breadth_first_order(graph, start, directed=False)
                steps = {order[0]: 0}
                for atom in order[1:]:
                    steps[atom] = steps[parents[atom]] + 1
                most = steps[order[-1]]
                last = min((a for a in order if steps[a] == most), key=lambda a: (hydrogens[a], a))
                start, begun = last, start
            way = [int(last)]
            while way[-1] != begun:
                way.append(int(parents[way[-1]]))
            found.append(np.array(way if way[0] <= way[-1] else way[::-1], dtype=np.int64))
        return found

    @cached_property
    def _neighbors(self) -> list[list[int]]:
        around: list[list[int]] = [[] for _ in self.numbers]
        for i, j in self.bonds.tolist():
            around[i].append(j)
            around[j].append(i)
        return around

    def _in_rings(self) -> Bool[np.ndarray, "bonds"]:
        """Whether the two atoms of a bond stay connected without it."""
        out = np.zeros(len(self.bonds), dtype=bool)
        for at, (i, j) in enumerate(self.bonds):
            rest = _graph(len(self.numbers), np.delete(self.bonds, at, axis=0))
            out[at] = j in breadth_first_order(rest, i, directed=False, return_predecessors=False)
        return out

    def torsions(self, atoms: Atoms) -> Int[np.ndarray, "torsions 4"]:
        """One torsion of each bond that can turn: in no ring, with other atoms at both ends.

        It is that of the heaviest neighbors; those with more heavy atoms come first. Bonds beside
        an angle of more than 170° are left out.
        """
        whole = self.whole(atoms)
        found = []
        for ring, (j, k) in zip(self._in_rings(), self.bonds.tolist(), strict=True):
            first = [a for a in self._neighbors[j] if a != k]
            last = [a for a in self._neighbors[k] if a != j]
            if ring or not first or not last:
                continue
            four = [min(first, key=self._weight), j, k, min(last, key=self._weight)]
            if max(_angle(whole[four[:3]]), _angle(whole[four[1:]])) < _STRAIGHT:
                found.append(four)
        found.sort(key=lambda four: (sum(self.numbers[a] == 1 for a in four), four))
        return np.reshape(np.array(found, dtype=np.int64), (-1, 4))

    def _weight(self, atom: int) -> tuple[int, int]:
        return -int(self.numbers[atom]), atom


def backbone_torsions(chain: Int[np.ndarray, "backbone"]) -> Int[np.ndarray, "torsions 4"]:
    """Each four atoms in a row of a backbone."""
    count = max(0, len(chain) - 3)
    return np.stack([chain[k : k + count] for k in range(4)], axis=1)


def names_of_torsions(symbols: list[str], torsions: Int[np.ndarray, "torsions 4"]) -> list[str]:
    """ "C2–C1–O3–H8" for each, atoms counted from 1."""
    return ["–".join(f"{symbols[a]}{a + 1}" for a in four) for four in torsions.tolist()]


def kinds_of_torsions(symbols: list[str], torsions: Int[np.ndarray, "torsions 4"]) -> list[str]:
    """ "O–Si–O–Si" for each, the same from either end."""
    kinds = []
    for four in torsions.tolist():
        names = [symbols[a] for a in four]
        kinds.append("–".join(min(names, names[::-1])))
    return kinds


def _angle(three: Float[np.ndarray, "3 3"]) -> float:
    a, b = three[0] - three[1], three[2] - three[1]
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _graph(n: int, bonds: Int[np.ndarray, "bonds 2"]) -> csr_array:
    both = np.concatenate([bonds, bonds[:, ::-1]])
    return coo_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(n, n)).tocsr()
