"""Fragments: whole molecules, no bond cut, nothing charged, and only where they teach."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from eip.active_learning.candidates import Proposal
from eip.active_learning.fragments import cut_out, typical_size, why_whole, with_fragments
from eip.active_learning.selection import Window
from eip.errors import InputError
from eip.uncertainty.evidential import EvidentialPotential

#: Å; between molecules of a box.
SPACING = 3.4


def box(count: int = 3, name: str = "H2O", spacing: float = SPACING) -> Atoms:
    """Molecules on a grid, each turned by itself, in a periodic cube."""
    rng = np.random.default_rng(0)
    made = Atoms(cell=[count * spacing] * 3, pbc=True)
    for place in np.ndindex(count, count, count):
        one = molecule(name)
        one.set_cell(None)
        one.set_pbc(False)
        one.positions -= one.positions.mean(axis=0)
        one.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        one.positions += spacing * np.array(place)
        made += one
    return made


def shape(atoms: Atoms) -> np.ndarray:
    return np.asarray(atoms.get_all_distances())


def test_molecules_are_whole_and_those_around_are_there() -> None:
    water = box(4)
    water.wrap()
    found = cut_out(water, 0, 3.5)
    assert found is not None
    fragment, cut = found
    assert 3 * 3 <= len(fragment) <= 96 and len(fragment) % 3 == 0
    assert not fragment.pbc.any() and fragment.cell.rank == 0
    assert (cut.around, cut.of, cut.step) == (0, 192, -1)
    np.testing.assert_array_equal(fragment.numbers, water.numbers[list(cut.atoms)])
    at = cut.atoms.index(0)
    np.testing.assert_allclose(fragment.positions[at], water.positions[0])
    # Every atom within the radius is there, at its distance.
    near = np.flatnonzero(water.get_distances(0, range(len(water)), mic=True) < 3.5)
    assert set(near.tolist()) <= set(cut.atoms)
    distances = shape(fragment)
    assert (np.sort(distances[at])[: len(near)] < 3.5).all()
    # Whole: each O has its two H, at the bonds' own lengths.
    for o in np.flatnonzero(fragment.numbers == 8):
        bonded = (distances[o] < 1.1) & (fragment.numbers == 1)
        assert bonded.sum() == 2
    assert water.info == {} and len(water) == 192


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-20, 20)] * 3), st.integers(0, 80), st.booleans(), st.floats(2.0, 3.6))
def test_a_fragment_is_the_same_wherever_the_cell_is_cut(
    shift: tuple[float, float, float], around: int, wrapped: bool, radius: float
) -> None:
    water, moved = box(), box()
    moved.positions += shift
    if wrapped:
        moved.wrap()
    one, other = cut_out(water, around, radius), cut_out(moved, around, radius)
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    np.testing.assert_allclose(shape(one[0])[0], shape(other[0])[0], atol=1e-6)
    assert one[1] == other[1]


def test_a_molecule_at_hand_on_two_sides_is_there_twice() -> None:
    row = Atoms(cell=[4.0, 60.0, 60.0], pbc=[True, False, False])
    for place in range(6):
        one = molecule("H2O")
        one.positions += [0.0, 9.0 * place, 0.0]
        row += one
    found = cut_out(row, 0, 4.1)
    assert found is not None
    fragment, cut = found
    assert cut.atoms == (0, 1, 2) * 3
    np.testing.assert_allclose(fragment.positions[0], row.positions[0])
    assert sorted(fragment.positions[::3, 0]) == pytest.approx([-4.0, 0.0, 4.0])


def test_more_than_half_of_a_frame_is_no_fragment() -> None:
    water = box()
    assert cut_out(water, 0, 3.0) is not None
    assert cut_out(water, 0, 8.0) is None


def test_a_proton_between_two_molecules_takes_both() -> None:
    water = box(spacing=4.5)
    o, h = 0, 1
    # Half way: 1.2 Å to both.
    other = 3
    line = water.positions[other] - water.positions[o]
    line /= np.linalg.norm(line)
    water.positions[h] = water.positions[o] + 1.2 * line
    shift = water.positions[o] + 2.4 * line - water.positions[other]
    water.positions[3:6] += shift
    found = cut_out(water, o, 2.0)
    assert found is not None and {0, 1, 2, 3, 4, 5} <= set(found[1].atoms)


def test_what_would_be_an_ion_is_no_fragment() -> None:
    water = box(spacing=4.5)
    assert cut_out(water, 0, 2.0) is not None
    # A proton goes far away: OH and H3O.
    water.positions[1] = water.positions[-3] + [0.0, 0.0, -1.0]
    assert cut_out(water, 0, 2.0) is None


def salt() -> Atoms:
    ammonium = Atoms("NH4", [[0, 0, 0], *(0.59 * np.array(list(_corners())))])
    chloride = Atoms("Cl", [[4.0, 0, 0]])
    return ammonium + chloride


def _corners() -> list[tuple[int, int, int]]:
    return [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]


def polymer() -> Atoms:
    chain = Atoms(
        "C2H4",
        [
            [0.0, 0.0, 0.0], [1.27, 0.88, 0.0],
            [0.0, -0.6, 0.9], [0.0, -0.6, -0.9], [1.27, 1.5, 0.9], [1.27, 1.5, -0.9],
        ],
        cell=[2.54, 20, 20],
        pbc=True,
    )  # fmt: skip
    return chain.repeat((4, 1, 1))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: bulk("C", cubic=True).repeat(2), "go on through the faces"),
        (polymer, "go on through the faces"),
        (lambda: bulk("Cu", cubic=True).repeat(2), "it holds Cu"),
        (lambda: molecule("CH3CH2OH"), "it is one molecule"),
        (salt, "an odd number of electrons: it is an ion or a radical"),
        (box, None),
        (lambda: box(2, "CH4", 4.0), None),
    ],
)
def test_what_is_labelled_whole_and_why(make: Callable[[], Atoms], said: str | None) -> None:
    found = why_whole(make())
    assert found is None if said is None else found is not None and said in found


@pytest.mark.parametrize("info", [{"charge": 1}, {"charge": -2}, {"multiplicity": 3}])
def test_a_charge_cannot_be_given_to_a_fragment(info: dict[str, int]) -> None:
    water = box(2)
    water.info |= info
    with pytest.raises(InputError, match=r"has charge .*leave learn\.fragment_radius empty"):
        why_whole(water)
    water.info = {"charge": 0}
    assert why_whole(water) is None


def test_sizes_in_words() -> None:
    assert typical_size(box(), 2.0).startswith("about ")
    assert "of its 81 atoms" in typical_size(box(), 2.0)
    assert typical_size(box(2), 20.0).startswith("none")


# Frames with few uncertain atoms


@pytest.fixture(scope="module")
def potential() -> EvidentialPotential:
    torch.manual_seed(0)
    return EvidentialPotential(
        elements=[1, 8],
        element_energies={1: -13.0, 8: -2000.0},
        force_scale=1.0,
        channels=16,
        interactions=2,
    ).eval()


def frame(
    sigma: dict[int, float], grade: dict[int, float] | None = None, origin: str = "box-md"
) -> Proposal:
    water = box()
    water.info["step"] = 40
    for name, values in (("force_uncertainty", sigma), ("extrapolation_grade", grade or {})):
        array = np.full(len(water), 1e-6)
        array[list(values)] = list(values.values())
        water.set_array(name, array)
    return Proposal(water, origin, max(sigma.values(), default=1e-6))


@pytest.fixture(scope="module")
def bounds(potential: EvidentialPotential) -> Window:
    """In which the potential is uncertain of every atom, and nobody is of 1e-6 eV/Å."""
    predicted = potential.predict(box()).force_uncertainty
    assert predicted is not None
    return Window(max(1e-5, 0.01 * float(predicted.min())), 1e6)


def test_the_worst_of_few_uncertain_atoms_is_cut_out(
    potential: EvidentialPotential, bounds: Window
) -> None:
    offered = frame({30: 2.0 * bounds.lower, 33: 3.0 * bounds.lower}, origin="box-300K-md")
    (found,) = with_fragments([offered], potential, bounds, 3.0)
    assert found.cut is not None
    assert (found.cut.around, found.cut.step, found.cut.of) == (33, 40, 81)
    assert found.origin == "box-300K-md"
    own = potential.predict(found.atoms).force_uncertainty
    assert own is not None
    assert found.sigma == pytest.approx(float(own[found.cut.atoms.index(33)]), rel=1e-4)


def test_an_atom_beyond_what_was_seen_is_cut_out(
    potential: EvidentialPotential, bounds: Window
) -> None:
    offered = frame({30: 0.5 * bounds.lower}, {45: 3.0})
    (found,) = with_fragments([offered], potential, bounds, 3.0)
    assert found.cut is not None and found.cut.around == 45


def test_frames_stay_whole_where_a_piece_would_not_teach(
    potential: EvidentialPotential, bounds: Window
) -> None:
    known = Window(1e6, 1e9)
    many = frame({k: 1e7 for k in range(40)})
    none = frame({})
    # Uncertain in the frame, but not in the fragment as the potential sees it.
    lost = frame({30: 1e7})
    offered = [many, none, lost]
    assert with_fragments(offered, potential, known, 3.0) == offered
    one = frame({30: 1.0}, origin="salt-md")
    assert with_fragments([one], potential, bounds, 3.0, {"salt-md"}) == [one]
    (found,) = with_fragments([one], potential, bounds, 3.0)
    assert found.cut is not None
    assert with_fragments([], potential, bounds, 3.0) == []
