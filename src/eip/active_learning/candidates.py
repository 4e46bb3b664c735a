"""What is offered for a label: a frame of a run, or a piece that was cut out of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ase import Atoms


@dataclass(frozen=True)
class Cut:
    """Where in a frame a fragment was.

    Attributes:
        step: of the frame in its run; -1: it did not say.
        around: index in the frame of the atom that it was cut for.
        of: how many atoms the frame has.
        atoms: index in the frame of each of the fragment's atoms.
    """

    step: int
    around: int
    of: int
    atoms: tuple[int, ...]

    def __str__(self) -> str:
        step = f" at step {self.step}" if self.step >= 0 else ""
        return f"{len(self.atoms)} of {self.of} atoms, around atom {self.around}{step}"


class Proposal(NamedTuple):
    """A structure that may be worth a label.

    Attributes:
        atoms: the structure.
        origin: the run that it is of.
        sigma: largest σ of its atoms, eV/Å; of a fragment σ of the atom that it was cut for; NaN
            if nobody predicted it.
        cut: what it is a piece of; None: it is a whole frame.
    """

    atoms: Atoms
    origin: str
    sigma: float
    cut: Cut | None = None
