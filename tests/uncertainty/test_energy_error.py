"""The energy's error bar: its formula, what is open, differences, file, contract."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.model_file import load_model, save_model
from eip.neighbors import build_graph
from eip.potential import OpenEnergyWarning, Potential, WrappedPotential
from eip.prediction import Prediction
from eip.simulation.calculator import Calculator
from eip.testing import ContractViolation, check_isolated_atoms, check_prediction, check_supercell
from eip.testing.structures import example_structures
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.energy_error import (
    MIN_FRAMES,
    EnergyErrorPotential,
    fit_energy_error,
    fit_scale,
    widening,
)
from eip.uncertainty.ensemble import EnsemblePotential
from eip.uncertainty.evidential import EvidentialPotential

GUESSED = {1: -600.0, 6: -600.0, 8: -600.0}
GIVEN = {1: -13.6, 6: -1030.0, 8: -2040.0}


def network(
    head: str = "tensor", energies: dict[int, float] = GUESSED, seed: int = 0
) -> EvidentialPotential:
    torch.manual_seed(seed)
    made = EvidentialPotential(
        head=head, elements=(1, 6, 8), element_energies=energies, force_scale=1.5,
        channels=16, interactions=1, cutoff=4.0,
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made.eval().requires_grad_(False)


def structure(name: str, seed: int, size: float = 0.05) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(size, seed=seed)
    return atoms


def graphs(names: list[str], seeds: range, size: float = 0.05) -> list[AtomGraph]:
    return [build_graph(structure(n, s, size), 4.0) for s in seeds for n in names]


def together(names: list[str], seeds: range) -> AtomGraph:
    return build_graph([structure(n, s) for s in seeds for n in names], 4.0)


def held_out(potential: Potential, names: list[str]) -> list[tuple[AtomGraph, Tensor]]:
    graph = together(names, range(100, 120))
    noise = 0.01 * np.random.default_rng(0).normal(size=graph.n_frames)
    return [(graph, potential(graph, forces=False).energy + torch.from_numpy(noise))]


def fitted(
    names: list[str] | None = None, potential: Potential | None = None
) -> EnergyErrorPotential:
    names = names or ["CH3CH2OH"]
    inside = potential or network()
    return fit_energy_error(inside, [together(names, range(20))], held_out(inside, names))


MANY = ["CH3CH2OH", "H2O", "CH4", "CO2", "CH3OH"]


def test_it_is_the_last_layers_rigidity() -> None:
    """Written out: slopes of the energy in the last layer's weights by finite differences."""
    inside = network()
    made = fitted(MANY, inside)
    training = graphs(MANY, range(20))
    last = inside.energy_model.readout[-1].weight

    def slopes(graph: AtomGraph) -> np.ndarray:
        columns, before = [], inside(graph, forces=False).energy
        for unit in range(last.shape[1]):
            last[0, unit] += 1.0
            columns.append((inside(graph, forces=False).energy - before) / 1.5)
            last[0, unit] -= 1.0
        counts = [(graph.numbers == z).sum().double()[None] for z in (1, 6, 8)]
        return torch.cat([*columns, *counts]).numpy()

    # Centered by element, which is a change of basis and a shift of what the ridge draws to.
    rows = np.array([slopes(g) for g in training])
    center = made.center.numpy()
    away = np.hstack([rows[:, :-3] - rows[:, -3:] @ center, rows[:, -3:]])
    graph = build_graph(structure("CH3OCH3", 3), 4.0)
    one = slopes(graph)
    one = np.concatenate([one[:-3] - one[-3:] @ center, one[-3:]])
    gram = away.T @ away
    ridge = {
        share: one
        @ np.linalg.solve(gram + share * np.trace(gram) / len(gram) * np.eye(len(gram)), one)
        for share in (10.0**k for k in range(-8, 1))
    }
    said = made(graph)
    wider = float(widening(said, graph, made.reference))
    assert wider == pytest.approx(
        float(said.force_uncertainty.square().mean().sqrt()) / made.reference
    )
    found = float(said.energy_uncertainty) ** 2 / (made.scale * wider) ** 2
    assert min(abs(found / value - 1.0) for value in ridge.values()) < 1e-4


def test_energies_lie_within_it() -> None:
    """Labels of last layers drawn from the posterior: 80 % lie within 1.28 σ."""
    inside, rng = network(), np.random.default_rng(3)
    made = fitted(MANY, inside)
    parts = made(together(MANY, range(300, 380)), forces=False).energy_deviations
    sigma = torch.linalg.vector_norm(parts, dim=1)
    shift = parts @ torch.from_numpy(rng.normal(size=(parts.shape[1], 200)))
    assert float((shift.abs() <= 1.2816 * sigma[:, None]).double().mean()) == pytest.approx(
        0.8, abs=0.03
    )
    apart = torch.linalg.vector_norm(parts[1:] - parts[:-1], dim=1)
    within = (shift[1:] - shift[:-1]).abs() <= 1.2816 * apart[:, None]
    assert float(within.double().mean()) == pytest.approx(0.8, abs=0.03)


def test_the_scale_is_found_again() -> None:
    rng = np.random.default_rng(0)
    length = rng.uniform(0.5, 2.0, 20_000)
    _, normal = fit_scale(0.3 * length * rng.normal(size=20_000), length)
    assert normal == pytest.approx(0.3, rel=0.05)
    heavy = 0.3 * length * rng.standard_t(6, size=20_000)
    _, scale = fit_scale(heavy, length)
    assert np.mean(np.abs(heavy) <= 1.2816 * scale * length) == pytest.approx(0.8, abs=0.01)
    assert fit_scale(np.zeros(20), np.ones(20))[1] < 1e-9
    # A pair of equal frames with unequal labels.
    length[0] = 0.0
    assert fit_scale(heavy, length)[1] == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize(("energies", "size"), [(GUESSED, 1200.0), (GIVEN, None)])
def test_another_composition_has_a_large_one(energies: dict[int, float], size: float) -> None:
    inside = network(energies=energies)
    made = fitted(potential=inside)
    (group,) = made.undetermined
    assert group.text().startswith("energies of C, H and O cannot be told apart")
    if size is None:  # of the order of the binding energy
        assert 1.5 <= made.open_scales[0] < 20.0
    else:
        assert made.open_scales[0] == pytest.approx(size, rel=0.01)
    home = float(made.predict(structure("CH3CH2OH", 7)).energy_uncertainty)
    same = float(made.predict(structure("CH3OCH3", 7)).energy_uncertainty)
    other = float(made.predict(structure("CO2", 7)).energy_uncertainty)
    assert other > made.open_scales[0] > 50 * home and other > 50 * same


def test_it_is_there_for_lone_atoms_and_grows_with_the_number_of_copies() -> None:
    made = fitted(MANY)
    for z in made.elements:
        assert math.isfinite(float(made.predict(Atoms(numbers=[z])).energy_uncertainty))
    one = structure("CH3CH2OH", 3)
    two = one.copy()
    two.translate([50.0, 0.0, 0.0])
    single, both = (float(made.predict(a).energy_uncertainty) for a in (one, one + two))
    assert both == pytest.approx(2.0 * single, rel=1e-9)


def test_a_ghost_is_not_counted() -> None:
    made, graph = fitted(MANY), build_graph(structure("CH3CH2OH", 3), 4.0)
    owned = torch.arange(graph.n_atoms) < 4
    some, rest = (replace(graph, owned=which) for which in (owned, ~owned))
    parts = made(some).energy_deviations + made(rest).energy_deviations
    torch.testing.assert_close(parts, made(graph).energy_deviations)


def test_it_takes_no_part_in_derivatives() -> None:
    made, graph = fitted(MANY), build_graph(structure("CH3CH2OH", 3), 4.0)
    graph = graph.with_positions(graph.positions.requires_grad_())
    said = made(graph, differentiable="uncertainty")
    assert said.energy.requires_grad and said.uncertainty.requires_grad
    assert not said.energy_uncertainty.requires_grad


class Grading(WrappedPotential):
    """γ = 0.5, but ``grade`` of the first atom; σ_i = ``sigma``."""

    grade, sigma = 0.5, 0.1

    def forward(self, graph: AtomGraph, **asked: Any) -> Prediction:
        inside = self.potential(graph, **asked)
        inside = inside.with_uncertainty(graph, torch.full((graph.n_atoms,), self.sigma).double())
        grade = torch.full((graph.n_atoms,), 0.5).double()
        grade[0] = self.grade
        return replace(inside, extrapolation_grade=grade)


def test_far_from_home_it_is_widened() -> None:
    grading = Grading(network())
    made = fitted(MANY, grading)
    graph = build_graph(structure("CH3CH2OH", 3), 4.0)
    home = made(graph)
    grading.grade = 10.0
    far = made(graph)
    factor = math.sqrt((100.0 + graph.n_atoms - 1) / graph.n_atoms)
    assert float(far.energy_uncertainty / home.energy_uncertainty) == pytest.approx(0.5 * factor)
    # And as forces are known worse; not both at once.
    grading.sigma = 0.7
    assert float(made(graph).energy_uncertainty / home.energy_uncertainty) == pytest.approx(7.0)
    grading.grade, grading.sigma = 0.5, 1e-6
    assert float(made(graph).energy_uncertainty / home.energy_uncertainty) == pytest.approx(0.5)
    # Of a potential that has no σ_i, γ alone counts.
    far = replace(far, force_uncertainty=None)
    assert float(widening(far, graph, None)) == pytest.approx(factor)
    a = structure("CH3CH2OH", 3)
    assert made.energy_difference(a, a.copy()).uncertainty < 1e-12


# Differences


def test_a_difference_is_better_known_than_the_two() -> None:
    made = fitted()
    a, b = structure("CH3CH2OH", 3), structure("CH3CH2OH", 4)
    said = made.predict([a, b])
    value, sigma = made.energy_difference(a, b)
    assert isinstance(value, float) and isinstance(sigma, float)
    assert value == pytest.approx(float(said.energy[1] - said.energy[0]), abs=1e-9)
    apart = (said.energy_deviations[1] - said.energy_deviations[0]) * said.energy_widening.amax(0)
    assert sigma == pytest.approx(float(torch.linalg.vector_norm(apart)))
    turned = a.copy()
    turned.rotate(40, (1, 2, 3))
    assert made.energy_difference(a, turned).uncertainty < 1e-9 * sigma + 1e-12
    # Of another composition each is unknown by hundreds of eV; two of the same are not.
    both = [structure("CO2", 3), structure("CO2", 4)]
    alone = made.predict(both).energy_uncertainty
    assert made.energy_difference(*both).uncertainty < 1e-3 * float(alone.min())


def test_differences_of_a_list_are_to_its_first() -> None:
    made = fitted()
    frames = [structure("CH3CH2OH", seed) for seed in range(4)]
    values, sigmas = made.energy_difference(frames)
    again = made.energy_difference(frames[0], frames[1:])
    assert values.shape == sigmas.shape == (3,)
    np.testing.assert_array_equal(again.value, values)
    for k in range(3):
        one = made.energy_difference(frames[0], frames[k + 1])
        assert (one.value, one.uncertainty) == (pytest.approx(values[k]), pytest.approx(sigmas[k]))


def test_a_difference_of_what_is_open_is_warned_of() -> None:
    made = fitted()
    with pytest.warns(OpenEnergyWarning, match=r"CO2.*: energies of C, H and O cannot be told"):
        found = made.energy_difference(structure("CH3CH2OH", 3), structure("CO2", 3))
    assert found.uncertainty > 100.0


def test_what_cannot_be_compared_is_said() -> None:
    made, a = fitted(), structure("CH3CH2OH", 3)
    with pytest.raises(InputError, match="needs two structures or more, got one"):
        made.energy_difference(a)
    with pytest.raises(InputError, match="needs two structures or more"):
        made.energy_difference(a, [])
    with pytest.raises(InputError, match="got a list of 2 for a"):
        made.energy_difference([a, a], a)
    with pytest.raises(InputError, match="energies without an error bar"):
        network().energy_difference(a, a)


def test_an_ensembles_differences_are_its_members() -> None:
    members = [network("none", seed=k) for k in range(3)]
    a, b = structure("CH3CH2OH", 3), structure("H2O", 4)
    found = EnsemblePotential(members).energy_difference(a, b)
    energies = np.array([m.predict([a, b]).energy.numpy() for m in members])
    assert found.uncertainty == pytest.approx(np.diff(energies).std(ddof=1))


# Where it is kept, and what it takes


def test_it_comes_back_from_its_file_inside_a_calibration(tmp_path: Any) -> None:
    made = fitted()
    graph = build_graph(structure("CO2", 3), 4.0)
    numbers = np.array([1, 6, 8] * 60)
    calibration = fit_calibration(np.ones((180, 3)), np.ones(180), numbers)
    save_model(CalibratedPotential(made, calibration), tmp_path / "model.eip")
    again = load_model(tmp_path / "model.eip", device="cpu")
    assert torch.equal(again(graph).energy_uncertainty, made(graph).energy_uncertainty)
    assert again.undetermined == made.undetermined
    calculator = Calculator(again)
    atoms = structure("CH3CH2OH", 3)
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert calculator.results["energy_uncertainty"] == pytest.approx(
        float(made.predict(atoms).energy_uncertainty)
    )
    single = load_model(tmp_path / "model.eip", device="cpu", dtype=torch.float32)
    assert float(single(graph).energy_uncertainty) == pytest.approx(
        float(made(graph).energy_uncertainty), rel=1e-3
    )


def test_it_can_be_fitted_again() -> None:
    made, rng = fitted(), np.random.default_rng(0)
    counts = np.tile([[6.0, 2.0, 1.0]], (40, 1))
    sigma, before = np.full(40, 0.1), made.scale
    assert made.recalibrate(0.3 * rng.normal(size=40), sigma, counts)
    assert made.scale / before == pytest.approx(3.0, rel=0.3)
    # Where something is open, its size says nothing of a.
    assert not made.recalibrate(rng.normal(size=40), sigma, counts + 1.0)
    assert not made.recalibrate(np.full(40, np.nan), sigma, counts)


def test_what_it_needs_is_said() -> None:
    inside = network()
    frames = [together(["H2O"], range(3))]
    with pytest.raises(InputError, match="needs one network with a last layer"):
        fit_energy_error(EnsemblePotential([inside, network(seed=1)]), frames, [])
    with pytest.raises(InputError, match="needs training and held-out frames"):
        fit_energy_error(inside, [], held_out(inside, ["H2O"]))
    with pytest.raises(InputError, match=f"at least {MIN_FRAMES} held-out frames.*, got 4"):
        fit_energy_error(inside, frames, [(together(["H2O"], range(4)), torch.zeros(4).double())])


# The contract, and what is broken on purpose


class Broken(WrappedPotential):
    """Says of the energy's error what is wrong."""

    def __init__(self, potential: Potential, how: str) -> None:
        super().__init__(potential)
        self.how = how

    def forward(self, graph: AtomGraph, **asked: Any) -> Prediction:
        said = self.potential(graph, **asked)
        parts, sigma = said.energy_deviations, said.energy_uncertainty
        match self.how:
            case "by atom":
                count = graph.atoms_per_frame
                sigma, parts = sigma / count, parts / count[:, None]
            case "without sign":
                parts = parts.abs()
            case "too small":
                sigma = 0.5 * sigma
        return replace(said, energy_uncertainty=sigma, energy_deviations=parts)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("by atom", check_supercell),
        ("without sign", check_isolated_atoms),
        ("too small", check_prediction),
    ],
)
def test_a_broken_one_is_found_out(how: str, law: Any) -> None:
    made = fitted(MANY)
    structures = example_structures(made.elements, made.cutoff)
    law(made, structures)
    with pytest.raises(ContractViolation, match="energy_"):
        law(Broken(made, how), structures)
