"""The contract of engines: the ASE path keeps it, engines that are broken on purpose do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from eip.neighbors import build_graph
from eip.potential import Potential
from eip.simulation import Calculator
from eip.testing import ContractViolation, check_engine, engine_structures
from eip.testing.engines import said_through_ase
from eip.uncertainty.evidential import EvidentialPotential

ELEMENTS = (1, 8, 14)
Said = dict[str, Any]


def potential(elements: tuple[int, ...] = ELEMENTS, **network: Any) -> Potential:
    torch.manual_seed(0)
    return EvidentialPotential(
        **{
            "elements": elements,
            "element_energies": {z: -70.0 * z for z in elements},
            "force_scale": 1.3,
            "head": "tensor",
            "channels": 16,
            "interactions": 2,
            "cutoff": 4.0,
            **network,
        }
    ).eval()


@pytest.fixture(scope="module")
def model() -> Potential:
    return potential()


def through_calculator(model: Potential) -> Callable[[Atoms], Said]:
    """The user's own way, whose list of neighbors reaches beyond the cutoff."""
    calculator = Calculator(model)

    def evaluate(atoms: Atoms) -> Said:
        calculator.calculate(atoms.copy())
        found = dict(calculator.results.everything())
        virial = said_through_ase(calculator.potential, atoms)["virial"]
        return found | {"virial": virial}

    return evaluate


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
def test_the_ase_path_keeps_it(backbone: str) -> None:
    model = potential(backbone=backbone)
    check_engine(through_calculator(model), model)


def test_structures_are_those_that_engines_stumble_over() -> None:
    found = engine_structures(ELEMENTS, 4.0)
    assert len(found) >= 20
    assert {"water", "liquid water", "silica", "a lone atom"} <= found.keys()
    boundaries = {tuple(bool(axis) for axis in atoms.pbc) for atoms in found.values()}
    assert len(boundaries) == 5
    for name, atoms in found.items():
        assert set(atoms.numbers) <= set(ELEMENTS), name
        build_graph(atoms, 4.0)
    again = engine_structures(ELEMENTS, 4.0)
    assert all(found[name] == again[name] for name in found)
    assert "water" not in engine_structures((6, 26), 5.0)
    assert len(engine_structures((6,), 5.0)) >= 20


def _energy_without_an_offset(said: Said, atoms: Atoms) -> Said:
    return said | {"energy": said["energy"] + 70.0 * len(atoms)}


def _forces_by_two_microvolts(said: Said, atoms: Atoms) -> Said:
    return said | {"forces": said["forces"] * (1 + 1e-4)}


def _virial_of_the_other_sign(said: Said, atoms: Atoms) -> Said:
    return said | {"virial": -said["virial"]}


def _sigma_of_the_next_atom(said: Said, atoms: Atoms) -> Said:
    return said | {"force_uncertainty": np.roll(said["force_uncertainty"], 1)}


def _not_finite(said: Said, atoms: Atoms) -> Said:
    return said | {"forces": said["forces"] * np.nan}


def _transposed(said: Said, atoms: Atoms) -> Said:
    return said | {"forces": said["forces"].T}


def _without_sigma(said: Said, atoms: Atoms) -> Said:
    return {name: value for name, value in said.items() if name != "force_uncertainty"}


@pytest.mark.parametrize(
    ("broken", "quantity"),
    [
        (_energy_without_an_offset, "energy"),
        (_forces_by_two_microvolts, "forces"),
        (_virial_of_the_other_sign, "virial"),
        (_sigma_of_the_next_atom, "force_uncertainty"),
        (_not_finite, "forces"),
        (_transposed, "forces"),
        (_without_sigma, "force_uncertainty"),
    ],
)
def test_a_wrong_engine_is_caught(
    model: Potential, broken: Callable[[Said, Atoms], Said], quantity: str
) -> None:
    right = through_calculator(model)
    with pytest.raises(ContractViolation, match=quantity) as caught:
        check_engine(lambda atoms: broken(right(atoms), atoms), model)
    assert caught.value.quantity == quantity


def _of_other_atoms(model: Potential, change: Callable[[Atoms], Atoms]) -> Callable[[Atoms], Said]:
    right = through_calculator(model)
    return lambda atoms: right(change(atoms))


def _in_single_precision(atoms: Atoms) -> Atoms:
    near = atoms.copy()
    near.positions = near.positions.astype(np.float32)
    return near


def _without_images(atoms: Atoms) -> Atoms:
    """An engine whose ghosts are of one cell alone, nearest images that is."""
    free = atoms.copy()
    if atoms.pbc.any() and atoms.cell.lengths()[atoms.pbc].min() < 4.0:
        free.pbc = False
    return free


@pytest.mark.parametrize("change", [_in_single_precision, _without_images])
def test_an_engine_that_sees_other_structures_is_caught(
    model: Potential, change: Callable[[Atoms], Atoms]
) -> None:
    with pytest.raises(ContractViolation):
        check_engine(_of_other_atoms(model, change), model)


def test_an_engine_that_moves_atoms_is_caught(model: Potential) -> None:
    right = through_calculator(model)

    def wraps(atoms: Atoms) -> Said:
        said = right(atoms)
        atoms.wrap()
        return said

    with pytest.raises(ContractViolation, match="changes the structure"):
        check_engine(wraps, model)


def test_what_an_engine_gives_has_to_be_a_quantity(model: Potential) -> None:
    with pytest.raises(ValueError, match="'sigma' is no quantity"):
        check_engine(through_calculator(model), model, gives=("energy", "sigma"))


def test_a_virial_needs_no_periodic_structure(model: Potential) -> None:
    """Of a molecule wherever it is; of a crystal −V times its stress."""
    model = potential(force_scale=5.0)
    found = engine_structures(ELEMENTS, model.cutoff)
    near, far = (said_through_ase(model, found[f"a molecule{at}"]) for at in ("", " far out"))
    np.testing.assert_allclose(near["virial"], far["virial"], atol=2e-5)
    crystal = found["silica"].copy()
    crystal.calc = Calculator(model)
    stress = crystal.get_stress(voigt=False)
    virial = said_through_ase(model, crystal)["virial"]
    np.testing.assert_allclose(virial, -stress * crystal.cell.volume, rtol=1e-5, atol=1e-7)
