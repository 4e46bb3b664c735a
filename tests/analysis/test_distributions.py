from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.analysis import PairDistribution
from eip.builders import lifepo4
from eip.errors import InputError


def of(*frames: Atoms, cutoff: float = 6.0, bins: int = 60) -> PairDistribution:
    found = PairDistribution(cutoff, bins)
    for atoms in frames:
        found.add(atoms)
    return found


@pytest.mark.parametrize("counts", [(5, 3), (200, 100)])
def test_an_ideal_gas_has_1_everywhere_however_few_they_are(counts):
    rng = np.random.default_rng(0)
    n = sum(counts)
    cell = np.array([[12.0, 0, 0], [3.0, 11.0, 0], [1.0, -2.0, 13.0]])
    found = PairDistribution(6.0, 6)
    pairs = 0
    while pairs < 200_000:
        scaled = rng.uniform(-1, 2, (n, 3))
        found.add(Atoms(f"Li{counts[0]}O{counts[1]}", scaled @ cell, cell=cell, pbc=True))
        pairs += n * (n - 1)
    by_pair = found.by_pair()
    assert list(by_pair) == ["Li-Li", "Li-O", "O-O"]
    volumes = 4 / 3 * np.pi * np.diff(np.linspace(0, 6, 7) ** 3) / np.linalg.det(cell)
    for (a, b), g in zip(((0, 0), (0, 1), (1, 1)), by_pair.values(), strict=True):
        expected = found.frames * counts[a] * (counts[b] - (a == b)) * volumes
        # Five standard deviations of a count; like pairs are counted twice.
        assert (np.abs(g - 1.0) < 5.0 * np.sqrt((1 + (a == b)) / expected)).all()


def test_shells_of_a_crystal_hold_its_neighbors():
    atoms = bulk("Cu", cubic=True, a=3.6)
    found = of(atoms, cutoff=4.0, bins=400)
    g = found.by_pair()["Cu-Cu"]
    # (N − 1)/N of the density, for that is what g is normalised by.
    density = 3 / atoms.get_volume()
    shell = 4 * np.pi / 3 * np.diff(np.linspace(0, 4, 401) ** 3)
    neighbors = np.cumsum(g * density * shell)
    for radius, count in ((2.5, 0), (2.6, 12), (3.5, 12), (3.7, 18)):
        assert neighbors[np.searchsorted(found.radii, radius)] == pytest.approx(count)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_place_and_wrapping_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    atoms = lifepo4()
    atoms.positions += rng.normal(scale=0.1, size=(28, 3))
    other = atoms[rng.permutation(28)]
    other.positions += rng.normal(size=3)
    other.wrap()
    one, two = of(atoms, bins=12).by_pair(), of(other, bins=12).by_pair()
    assert list(one) == list(two) and len(one) == 10
    for pair, g in one.items():
        # A distance on the edge of a bin may fall to either side.
        assert np.abs(np.cumsum(g - two[pair])).max() < 0.2 * max(1.0, g.max())


def test_frames_are_averaged_and_elements_may_turn_up_later():
    def two(kind: str, distance: float) -> Atoms:
        return Atoms(kind, [[0, 0, 0], [distance, 0, 0]], cell=[20] * 3, pbc=True)

    found = of(two("O2", 2.05), two("LiO", 3.05), two("LiO", 3.05), two("LiO", 4.05))
    by_pair = found.by_pair()
    assert list(by_pair) == ["Li-O", "O-O"]
    at = {round(float(r), 2): g for r, g in zip(found.radii, by_pair["Li-O"], strict=True) if g > 0}
    assert list(at) == [3.05, 4.05]
    assert at[3.05] / at[4.05] == pytest.approx(2 * (4.1**3 - 4.0**3) / (3.1**3 - 3.0**3))


def test_what_has_no_density_is_refused():
    with pytest.raises(InputError, match="periodic in 3 directions"):
        PairDistribution().add(Atoms("O2", [[0, 0, 0], [1.2, 0, 0]]))
    with pytest.raises(InputError, match="positive cutoff"):
        PairDistribution(0.0)
