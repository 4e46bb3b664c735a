"""What the runs of a generation left: which frames may be worth a label, and which check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from ase import Atoms

from eip.active_learning.candidates import Proposal
from eip.active_learning.exploration import WalkerOutcome, frames_of
from eip.active_learning.selection import Window, unsound
from eip.active_learning.settings import LearningSettings
from eip.uncertainty.guard import EDGE


@dataclass
class Explored:
    """What the runs of a generation left.

    Attributes:
        seen, within, above, beyond: frames, those in the window, those whose σ is past its upper
            bound, and those with an atom beyond what was seen, by "md" and "udd".
        unsound: frames that would have been candidates, were they sound.
        candidates: sound ones that may be worth a label.
        drawn: sound ones of MD, drawn at random.
    """

    seen: dict[str, int]
    within: dict[str, int]
    above: dict[str, int]
    beyond: dict[str, int]
    unsound: int = 0
    candidates: list[Proposal] = field(default_factory=list)
    drawn: list[Proposal] = field(default_factory=list)


class Reservoir:
    """``size`` of all that is offered, each as likely as any other (Vitter's algorithm R)."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.offered = size, rng, 0
        self.kept: list[Proposal] = []

    def offer(self, frame: Proposal) -> None:
        self.offered += 1
        if len(self.kept) < self.size:
            self.kept.append(frame)
        elif (place := int(self.rng.integers(self.offered))) < self.size:
            self.kept[place] = frame


class Largest:
    """The ``size`` frames of the largest σ of all that are offered."""

    def __init__(self, size: int) -> None:
        self.size, self.offered = size, 0
        self._heap: list[tuple[float, int, Proposal]] = []

    def offer(self, frame: Proposal) -> None:
        self.offered += 1
        heappush(self._heap, (frame.sigma, -self.offered, frame))
        if len(self._heap) > self.size:
            heappop(self._heap)

    def kept(self) -> list[Proposal]:
        """The largest first."""
        return [one[2] for one in sorted(self._heap, key=lambda one: one[:2], reverse=True)]


def explored(
    folder: Path,
    outcomes: Sequence[WalkerOutcome],
    starts: Mapping[str, Atoms],
    bounds: Window,
    settings: LearningSettings,
    generation: int,
) -> Explored:
    """Looks through the frames of all runs, one after the other.

    Args:
        folder: with one for each run, of its name.
        starts: of each run, by its name.
        generation: what is drawn at random depends on it, and on ``settings.seed``.
    """
    aims = settings.target is not None
    kinds = ("md", "udd") if settings.udd else ("md",)
    none = dict.fromkeys(kinds, 0)
    found = Explored(seen=none, within=none.copy(), above=none.copy(), beyond=none.copy())
    rng = np.random.default_rng([settings.seed, generation, 1])
    drawn = Reservoir(settings.checks, rng)
    # Some of them may be drawn for checks, too, which go first.
    enough = settings.labels + settings.checks
    spare = Largest(enough)
    for outcome in outcomes:
        kind = "udd" if outcome.udd else "md"
        for atoms, sigma, grade in frames_of(folder / outcome.name):
            held = bounds.holds(sigma, grade)
            found.seen[kind] += 1
            found.beyond[kind] += grade > EDGE
            found.within[kind] += held
            found.above[kind] += sigma >= bounds.upper
            wanted = held or settings.selection == "random"
            if not (wanted or aims):
                continue
            limits = settings.min_distance_ratio, settings.max_bond_stretch
            if unsound(atoms, starts[outcome.name], *limits) is not None:
                found.unsound += wanted
                continue
            frame = Proposal(atoms, outcome.name, sigma)
            if wanted:
                found.candidates.append(frame)
            elif sigma < bounds.upper:
                spare.offer(frame)
            # The start is the same in every generation, and no frame of the dynamics.
            if kind == "md" and atoms.info.get("step") != 0:
                drawn.offer(frame)
    if aims:
        found.drawn = drawn.kept
        # Labels are wanted even where σ, which may be wrong, finds nothing uncertain.
        found.candidates += spare.kept()[: max(0, enough - len(found.candidates))]
    return found
