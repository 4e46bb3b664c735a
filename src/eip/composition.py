"""What the compositions of frames say of the elements' energies, and what they leave open.

Total energies of frames of one composition C5H8O2 give the sum 5 E(C) + 8 E(H) + 2 E(O) and no
more: of whatever is shifted from one element to another, no such frame knows. In general a shift x
of the elements' energies is open where C x = 0, C the counts of elements of each frame: the null
space of C. It falls apart into groups of elements that have to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

#: Atomic numbers are below this.
NUMBERS = len(chemical_symbols)

#: Below this share of the largest singular value a combination of elements counts as absent.
_RANK_TOLERANCE = 1e-9

#: IUPAC's order of what follows the metals in the formula of a compound without carbon.
_NON_METALS = [
    "B",
    "Si",
    "C",
    "Sb",
    "As",
    "P",
    "N",
    "H",
    "Te",
    "Se",
    "S",
    "I",
    "Br",
    "Cl",
    "O",
    "F",
]


def species_table(elements: Sequence[int]) -> Int[Tensor, "numbers"]:
    """The place of each atomic number in a list of them; −1 where it has none."""
    table = torch.full((NUMBERS,), -1)
    table[list(elements)] = torch.arange(len(elements))
    return table


@dataclass(frozen=True)
class OpenEnergies:
    """Elements whose energies frames do not tell apart.

    Attributes:
        numbers: atomic numbers, ascending.
        directions: shifts of these elements' energies that no frame notices, orthonormal,
            ``[directions][elements]``.
        ratio: atoms of each element in the one formula that the frames have of them; empty where
            they have them in several ratios, or not at all.
        alone: the frames have no other elements.
    """

    numbers: tuple[int, ...]
    directions: tuple[tuple[float, ...], ...]
    ratio: tuple[int, ...] = ()
    alone: bool = False

    def text(self) -> str:
        """For a person, without a full stop."""
        symbols = [chemical_symbols[z] for z in self.numbers]
        *most, last = in_order(symbols)
        names = f"{', '.join(most)} and {last}" if most else last
        fixed = "only differences at fixed composition are meant"
        if len(symbols) == 1:
            return f"the energy of {names} is not known: no training frame has it; {fixed}"
        if self.ratio:
            found = formula(dict(zip(symbols, self.ratio, strict=True)))
            where = "have the composition" if self.alone else "have them in the ratio"
            return (
                f"energies of {names} cannot be told apart: all training frames {where} {found}; "
                f"{fixed}"
            )
        known = len(symbols) - len(self.directions)
        return (
            f"energies of {names} cannot all be told apart: the training frames determine {known} "
            f"of {len(symbols)} combinations; {fixed}"
        )

    def differ(
        self, first: Int[np.ndarray, "atoms"], second: Int[np.ndarray, "more_atoms"]
    ) -> bool:
        """Whether two structures, as atomic numbers, differ in what is open."""
        counts = [(second == z).sum() - (first == z).sum() for z in self.numbers]
        return bool(np.abs(np.array(self.directions) @ np.array(counts)).max() > 1e-6)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` gives the same back."""
        return {
            "numbers": list(self.numbers),
            "directions": [list(direction) for direction in self.directions],
            "ratio": list(self.ratio),
            "alone": self.alone,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OpenEnergies:
        """Reads what `to_dict` wrote."""
        return cls(
            tuple(int(z) for z in values["numbers"]),
            tuple(tuple(float(x) for x in direction) for direction in values["directions"]),
            tuple(int(n) for n in values["ratio"]),
            bool(values["alone"]),
        )


def open_energies(
    counts: Float[np.ndarray, "frames elements"], numbers: Sequence[int]
) -> list[OpenEnergies]:
    """Groups of elements whose energies frames of these compositions do not tell apart.

    Args:
        counts: atoms of each element in each frame.
        numbers: atomic numbers of the elements.
    """
    compositions = np.unique(counts, axis=0)
    span = composition_span(counts)
    # Independent of the basis; elements that no shift joins have nothing to do with each other.
    projector = np.eye(len(numbers)) - span @ span.T
    found, left = [], [k for k in range(len(numbers)) if projector[k, k] > _RANK_TOLERANCE]
    while left:
        group, new = set[int](), {left[0]}
        while new:
            group |= new
            touched = np.abs(projector[sorted(new)]).max(axis=0) > _RANK_TOLERANCE
            new = set(np.flatnonzero(touched).tolist()) - group
        left = [k for k in left if k not in group]
        members = sorted(group)
        values, vectors = np.linalg.eigh(projector[np.ix_(members, members)])
        own = compositions[:, members]
        others = np.delete(compositions, members, axis=1)
        found.append(
            OpenEnergies(
                tuple(int(numbers[k]) for k in members),
                tuple(tuple(map(float, v)) for v in vectors.T[values > 0.5]),
                _ratio(own),
                alone=not others.any(),
            )
        )
    return found


def composition_span(
    counts: Float[np.ndarray, "frames elements"],
) -> Float[np.ndarray, "elements known"]:
    """Orthonormal combinations of elements whose energies frames of these compositions give."""
    _, lengths, axes = np.linalg.svd(np.unique(counts, axis=0), full_matrices=False)
    return np.asarray(axes[lengths > _RANK_TOLERANCE * lengths[0]].T)


def _ratio(counts: Float[np.ndarray, "frames elements"]) -> tuple[int, ...]:
    """The formula that all frames are multiples of; empty where there is none."""
    some = counts[counts.any(axis=1)]
    if not len(some) or np.linalg.matrix_rank(some) > 1:
        return ()
    atoms = [int(n) for n in some[0]]
    common = gcd(*atoms)
    return tuple(n // common for n in atoms)


def formula(counts: Mapping[str, int]) -> str:
    """As a chemist writes it, H2O."""
    return "".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in in_order(counts))


def in_order(symbols: Iterable[str]) -> list[str]:
    """C and H first, then by the alphabet; without C, metals first, then by IUPAC's order."""
    symbols = set(symbols)

    def place(symbol: str) -> tuple[int, int, str]:
        if "C" in symbols:
            return {"C": 0, "H": 1}.get(symbol, 2), 0, symbol
        if symbol not in _NON_METALS:
            return 0, 0, symbol
        return 1, _NON_METALS.index(symbol), symbol

    return sorted(symbols, key=place)
