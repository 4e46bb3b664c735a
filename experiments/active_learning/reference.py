"""xTB as the reference method of these experiments: labels, and its own dynamics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from eip.active_learning.labelers import labelled_copy


def calculator(method: str = "GFN2-xTB") -> Any:
    from tblite.ase import TBLite

    return TBLite(method=method, verbosity=0)


def labelled(atoms: Atoms, method: str = "GFN2-xTB") -> Atoms:
    """A copy with energy and forces, without constraints."""
    found = atoms.copy()
    found.set_constraint()
    found.calc = calculator(method)
    return labelled_copy(found, found.get_potential_energy(), found.get_forces())


def dynamics(
    start: Atoms,
    temperature: float,
    frames: int,
    rng: np.random.Generator,
    *,
    every: int,
    timestep_fs: float,
    friction_per_fs: float = 0.01,
    method: str = "GFN2-xTB",
) -> Iterator[Atoms]:
    """Labelled frames of Langevin dynamics, K, each so many steps after the last."""
    atoms = Atoms(start.numbers, start.positions)
    atoms.calc = calculator(method)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    run = Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature,
        friction=friction_per_fs / units.fs,
        rng=rng,
    )
    for _ in range(frames):
        run.run(every)
        yield labelled_copy(atoms, atoms.get_potential_energy(), atoms.get_forces())
