"""What has become of every candidate, on disk before the next step is taken.

A SQLite file by ASE's database layer: ``ase db ledger.db`` shows it, ``ase gui ledger.db`` too.
One row for each structure, found by a hash of its content:

    proposed → selected → submitted → labelled → used
                     └──────┴────────────┴→ rejected (with a reason)

Each transition is one SQLite transaction: a process that is killed leaves it done or not begun.
Each row carries a checksum of what it says, which is compared whenever it is read, and SQLite's
own structure is checked when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from eip.active_learning.candidates import Cut, Proposal
from eip.data.electrons import electrons_of
from eip.errors import InputError
from eip.files import replacing, to_json, warn_unchecked
from eip.simulation.records import plain_info

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
        sigma: when it was proposed, see `Proposal`.
        reason: why it was rejected, or "".
        used_in: generation whose training set it first was part of; -1: none yet.
        checks: whether it is there to check the potential, and never trained on.
        cut: what it is a piece of; None: it is a whole frame.
    """

    key: str
    atoms: Atoms
    state: CandidateState
    generation: int
    origin: str
    sigma: float
    reason: str
    used_in: int
    checks: bool = False
    cut: Cut | None = None


def content_key(atoms: Atoms) -> str:
    """Hash of elements, positions and cell (to 1e-6 Å), periodicity, and charge and multiplicity
    where they are not the usual ones."""
    digest = hashlib.sha256()
    for array in (
        np.asarray(atoms.numbers, dtype=np.int64),
        # Plus zero, because -0.0 and 0.0 are the same place.
        np.round(atoms.positions, 6) + 0.0,
        np.round(atoms.cell.array, 6) + 0.0,
        np.asarray(atoms.pbc),
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    own = electrons_of(atoms)
    if not own.is_plain(atoms):
        digest.update(f"{own.charge or 0} {own.multiplicity}".encode())
    # Not digits alone: ASE refuses text that reads as a number.
    return "c" + digest.hexdigest()[:20]


#: What the columns of a candidate's row say of it, beside the structure and its labels.
_SAID = ("candidate", "state", "generation", "origin", "sigma", "used_in")
#: Said of those that check the potential alone.
_CHECKS = "checks"
#: Said of fragments, as `Cut` has it; its atoms are among what goes with a row.
_CUT = {"cut_step": "step", "cut_around": "around", "cut_of": "of"}
_ALL_SAID = (*_SAID, _CHECKS, *_CUT)


def _checksum(atoms: Atoms, said: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Of all that a row says.

    Args:
        said: its columns.
        data: what goes with it: reason, info, and the atoms of a cut.
    """
    digest = hashlib.sha256()
    results = {} if atoms.calc is None else atoms.calc.results
    for name in ("energy", "forces", "stress"):
        value = results.get(name)
        digest.update(name.encode() if value is not None else b"none")
        if value is not None:
            digest.update(np.asarray(value, dtype=np.float64).tobytes())
    for array, dtype in (
        (atoms.numbers, np.int64),
        (atoms.positions, np.float64),
        (atoms.cell.array, np.float64),
        (atoms.pbc, np.bool_),
    ):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    words = [*(to_json(said.get(name)) for name in _SAID), data.get("reason", "")]
    digest.update(json.dumps([*words, _CHECKS] if said.get(_CHECKS) else words).encode())
    if info := data.get("info"):  # a ledger of an earlier version has none
        digest.update(json.dumps(to_json(info), sort_keys=True).encode())
    if cut := [to_json(said[name]) for name in _CUT if said.get(name) is not None]:
        digest.update(json.dumps([*cut, to_json(data.get("cut"))]).encode())
    return "c" + digest.hexdigest()[:32]  # see content_key


class Ledger:
    """The candidates of a learning run; see the module.

    Raises:
        InputError: in every method, if the file is damaged.

    Warns:
        UncheckedFile: if rows have no checksum.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._readable():
            if not self.path.exists() or _is_half_made(self.path):
                # Its tables are made one by one: under its name there is a ledger when all are.
                with replacing(self.path) as temporary:
                    _connect(temporary).count()
            self._database = _connect(self.path)
            unchecked = any("checksum" not in row for row in self._rows())
        if unchecked:
            warn_unchecked(self.path)

    def propose(
        self,
        frames: Iterable[Proposal],
        generation: int,
        *,
        checks: bool = False,
    ) -> list[str]:
        """Adds structures that are not there yet; returns the keys of those that were added.

        Args:
            generation: in which they were found.
            checks: that they check the potential, see `Candidate`.
        """
        known = {row.candidate for row in self._rows()}
        added = []
        with self._writable(), self._database:
            for atoms, origin, sigma, cut in frames:
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
                said = {
                    "candidate": key,
                    "state": "proposed",
                    "generation": generation,
                    "origin": f"{origin} ",  # see content_key
                    "sigma": float(sigma),
                    "used_in": -1,
                    **({_CHECKS: True} if checks else {}),
                    **({} if cut is None else {n: getattr(cut, of) for n, of in _CUT.items()}),
                }
                bare.set_constraint(atoms.constraints)
                # A database has no place for info but among what goes with a row.
                data = {"info": info} if (info := to_json(plain_info(atoms))) else {}
                if cut is not None:
                    data["cut"] = list(cut.atoms)
                checksum = _checksum(bare, said, data)
                now = time.time()
                self._database.write(bare, data=data, **said, proposed_at=now, checksum=checksum)
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
        self._update(row, "labelled", atoms=atoms)

    def reject(self, key: str, reason: str) -> None:
        """Not a label, and why."""
        row = self._row(key)
        self._check(row, "rejected")
        self._update(row, "rejected", reason=reason)

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
        with self._writable(), self._database:
            for row in used:
                self._update(row, "used", used_in=generation)
            for row in others:
                self._update(row, "rejected", reason=rejected[row.candidate])

    def candidates(
        self,
        *states: CandidateState,
        generation: int | None = None,
    ) -> list[Candidate]:
        """In the order in which they were proposed; all states where none is named."""
        return [
            Candidate(
                key=row.candidate,
                atoms=_atoms(row),
                state=row.state,
                generation=row.generation,
                origin=row.origin.strip(),
                sigma=row.get("sigma", float("nan")),
                reason=row.data.get("reason", ""),
                used_in=row.used_in,
                checks=bool(row.get(_CHECKS, False)),
                cut=_cut(row),
            )
            for row in self._rows()
            if generation in (None, row.generation) and (not states or row.state in states)
        ]

    def counts(self, generation: int | None = None) -> dict[str, int]:
        """How many are in each state."""
        states = [row.state for row in self._rows() if generation in (None, row.generation)]
        return {state: states.count(state) for state in get_args(CandidateState)}

    def _move(self, keys: Sequence[str], state: str) -> None:
        rows = [self._row(key) for key in keys]
        for row in rows:
            self._check(row, state)
        with self._writable(), self._database:
            for row in rows:
                self._update(row, state)

    def _update(
        self, row: Any, state: str, atoms: Atoms | None = None, reason: str = "", **values: Any
    ) -> None:
        said = {**{name: row.get(name) for name in _ALL_SAID}, "state": state, **values}
        new = {"reason": reason} if reason else {}
        checksum = _checksum(atoms or row.toatoms(), said, {**row.data, **new})
        with self._writable():
            self._database.update(
                row.id,
                atoms=atoms,
                state=state,
                checksum=checksum,
                data=new,
                **{f"{state}_at": time.time()},
                **values,
            )

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
        with self._readable():
            for row in self._database.select(**selection):
                said = {name: row.get(name) for name in _ALL_SAID}
                if "checksum" in row and row.checksum != _checksum(row.toatoms(), said, row.data):
                    raise _Damaged(f"candidate {row.id} is not what was written")
                yield row

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What SQLite and ASE say of a file that is damaged, as an `InputError`."""
        try:
            yield
        except _DAMAGE as error:
            raise InputError(f"{self.path} cannot be read as a ledger: {error}") from error

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be written: {error}") from error


def _atoms(row: Any) -> Atoms:
    """The structure of a row, with what it says of itself."""
    atoms: Atoms = row.toatoms()
    atoms.info = dict(row.data.get("info", {}))
    return atoms


def _cut(row: Any) -> Cut | None:
    if "cut_of" not in row:
        return None
    where = {of: row[name] for name, of in _CUT.items()}
    return Cut(**where, atoms=tuple(row.data["cut"]))


class _Damaged(Exception):
    pass


#: What reading a damaged file comes to: values are packed, and numbers and JSON in text.
_DAMAGE = (_Damaged, sqlite3.Error, OSError, LookupError, TypeError, ValueError, AttributeError)


def _connect(path: Path) -> Any:
    # SQLite locks by itself, and its locks die with the process; a lock file would not.
    return connect(str(path), type="db", use_lock_file=False)


def _is_half_made(path: Path) -> bool:
    """Whether it is one whose making was cut short, which holds nothing yet.

    Raises:
        sqlite3.Error, _Damaged: if it is damaged.
    """
    with closing(sqlite3.connect(path)) as connection:
        (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise _Damaged(said)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "information" in tables and connection.execute("SELECT * FROM information").fetchone():
            return False
        if "systems" in tables and connection.execute("SELECT * FROM systems").fetchone():
            raise _Damaged("tables are missing")
        return True


def summary_text(counts: Mapping[str, int]) -> str:
    """Counts as a person reads them."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "nothing yet"
