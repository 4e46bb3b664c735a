"""Pieces of a large structure, labelled in its place where only few of its atoms are unknown.

A fragment is the most uncertain atom and all within a radius of it, completed to whole molecules,
in vacuum. Its label is one of a small structure like any other: atoms at its surface see vacuum,
and so they do in the reference method.

No bond is cut: a dangling bond is a radical, with forces and energies of no structure that the
dynamics ever sees. And a fragment must be neutral, since nobody says which piece a charge is on.
So frames are labelled whole where their bonds go on through the faces of the cell (networks,
metals, endless chains), and where they hold what is charged or may be: metals, and molecules
that have an odd number of electrons by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from eip.active_learning.candidates import Cut, Proposal
from eip.active_learning.selection import Window
from eip.active_learning.settings import LearningSettings
from eip.analysis.molecules import Molecules
from eip.data.electrons import electrons_of
from eip.errors import InputError
from eip.neighbors import find_edges
from eip.potential import Potential
from eip.simulation.monitors import COVALENT

#: Bonded are atoms closer than this times the sum of their covalent radii: wide enough for a bond
#: that dynamics stretches and a proton between two molecules, and no hydrogen bond (1.6 and more).
_STRETCH = 1.3
#: Of the atoms of a frame; with more that are uncertain it is labelled whole.
_FEW = 0.25
#: A fragment of more of the frame's atoms is hardly cheaper than the frame.
_MOST = 0.5
#: Elements whose compounds are taken to be molecules: with the noble gases.
_NONMETALS = COVALENT | {2, 10, 18, 36, 54}


def why_whole(start: Atoms) -> str | None:
    """Why frames of dynamics from a start are labelled whole; None: fragments can be cut out.

    Raises:
        InputError: if it says that it has a charge or unpaired electrons.
    """
    own = electrons_of(start)
    if not own.is_plain(start):
        raise InputError(
            f"the structure has charge {own.charge or 0}"
            + (f" and multiplicity {own.multiplicity}" if own.multiplicity else "")
            + ", and nobody can say how much of that a fragment has: leave learn.fragment_radius "
            "empty"
        )
    if metals := sorted({chemical_symbols[z] for z in set(start.numbers.tolist()) - _NONMETALS}):
        return f"it holds {', '.join(metals)}, and a piece with a metal may be charged"
    molecules = Molecules.of(start, _STRETCH)
    if molecules.endless(start):
        return "its bonds go on through the faces of its cell, and no bond is cut"
    if len(molecules.members) == 1:
        return "it is one molecule"
    for members in molecules.members:
        if start.numbers[members].sum() % 2:
            formula = start[members].get_chemical_formula()
            return f"its {formula} has an odd number of electrons: it is an ion or a radical"
    return None


def kept_whole(starts: Mapping[str, Atoms], settings: LearningSettings) -> dict[str, str]:
    """The starts whose frames no fragments are cut out of, and why; none where none are asked for.

    Raises:
        InputError: if a start has a charge, which fragments cannot be given.
    """
    if settings.fragment_radius is None:
        return {}
    reasons = {}
    for name, start in starts.items():
        try:
            reasons[name] = why_whole(start)
        except InputError as error:
            raise InputError(f"start {name}: {error}") from error
    return {name: reason for name, reason in reasons.items() if reason is not None}


def cut_out(atoms: Atoms, around: int, radius: float) -> tuple[Atoms, Cut] | None:
    """The fragment about an atom, in vacuum, the atom that it was cut for where it was.

    A molecule that is close on both sides of a small cell is there twice.

    Returns:
        None where no fragment is to be had: it has an odd number of electrons, more than half of
        the atoms, or no end.

    Args:
        radius: Å, about the atom.
    """
    molecules = Molecules.of(atoms, _STRETCH)
    label = np.empty(len(atoms), dtype=np.int64)
    for number, members in enumerate(molecules.members):
        label[members] = number
    whole = molecules.whole(atoms)
    cell = atoms.cell.complete().array
    # In how many cells from where it is each atom lies in its whole molecule.
    moved = np.rint((whole - atoms.positions) @ np.linalg.inv(cell)).astype(np.int64)
    i, j, shifts = find_edges(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    near = zip(j[i == around], shifts[i == around], strict=True)
    own = (int(label[around]), *(-moved[around]).tolist())
    others = {(int(label[k]), *(shift - moved[k]).tolist()) for k, shift in near} - {own}
    # Its own molecule first: of an atom that is there twice, that one is meant.
    pieces = [own, *sorted(others)]
    parts = [molecules.members[number] for number, *_ in pieces]
    chosen = np.concatenate(parts)
    too_large = len(chosen) > _MOST * len(atoms)
    if too_large or atoms.numbers[chosen].sum() % 2 or molecules.endless(atoms):
        return None
    positions = [whole[m] + np.array(at) @ cell for m, (_, *at) in zip(parts, pieces, strict=True)]
    fragment = Atoms(atoms.numbers[chosen], np.concatenate(positions))
    fragment.info = dict(atoms.info)
    step = int(atoms.info.get("step", -1))
    return fragment, Cut(step, around, len(atoms), tuple(chosen.tolist()))


def typical_size(start: Atoms, radius: float) -> str:
    """How large fragments of a structure are, in words: of some twenty of its atoms."""
    tried = range(0, len(start), max(1, len(start) // 20))
    cuts = [cut_out(start, atom, radius) for atom in tried]
    sizes = sorted(len(fragment) for fragment, _ in filter(None, cuts))
    if not sizes:
        return f"none, its {len(start)} atoms are hardly more than one would have"
    return f"about {sizes[len(sizes) // 2]} of its {len(start)} atoms"


def with_fragments(
    frames: Iterable[Proposal],
    potential: Potential,
    bounds: Window,
    radius: float,
    whole: Set[str] = frozenset(),
) -> list[Proposal]:
    """The frames, with fragments in place of those that have few uncertain atoms.

    A frame stays whole, too, where the atom that it would be cut for is not uncertain any more in
    the fragment, as the potential sees it: the fragment's label would not teach what is missing.

    Args:
        frames: with σ and grade of each atom, as dynamics writes them.
        bounds: of the frames; the upper one was theirs to keep.
        whole: runs whose frames are not cut.
    """
    frames = list(frames)
    cuts: dict[int, tuple[Atoms, Cut]] = {}
    for number, frame in enumerate(frames):
        around = None if frame.origin in whole else _worst(frame.atoms, bounds)
        cut = None if around is None else cut_out(frame.atoms, around, radius)
        if cut is not None:
            cuts[number] = cut
    for number, proposal in _uncertain(frames, cuts, potential, bounds):
        frames[number] = proposal
    return frames


def _worst(atoms: Atoms, bounds: Window) -> int | None:
    """The most uncertain atom of a frame that has few; None where there are none, or many."""
    sigma = atoms.arrays["force_uncertainty"]
    grade = atoms.arrays.get("extrapolation_grade", np.zeros(len(atoms)))
    unknown = bounds.unknown(sigma, grade)
    if not 0 < unknown.sum() <= _FEW * len(atoms):
        return None
    return int(np.argmax(sigma if sigma.max() >= bounds.lower else grade))


def _uncertain(
    frames: Sequence[Proposal],
    cuts: dict[int, tuple[Atoms, Cut]],
    potential: Potential,
    bounds: Window,
) -> Iterable[tuple[int, Proposal]]:
    """The fragments, by their frames' numbers, in which the atom in question is still uncertain."""
    if not cuts:
        return
    predicted = potential.predict([fragment for fragment, _ in cuts.values()])
    assert predicted.force_uncertainty is not None  # dynamics wrote it
    sigma = predicted.force_uncertainty.numpy().astype(np.float64)
    grade = np.zeros_like(sigma)
    if predicted.extrapolation_grade is not None:
        grade = predicted.extrapolation_grade.numpy().astype(np.float64)
    first = 0
    for number, (fragment, cut) in cuts.items():
        at = first + cut.atoms.index(cut.around)
        first += len(fragment)
        if bounds.unknown(sigma[at : at + 1], grade[at : at + 1])[0]:
            origin = frames[number].origin
            yield number, Proposal(fragment, origin, float(sigma[at]), cut)
