"""Boxes of liquid, from a classical force field."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.tip3p import TIP3P, angleHOH, rOH
from ase.constraints import FixBondLengths
from ase.md.langevin import Langevin

from eip.errors import InputError

#: fs and share of the melting: gently at first, for molecules on a grid are too close in places.
_STAGES = ((0.5, 0.1), (2.0, 0.9))


def water(
    molecules: int,
    density: float = 1.0,
    *,
    melt_ps: float = 1.0,
    temperature: float = 330.0,
    seed: int = 0,
    tick: Callable[[float], None] = lambda share: None,
) -> Atoms:
    """A periodic cube of liquid water: molecules turned at random on a grid, then melted.

    Melting is Langevin dynamics of rigid TIP3P: hydrogen bonds are there, and the memory of the
    grid goes within about 1 ps. Atoms are in the order O, H, H of each molecule,
    molecules whole.

    Args:
        density: g/cm³.
        melt_ps: length of the dynamics; with 0 the molecules stay on their grid.
        temperature: of the melting, K.
        tick: is told what share of the melting is done.

    Raises:
        InputError: if there are fewer than two molecules, or the density is not within 0 to 2.
    """
    if molecules < 2:
        raise InputError(f"molecules expects a number from 2, got {molecules}")
    if not 0.0 < density <= 2.0:
        raise InputError(f"density expects g/cm³, more than 0 and up to 2, got {density}")
    if not 0.0 <= melt_ps < np.inf:
        raise InputError(f"melt_ps expects ps from 0, got {melt_ps}")
    if not 0.0 < temperature < np.inf:
        raise InputError(f"temperature expects K, more than 0, got {temperature}")
    rng = np.random.default_rng(seed)
    box = _on_grid(molecules, density, rng)
    if melt_ps > 0.0:
        _melt(box, melt_ps, temperature, rng, tick)
    return Atoms(box.numbers, box.positions, cell=box.cell, pbc=True)


def _on_grid(molecules: int, density: float, rng: np.random.Generator) -> Atoms:
    one = molecule("H2O")
    one.set_angle(1, 0, 2, angleHOH)
    one.set_distance(0, 1, rOH, fix=0)
    one.set_distance(0, 2, rOH, fix=0)
    # u/Å³ in g/cm³ is u in 1.66 × 10⁻²⁴ g over 10⁻²⁴ cm³.
    side = (molecules * one.get_masses().sum() / (density * units._Nav * 1e-24)) ** (1 / 3)
    cells = int(np.ceil(np.cbrt(molecules) - 1e-9))
    sites = np.array(list(np.ndindex(cells, cells, cells)))
    # Of too many sites, those left empty are spread at random.
    sites = sites[np.sort(rng.permutation(len(sites))[:molecules])] * side / cells
    box = Atoms(cell=[side] * 3, pbc=True)
    for site in sites:
        turned = one.copy()
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3), center=one.positions[0])
        turned.translate(site - one.positions[0])
        box += turned
    return box


def _melt(
    box: Atoms,
    picoseconds: float,
    temperature: float,
    rng: np.random.Generator,
    tick: Callable[[float], None],
) -> None:
    oxygens = range(0, len(box), 3)
    pairs = [(o + i, o + j) for o in oxygens for i, j in ((0, 1), (0, 2), (1, 2))]
    box.set_constraint(FixBondLengths(pairs, tolerance=1e-5))
    # Less than half of the box, its last part smoothed.
    box.calc = TIP3P(rc=min(5.0, 0.49 * box.cell.lengths().min()), width=0.5)
    steps = [max(1, round(1000.0 * picoseconds * share / fs)) for fs, share in _STAGES]
    done = 0
    for (fs, _), count in zip(_STAGES, steps, strict=True):
        dynamics = Langevin(
            box,
            fs * units.fs,
            temperature_K=temperature,
            friction=0.05 / units.fs,
            fixcm=False,
            rng=rng,
        )
        for _ in dynamics.irun(count):
            done += 1
            tick(min(1.0, done / sum(steps)))
    box.set_constraint()
    box.calc = None
