"""The ledger: states follow each other, survive a kill, and nothing is there twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.db import sqlite as ase_sqlite
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.active_learning.candidates import Cut, Proposal
from eip.active_learning.ledger import Ledger, content_key
from eip.errors import InputError
from eip.files import UncheckedFile


def water(seed: int) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=seed)
    return atoms


def labelled(atoms: Atoms, energy: float = -14.0) -> Atoms:
    out = atoms.copy()
    forces = np.random.default_rng(0).normal(size=(len(out), 3))
    out.calc = SinglePointCalculator(out, energy=energy, forces=forces)
    return out


def proposed(ledger: Ledger, count: int = 3, generation: int = 0) -> list[str]:
    return ledger.propose(
        [
            Proposal(water(seed + 100 * generation), f"run{seed}", 0.1 * seed)
            for seed in range(count)
        ],
        generation,
    )


def test_a_candidate_goes_its_way_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    keys = proposed(ledger)
    ledger.select(keys[:2])
    ledger.submit(keys[:2])
    ledger.label(keys[0], labelled(water(0), -1.0 / 3.0))
    ledger.reject(keys[1], "SCF not converged")
    ledger.use(keys[:1], 4)
    again = {c.key: c for c in Ledger(path).candidates()}
    assert [again[k].state for k in keys] == ["used", "rejected", "proposed"]
    used = again[keys[0]]
    assert used.atoms.get_potential_energy() == -1.0 / 3.0  # every digit
    np.testing.assert_array_equal(used.atoms.get_forces(), labelled(water(0)).get_forces())
    np.testing.assert_array_equal(used.atoms.positions, water(0).positions)
    assert (used.used_in, used.origin, used.sigma) == (4, "run0", 0.0)
    assert again[keys[1]].reason == "SCF not converged"
    assert Ledger(path).counts() == {
        "proposed": 1, "selected": 0, "submitted": 0, "labelled": 0, "rejected": 1, "used": 1,
    }  # fmt: skip


def test_ase_reads_the_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    keys = proposed(ledger)
    ledger.select(keys[1:2])
    (row,) = connect(tmp_path / "ledger.db").select(state="selected")
    assert row.candidate == keys[1] and row.formula == "H2O"


def test_a_structure_is_there_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    first = proposed(ledger, 3)
    assert proposed(ledger, 3) == []
    assert ledger.propose(
        [Proposal(water(1), "again", 0.5), Proposal(water(9), "new", 0.5)], 1
    ) == [content_key(water(9))]
    assert len(ledger.candidates()) == len(first) + 1


@pytest.mark.parametrize(
    ("before", "step"),
    [
        ([], "submit"),
        ([], "label"),
        ([], "use"),
        (["select"], "select"),
        (["select"], "label"),
        (["select", "submit"], "use"),
        (["select", "submit", "label"], "submit"),
        (["select", "submit", "label", "use"], "reject"),
        (["reject"], "select"),
    ],
)
def test_no_step_is_left_out_or_taken_twice(tmp_path: Path, before: list[str], step: str) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    (key,) = proposed(ledger, 1)

    def take(name: str) -> None:
        arguments = {
            "select": ([key],),
            "submit": ([key],),
            "label": (key, labelled(water(0))),
            "reject": (key, "why"),
            "use": ([key], 0),
        }
        getattr(ledger, name)(*arguments[name])

    for name in before:
        take(name)
    state = ledger.candidates()[0].state
    with pytest.raises(InputError, match=f"is {state} and cannot become"):
        take(step)
    assert ledger.candidates()[0].state == state


def test_a_selection_with_one_wrong_key_is_not_made(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    keys = proposed(ledger, 3)
    with pytest.raises(InputError, match="no candidate"):
        ledger.select([*keys, "cffff"])
    assert ledger.counts()["selected"] == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(-1e-8, 1e-8))
def test_the_key_is_of_the_content(seed: int, noise: float) -> None:
    atoms = water(seed)
    atoms.positions = np.round(atoms.positions, 6)
    same = atoms.copy()
    same.positions += noise
    same.info["name"] = "other"
    same.set_velocities(np.ones((3, 3)))
    assert content_key(same) == content_key(atoms)
    for change in ("positions", "numbers", "cell", "pbc", "order"):
        other = atoms.copy()
        if change == "positions":
            other.positions[0, 0] += 1e-4
        elif change == "numbers":
            other.numbers[0] = 16
        elif change == "cell":
            other.cell = [5, 5, 5]
        elif change == "pbc":
            other.pbc = True
        else:
            other = other[[1, 0, 2]]
        assert content_key(other) != content_key(atoms), change


def test_a_writer_that_is_killed_leaves_no_lock_and_no_half(tmp_path: Path) -> None:
    """Killed in the middle of proposing: all of the batch or nothing, and the next one writes."""
    path = tmp_path / "ledger.db"
    program = textwrap.dedent(
        f"""
        import sys
        from ase.build import molecule
        from eip.active_learning.candidates import Proposal
        from eip.active_learning.ledger import Ledger
        ledger = Ledger({str(path)!r})
        def frames():
            for seed in range(200):
                atoms = molecule("H2O"); atoms.rattle(0.1, seed=seed)
                if seed == 100:
                    print("half way", flush=True)
                    sys.stdin.readline()
                yield Proposal(atoms, "run", 0.1)
        ledger.propose(frames(), 0)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half way\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ledger = Ledger(path)
    assert ledger.candidates() == []
    assert len(proposed(ledger, 5)) == 5


# Its making, and every step, may be cut short anywhere.


def take_all_steps(path: Path) -> None:
    """From nothing, or from where an earlier attempt was cut short, to the end."""
    ledger = Ledger(path)
    proposed(ledger, 3)
    for state, step in (
        ("proposed", lambda key: ledger.select([key])),
        ("selected", lambda key: ledger.submit([key])),
        ("submitted", lambda key: ledger.label(key, labelled(water(0)))),
        ("labelled", lambda key: ledger.use([key], 1)),
    ):
        for candidate in ledger.candidates(state):
            if candidate.origin == "run2":
                ledger.reject(candidate.key, "not wanted")
            else:
                step(candidate.key)


def said(path: Path) -> list[tuple[object, ...]]:
    """All that a ledger says."""
    return [
        (
            *(c.key, c.state, c.generation, c.origin, c.sigma, c.reason, c.used_in),
            *(c.atoms.positions.tobytes(), c.atoms.numbers.tobytes(), c.atoms.cell.array.tobytes()),
            *(c.atoms.pbc.tobytes(), repr(c.atoms.calc and sorted(c.atoms.calc.results.items()))),
        )
        for c in Ledger(path).candidates()
    ]


def in_a_process_killed_at(statement: int, path: Path) -> bool:
    """Whether the n-th statement of SQL, at which the process was killed, was there at all."""
    child = os.fork()
    if child == 0:
        left = statement
        plain = ase_sqlite.SQLite3Database._connect

        def traced(self: ase_sqlite.SQLite3Database) -> sqlite3.Connection:
            connection = plain(self)

            def count(sql: str) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            connection.set_trace_callback(count)
            return connection

        ase_sqlite.SQLite3Database._connect = traced
        try:
            take_all_steps(path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_any_statement_it_ends_the_same(tmp_path: Path) -> None:
    take_all_steps(tmp_path / "whole.db")
    expected = said(tmp_path / "whole.db")
    assert [row[1] for row in expected] == ["used", "used", "rejected"]
    statement = 0
    # The making of the tables one by one, what comes after in strides.
    while in_a_process_killed_at(statement, path := tmp_path / f"{statement}.db"):
        take_all_steps(path)
        assert said(path) == expected, statement
        statement += 1 if statement < 20 else 19
    assert statement > 60


@pytest.mark.parametrize("done", range(len(ase_sqlite.init_statements) + 1))
def test_one_that_was_half_made_by_an_earlier_version_is_made(tmp_path: Path, done: int) -> None:
    path = tmp_path / "ledger.db"
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ase_sqlite.init_statements[:done]:
        connection.execute(statement)
    connection.close()
    take_all_steps(path)
    take_all_steps(tmp_path / "whole.db")
    assert said(path) == said(tmp_path / "whole.db")


def test_a_ledger_without_its_tables_is_no_half_made_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    take_all_steps(path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE information")
    connection.close()
    with pytest.raises(InputError, match=r"ledger\.db cannot be read .*: tables are missing"):
        Ledger(path)


# What it says is what was written.


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "ledger.db"
    take_all_steps(whole)
    content, expected = whole.read_bytes(), said(whole)
    rng = np.random.default_rng(0)
    path = tmp_path / "flipped.db"
    refused = 0
    for place in [*range(110), *rng.integers(0, len(content), 200)]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert said(path) == expected, place
        except InputError as error:
            assert "flipped.db" in str(error)
            refused += 1
        (tmp_path / "flipped.db-wal").unlink(missing_ok=True)
        (tmp_path / "flipped.db-shm").unlink(missing_ok=True)
    assert refused > 10  # most of a small one is room for more


@pytest.mark.parametrize("column", ["positions", "forces", "energy", "cell", "key_value_pairs"])
def test_an_altered_value_is_found(tmp_path: Path, column: str) -> None:
    path = tmp_path / "ledger.db"
    take_all_steps(path)
    with sqlite3.connect(path) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM systems WHERE id=1").fetchone()
        if column == "energy":
            altered = np.nextafter(value, 0)
        elif column == "key_value_pairs":
            altered = value.replace('"used"', '"labelled"')
        else:
            altered = bytes([value[0] ^ 1]) + value[1:]
        assert altered != value
        connection.execute(f"UPDATE systems SET {column}=? WHERE id=1", (altered,))
    connection.close()
    with pytest.raises(InputError, match="candidate 1 is not what was written"):
        Ledger(path)


def test_no_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("none of it" * 1000)
    with pytest.raises(InputError, match=r"ledger\.db cannot be read as a ledger: file is not a"):
        Ledger(path)


def test_a_ledger_without_checksums_is_read_with_a_warning_and_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    keys = proposed(Ledger(path))
    old = connect(str(path), type="db", use_lock_file=False)
    for row in list(old.select()):
        old.update(row.id, delete_keys=["checksum"])
    with pytest.warns(UncheckedFile, match=r"ledger\.db: written by an earlier eIP"):
        ledger = Ledger(path)
    assert [c.key for c in ledger.candidates()] == keys
    ledger.select(keys)
    assert all("checksum" in row for row in old.select())
    take_all_steps(path)
    assert ledger.counts()["used"] == 2


def test_a_candidate_that_nobody_predicted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    (key,) = ledger.propose([Proposal(water(0), "run", float("nan"))], 2)
    ledger.select([key])
    (found,) = Ledger(tmp_path / "ledger.db").candidates(generation=2)
    assert np.isnan(found.sigma) and found.state == "selected"


def test_what_was_cut_from_what_is_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    cut = Cut(step=40, around=7, of=192, atoms=(6, 7, 8))
    (key,) = ledger.propose([Proposal(water(77), "box-300K-md", 0.2, cut)], 1)
    take_all_steps(path)
    found = {c.key: c for c in Ledger(path).candidates()}
    assert found[key].cut == cut and found[key].atoms.calc is not None
    assert str(cut) == "3 of 192 atoms, around atom 7 at step 40"
    assert {c.cut for k, c in found.items() if k != key} == {None}
    (row,) = connect(path).select("cut_of=192")
    assert (row.candidate, row.cut_step, row.cut_around) == (key, 40, 7)
    with sqlite3.connect(path) as connection:
        query = "SELECT key_value_pairs FROM systems WHERE id=?"
        (value,) = connection.execute(query, (row.id,)).fetchone()
        altered = value.replace('"cut_around": 7', '"cut_around": 8')
        assert altered != value
        update = "UPDATE systems SET key_value_pairs=? WHERE id=?"
        connection.execute(update, (altered, row.id))
    connection.close()
    with pytest.raises(InputError, match="is not what was written"):
        Ledger(path)
