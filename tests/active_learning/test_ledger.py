"""The ledger: states follow each other, survive a kill, and nothing is there twice."""

from __future__ import annotations

import os
import signal
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
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.active_learning.ledger import Ledger, content_key
from eip.errors import InputError


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
        [(water(seed + 100 * generation), f"run{seed}", 0.1 * seed) for seed in range(count)],
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
    assert ledger.propose([(water(1), "again", 0.5), (water(9), "new", 0.5)], 1) == [
        content_key(water(9))
    ]
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
        from eip.active_learning.ledger import Ledger
        ledger = Ledger({str(path)!r})
        def frames():
            for seed in range(200):
                atoms = molecule("H2O"); atoms.rattle(0.1, seed=seed)
                if seed == 100:
                    print("half way", flush=True)
                    sys.stdin.readline()
                yield atoms, "run", 0.1
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
