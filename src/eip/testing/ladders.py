"""Structures deformed more and more, on which an uncertainty should rise: its contract.

What is wrong with an error bar shows where no label is: two atoms pushed into each other, one
pulled out, an element replaced by another, a cell pressed, a molecule cut in two. Nobody needs a
reference to know that a potential that was trained on none of it errs there by more than at home.

    from eip.testing import check_uncertainty, climb

    check_uncertainty(potential, home)      # raises ContractViolation, naming what fails
    for ascent in climb(potential, home):   # or look
        print(ascent.ladder.name, ascent.ratios)

``home``: some structures like those that the potential was trained on, but not of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float

from eip.analysis.molecules import Molecules
from eip.errors import NonFinitePrediction
from eip.potential import Potential, prepared
from eip.testing.contract import ContractViolation
from eip.testing.derivatives import check_uncertainty_gradient
from eip.testing.predictions import check_prediction
from eip.testing.scans import parts
from eip.testing.symmetries import (
    check_permutation,
    check_reflection,
    check_rotation,
    check_translation,
)

#: σ at the end of a ladder, and the lowest anywhere on it, over σ at home.
TOP, FLOOR = 10.0, 0.5

#: Å: of two atoms pushed together, and of what is pulled away.
APPROACHES = np.linspace(1.0, 0.3, 8)
DEPARTURES = np.array([0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
#: Of a volume, what is pressed out of it.
PRESSED = np.array([0.05, 0.1, 0.2, 0.3, 0.4])


@dataclass(frozen=True, eq=False)
class Ladder:
    """A structure deformed more from rung to rung.

    Attributes:
        name: "H and C pushed together".
        rungs: of one structure, or of one and then of others.
        moved: the atoms whose σ is looked at: those that the deformation moves or replaces.
    """

    name: str
    rungs: tuple[Atoms, ...]
    moved: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Ascent:
    """What σ did on a ladder.

    Attributes:
        ratios: of each rung, the largest σ of the atoms moved over σ at home; NaN where the
            prediction is not finite.
    """

    ladder: Ladder
    ratios: Float[np.ndarray, "rungs"]

    def failure(self, top: float = TOP, floor: float = FLOOR) -> str | None:
        """What is wrong with it, in words; None: nothing."""
        if not np.isfinite(self.ratios).all():
            return f"{self.ladder.name}: σ is not finite"
        if self.ratios.min() < floor:
            return f"{self.ladder.name}: σ falls to {self.ratios.min():.2g} of what it is at home"
        if self.ratios[-1] < top:
            return f"{self.ladder.name}: σ ends at {self.ratios[-1]:.2g} times what it is at home"
        return None


def ladders(atoms: Atoms, elements: Sequence[int] = ()) -> list[Ladder]:
    """The ladders that a structure has.

    Two atoms of each pair of its elements are pushed together, one atom of each element is pulled
    away from its neighbors or replaced by one of the other elements, everything is pressed, and a
    molecule (nothing periodic) is cut at the bond that halves it best.

    Args:
        elements: by which atoms are replaced; those of the structure are always among them.
    """
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    kinds = sorted(set(atoms.numbers.tolist()))
    made = [_pushed(atoms, one, other) for one, other in combinations_with_replacement(kinds, 2)]
    for z in kinds:
        made.append(_pulled(atoms, z))
        others = sorted({*kinds, *elements} - {z})
        made += [_replaced(atoms, z, other) for other in others]
    made += [_squeezed(atoms), _cut(atoms)]
    return [ladder for ladder in made if ladder is not None]


def climb(
    potential: Potential, home: Sequence[Atoms], structures: Sequence[Atoms] = ()
) -> list[Ascent]:
    """σ on the ladders of structures, by default of the first one of ``home``.

    σ at home is the median over the atoms of ``home``.

    Raises:
        ContractViolation: if the potential gives no σ of an atom's force.
    """
    potential = prepared(potential.eval())
    said = potential.predict(list(home), forces=False).force_uncertainty
    if said is None:
        raise ContractViolation("ladders", "the potential gives no uncertainty of forces")
    level = float(said.double().median())
    made = [one for of in (structures or home[:1]) for one in ladders(of, potential.elements)]
    return [Ascent(ladder, _sigma(potential, ladder) / level) for ladder in made]


def check_ladders(
    potential: Potential,
    home: Sequence[Atoms],
    structures: Sequence[Atoms] = (),
    *,
    top: float = TOP,
    floor: float = FLOOR,
) -> None:
    """On every ladder σ never falls far below what it is at home, and ends far above it.

    Args:
        home, structures: see `climb`.
        top, floor: σ at the end, and the lowest on the way, over σ at home.
    """
    failures = [ascent.failure(top, floor) for ascent in climb(potential, home, structures)]
    found = [failure for failure in failures if failure is not None]
    if found:
        raise ContractViolation("ladders", "; ".join(found), quantity="force_uncertainty")


def check_uncertainty(
    potential: Potential, home: Sequence[Atoms], structures: Sequence[Atoms] = ()
) -> None:
    """The contract of an uncertainty: σ ≥ 0, invariant, of the right gradient, and `check_ladders`.

    The laws are held at home and where the ladders set out from it.

    Args:
        home: structures like those of training, but not of them; a few dozen make a sure level.
        structures: whose ladders are climbed; by default the first one of ``home``.
    """
    some = [*home[:2], *(ladder.rungs[0] for ladder in ladders(home[0], potential.elements))]
    check_prediction(potential, some)
    for law in (check_rotation, check_reflection, check_translation, check_permutation):
        law(potential, some)
    check_uncertainty_gradient(potential, some)
    check_ladders(potential, home, structures)


def _sigma(potential: Potential, ladder: Ladder) -> Float[np.ndarray, "rungs"]:
    found = []
    for atoms in ladder.rungs:
        try:
            said = potential.predict(atoms, forces=False).force_uncertainty
        except NonFinitePrediction:
            found.append(float("nan"))
            continue
        assert said is not None
        found.append(float(said[torch.tensor(ladder.moved)].double().max()))
    return np.array(found)


def _moved(atoms: Atoms, moved: Sequence[int], by: np.ndarray) -> Atoms:
    found = atoms.copy()
    found.positions[list(moved)] += by
    return found


def _pushed(atoms: Atoms, one: int, other: int) -> Ladder | None:
    """The two nearest atoms of two elements, each moved half the way."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    numbers = atoms.numbers
    suits = (numbers[:, None] == one) & (numbers[None, :] == other)
    np.fill_diagonal(suits, False)
    if not suits.any():
        return None
    place = np.unravel_index(np.where(suits, distances, np.inf).argmin(), suits.shape)
    i, j = (int(k) for k in place)
    between = atoms.get_distance(i, j, mic=bool(atoms.pbc.any()), vector=True)
    length = float(np.linalg.norm(between))
    rungs = []
    for approach in APPROACHES:
        step = 0.5 * (1.0 - approach / length) * between
        rungs.append(_moved(_moved(atoms, [i], step), [j], -step))
    names = chemical_symbols[one], chemical_symbols[other]
    return Ladder(f"{names[0]} and {names[1]} pushed together", tuple(rungs), (i, j))


def _pulled(atoms: Atoms, z: int) -> Ladder | None:
    """The first atom of an element, away from its neighbors, the nearest above all."""
    if len(atoms) == 1:
        return None
    i = int(np.flatnonzero(atoms.numbers == z)[0])
    others = [k for k in range(len(atoms)) if k != i]
    vectors = atoms.get_distances(i, others, mic=bool(atoms.pbc.any()), vector=True)
    lengths = np.linalg.norm(vectors, axis=1)
    away = -(vectors / lengths[:, None] ** 3).sum(axis=0)
    if np.linalg.norm(away) * lengths.min() ** 2 < 1e-3:  # its neighbors are all around it
        away = -vectors[lengths.argmin()]
    away = away / np.linalg.norm(away)
    rungs = tuple(_moved(atoms, [i], by * away) for by in DEPARTURES)
    return Ladder(f"{chemical_symbols[z]} pulled out", rungs, (i,))


def _replaced(atoms: Atoms, z: int, other: int) -> Ladder:
    i = int(np.flatnonzero(atoms.numbers == z)[0])
    found = atoms.copy()
    found.numbers[i] = other
    return Ladder(f"{chemical_symbols[z]} replaced by {chemical_symbols[other]}", (found,), (i,))


def _squeezed(atoms: Atoms) -> Ladder | None:
    """The cell and all that is in it; of a molecule, the molecule."""
    if len(atoms) == 1 and not atoms.pbc.any():
        return None
    middle = atoms.positions.mean(axis=0)
    rungs = []
    for share in PRESSED:
        scale = (1.0 - share) ** (1.0 / 3.0)
        found = atoms.copy()
        found.cell = atoms.cell.array * scale
        found.positions = (
            atoms.positions * scale
            if atoms.pbc.any()
            else middle + (atoms.positions - middle) * scale
        )
        rungs.append(found)
    return Ladder("pressed", tuple(rungs), tuple(range(len(atoms))))


def _cut(atoms: Atoms) -> Ladder | None:
    """One half of a molecule along the bond that is cut, the other left where it is."""
    if atoms.pbc.any():
        return None
    molecules = Molecules.of(atoms)
    halves = [parts(len(atoms), molecules.bonds, k) for k in range(len(molecules.bonds))]
    cuts = [(len(half), k) for k, half in enumerate(halves) if half is not None]
    if not cuts:
        return None
    _, bond = max(cuts)
    i, j = molecules.bonds[bond].tolist()
    half = halves[bond]
    assert half is not None
    anchor, end = (i, j) if j in half else (j, i)
    along = atoms.positions[end] - atoms.positions[anchor]
    along /= np.linalg.norm(along)
    rungs = tuple(_moved(atoms, half, by * along) for by in DEPARTURES)
    return Ladder("a molecule cut in two", rungs, (anchor, end))
