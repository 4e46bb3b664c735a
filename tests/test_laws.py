"""The laws of physics over structures, turns and strains that hypothesis draws and shrinks.

The contracts of `eip.testing` try each law once for each structure; here the structure itself is
drawn: any cell, any periodicity, lone atoms, atoms almost on the cutoff, turns by nothing or by π.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.testing import ContractViolation
from eip.testing.contract import TOLERANCE, Observables, Subject, as_subject, moved_copy
from eip.testing.symmetries import compare_moved, compare_permuted, compare_turned
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import fit_latent_distance

ELEMENTS, CUTOFF = (1, 6, 8), 3.5
BACKBONES = ("painn", "cartesian_ace")
LAWS = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# What is drawn.


def reals(size: float) -> st.SearchStrategy[float]:
    return st.floats(-size, size, allow_subnormal=False, width=32)


def arrays(shape: tuple[int, ...], size: float) -> st.SearchStrategy[np.ndarray]:
    count = int(np.prod(shape))
    return st.lists(reals(size), min_size=count, max_size=count).map(
        lambda values: np.array(values).reshape(shape)
    )


@st.composite
def structures(draw: st.DrawFn, periodic: bool | None = None) -> Atoms:
    """Atoms at least 0.7 Å from each other and from their images, in no cell or a skewed one."""
    pbc = [periodic] * 3 if periodic is not None else [draw(st.booleans()) for _ in range(3)]
    cell = np.diag([draw(st.floats(2.5, 6.0)) for _ in range(3)]) + draw(arrays((3, 3), 0.5))
    atoms = Atoms(cell=cell, pbc=pbc)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(arrays((3,), 1.0)) @ cell
        candidate = atoms + Atoms([draw(st.sampled_from(ELEMENTS))], [place])
        if not len(neighbor_list("i", candidate, 0.7)):
            atoms = candidate
    return atoms


@st.composite
def turns(draw: st.DrawFn) -> np.ndarray:
    """A rotation, or one with a reflection."""
    axis = draw(arrays((3,), 1.0))
    length = np.linalg.norm(axis)
    axis = axis / length if length > 1e-3 else np.array([0.0, 0.0, 1.0])
    angle = draw(st.one_of(st.sampled_from([0.0, np.pi / 2, np.pi]), st.floats(0.0, np.pi)))
    sign = draw(st.sampled_from([1.0, -1.0]))
    return sign * Rotation.from_rotvec(angle * axis).as_matrix()


# What it is held against.


@cache
def potential_of(backbone: str, latent: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    potential = EvidentialPotential(
        elements=ELEMENTS,
        element_energies={z: -10.0 * z for z in ELEMENTS},
        force_scale=1.3,
        head="tensor",
        backbone=backbone,
        channels=16,
        interactions=2,
        cutoff=CUTOFF,
    ).double()
    potential = potential.eval().requires_grad_(False)
    if not latent:
        return potential
    rng = np.random.default_rng(0)
    graphs = [build_graph(Atoms("H2CO", rng.uniform(-1.5, 1.5, (4, 3))), CUTOFF) for _ in range(12)]
    held_out = [(g, torch.from_numpy(rng.normal(size=(4, 3)))) for g in graphs[6:]]
    return fit_latent_distance(potential, graphs[:6], held_out)


def subject_of(name: str) -> Subject:
    backbone, _, latent = name.partition(", ")
    return as_subject(potential_of(backbone, bool(latent)))


def check_turn(subject: Subject, atoms: Atoms, matrix: np.ndarray) -> None:
    compare_turned("turn", subject, atoms, matrix, TOLERANCE, "what was drawn")


def check_shift(subject: Subject, atoms: Atoms, shift: np.ndarray) -> None:
    compare_moved("shift", subject, atoms, shift, TOLERANCE, "what was drawn")


def check_order(subject: Subject, atoms: Atoms, order: list[int]) -> None:
    compare_permuted("order", subject, atoms, order, TOLERANCE, "what was drawn")


def check_strain(potential: torch.nn.Module, atoms: Atoms, strain: np.ndarray) -> None:
    """V σ : ε = dE/dε along ε, by a difference of fourth order; what a small strain turns is
    nothing."""
    graph = build_graph(atoms, CUTOFF)
    stress = potential(graph, forces=True, stress=True).stress
    assert stress is not None
    energies = []
    for step in (-2e-4, -1e-4, 1e-4, 2e-4):
        deformed = np.eye(3) + step * strain
        strained = moved_copy(atoms, atoms.positions @ deformed.T, atoms.cell.array @ deformed.T)
        energies.append(float(potential(build_graph(strained, CUTOFF), forces=False).energy))
    slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / 12e-4
    expected = float((stress[0] * torch.from_numpy(strain)).sum()) * atoms.get_volume()
    if abs(slope - expected) > 1e-5 * max(1.0, abs(expected)):
        raise ContractViolation(
            "strain", f"dE/dε is {slope:.8g} eV, the stress says {expected:.8g}"
        )


# The laws.


@LAWS
@given(atoms=structures(), matrix=turns())
@pytest.mark.parametrize("of", [*BACKBONES, "painn, latent distance"])
def test_what_turns_with_the_structure(of: str, atoms: Atoms, matrix: np.ndarray) -> None:
    check_turn(subject_of(of), atoms, matrix)


@LAWS
@given(atoms=structures(), shift=arrays((3,), 30.0))
@pytest.mark.parametrize("of", [*BACKBONES, "painn, latent distance"])
def test_where_a_structure_lies(of: str, atoms: Atoms, shift: np.ndarray) -> None:
    check_shift(subject_of(of), atoms, shift)


@LAWS
@given(data=st.data(), atoms=structures())
@pytest.mark.parametrize("of", [*BACKBONES, "painn, latent distance"])
def test_the_order_of_atoms(of: str, data: st.DataObject, atoms: Atoms) -> None:
    check_order(subject_of(of), atoms, data.draw(st.permutations(range(len(atoms)))))


@LAWS
@given(atoms=structures(periodic=True), strain=arrays((3, 3), 1.0))
@pytest.mark.parametrize("of", BACKBONES)
def test_stress_is_the_slope_along_any_strain(of: str, atoms: Atoms, strain: np.ndarray) -> None:
    check_strain(potential_of(of), atoms, strain + strain.T)


# Broken on purpose, each law is found out.

#: Until the first example that breaks it, which is not made small.
UNTIL_BROKEN = settings(LAWS, max_examples=60, report_multiple_bugs=False, phases=[Phase.generate])


def broken(change: Callable[[AtomGraph, Observables], Observables]) -> Subject:
    sound = subject_of("painn")
    return Subject(lambda graph: change(graph, sound.observe(graph)), CUTOFF, ELEMENTS)


def with_values(name: str, of: Callable[[AtomGraph, torch.Tensor], torch.Tensor]) -> Subject:
    def change(graph: AtomGraph, found: Observables) -> Observables:
        return {**found, name: replace(found[name], values=of(graph, found[name].values))}

    return broken(change)


@pytest.mark.parametrize(
    ("law", "subject"),
    [
        ("turn", with_values("forces", lambda graph, f: f * torch.tensor([1.0, 1.0, 1.001]))),
        (
            "turn",
            with_values(
                "force_uncertainty", lambda graph, s: s + graph.edge_vectors()[:1, 0].abs().sum()
            ),
        ),
        ("shift", with_values("energy", lambda graph, e: e + 1e-3 * graph.positions.sum())),
        ("order", with_values("energy", lambda graph, e: e + 1e-3 * graph.numbers[0])),
    ],
)
def test_a_broken_law_is_found(law: str, subject: Subject) -> None:
    checks = {
        "turn": (check_turn, turns()),
        "shift": (check_shift, arrays((3,), 30.0)),
        "order": (check_order, st.permutations),
    }
    check, drawn = checks[law]

    @UNTIL_BROKEN
    @given(data=st.data(), atoms=structures())
    def everywhere(data: st.DataObject, atoms: Atoms) -> None:
        of_it = drawn(range(len(atoms))) if drawn is st.permutations else drawn
        check(subject, atoms, data.draw(of_it))

    with pytest.raises(ContractViolation, match=law):
        everywhere()


def test_a_wrong_stress_is_found() -> None:
    sound = potential_of("painn")

    def wrong(graph: AtomGraph, **asked: bool):
        found = sound(graph, **asked)
        return found if found.stress is None else replace(found, stress=1.01 * found.stress)

    @UNTIL_BROKEN
    @given(atoms=structures(periodic=True), strain=arrays((3, 3), 1.0))
    def everywhere(atoms: Atoms, strain: np.ndarray) -> None:
        check_strain(wrong, atoms, strain + strain.T)

    with pytest.raises(ContractViolation, match="strain"):
        everywhere()
