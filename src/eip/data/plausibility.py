"""What a chemist would see at once in a data set, and no reader can call an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa
from jaxtyping import Float64, Int, Int64, UInt64

from eip.data.store import FrameStore

#: Stress times volume, eV an atom, of half of the frames and of any frame. Half of MPtrj's have
#: 0.06, of sets of up to 1 TPa 3, and 46 at most; a stress in GPa that was taken for one in eV/Å³
#: is 160 times too large.
HIGH_STRESS, MOST_STRESS = 5.0, 60.0
#: Norm of a force, in RMS of the components of all other frames.
MOST_FORCE = 20.0
#: A chemical bond, eV: energies an atom of one composition that differ by more are not of one
#: method, or not in one unit.
BOND = 5.0

# Two frames are one where three random sums of coordinates, numbers and cells agree so well, Å.
_SAME, _SUMS = 1e-4, 3
# Atoms further on in a frame take the random weights of earlier ones.
_WEIGHTS = 2**16
# Energies of one structure that differ by more are two, eV an atom.
_OTHER_ENERGY = 1e-3


class DataWarning(UserWarning):
    """Something in a data set looks wrong."""


@dataclass(frozen=True)
class _Set:
    """What is looked at, of each frame of a set; not a number where it has no such label."""

    name: str
    store: FrameStore
    frames: Int64[np.ndarray, "frames"]
    sums: Float64[np.ndarray, "frames sums"]
    composition: UInt64[np.ndarray, "frames"]
    #: eV/atom
    energy: Float64[np.ndarray, "frames"]
    #: Largest norm, eV/Å, and sum of squared components.
    force: Float64[np.ndarray, "frames"]
    squares: Float64[np.ndarray, "frames"]
    #: Largest component, eV/Å³, and its size times the volume of an atom, eV.
    stress: Float64[np.ndarray, "frames"]
    strain: Float64[np.ndarray, "frames"]

    def source(self, position: int) -> str:
        return self.store.source(int(self.frames[position]))


def find_doubts(
    sets: Mapping[str, tuple[FrameStore, Int[np.ndarray, "frames"] | None]],
) -> list[str]:
    """Sentences on what looks wrong in sets of frames, each by itself and beside the others.

    Looked for are stresses too large for their cells, forces far beyond the rest, frames that are
    there twice (in a set, or in two of them), energies per atom of one composition that differ
    by more than a chemical bond, and charges that differ, of which no network knows. One pass over
    the disk; some 100 bytes of memory a frame.

    Args:
        sets: by name ("train", "test"), a store and which of its frames are meant; all: None.
    """
    looked = [_look(name, store, which) for name, (store, which) in sets.items()]
    found = []
    for one in looked:
        where = f" ({one.name} frames)" if len(looked) > 1 else ""
        texts = (_large_stress(one), _large_forces(one), _odd_energies(one), _charges(one))
        found += [f"{text}{where}" for text in texts if text]
    return found + _twice(looked)


def _charges(one: _Set) -> str:
    said = one.store.said_electrons[one.frames]
    charges = np.array([electrons.charge or 0 for electrons in one.store.electrons] + [0])[said]
    found, counts = np.unique(charges, return_counts=True)
    if len(found) < 2:
        return ""
    told = ", ".join(f"{n} of {charge:+d}" for charge, n in zip(found, counts, strict=True))
    return (
        f"frames have different charges ({told}): a network sees elements and places alone, and "
        "will take their energies for one another's"
    )


def _look(name: str, store: FrameStore, which: Int[np.ndarray, "frames"] | None) -> _Set:
    frames = np.arange(len(store)) if which is None else np.asarray(which, dtype=np.int64)
    n = len(frames)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(min(_WEIGHTS, int(store.n_atoms[frames].max())), 4, _SUMS))
    of_cell = rng.normal(size=(9, _SUMS))
    of_element = rng.integers(0, 2**63, 256, dtype=np.uint64)
    sums, composition = np.empty((n, _SUMS)), np.empty(n, dtype=np.uint64)
    force, squares = np.full(n, np.nan), np.full(n, np.nan)
    stress, strain = np.full(n, np.nan), np.full(n, np.nan)
    at = 0
    for block in store.blocks(frames):
        here = slice(at, at + len(block))
        at += len(block)
        sizes = store.n_atoms[block]
        rows, _ = store.atoms_of(block)
        starts = np.cumsum(sizes) - sizes
        within = (np.arange(len(rows)) - np.repeat(starts, sizes)) % len(weights)
        numbers = np.asarray(store.column("numbers")[rows])
        own = np.column_stack([store.column("positions")[rows], numbers])
        cell = store.column("cell")[block]
        sums[here] = np.add.reduceat(np.einsum("ak,aks->as", own, weights[within]), starts)
        sums[here] += cell.reshape(-1, 9) @ of_cell
        composition[here] = np.add.reduceat(of_element[numbers], starts)
        square = (store.column("forces")[rows] ** 2).sum(axis=1)  # NaN where there are none
        force[here] = np.sqrt(np.maximum.reduceat(square, starts))
        squares[here] = np.add.reduceat(square, starts)
        stress[here] = np.abs(store.column("stress")[block]).max(axis=(1, 2))
        strain[here] = stress[here] * np.abs(np.linalg.det(cell)) / sizes
    energy = np.where(store.has("energy")[frames], store.energies[frames], np.nan)
    return _Set(
        name,
        store,
        frames,
        sums,
        composition,
        energy / store.n_atoms[frames],
        force,
        squares,
        stress,
        strain,
    )


def _large_stress(one: _Set) -> str:
    labelled = one.strain[np.isfinite(one.strain)]
    if not len(labelled):
        return ""
    most = HIGH_STRESS if np.median(labelled) > HIGH_STRESS else MOST_STRESS
    large = np.flatnonzero(one.strain > most)
    if not len(large):
        return ""
    worst = int(large[one.strain[large].argmax()])
    return (
        f"the stress of {len(large)} of {len(labelled)} frames is too large for "
        f"the cell: {one.stress[worst]:.4g} eV/Å³, which is {one.stress[worst] / GPa:.4g} GPa, in "
        f"{one.source(worst)}, where it makes {one.strain[worst]:.3g} eV an atom; if the file is "
        "in GPa or kbar, say so by stress_unit"
    )


def _large_forces(one: _Set) -> str:
    labelled = np.isfinite(one.squares)
    sizes = one.store.n_atoms[one.frames]
    total, components = one.squares[labelled].sum(), 3 * sizes[labelled].sum()
    others = components - 3 * sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = np.sqrt((total - one.squares) / others)
        large = np.flatnonzero(labelled & (others > 0) & (one.force > MOST_FORCE * rms) & (rms > 0))
    if not len(large):
        return ""
    worst = int(large[one.force[large].argmax()])
    return (
        f"{len(large)} frames have forces beyond {MOST_FORCE:.0f} times the RMS of the others: "
        f"{one.force[worst]:.4g} eV/Å in {one.source(worst)}, RMS {rms[worst]:.3g}"
    )


def _odd_energies(one: _Set) -> str:
    labelled = np.flatnonzero(np.isfinite(one.energy))
    if not len(labelled):
        return ""
    sizes = one.store.n_atoms[one.frames]
    order = labelled[np.lexsort((one.energy[labelled], sizes[labelled], one.composition[labelled]))]
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(one.composition[order]).astype(bool) | np.diff(sizes[order]).astype(bool)
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(order)) - 1
    spread = one.energy[order[last]] - one.energy[order[first]]
    wide = np.flatnonzero(spread > BOND)
    if not len(wide):
        return ""
    worst = int(wide[spread[wide].argmax()])
    low, high = int(order[first[worst]]), int(order[last[worst]])
    counts = np.bincount(one.store[int(one.frames[low])].numbers)
    formula = "".join(
        f"{chemical_symbols[z]}{counts[z] if counts[z] > 1 else ''}" for z in np.flatnonzero(counts)
    )
    return (
        f"energies of {len(wide)} compositions differ by more than a chemical bond an atom: "
        f"{formula} has {one.energy[low]:.6g} eV an atom in {one.source(low)} and "
        f"{one.energy[high]:.6g} in {one.source(high)}"
    )


def _twice(sets: Sequence[_Set]) -> list[str]:
    """Frames that are there twice, in a set and in two of them."""
    sums = np.concatenate([one.sums for one in sets])
    composition = np.concatenate([one.composition for one in sets])
    energy = np.concatenate([one.energy for one in sets])
    owner = np.repeat(np.arange(len(sets)), [len(one.frames) for one in sets])
    position = np.concatenate([np.arange(len(one.frames)) for one in sets])
    order = np.argsort(sums[:, 0], kind="stable")
    same = (np.abs(np.diff(sums[order], axis=0)) < _SAME).all(axis=1)
    same &= composition[order[1:]] == composition[order[:-1]]
    copies = np.zeros(len(order), dtype=np.int64)
    copies[order] = np.append(0, np.cumsum(~same))  # frames of one number are one
    several = np.flatnonzero(np.bincount(copies)[copies] > 1)  # ascending: by set, by frame
    if not len(several):
        return []
    found = []

    def name(index: int) -> str:
        return sets[owner[index]].source(int(position[index]))

    def text(pairs: list[tuple[int, int]], what: str) -> str:
        one, other = pairs[0]
        differ = sum(abs(energy[a] - energy[b]) > _OTHER_ENERGY for a, b in pairs)
        more = f", {differ} of them with another energy" if differ else ""
        return f"{len(pairs)} {what}: {name(other)} is {name(one)}{more}"

    #: Of each structure, the first frame in each set.
    first: dict[tuple[int, int], int] = {}
    within: dict[int, list[tuple[int, int]]] = {}
    between: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for index in several.tolist():
        copy, mine = int(copies[index]), int(owner[index])
        if (copy, mine) in first:
            within.setdefault(mine, []).append((first[copy, mine], index))
        else:
            first[copy, mine] = index
        for other in range(mine):
            if (copy, other) in first:
                between.setdefault((other, mine), []).append((first[copy, other], index))
    for mine, pairs in within.items():
        where = f" of the {sets[mine].name} frames" if len(sets) > 1 else " frames"
        found.append(text(pairs, f"{where.strip()} are there twice"))
    for (other, mine), pairs in between.items():
        found.append(
            text(pairs, f"of the {sets[mine].name} frames are {sets[other].name} frames too")
        )
    return found
