"""The structures of the benchmarks: made here from a seed, so that no file is needed.

Needs NumPy and ASE alone: the workers of the peers read them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.collections import g2
from ase.data import atomic_masses

#: g/cm³, liquid water at 298 K.
WATER_DENSITY = 0.997
#: Å; standard deviation of a molecule's distance from its lattice point, along each axis.
DISORDER = 0.2


def water_box(per_side: int, seed: int = 0) -> Atoms:
    """``per_side``³ water molecules in a cube at the density of the liquid, periodic.

    Molecules of random orientation stand near the points of a cubic lattice: no liquid's structure,
    but its density, and so its number of neighbors.
    """
    rng = np.random.default_rng(seed)
    template = molecule("H2O")
    template.positions -= template.get_center_of_mass()
    mass = atomic_masses[template.numbers].sum() / units.kg * 1e3  # g
    spacing = (mass / WATER_DENSITY * 1e24) ** (1 / 3)
    points = np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centers = spacing * points + DISORDER * rng.standard_normal(points.shape)
    positions = np.einsum("mab,nb->mna", _rotations(len(points), rng), template.positions)
    return Atoms(
        numbers=np.tile(template.numbers, len(points)),
        positions=(positions + centers[:, None]).reshape(-1, 3),
        cell=[spacing * per_side] * 3,
        pbc=True,
    )


def _rotations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniformly distributed rotations, ``[count, 3, 3]``, from unit quaternions."""
    q = rng.standard_normal((count, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def small_molecules(count: int, seed: int = 0, rattle: float = 0.05) -> list[Atoms]:
    """Molecules of three atoms and more, of H, C, N and O: the G2 set in turn, shaken."""
    rng = np.random.default_rng(seed)
    known = [g2[name] for name in g2.names]
    known = [m for m in known if len(m) >= 3 and set(m.numbers) <= {1, 6, 7, 8}]
    out = []
    for index in range(count):
        atoms = Atoms(known[index % len(known)].numbers, known[index % len(known)].positions)
        atoms.positions += rattle * rng.standard_normal(atoms.positions.shape)
        out.append(atoms)
    return out


class Motion:
    """Positions of an MD run at 300 K, without the forces that nobody has trained.

    Atoms fly freely at thermal speeds in steps of 0.5 fs and turn round every 10 fs: they stay
    where they are, yet move by more than the skin of a Verlet list, so that its rebuilds are part
    of what is measured (more of them than in a liquid, whose atoms turn sooner).
    """

    STEP = 0.5 * units.fs
    TURN = 20

    def __init__(self, atoms: Atoms, seed: int = 0) -> None:
        masses = atomic_masses[atoms.numbers][:, None]
        rng = np.random.default_rng(seed)
        speed = np.sqrt(units.kB * 300 / masses)
        self._shift = self.STEP * speed * rng.standard_normal((len(atoms), 3))
        self._start, self._step = atoms.positions.copy(), 0

    def next(self) -> np.ndarray:
        """Positions one step later, ``[atoms, 3]``, Å."""
        self._step += 1
        phase = self._step % (2 * self.TURN)
        return self._start + min(phase, 2 * self.TURN - phase) * self._shift


def save(path: Path, structures: Sequence[Atoms]) -> None:
    """Writes structures to an .npz file."""
    np.savez(
        path,
        counts=[len(s) for s in structures],
        numbers=np.concatenate([s.numbers for s in structures]),
        positions=np.concatenate([s.positions for s in structures]),
        cell=[s.cell.array for s in structures],
        pbc=[s.pbc for s in structures],
    )


def load(path: str | Path) -> list[Atoms]:
    """Reads what `save` wrote."""
    with np.load(path) as file:
        ends = np.cumsum(file["counts"])[:-1]
        parts = zip(
            np.split(file["numbers"], ends),
            np.split(file["positions"], ends),
            file["cell"],
            file["pbc"],
            strict=True,
        )
        return [Atoms(n, x, cell=cell, pbc=pbc) for n, x, cell, pbc in parts]
