"""What must not change, or must turn with the structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms

from eip.neighbors import build_graph
from eip.potential import Potential
from eip.testing.contract import (
    TOLERANCE,
    Subject,
    as_subject,
    compare,
    moved_copy,
    name_of,
    observe,
    turn,
)


def check_rotation(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Scalars stay, vectors and tensors turn with the structure."""
    _check_orthogonal("rotation", 1.0, as_subject(subject), structures, tolerance, seed)


def check_reflection(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Of a structure and its mirror image too, turned at random besides."""
    _check_orthogonal("reflection", -1.0, as_subject(subject), structures, tolerance, seed)


def _check_orthogonal(
    law: str,
    determinant: float,
    subject: Subject,
    structures: Sequence[Atoms],
    tolerance: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        matrix *= determinant * np.sign(np.linalg.det(matrix))
        compare_turned(law, subject, atoms, matrix, tolerance, name_of(index, atoms))


def compare_turned(
    law: str, subject: Subject, atoms: Atoms, matrix: np.ndarray, tolerance: float, where: str
) -> None:
    """A structure and itself under an orthogonal matrix."""
    turned = moved_copy(atoms, atoms.positions @ matrix.T, atoms.cell.array @ matrix.T)
    expected = turn(observe(subject, atoms), torch.from_numpy(matrix))
    compare(law, expected, observe(subject, turned), tolerance, where)


def check_translation(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Where a structure lies changes nothing."""
    subject, rng = as_subject(subject), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        shift = rng.uniform(-10, 10, 3)
        compare_moved("translation", subject, atoms, shift, tolerance, name_of(index, atoms))


def compare_moved(
    law: str, subject: Subject, atoms: Atoms, shifts: np.ndarray, tolerance: float, where: str
) -> None:
    """A structure and itself, all atoms or each of them moved to where nothing should change."""
    moved = moved_copy(atoms, atoms.positions + shifts)
    compare(law, observe(subject, atoms), observe(subject, moved), tolerance, where)


def check_permutation(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """The order of atoms changes nothing but the order of the results."""
    subject, rng = as_subject(subject), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        order = rng.permutation(len(atoms))
        compare_permuted("permutation", subject, atoms, order, tolerance, name_of(index, atoms))


def compare_permuted(
    law: str,
    subject: Subject,
    atoms: Atoms,
    order: Sequence[int] | np.ndarray,
    tolerance: float,
    where: str,
) -> None:
    """A structure and the same atoms in another order."""
    expected = {
        name: replace(one, values=one.values[order]) if one.by_atom else one
        for name, one in observe(subject, atoms).items()
    }
    compare(law, expected, observe(subject, atoms[order]), tolerance, where)


def check_wrapping(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """An atom and its periodic image are the same atom."""
    subject, rng = as_subject(subject), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        if not atoms.pbc.any():
            continue
        cells_away = rng.integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
        shifts = cells_away @ atoms.cell.array
        compare_moved("wrapping", subject, atoms, shifts, tolerance, name_of(index, atoms))


def check_batching(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Structures of any sizes, predicted together, are what they are one by one."""
    subject, rng = as_subject(subject), np.random.default_rng(seed)
    order = [int(i) for i in rng.permutation(len(structures))]
    together = subject.observe(build_graph([structures[i] for i in order], subject.cutoff))
    atom = 0
    for frame, index in enumerate(order):
        atoms = structures[index]
        part = {
            name: replace(
                one,
                values=one.values[atom : atom + len(atoms)]
                if one.by_atom
                else one.values[frame : frame + 1],
            )
            for name, one in together.items()
        }
        atom += len(atoms)
        compare("batching", observe(subject, atoms), part, tolerance, name_of(index, atoms))


def check_beyond_cutoff(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Edges longer than the cutoff, which a Verlet list brings, change nothing."""
    subject = as_subject(subject)
    for index, atoms in enumerate(structures):
        longer = build_graph(atoms, subject.cutoff + 1.0)
        compare(
            "beyond_cutoff",
            observe(subject, atoms),
            subject.observe(longer),
            tolerance,
            name_of(index, atoms),
        )


def check_supercell(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """A crystal described by a larger cell is the same crystal.

    A cell smaller than the cutoff, where an atom is its own neighbor, has thus a known answer.
    """
    subject = as_subject(subject)
    for index, atoms in enumerate(structures):
        if not atoms.pbc.any():
            continue
        # Grown where it is shortest, and there beyond the cutoff if three cells can do it.
        lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
        axis = int(lengths.argmin())
        times = min(3, max(2, math.ceil(subject.cutoff / lengths[axis])))
        repeats = [1, 1, 1]
        repeats[axis] = times
        single = observe(subject, atoms)
        # A bias may depend on σ of the whole structure in any way: it is not asked.
        expected = {
            name: replace(one, values=one.values.repeat(times, *[1] * (one.values.ndim - 1)))
            if one.by_atom
            else replace(one, values=one.values * (times if one.extensive else 1))
            for name, one in single.items()
            if not name.endswith("_bias") and name != "forces_bias"
        }
        compare(
            "supercell",
            expected,
            observe(subject, atoms.repeat(repeats)),
            tolerance,
            name_of(index, atoms),
        )
