"""Structures to hold laws against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from eip.testing.contract import (
    moved_copy,
)


def example_structures(elements: Sequence[int], cutoff: float, *, seed: int = 0) -> list[Atoms]:
    """Made-up structures where implementations go wrong, of up to four of the elements.

    A molecule; one with a dummy cell; a triclinic crystal smaller than the cutoff, with atoms
    outside their cell; a left-handed cell; a slab; a single atom; a crystal of one atom.
    """
    rng = np.random.default_rng(seed)
    elements = list(elements)
    if len(elements) > 4:
        elements = sorted(int(z) for z in rng.choice(elements, 4, replace=False))
    radius = max(float(covalent_radii[z]) for z in elements)
    triclinic = np.array([[1.0, 0.0, 0.0], [0.3, 0.95, 0.0], [-0.25, 0.2, 1.05]])
    small = triclinic * 0.8 * cutoff
    many = [elements[i % len(elements)] for i in range(7)]
    few = many[: max(2, min(3, len(elements)))]

    molecule = pack(many, np.eye(3) * 5.2 * radius, [False] * 3, rng)
    dummy = moved_copy(molecule, molecule.positions[::-1] * 1.02, np.eye(3) * 2.0)
    crystal = pack(few, small, [True] * 3, rng)
    crystal.positions += rng.integers(-2, 3, size=(len(crystal), 3)) @ small
    left_handed = pack(few, small[[1, 0, 2]] * 1.1, [True] * 3, rng)
    slab = pack(few, small, [True, False, True], rng)
    one_in_cell = Atoms([elements[0]], cell=0.8 * small, pbc=True, positions=[[0.1, 0.2, 0.3]])
    alone = Atoms([elements[-1]], positions=[[1.0, 2.0, 3.0]])
    return [molecule, dummy, crystal, left_handed, slab, one_in_cell, alone]


def pack(
    numbers: Sequence[int], cell: np.ndarray, pbc: Sequence[bool], rng: np.random.Generator
) -> Atoms:
    """Random atoms no closer than a short bond; the demand is lowered until they fit."""
    radii = np.array([covalent_radii[z] for z in numbers])
    shortest = 0.95
    placed: list[np.ndarray] = []
    while len(placed) < len(numbers):
        i = len(placed)
        for _ in range(200):
            trial = rng.random(3) @ cell
            if i == 0:
                break
            images = np.stack(
                np.meshgrid(*[(-1, 0, 1) if p else (0,) for p in pbc], indexing="ij"), axis=-1
            ).reshape(-1, 3)
            gaps = trial - np.array(placed)[:, None] - (images @ cell)[None]
            distances = np.linalg.norm(gaps, axis=2).min(axis=1)
            if (distances > shortest * (radii[:i] + radii[i])).all():
                break
        else:
            placed, shortest = [], 0.9 * shortest
            continue
        placed.append(trial)
    return Atoms(numbers=numbers, positions=np.array(placed), cell=cell, pbc=pbc)
