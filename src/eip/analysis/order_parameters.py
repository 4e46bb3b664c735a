"""Order parameters of structures: invariant under rotation, translation and the cell's choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.geometry import find_mic
from jaxtyping import Float, Int

from eip.analysis.molecules import Molecules
from eip.errors import InputError
from eip.neighbors import find_edges

Pairs = tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"], Float[np.ndarray, "pairs"]]
_TETRAHEDRAL = float(np.degrees(np.arccos(-1.0 / 3.0)))
#: Å: a P–O bond, an O–Fe bond.
_PO, _OFE = 2.2, 2.9
#: Atoms of a backbone from which a molecule is a chain: fewer have no shape.
_LEAST_BACKBONE = 3


@dataclass(frozen=True, eq=False)
class Phosphates:
    """Which O belong to which P, and which Fe are bonded to them.

    Attributes:
        centers: P atoms.
        oxygens: the four O nearest to each.
        iron: P, O and Fe of each P–O–Fe angle.
    """

    centers: Int[np.ndarray, "phosphates"]
    oxygens: Int[np.ndarray, "phosphates 4"]
    iron: Int[np.ndarray, "angles 3"]

    @classmethod
    def of(cls, atoms: Atoms) -> Phosphates:
        """O are the four nearest to P within 2.2 Å, Fe all within 2.9 Å of such an O.

        Raises:
            InputError: if a P has no four such O, or none of them a Fe.
        """
        i, j, distances = pairs_within(atoms, max(_PO, _OFE))
        phosphorus, oxygen, iron = (atoms.numbers == atomic_numbers[s] for s in ("P", "O", "Fe"))
        from_p = phosphorus[i] & oxygen[j] & (distances < _PO)
        from_o = oxygen[i] & iron[j] & (distances < _OFE)
        centers = np.flatnonzero(phosphorus)
        fours, angles = [], []
        for center in centers:
            bonds = np.flatnonzero(from_p & (i == center))
            if len(bonds) < 4:
                raise InputError(
                    f"P atom {center} has {len(bonds)} O within {_PO} Å; a phosphate has four"
                )
            four = j[bonds[np.argsort(distances[bonds], kind="stable")]][:4]
            found = [(center, o, fe) for o in four for fe in j[from_o & (i == o)]]
            if not found:
                raise InputError(f"no O of P atom {center} has a Fe within {_OFE} Å")
            fours.append(four)
            angles += found
        return cls(
            centers,
            np.reshape(np.array(fours, dtype=np.int64), (-1, 4)),
            np.reshape(np.array(angles, dtype=np.int64), (-1, 3)),
        )


def phosphate_geometry(
    atoms: Atoms, phosphates: Phosphates | None = None
) -> tuple[Float[np.ndarray, "phosphates"], Float[np.ndarray, "phosphates"]]:
    """Of each PO4: mean P–O–Fe angle and tetrahedral distortion, degrees (theory §4, LiFePO4).

    The distortion is the square root of the variance of the six O–P–O angles round 109.47°, with
    five degrees of freedom (K. Robinson, G. V. Gibbs, P. H. Ribbe, Science 172 (1971) 567).

    Args:
        phosphates: found in these atoms where None; give those of the first frame for a whole run:
            a bond that is stretched for a moment, or broken in the end, is still the same one.

    Raises:
        InputError: as `Phosphates.of`.
    """
    known = Phosphates.of(atoms) if phosphates is None else phosphates
    to_oxygen = _directions(atoms, np.repeat(known.centers, 4), known.oxygens.ravel())
    corners = to_oxygen.reshape(-1, 4, 3)
    between = _degrees((corners @ corners.transpose(0, 2, 1))[:, *np.triu_indices(4, 1)])
    distortions = np.sqrt(np.sum((between - _TETRAHEDRAL) ** 2, axis=1) / 5.0)
    p, o, fe = known.iron.T
    angles = _degrees(np.sum(_directions(atoms, o, p) * _directions(atoms, o, fe), axis=1))
    places = np.searchsorted(known.centers, p)
    means = np.bincount(places, angles, minlength=len(known.centers)).astype(np.float64)
    return means / np.bincount(places, minlength=len(known.centers)), distortions


def _directions(
    atoms: Atoms, start: Int[np.ndarray, "pairs"], end: Int[np.ndarray, "pairs"]
) -> Float[np.ndarray, "pairs 3"]:
    """Unit vectors by the nearest images."""
    vectors, lengths = find_mic(
        atoms.positions[end] - atoms.positions[start], atoms.cell, atoms.pbc
    )
    return vectors / np.maximum(lengths, 1e-12)[:, None]


def chain_shapes(
    atoms: Atoms, molecules: Molecules | None = None
) -> tuple[Float[np.ndarray, "chains"], Float[np.ndarray, "chains"]]:
    """Of each chain: end-to-end distance and radius of gyration, Å (theory §4, PDMS).

    A chain is a molecule whose backbone (see `Molecules.chains`) has at least three atoms; the
    distance is that of its ends. The radius is that of all its atoms, by mass: the root of
    Σ m |r − r_cm|² / Σ m. Molecules are made whole first.

    Args:
        molecules: found in these atoms where None; give those of the first frame for a whole run.
    """
    molecules = Molecules.of(atoms) if molecules is None else molecules
    whole, masses = molecules.whole(atoms), atoms.get_masses()
    ends, radii = [], []
    for members, backbone in zip(molecules.members, molecules.chains, strict=True):
        if len(backbone) < _LEAST_BACKBONE:
            continue
        ends.append(np.linalg.norm(whole[backbone[-1]] - whole[backbone[0]]))
        radii.append(radius_of_gyration(whole[members], masses[members]))
    return np.array(ends), np.array(radii)


def radius_of_gyration(
    positions: Float[np.ndarray, "atoms 3"], masses: Float[np.ndarray, "atoms"]
) -> float:
    """The root of Σ m |r − r_cm|² / Σ m, Å, of a molecule that is whole."""
    weights = masses / masses.sum()
    away = positions - weights @ positions
    return float(np.sqrt(weights @ np.sum(away**2, axis=1)))


def torsions(
    atoms: Atoms, quadruples: Int[np.ndarray, "torsions 4"]
) -> Float[np.ndarray, "torsions"]:
    """Torsion angles, degrees, from −180 up to, not including, 180."""
    found = atoms.get_dihedrals(quadruples, mic=bool(atoms.pbc.any()))
    return (np.asarray(found, dtype=np.float64) + 180.0) % 360.0 - 180.0


def coordination_numbers(
    atoms: Atoms,
    center: int,
    neighbor: int,
    full: float,
    none: float,
    pairs: Pairs | None = None,
) -> Float[np.ndarray, "centers"]:
    """How many neighbors of one element each atom of another has, counted smoothly.

    A neighbor at r counts 1 up to ``full``, 0 from ``none`` on, and 1 − x³(10 − 15x + 6x²) with
    x = (r − full)/(none − full) between: two continuous derivatives, so that it may be biased. In
    place of the rational function of M. Iannuzzi, A. Laio, M. Parrinello, Phys. Rev. Lett. 90
    (2003) 238302, whose tails count atoms that are not neighbors.

    Args:
        center, neighbor: atomic numbers.
        full, none: Å.
        pairs: of `pairs_within` at least ``none``, where they are known.

    Raises:
        InputError: if they are not 0 < full < none.
    """
    if not 0.0 < full < none:
        raise InputError(f"a coordination number needs 0 < full < none, got {full} and {none} Å")
    i, j, distances = pairs_within(atoms, none) if pairs is None else pairs
    chosen = (atoms.numbers[i] == center) & (atoms.numbers[j] == neighbor)
    weights = switched_off(distances[chosen], full, none)
    # Of no pair at all NumPy makes whole numbers.
    counts = np.bincount(i[chosen], weights, minlength=len(atoms)).astype(np.float64)
    return counts[atoms.numbers == center]


def pairs_within(atoms: Atoms, cutoff: float) -> Pairs:
    """Pairs of atoms both ways round, images included: i, j and their distance, Å."""
    i, j, shifts = find_edges(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = atoms.positions[j] + shifts @ atoms.cell.array - atoms.positions[i]
    return i, j, np.linalg.norm(vectors, axis=1)


def switched_off(
    distances: Float[np.ndarray, "*any"], full: float, none: float
) -> Float[np.ndarray, "*any"]:
    """1 up to ``full``, 0 from ``none`` on; see `coordination_numbers`."""
    x = np.clip((distances - full) / (none - full), 0.0, 1.0)
    return 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)


def _degrees(cosine: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
