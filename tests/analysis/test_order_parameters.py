from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from eip.analysis import (
    Molecules,
    Phosphates,
    chain_shapes,
    coordination_numbers,
    phosphate_geometry,
    torsions,
)
from eip.analysis.molecules import backbone_torsions, kinds_of_torsions
from eip.analysis.order_parameters import switched_off
from eip.builders import lifepo4, pdms
from eip.errors import InputError

SEEDS = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def melt() -> Atoms:
    return pdms(2, 4, 0.6, anneal_ps=0.0)


def changed(atoms: Atoms, seed: int) -> tuple[Atoms, np.ndarray]:
    """Turned, moved, wrapped into the cell and in another order: the same structure."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(atoms))
    turn = Rotation.random(random_state=seed).as_matrix()
    other = atoms[order]
    other.set_cell(atoms.cell.array @ turn.T)
    other.positions = atoms.positions[order] @ turn.T + rng.normal(scale=5.0, size=3)
    if atoms.pbc.any():
        other.wrap()
    return other, order


def rattled(seed: int, scale: float = 0.05) -> Atoms:
    atoms = lifepo4((1, 1, 2))
    atoms.positions += np.random.default_rng(seed).normal(scale=scale, size=(56, 3))
    return atoms


# --- phosphates ----------------------------------------------------------------------------------


def phosphate(iron_angle: float = 130.0) -> Atoms:
    """A perfect tetrahedron, 1.5 Å, and one Fe at 2.1 Å from its first O."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    first = corners[0]
    side = np.cross(first, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    turn = np.radians(180.0 - iron_angle)
    iron = 1.5 * first + 2.1 * (np.cos(turn) * first + np.sin(turn) * side)
    return Atoms("PO4Fe", np.concatenate([np.zeros((1, 3)), 1.5 * corners, [iron]]))


# Below 120° the Fe would come near a second O, too.
@pytest.mark.parametrize("angle", [122.0, 130.0, 179.0])
def test_a_perfect_tetrahedron_and_a_known_angle(angle):
    angles, distortions = phosphate_geometry(phosphate(angle))
    assert angles == pytest.approx([angle], abs=1e-5)
    assert distortions == pytest.approx([0.0], abs=1e-5)


def test_the_distortion_of_a_tetrahedron_pressed_flat():
    atoms = phosphate()
    atoms.positions[1:5, 2] *= 0.8
    oxygens = atoms.positions[1:5] / np.linalg.norm(atoms.positions[1:5], axis=1)[:, None]
    between = [np.degrees(np.arccos(oxygens[a] @ oxygens[b])) for a in range(4) for b in range(a)]
    expected = np.sqrt(((np.array(between) - 109.4712206) ** 2).sum() / 5)
    assert expected > 5.0
    assert phosphate_geometry(atoms)[1] == pytest.approx([expected])


def test_in_the_crystal_all_phosphates_are_alike():
    angles, distortions = phosphate_geometry(lifepo4((1, 2, 1)))
    assert len(angles) == 8
    assert np.ptp(angles) < 1e-6 and np.ptp(distortions) < 1e-6
    assert 110 < angles[0] < 130 and 2 < distortions[0] < 5


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_phosphates_do_not_see_frame_cell_or_order(seed):
    atoms = rattled(seed)
    other, order = changed(atoms, seed)
    places = [order.tolist().index(p) for p in np.flatnonzero(atoms.numbers == 15)]
    rank = np.argsort(np.argsort(places))
    for one, two in zip(phosphate_geometry(atoms), phosphate_geometry(other), strict=True):
        assert two[rank] == pytest.approx(one, abs=1e-6)


def test_bonds_of_a_phosphate_hold_when_one_breaks():
    atoms = phosphate()
    known = Phosphates.of(atoms)
    atoms.positions[2] *= 2.0
    with pytest.raises(InputError, match="3 O within"):
        phosphate_geometry(atoms)
    angles, distortions = phosphate_geometry(atoms, known)
    assert angles == pytest.approx([130.0], abs=1e-5) and distortions == pytest.approx(
        [0.0], abs=1e-5
    )


def test_what_is_no_phosphate_is_said():
    atoms = phosphate()
    with pytest.raises(InputError, match=r"no O of P atom 0 has a Fe within 2\.9"):
        phosphate_geometry(atoms[:5])
    with pytest.raises(InputError, match=r"P atom 0 has 3 O within 2.2 Å"):
        phosphate_geometry(atoms[[0, 1, 2, 3, 5]])


# --- chains --------------------------------------------------------------------------------------


def test_a_straight_chain_has_the_radius_of_a_rod():
    n, step = 12, 1.5
    rod = Atoms(f"C{n}", [[k * step, 0, 0] for k in range(n)])
    ends, radii = chain_shapes(rod)
    assert ends == pytest.approx([(n - 1) * step])
    assert radii == pytest.approx([step * np.sqrt((n**2 - 1) / 12)])


def test_the_ends_of_pdms_are_its_oxygens_and_the_radius_is_by_mass(melt):
    molecules = Molecules.of(melt)
    assert [len(chain) for chain in molecules.chains] == [9, 9]
    for chain, first in zip(molecules.chains, (0, 43), strict=True):
        assert [melt.symbols[k] for k in chain] == ["O", "Si"] * 4 + ["O"]
        assert chain[0] == first
    ends, radii = chain_shapes(melt)
    # The builder leaves chains whole, so nothing has to be unwrapped here.
    whole = melt[:43]
    assert ends[0] == pytest.approx(np.linalg.norm(whole.positions[16] - whole.positions[0]))
    away = whole.positions - whole.get_center_of_mass()
    masses = whole.get_masses()
    assert radii[0] == pytest.approx(np.sqrt(masses @ (away**2).sum(1) / masses.sum()))
    four = np.concatenate([backbone_torsions(chain) for chain in molecules.chains])
    kinds = kinds_of_torsions(melt.get_chemical_symbols(), four)
    assert kinds == ["O–Si–O–Si"] * 12


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_chains_do_not_see_frame_cell_or_order(melt, seed):
    other, _ = changed(melt, seed)
    one, two = chain_shapes(melt), chain_shapes(other)
    for a, b in zip(one, two, strict=True):
        assert sorted(b) == pytest.approx(sorted(a), abs=1e-6)


def test_bonds_of_the_first_frame_hold_when_one_is_stretched(melt):
    molecules = Molecules.of(melt)
    later = melt.copy()
    hydrogen = 42  # the last atom of the first chain
    bond = next(pair for pair in molecules.bonds.tolist() if hydrogen in pair)
    partner = bond[0] + bond[1] - hydrogen
    along = later.get_distance(partner, hydrogen, mic=True, vector=True)
    later.positions[hydrogen] += 0.8 * along / np.linalg.norm(along)
    assert len(Molecules.of(later).members) == 3
    assert len(chain_shapes(later, molecules)[0]) == 2


def test_water_has_no_chain():
    assert len(chain_shapes(molecule("H2O"))[0]) == 0
    assert len(chain_shapes(Atoms())[0]) == 0


# --- molecules -----------------------------------------------------------------------------------


def test_which_bonds_can_turn():
    ethanol = molecule("CH3CH2OH")
    four = Molecules.of(ethanol).torsions(ethanol)
    symbols = np.array(ethanol.get_chemical_symbols())
    assert {"".join(sorted(symbols[row[1:3]])) for row in four} == {"CO", "CC"}
    assert {"".join(min(w, w[::-1])) for w in (symbols[row].tolist() for row in four)} == {
        "CCOH",
        "HCCO",
    }
    for name in ("C6H6", "H2O", "CH4", "HCN", "C2H2"):
        atoms = molecule(name)
        assert len(Molecules.of(atoms).torsions(atoms)) == 0, name


def test_torsions_that_are_known():
    trans = Atoms("C4", [[0, 1, 0], [0, 0, 0], [1.5, 0, 0], [1.5, -1, 0]])
    for angle in (-170.0, -60.0, 0.0, 60.0, 179.0):
        trans.set_dihedral(0, 1, 2, 3, angle)
        found = torsions(trans, np.array([[0, 1, 2, 3]]))
        assert found == pytest.approx([angle], abs=1e-6)
        assert torsions(trans, np.array([[3, 2, 1, 0]])) == pytest.approx([angle], abs=1e-6)


def test_crystals_are_endless_and_liquids_are_not(melt):
    for crystal in (bulk("C", cubic=True), lifepo4(), bulk("Cu") * (3, 3, 3)):
        assert Molecules.of(crystal).endless(crystal)
    wrapped = melt.copy()
    wrapped.wrap()
    assert not Molecules.of(wrapped).endless(wrapped)


# --- coordination --------------------------------------------------------------------------------


def test_the_neighbors_in_olivine():
    atoms = lifepo4((1, 2, 3))
    for center, full, none, expected in ((3, 2.4, 3.2, 6), (26, 2.4, 3.2, 6), (15, 1.8, 2.5, 4)):
        found = coordination_numbers(atoms, center, 8, full, none)
        assert found == pytest.approx(np.full(24, expected))


@given(full=st.floats(0.5, 3.0), width=st.floats(0.1, 3.0))
def test_the_switch_goes_from_1_to_0_and_never_up(full, width):
    none = full + width
    r = np.linspace(0.0, none + 1.0, 400)
    f = switched_off(r, full, none)
    assert (np.diff(f) <= 1e-12).all()
    assert (f[r <= full] == 1.0).all() and np.abs(f[r >= none]).max() < 1e-12
    assert switched_off(np.array([full + width / 2]), full, none) == pytest.approx([0.5])
    # No kink: the steepest slope is 15/8 over the width, and it grows from nothing.
    h = 1e-4 * width
    near = switched_off(np.array([full + h, none - h]), full, none)
    assert np.abs(near - [1.0, 0.0]).max() < 1e-10


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_coordination_does_not_see_frame_cell_or_order(seed):
    atoms = rattled(seed)
    other, _ = changed(atoms, seed)
    one, two = (np.sort(coordination_numbers(a, 3, 8, 2.2, 3.5)) for a in (atoms, other))
    assert two == pytest.approx(one, abs=1e-7)


def test_what_is_no_switch_is_refused():
    for full, none in ((0.0, 1.0), (2.0, 2.0), (3.0, 2.0)):
        with pytest.raises(InputError, match="0 < full < none"):
            coordination_numbers(lifepo4(), 3, 8, full, none)
