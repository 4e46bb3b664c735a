"""Which frames are worth a label: uncertain, sound, and unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float, Int

from eip.active_learning.price import Price
from eip.active_learning.settings import LearningSettings
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.simulation.monitors import BrokenBond, ClosestApproach, State, first_ending
from eip.uncertainty.guard import EDGE

#: The lower bound in RMS forces: a force that is wrong by more misleads dynamics.
_LOWER = 0.2

#: A frame closer to the known ones than this part of their own spread is a duplicate.
_DUPLICATE = 1e-3


@dataclass(frozen=True)
class Window:
    """Bounds of the largest σ_i of a candidate's atoms, eV/Å."""

    lower: float
    upper: float

    def holds(self, sigma: float, grade: float) -> bool:
        """Uncertain, by σ or because an atom lies beyond what was seen, and not past all use."""
        return (sigma >= self.lower or grade > EDGE) and sigma < self.upper

    def unknown(
        self, sigma: Float[np.ndarray, "atoms"], grade: Float[np.ndarray, "atoms"]
    ) -> Bool[np.ndarray, "atoms"]:
        """Which atoms are uncertain, by either."""
        return (sigma >= self.lower) | (grade > EDGE)


def window(
    frames: Sequence[Atoms],
    lower: float | None = None,
    upper: float | None = None,
    target: float | None = None,
) -> Window:
    """What was given, else a fifth of the RMS force component of labelled frames, and all of it.

    Where errors are to be no larger than a ``target``, eV/Å, the lower bound is not above it.

    σ is an error bar in eV/Å, so the bounds are forces too. They are taken from the frames that a
    run began with: in bounds that follow σ itself, a potential that has seen wild frames would
    find nothing uncertain any more.
    """
    rms = float(
        np.sqrt(
            np.mean(np.concatenate([a.get_forces(apply_constraint=False) for a in frames]) ** 2)
        )
    )
    if lower is None:
        lower = _LOWER * rms if target is None else min(_LOWER * rms, target)
    return Window(lower, upper if upper is not None else max(rms, 2.0 * lower))


def unsound(
    atoms: Atoms, start: Atoms, min_distance_ratio: float, max_bond_stretch: float | None
) -> str | None:
    """Why a structure is no use as a label; None if it is.

    Args:
        start: what the run began at, for its covalent bonds.
        min_distance_ratio: of the closest two atoms, in sums of their covalent radii.
        max_bond_stretch: of a bond of the start, likewise; None: bonds may break.
    """
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "positions are not finite"
    if atoms.pbc.all() and start.pbc.all():
        growth = abs(atoms.cell.volume) / abs(start.cell.volume)
        if not 0.5 < growth < 2.0:
            return f"the cell's volume is {growth:.2g} times the start's"
    monitors: list[ClosestApproach | BrokenBond] = [ClosestApproach(0.0, min_distance_ratio)]
    if max_bond_stretch is not None and len(atoms) == len(start):
        monitors.append(BrokenBond.of(start, max_bond_stretch))
    graph = build_graph(atoms, 4.0)
    state = State(
        step=0,
        time_fs=0.0,
        atoms=atoms,
        graph=graph,
        results={},
        kinetic=0.0,
        temperature=0.0,
        drift=0.0,
    )
    ending = first_ending(monitors, state)
    return None if ending is None else ending.reason


def descriptors(
    potential: Potential, structures: Sequence[Atoms]
) -> Float[np.ndarray, "structures features"]:
    """One vector for each structure: latent features, averaged over the atoms of each element.

    Structures of the same elements are compared by them; an absent element is zero.
    """
    features = potential.predict(structures, forces=False).features
    assert features is not None
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    elements = sorted({int(z) for atoms in structures for z in atoms.numbers})
    rows = []
    for atoms, of_atoms in zip(structures, np.split(features.double().numpy(), ends), strict=True):
        rows.append(
            np.concatenate(
                [
                    of_atoms[atoms.numbers == z].mean(axis=0)
                    if (atoms.numbers == z).any()
                    else np.zeros(of_atoms.shape[1])
                    for z in elements
                ]
            )
        )
    return np.array(rows)


def farthest_points(
    candidates: Float[np.ndarray, "candidates features"],
    known: Float[np.ndarray, "known features"],
    count: int,
    by_atom: Float[np.ndarray, "candidates"] | None = None,
    seconds: Float[np.ndarray, "candidates"] | None = None,
    most_seconds: float = np.inf,
    worth: Float[np.ndarray, "candidates"] | None = None,
) -> Int[np.ndarray, "chosen"]:
    """Greedy farthest-point selection: each is the farthest from the known and the chosen ones.

    Fewer than ``count`` where the rest are duplicates. Distances are Euclidean in units of the
    features' spread over all structures.

    With ``by_atom``, each is the one of the largest distance times worth over what an atom of it
    costs. The features are means over atoms, so the distance is how new an atom is on average, N
    times of it how new all are, and N over the cost of the label the inverse of what an atom costs.

    Args:
        by_atom: what an atom of each costs, in any unit; None: all the same.
        seconds: that each is expected to take.
        most_seconds: of all together; what does not fit any more is left out, but never the first.
        worth: of an atom of each that is as new as another, in any unit; None: all the same.
    """
    everything = np.concatenate([known, candidates]) if len(known) else candidates
    spread = everything.std(axis=0)
    # A feature that never varies tells nothing.
    scale = np.where(spread > 1e-12, spread, np.inf)
    scaled, seen = candidates / scale, known / scale
    width = np.sqrt(max(1, int(np.isfinite(scale).sum())))
    distance = np.full(len(scaled), np.inf)
    for row in seen:
        distance = np.minimum(distance, np.linalg.norm(scaled - row, axis=1))
    weights = np.ones(len(scaled)) if worth is None else worth
    if by_atom is not None:
        weights = weights / by_atom
    costs = np.zeros(len(scaled)) if seconds is None else seconds
    chosen: list[int] = []
    spent = 0.0
    while len(chosen) < min(count, len(scaled)):
        open_ = distance > _DUPLICATE * width
        if chosen:
            open_ &= spent + costs <= most_seconds
        if not open_.any():
            break
        best = int(np.argmax(np.where(open_, distance * weights, -np.inf)))
        chosen.append(best)
        spent += float(costs[best])
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[best], axis=1))
        distance[best] = 0.0
    return np.array(chosen, dtype=int)


def choose(
    candidates: Sequence[Atoms],
    known: Sequence[Atoms],
    potential: Potential,
    settings: LearningSettings,
    generation: int,
    count: int,
    price: Price,
) -> Int[np.ndarray, "chosen"]:
    """Which candidates of a generation to label: by distance, σ and price, or any of them.

    A label is expected to teach as much as its atoms are new, and as the potential errs on them.

    Args:
        known: frames that the potential was trained on.
        count: at most.
        price: of their labels.
    """
    sizes = np.array([len(atoms) for atoms in candidates])
    seconds = price.of(sizes)
    most = np.inf if settings.label_hours is None else 3600.0 * settings.label_hours
    if settings.selection != "uncertainty":
        order = np.random.default_rng([settings.seed, generation]).permutation(len(candidates))
        if seconds is not None:
            fits = np.cumsum(seconds[order]) <= most
            order = order[: max(1, int(fits.sum()))]
        return order[:count]
    rows = descriptors(potential, [*known, *candidates])
    parts = rows[len(known) :], rows[: len(known)]
    # Of the atoms on average, as the features are.
    sigma = potential.predict(candidates).uncertainty
    worth = None if sigma is None else sigma.double().numpy()
    return farthest_points(*parts, count, price.by_atom(sizes), seconds, most, worth)
