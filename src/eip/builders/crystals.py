"""Crystals from published experimental structures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal

from eip.errors import InputError

#: Olivine LiFePO4, space group 62 (Pnma, standard setting), single-crystal X-ray diffraction at
#: room temperature: V. A. Streltsov, E. L. Belokoneva, V. G. Tsirelson, N. K. Hansen, Acta Cryst.
#: B49 (1993) 147-153. Å; Wyckoff sites 4a (Li), 4c (Fe, P, O1, O2), 8d (O3).
_LIFEPO4_CELL = (10.332, 6.010, 4.692, 90.0, 90.0, 90.0)
_LIFEPO4_SITES = (
    ("Li", (0.0, 0.0, 0.0)),
    ("Fe", (0.28222, 0.25, 0.97472)),
    ("P", (0.09486, 0.25, 0.41820)),
    ("O", (0.0968, 0.25, 0.7428)),
    ("O", (0.4571, 0.25, 0.2060)),
    ("O", (0.1656, 0.0465, 0.2848)),
)


def lifepo4(supercell: Sequence[int] = (1, 1, 1), *, vacancies: int = 0, seed: int = 0) -> Atoms:
    """Olivine LiFePO4, 28 atoms a cell, at the experimental geometry; 1 × 2 × 3 cells have 168.

    Args:
        supercell: cells along a, b (the direction in which Li moves) and c.
        vacancies: Li atoms taken out, at random by ``seed``: delithiation towards FePO4. The
            lattice stays that of LiFePO4 (FePO4's is 6.6 % smaller in volume).

    Raises:
        InputError: if the supercell is not three positive numbers or has too few Li.
    """
    if len(supercell) != 3 or min(supercell) < 1:
        raise InputError(f"supercell expects three numbers from 1, got {tuple(supercell)}")
    symbols, sites = zip(*_LIFEPO4_SITES, strict=True)
    built = crystal(symbols, sites, spacegroup=62, cellpar=_LIFEPO4_CELL).repeat(tuple(supercell))
    atoms = Atoms(built.numbers, built.positions, cell=built.cell, pbc=True)
    lithium = np.flatnonzero(atoms.symbols == "Li")
    if not 0 <= vacancies <= len(lithium):
        raise InputError(
            f"vacancies expects 0 to {len(lithium)}, the Li atoms of {tuple(supercell)} cells, "
            f"got {vacancies}"
        )
    del atoms[np.random.default_rng(seed).permutation(lithium)[:vacancies].tolist()]
    return atoms
