"""Polymer melts: chains grown in the periodic box at its final density, then relaxed.

Growing in the box (D. N. Theodorou, U. W. Suter, Macromolecules 18 (1985) 1467) gives chains that
pass the box's faces as those of a melt do. Packing grown chains as rigid bodies (Packmol) was
tried: at a melt's density coils have to interpenetrate, and rigid ones cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from jaxtyping import Float

from eip.builders.mechanics import Mechanics, Topology, far_pairs
from eip.errors import InputError

#: Å and degrees, as in crystals and gases of siloxanes; Si–O–Si and O–Si–O of PDMS are those of
#: P. J. Flory, V. Crescenzi, J. E. Mark, J. Am. Chem. Soc. 86 (1964) 146.
_LENGTHS = {"OSi": 1.64, "CSi": 1.87, "CH": 1.09, "HO": 0.96}
_ANGLES = {
    "OSiO": 110.0, "SiOSi": 143.0, "COSi": 109.5, "CSiO": 109.5, "CSiC": 109.5,
    "HCSi": 110.5, "HCH": 108.4, "HOSi": 115.0,
}  # fmt: skip
#: eV/Å² and eV: stiff enough to hold the shape, soft enough for steps of 1 fs. Si–O–Si is known
#: for being soft.
_BOND_CONSTANT, _ANGLE_CONSTANT, _SOFT_ANGLE = 25.0, 4.0, 1.0
#: Statistical weight of gauche against trans of the backbone at 343 K, same source.
_GAUCHE = 0.286
_SPREAD = 20.0  # degrees, round trans and gauche
_CANDIDATES = 40
#: Heavy atoms of other units closer than this, Å, are in each other's way while chains grow.
_ROOM = 3.6
#: Caps of the repulsion of a pair, eV/Å, one after the other: with the first, backbones that cross
#: pass through each other at `_HOT` K; the last is none.
_CAPS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_BARE = 1e4
_PUSH_STEPS, _REST_STEPS = 400, 500
#: Backbones that are hooked into each other stretch bonds; while one is stretched by more than this
#: share, chains are let through each other again, so many times at most.
_SLACK, _ROUNDS, _AGAIN_STEPS = 0.05, 4, 200
_HOT = 600.0
#: What is refused: Å, of atoms more than two bonds apart, and change of a bond's length.
_CLOSEST, _STRAINED = 1.8, 0.1

_Vector = Float[np.ndarray, "3"]


@dataclass
class _Chain:
    """Symbols and positions in the order in which they are grown, and what each is bonded to."""

    symbols: list[str] = field(default_factory=list)
    positions: list[_Vector] = field(default_factory=list)
    bonds: list[tuple[int, int]] = field(default_factory=list)

    def add(self, symbol: str, position: _Vector, to: int | None = None) -> int:
        self.symbols.append(symbol)
        self.positions.append(position)
        if to is not None:
            self.bonds.append((to, len(self.symbols) - 1))
        return len(self.symbols) - 1


def pdms(
    chains: int,
    units_per_chain: int,
    density: float = 0.97,
    *,
    anneal_ps: float = 2.0,
    seed: int = 0,
    tick: Callable[[float], None] = lambda share: None,
) -> Atoms:
    """A periodic cube of poly(dimethylsiloxane), HO–[Si(CH3)2–O]n–H: 10 n + 3 atoms a chain.

    Chains are whole, that is, they leave the cell where they cross its faces. Per chain: backbone
    O, Si, O … with the two C of each Si after it, then all hydrogens.

    Args:
        units_per_chain: n.
        density: g/cm³; PDMS has 0.97.
        anneal_ps: dynamics at 600 K, after the chains have been pushed apart.
        tick: is told what share of the relaxation is done.

    Raises:
        InputError: if there is no chain or unit, or the density is so high that atoms cannot be
            kept apart.
    """
    for name, value in (("chains", chains), ("units", units_per_chain)):
        if value < 1:
            raise InputError(f"{name} expects a number from 1, got {value}")
    if not 0.0 < density <= 2.0:
        raise InputError(f"density expects g/cm³, more than 0 and up to 2, got {density}")
    if anneal_ps < 0.0:
        raise InputError(f"anneal_ps expects ps from 0, got {anneal_ps}")
    rng = np.random.default_rng(seed)
    formula = f"(Si(CH3)2O){units_per_chain}H2O"
    side = (chains * Atoms(formula).get_masses().sum() / (density * units._Nav * 1e-24)) ** (1 / 3)
    grown = _grow(chains, units_per_chain, side, rng)
    atoms = Atoms(cell=[side] * 3, pbc=True)
    bonds = []
    for chain in grown:
        bonds += [(i + len(atoms), j + len(atoms)) for i, j in chain.bonds]
        atoms += Atoms(chain.symbols, chain.positions)
    topology = _topology(atoms, np.array(bonds))
    _relax(atoms, topology, anneal_ps, rng, tick)
    closest, strain = closest_contact(atoms, topology), largest_strain(atoms, topology)
    if closest < _CLOSEST or strain > _STRAINED:
        raise InputError(
            f"at {density} g/cm³ the chains cannot be kept apart: after relaxation atoms that are "
            f"not bonded are {closest:.2f} Å from each other ({_CLOSEST} is the least) and a bond "
            f"is {100 * strain:.0f} % off its length ({100 * _STRAINED:.0f} is the most); lower "
            f"the density or try another seed"
        )
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def closest_contact(atoms: Atoms, topology: Topology) -> float:
    """The least distance of atoms more than two bonds apart, images included; at most 4 Å."""
    i, j, offsets = far_pairs(atoms, topology.near_pairs(len(atoms)), 4.0)
    vectors = atoms.positions[j] + offsets - atoms.positions[i]
    return float(np.linalg.norm(vectors, axis=1).min(initial=4.0))


def largest_strain(atoms: Atoms, topology: Topology) -> float:
    """By what share the most strained bond is longer or shorter than it wants to be."""
    i, j = topology.bonds.T
    lengths = np.linalg.norm(atoms.positions[j] - atoms.positions[i], axis=1)
    return float(np.abs(lengths / topology.lengths - 1.0).max())


# --- growing -------------------------------------------------------------------------------------


def _grow(chains: int, count: int, side: float, rng: np.random.Generator) -> list[_Chain]:
    grown = [_begin(rng.uniform(0, side, 3), rng) for _ in range(chains)]
    # All chains by one unit at a time: the last one would else find no room.
    for _ in range(count - 1):
        for chain in grown:
            # The last Si(C)2–O and the O before it are bonded to what is added, or nearly.
            others = [at for c in grown for at in (c.positions[:-5] if c is chain else c.positions)]
            _extend(chain, np.reshape(others, (-1, 3)), side, rng)
    for chain in grown:
        _add_hydrogens(chain, rng)
    return grown


def _begin(at: _Vector, rng: np.random.Generator) -> _Chain:
    """O–Si(C)2–O, somehow turned."""
    chain = _Chain()
    first = chain.add("O", at)
    silicon = chain.add("Si", at + _LENGTHS["OSi"] * _direction(rng), first)
    aside = chain.positions[silicon] + _direction(rng)
    oxygen = _place(aside, at, chain.positions[silicon], "OSi", "OSiO", rng.uniform(0, 360))
    _close_unit(chain, silicon, first, oxygen)
    return chain


def _close_unit(chain: _Chain, silicon: int, before: int, oxygen: _Vector) -> None:
    for carbon in _methyls(chain.positions[before], chain.positions[silicon], oxygen):
        chain.add("C", carbon, silicon)
    chain.add("O", oxygen, silicon)


def _extend(
    chain: _Chain,
    others: Float[np.ndarray, "others 3"],
    side: float,
    rng: np.random.Generator,
) -> None:
    """One more Si(C)2–O, turned where there is most room, with the backbone's statistics."""
    # The order within a unit is Si, C, C, O.
    oxygen, silicon = len(chain.symbols) - 1, len(chain.symbols) - 4
    before = chain.bonds[silicon - 1][0]
    p_before, p_silicon, p_oxygen = (chain.positions[i] for i in (before, silicon, oxygen))
    found, crowding = [], np.empty(_CANDIDATES)
    for n in range(_CANDIDATES):
        next_si = _place(p_before, p_silicon, p_oxygen, "OSi", "SiOSi", _torsion(rng))
        next_o = _place(p_silicon, p_oxygen, next_si, "OSi", "OSiO", _torsion(rng))
        unit = np.array([next_si, *_methyls(p_oxygen, next_si, next_o), next_o])
        away = unit[:, None] - others[None]
        away -= side * np.round(away / side)
        distances = np.linalg.norm(away, axis=2)
        crowding[n] = (np.maximum(0.0, 1.0 - distances / _ROOM) ** 2).sum()
        found.append(unit)
    weights = np.exp(-(crowding - crowding.min()) / 0.02)
    silicon_at, *carbons, oxygen_at = found[rng.choice(_CANDIDATES, p=weights / weights.sum())]
    added = chain.add("Si", silicon_at, oxygen)
    for carbon in carbons:
        chain.add("C", carbon, added)
    chain.add("O", oxygen_at, added)


def _torsion(rng: np.random.Generator) -> float:
    weights = np.array([1.0, _GAUCHE, _GAUCHE])
    state = rng.choice([180.0, 60.0, -60.0], p=weights / weights.sum())
    return float(state + rng.normal(scale=_SPREAD))


def _add_hydrogens(chain: _Chain, rng: np.random.Generator) -> None:
    positions, parent = chain.positions, {j: i for i, j in chain.bonds}
    heavy = len(chain.symbols)
    silicon = {i: j for i, j in chain.bonds if i == 0}[0]
    # From the other end, for the first oxygen is bonded to nothing before it.
    first = _place(positions[silicon + 1], positions[silicon], positions[0], "HO", "HOSi", 180.0)
    chain.add("H", first, 0)
    for i in range(heavy):
        if chain.symbols[i] == "C":
            at, turn = parent[i], rng.uniform(0, 360)
            for torsion in (turn, turn + 120.0, turn + 240.0):
                h = _place(
                    positions[parent[at]], positions[at], positions[i], "CH", "HCSi", torsion
                )
                chain.add("H", h, i)
    last, at = heavy - 1, parent[heavy - 1]
    chain.add(
        "H",
        _place(positions[parent[at]], positions[at], positions[last], "HO", "HOSi", 180.0),
        last,
    )


def _direction(rng: np.random.Generator) -> _Vector:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _place(a: _Vector, b: _Vector, c: _Vector, bond: str, angle: str, torsion: float) -> _Vector:
    """The atom d with the length c–d, the angle b–c–d and the torsion a–b–c–d (degrees)."""
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    bend, turn = np.radians(_ANGLES[angle]), np.radians(torsion)
    across = np.cross(normal, along)
    return c + _LENGTHS[bond] * (
        -np.cos(bend) * along + np.sin(bend) * (np.cos(turn) * across + np.sin(turn) * normal)
    )


def _methyls(before: _Vector, silicon: _Vector, after: _Vector) -> tuple[_Vector, _Vector]:
    """The two C of a Si between two O: the other two corners of its tetrahedron."""
    one, two = (v / np.linalg.norm(v) for v in (before - silicon, after - silicon))
    opposite = -(one + two)
    opposite /= np.linalg.norm(opposite)
    normal = np.cross(one, two)
    normal /= np.linalg.norm(normal)
    half = np.radians(_ANGLES["CSiC"] / 2)
    length = _LENGTHS["CSi"]
    spine, arm = length * np.cos(half) * opposite, length * np.sin(half) * normal
    return silicon + spine + arm, silicon + spine - arm


# --- relaxing ------------------------------------------------------------------------------------


def _topology(atoms: Atoms, bonds: np.ndarray) -> Topology:
    """Every bond, and every angle of two bonds with an atom in common."""
    symbols = list(atoms.symbols)
    neighbors: list[list[int]] = [[] for _ in symbols]
    for i, j in bonds.tolist():
        neighbors[i].append(j)
        neighbors[j].append(i)
    angles = np.array(
        [
            (i, vertex, k)
            for vertex, around in enumerate(neighbors)
            for n, i in enumerate(around)
            for k in around[n + 1 :]
        ]
    )
    lengths = [_LENGTHS["".join(sorted((symbols[i], symbols[j])))] for i, j in bonds]
    kinds = [_kind(symbols[i], symbols[j], symbols[k]) for i, j, k in angles]
    cosines = np.cos(np.radians([_ANGLES[kind] for kind in kinds]))
    soft = np.array([kind == "SiOSi" for kind in kinds])
    constants = np.where(soft, _SOFT_ANGLE, _ANGLE_CONSTANT)
    return Topology(
        bonds=bonds,
        lengths=np.array(lengths),
        bond_constants=np.full(len(bonds), _BOND_CONSTANT),
        angles=angles,
        cosines=cosines,
        # ½ K (cos θ − cos θ0)² bends like ½ k (θ − θ0)² with K = k / sin² θ0.
        angle_constants=constants / (1.0 - cosines**2),
    )


def _kind(first: str, vertex: str, last: str) -> str:
    first, last = sorted((first, last))
    return f"{first}{vertex}{last}"


def _relax(
    atoms: Atoms,
    topology: Topology,
    anneal_ps: float,
    rng: np.random.Generator,
    tick: Callable[[float], None],
) -> None:
    push = (*((cap, _PUSH_STEPS) for cap in _CAPS), (_BARE, round(1000.0 * anneal_ps)))
    again = tuple((cap, _AGAIN_STEPS) for cap in (*_CAPS[2:], _BARE))
    stages = [push, *[again] * _ROUNDS]
    whole = sum(steps for stage in stages for _, steps in (*stage, (0.0, _REST_STEPS)))
    done = 0
    MaxwellBoltzmannDistribution(atoms, temperature_K=_HOT, rng=rng)
    for stage in stages:
        for cap, steps in stage:
            atoms.calc = Mechanics(atoms, topology, cap)
            FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=1.0, steps=50)
            dynamics = Langevin(
                atoms, units.fs, temperature_K=_HOT, friction=0.05 / units.fs, fixcm=False, rng=rng
            )
            for n, _ in enumerate(dynamics.irun(steps)):
                tick((done + n) / whole)
            done += steps
        for n, _ in enumerate(FIRE(atoms, logfile=None).irun(fmax=0.05, steps=_REST_STEPS)):
            tick((done + n) / whole)
        done += _REST_STEPS
        if largest_strain(atoms, topology) <= _SLACK:
            break
    tick(1.0)
    atoms.calc = None
