"""Bonds pushed together and pulled apart: where no data was, a network may find minima of its own.

Not a law, for no data says what the energy of half a bond's length is; but what falls off towards
short lengths, or dips on the way to long ones, ends a simulation that gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int
from scipy.signal import find_peaks
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from eip.analysis.molecules import Molecules
from eip.potential import Potential

#: Lengths that are scanned, as multiples of the bond's own.
FACTORS = np.linspace(0.6, 1.8, 121)
#: Depth from which a dip counts as a minimum, eV.
DEPTH = 1e-3
#: A bond's true minimum lies here.
_TRUE = (0.85, 1.2)


@dataclass(frozen=True, eq=False)
class BondScan:
    """One bond's energy by its length.

    Attributes:
        bond: its two atoms.
        length: of the bond in the structure, Å.
        factors: lengths as multiples of it, ascending.
        energies: eV, above the lowest one near the bond's own length.
    """

    bond: tuple[int, int]
    length: float
    factors: Float[np.ndarray, "steps"]
    energies: Float[np.ndarray, "steps"]

    @property
    def false_minima(self) -> tuple[float, ...]:
        """Multiples of the length at which there is a minimum beside the bond's own.

        The shortest length is one where the energy still falls towards it.
        """
        # As if a wall stood at the short end; at the long end a bond may be as good as broken.
        walled = np.concatenate([[np.inf], self.energies, [-np.inf]])
        found = find_peaks(-walled, prominence=DEPTH)[0] - 1
        near = (self.factors[found] >= _TRUE[0]) & (self.factors[found] <= _TRUE[1])
        own = found[near][:1]
        if near.sum() > 1:
            own = found[near][[self.energies[found[near]].argmin()]]
        return tuple(float(self.factors[k]) for k in found if k not in own)


def scan_bonds(
    potential: Potential, atoms: Atoms, factors: Sequence[float] | np.ndarray = FACTORS
) -> list[BondScan]:
    """Each bond of a structure, stretched while all else stays as it is.

    The smaller of the two parts that the bond holds together moves along it; where it is one of a
    ring or of an endless network, the atom with fewer bonds.

    Args:
        factors: lengths as multiples of the bond's own, ascending; one of them near 1.
    """
    molecules = Molecules.of(atoms)
    whole = molecules.whole(atoms)
    scale = np.asarray(factors, dtype=float)
    scans = []
    for index, (i, j) in enumerate(molecules.bonds.tolist()):
        moving = _moving(len(atoms), molecules.bonds, index)
        anchor, end = (i, j) if j in moving else (j, i)
        along = whole[end] - whole[anchor]
        frames = []
        for factor in scale:
            frame = atoms.copy()
            frame.positions[:] = whole
            frame.positions[moving] += (factor - 1.0) * along
            frames.append(frame)
        energies = potential.predict(frames, forces=False).energy.numpy()
        near = (scale >= _TRUE[0]) & (scale <= _TRUE[1])
        lowest = energies[near].min() if near.any() else energies.min()
        length = float(np.linalg.norm(along))
        scans.append(BondScan((int(i), int(j)), length, scale, energies - lowest))
    return scans


def parts(count: int, bonds: Int[np.ndarray, "bonds 2"], index: int) -> list[int] | None:
    """Atoms of the smaller of two parts that a bond alone holds together; None: they are one."""
    i, j = bonds[index].tolist()
    others = np.delete(bonds, index, axis=0)
    graph = coo_array((np.ones(len(others)), (others[:, 0], others[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    if label[i] == label[j]:
        return None
    return min((np.flatnonzero(label == label[k]).tolist() for k in (i, j)), key=len)


def _moving(count: int, bonds: Int[np.ndarray, "bonds 2"], index: int) -> list[int]:
    """Atoms that move when a bond is stretched."""
    smaller = parts(count, bonds, index)
    if smaller is not None:
        return smaller
    i, j = bonds[index].tolist()
    degree = np.bincount(np.delete(bonds, index, axis=0).ravel(), minlength=count)
    return [j if degree[j] <= degree[i] else i]
