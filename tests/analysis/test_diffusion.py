from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.analysis import Displacements
from eip.errors import InputError

CELL = np.array([[7.0, 0, 0], [1.5, 6.0, 0], [-1.0, 0.5, 8.0]])


def measured(frames: list[Atoms]) -> dict[str, np.ndarray]:
    found = Displacements()
    for atoms in frames:
        found.add(atoms)
    return found.by_element()


def walk(seed: int, steps: int, scale: float = 0.3) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    positions = np.cumsum(rng.normal(scale=scale, size=(steps, 6, 3)), axis=0)
    return [Atoms("Li3O3", at, cell=CELL, pbc=True) for at in positions]


def test_straight_flight_grows_with_the_square_of_time():
    v = np.array([[0.3, 0, 0], [-0.3, 0, 0], [0, 0.4, 0], [0, -0.4, 0]])
    frames = [Atoms("H2O2", k * v, cell=[5] * 3, pbc=True) for k in range(50)]
    found = measured(frames)
    t = np.arange(50)
    assert found["H"] == pytest.approx(0.09 * t**2, abs=1e-9)
    assert found["O"] == pytest.approx(0.16 * t**2, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), drift=st.floats(-0.5, 0.5))
def test_wrapping_and_drift_do_not_matter(seed, drift):
    frames = walk(seed, 20)
    one = measured(frames)
    for k, atoms in enumerate(frames):
        atoms.positions += drift * k
        atoms.wrap()
    for element, other in measured(frames).items():
        assert other == pytest.approx(one[element], abs=1e-8)


def test_it_is_the_mean_over_all_beginnings_of_a_short_run():
    frames = walk(1, 25)
    at = np.array([atoms.positions - atoms.get_center_of_mass() for atoms in frames])
    found = measured(frames)["Li"]
    for lag in range(25):
        moved = ((at[lag:] - at[: 25 - lag]) ** 2).sum(axis=2)[:, :3]
        assert found[lag] == pytest.approx(moved.mean())


def test_a_random_walk_diffuses_and_memory_does_not_grow():
    steps, n = 1500, 200
    rng = np.random.default_rng(0)
    found = Displacements()
    atoms = Atoms("Ar" * n, np.zeros((n, 3)), cell=[10] * 3, pbc=True)
    for _ in range(steps):
        atoms.positions += rng.normal(scale=0.1, size=(n, 3))
        found.add(atoms)
        assert len(found._origins) <= 32
    msd = found.by_element()["Ar"]
    assert len(msd) == steps and msd[0] == 0.0
    for lag in (1, 10, 100):
        # 3 σ² a step, less what the centre of mass takes along.
        assert msd[lag] == pytest.approx(3 * 0.01 * lag * (1 - 1 / n), rel=0.1)


def test_a_cell_that_breathes_moves_no_atom():
    frames = [
        Atoms(
            "Li2",
            np.array([[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]]) @ (CELL * s),
            cell=CELL * s,
            pbc=True,
        )
        for s in (1.0, 1.02, 0.98, 1.0)
    ]
    assert measured(frames)["Li"] == pytest.approx(np.zeros(4), abs=1e-9)


def test_free_molecules_need_no_cell_and_other_atoms_are_refused():
    frames = [Atoms("HO", [[0, 0, 0], [0, 0, 1 + 0.1 * k]]) for k in range(3)]
    assert measured(frames)["H"][1] == pytest.approx((0.1 * 15.999 / 17.007) ** 2, rel=1e-3)
    found = Displacements()
    assert found.by_element() == {}
    found.add(frames[0])
    with pytest.raises(InputError, match="not those of the first frame"):
        found.add(frames[0][::-1])
