"""What has become of every candidate, on disk before the next step is taken.

A SQLite file by ASE's database layer: ``ase db ledger.db`` shows it, ``ase gui ledger.db`` too.
One row for each structure, found by a hash of its content:

    proposed → selected → submitted → labelled → used
                     └──────┴────────────┴→ rejected (with a reason)

Each transition is one SQLite transaction: a process that is killed leaves it done or not begun.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from eip.errors import InputError

CandidateState = Literal["proposed", "selected", "submitted", "labelled", "rejected", "used"]

#: What may follow what. Submitted again: a calculation that was cut short.
_FOLLOWS: dict[str, tuple[str, ...]] = {
    "selected": ("proposed",),
    "submitted": ("selected", "submitted"),
    "labelled": ("submitted",),
    "rejected": ("proposed", "selected", "submitted", "labelled"),
    "used": ("labelled",),
}


@dataclass(frozen=True)
class Candidate:
    """A row of the ledger.

    Attributes:
        key: hash of the content.
        atoms: with its labels where it has any.
        state, generation: where it stands, and in which generation it was proposed.
        origin: the run that it comes from.
        sigma: largest σ of an atom when it was proposed, eV/Å; NaN if nobody predicted it.
        reason: why it was rejected, or "".
        used_in: generation whose training set it first was part of; -1: none yet.
    """

    key: str
    atoms: Atoms
    state: CandidateState
    generation: int
    origin: str
    sigma: float
    reason: str
    used_in: int


def content_key(atoms: Atoms) -> str:
    """Hash of elements, positions and cell (to 1e-6 Å) and periodicity."""
    digest = hashlib.sha256()
    for array in (
        np.asarray(atoms.numbers, dtype=np.int64),
        # Plus zero, because -0.0 and 0.0 are the same place.
        np.round(atoms.positions, 6) + 0.0,
        np.round(atoms.cell.array, 6) + 0.0,
        np.asarray(atoms.pbc),
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    # Not digits alone: ASE refuses text that reads as a number.
    return "c" + digest.hexdigest()[:20]


class Ledger:
    """The candidates of a learning run; see the module."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite locks by itself, and its locks die with the process; a lock file would not.
        self._database = connect(str(self.path), type="db", use_lock_file=False)

    def propose(self, frames: Iterable[tuple[Atoms, str, float]], generation: int) -> list[str]:
        """Adds structures that are not there yet; returns the keys of those that were added.

        Args:
            frames: structure, origin, and largest σ of an atom, eV/Å.
            generation: in which they were found.
        """
        known = {row.candidate for row in self._rows()}
        added = []
        with self._database:
            for atoms, origin, sigma in frames:
                key = content_key(atoms)
                if key in known:
                    continue
                known.add(key)
                bare = Atoms(
                    numbers=atoms.numbers,
                    positions=atoms.positions,
                    cell=atoms.cell,
                    pbc=atoms.pbc,
                )
                self._database.write(
                    bare,
                    candidate=key,
                    state="proposed",
                    generation=generation,
                    origin=f"{origin} ",  # see content_key
                    sigma=float(sigma),
                    used_in=-1,
                    proposed_at=time.time(),
                )
                added.append(key)
        return added

    def select(self, keys: Sequence[str]) -> None:
        """To be labelled. All of them in one transaction: a selection is whole or not made."""
        self._move(keys, "selected")

    def submit(self, keys: Sequence[str]) -> None:
        """Handed to the reference method."""
        self._move(keys, "submitted")

    def label(self, key: str, labelled: Atoms) -> None:
        """Keeps a label: energy, eV, forces, eV/Å, and stress where there is one."""
        row = self._row(key)
        self._check(row, "labelled")
        results = {
            name: value
            for name, value in labelled.calc.results.items()
            if name in ("energy", "forces", "stress")
        }
        atoms = row.toatoms()
        atoms.calc = SinglePointCalculator(atoms, **results)
        self._database.update(row.id, atoms=atoms, state="labelled", labelled_at=time.time())

    def reject(self, key: str, reason: str) -> None:
        """Not a label, and why."""
        row = self._row(key)
        self._check(row, "rejected")
        self._database.update(
            row.id, state="rejected", rejected_at=time.time(), data={"reason": reason}
        )

    def use(
        self, keys: Sequence[str], generation: int, rejected: Mapping[str, str] | None = None
    ) -> None:
        """Part of the training set from a generation on; others are rejected with it, and why.

        All in one transaction: what is rejected has a say in what is believed.
        """
        rejected = rejected or {}
        used, others = [self._row(k) for k in keys], [self._row(k) for k in rejected]
        for row in used:
            self._check(row, "used")
        for row in others:
            self._check(row, "rejected")
        now = time.time()
        with self._database:
            for row in used:
                self._database.update(row.id, state="used", used_at=now, used_in=generation)
            for row in others:
                reason = {"reason": rejected[row.candidate]}
                self._database.update(row.id, state="rejected", rejected_at=now, data=reason)

    def candidates(
        self,
        *states: CandidateState,
        generation: int | None = None,
    ) -> list[Candidate]:
        """In the order in which they were proposed; all states where none is named."""
        selection = {} if generation is None else {"generation": generation}
        return [
            Candidate(
                key=row.candidate,
                atoms=row.toatoms(),
                state=row.state,
                generation=row.generation,
                origin=row.origin.strip(),
                sigma=row.get("sigma", float("nan")),
                reason=row.data.get("reason", ""),
                used_in=row.used_in,
            )
            for row in self._rows(**selection)
            if not states or row.state in states
        ]

    def counts(self, generation: int | None = None) -> dict[str, int]:
        """How many are in each state."""
        selection = {} if generation is None else {"generation": generation}
        states = [row.state for row in self._rows(**selection)]
        return {state: states.count(state) for state in get_args(CandidateState)}

    def _move(self, keys: Sequence[str], state: str) -> None:
        rows = [self._row(key) for key in keys]
        for row in rows:
            self._check(row, state)
        with self._database:
            for row in rows:
                self._database.update(row.id, state=state, **{f"{state}_at": time.time()})

    def _check(self, row: Any, state: str) -> None:
        if row.state not in _FOLLOWS[state]:
            raise InputError(
                f"{self.path}: candidate {row.candidate} is {row.state} and cannot become {state}"
            )

    def _row(self, key: str) -> Any:
        found = list(self._rows(candidate=key))
        if not found:
            raise InputError(f"{self.path}: there is no candidate {key}")
        return found[0]

    def _rows(self, **selection: Any) -> Iterator[Any]:
        return iter(self._database.select(**selection))


def summary_text(counts: Mapping[str, int]) -> str:
    """Counts as a person reads them."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing yet"
