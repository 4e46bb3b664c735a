"""The calculator as ASE's users know calculators."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress

from eip.errors import InputError, NonFinitePrediction
from eip.simulation import BiasedCalculator, Calculator, UDDParameters, UDDPotential
from eip.uncertainty.evidential import EvidentialPotential

from .toy import ToyPotential, cluster, crystal


def water_network() -> EvidentialPotential:
    torch.manual_seed(0)
    return EvidentialPotential(
        elements=(1, 8, 18, 29),
        element_energies={1: -13.0, 8: -430.0, 18: 0.0, 29: -2.0},
        force_scale=2.0,
        channels=8,
        cutoff=4.0,
    ).double()


UDD = {"A": 2.0, "B": 0.05, "C": 0.1, "D": 1.5}


def test_results_have_their_names_and_shapes():
    atoms = crystal(1)
    atoms.calc = Calculator(ToyPotential())
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert set(results) == {"energy", "free_energy", "forces"}
    assert set(results.own) == {"force_uncertainty", "uncertainty"}
    assert results["force_uncertainty"].shape == (4,)
    assert results["uncertainty"] == pytest.approx(results["force_uncertainty"].mean())
    assert results["forces"].dtype == np.float64
    assert isinstance(results["energy"], float)


def test_forces_and_stress_agree_with_differences():
    atoms = crystal(1, spread=0.2)
    atoms.set_cell(atoms.cell @ np.array([[1, 0.05, 0], [0, 1.02, 0], [0.03, 0, 0.97]]), True)
    atoms.calc = Calculator(ToyPotential())
    forces, stress = atoms.get_forces(), atoms.get_stress()
    h = 1e-4
    for i, a in ((0, 0), (3, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[i, a] += sign * h
            energies.append(moved.get_potential_energy())
        assert forces[i, a] == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=1e-6)
    for voigt, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert stress[voigt] == pytest.approx(slope, abs=1e-7)


def test_stress_is_computed_only_when_asked_for():
    toy = ToyPotential()
    atoms = crystal(1)
    atoms.calc = Calculator(toy, stress=True)
    atoms.get_forces()
    atoms.get_stress()
    assert toy.calls == 1
    atoms.calc = Calculator(toy, stress=False)
    with pytest.raises(PropertyNotImplementedError, match="switched off"):
        atoms.get_stress()
    molecule = cluster(4)
    molecule.calc = Calculator(toy, stress=True)
    molecule.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="periodic in one direction or more"):
        molecule.get_stress()
    sheet = crystal(1)
    sheet.pbc, sheet.cell[2] = (True, True, False), 0.0
    sheet.calc = Calculator(toy)
    with pytest.raises(PropertyNotImplementedError, match="a cell of three vectors"):
        sheet.get_stress()


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, True), (False, False, True)])
def test_stress_of_slabs_and_wires_agrees_with_differences(pbc: tuple[bool, bool, bool]) -> None:
    atoms = crystal(1, spread=0.2)
    atoms.set_cell(atoms.cell @ np.array([[1, 0.05, 0], [0, 1.02, 0], [0.03, 0, 0.97]]), True)
    atoms.pbc = pbc
    for axis in np.flatnonzero(~np.array(pbc)):
        atoms.cell[axis] *= 3.0
    for model in (ToyPotential(), water_network()):
        atoms.calc = Calculator(model)
        np.testing.assert_allclose(
            atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-8
        )
        batch = model.predict([atoms, cluster(3), atoms], stress=True).stress
        assert batch is not None
        assert batch[1].isnan().all() or isinstance(model, ToyPotential)
        np.testing.assert_allclose(
            full_3x3_to_voigt_6_stress(batch[2].double().numpy()), atoms.get_stress(), atol=1e-7
        )
        # The vacuum's height is a convention: what it multiplies is the stress of the slab.
        taller = atoms.copy()
        taller.cell[int(np.flatnonzero(~np.array(pbc))[0])] *= 2.0
        taller.calc = Calculator(model, stress=True)
        np.testing.assert_allclose(2 * taller.get_stress(), atoms.get_stress(), atol=1e-12)


def test_a_sheet_relaxes_in_its_plane() -> None:
    """As a 2-D material's user does it: the vacuum stays, the lattice goes to its minimum."""
    sheet = crystal(1)
    sheet.pbc = (True, True, False)
    sheet.cell[2] *= 4.0
    sheet.set_cell(sheet.cell * [1.06, 1.06, 1.0], scale_atoms=True)
    height = float(sheet.cell[2, 2])
    sheet.calc = Calculator(ToyPotential())
    relaxed = FrechetCellFilter(sheet, mask=[1, 1, 0, 0, 0, 1])
    assert BFGS(relaxed, logfile=None).run(fmax=0.005, steps=100)
    assert abs(sheet.get_stress()[[0, 1, 5]]).max() < 1e-4
    assert sheet.cell[2, 2] == pytest.approx(height)


def test_energies_of_atoms_add_up() -> None:
    for atoms in (cluster(6), crystal(1)):
        atoms.calc = Calculator(water_network())
        energies = atoms.get_potential_energies()
        assert energies.shape == (len(atoms),)
        assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    atoms.calc = Calculator(ToyPotential())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energies()


def test_sigma_is_found_by_what_others_call_it() -> None:
    atoms = cluster(6)
    atoms.calc = Calculator(ToyPotential())
    by_component = atoms.calc.get_property("forces_uncertainty", atoms)
    assert by_component.shape == (6, 3)
    np.testing.assert_array_equal(by_component[:, 1], atoms.calc.results["force_uncertainty"])
    assert "forces_uncertainty" in atoms.calc.implemented_properties


def test_unknown_element_is_named():
    atoms = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]], calculator=Calculator(ToyPotential()))
    with pytest.raises(InputError, match=r"holds Au, which .* knows H, O, Ar, Cu"):
        atoms.get_forces()


def test_dtype_and_device_leave_the_callers_potential_alone():
    toy = ToyPotential()
    calculator = Calculator(toy, dtype=torch.float32, device="cpu")
    assert toy.dtype == torch.float64
    assert calculator.potential.dtype == torch.float32
    assert Calculator(toy).potential is toy
    atoms = crystal(1)
    atoms.calc = calculator
    low = atoms.get_forces()
    atoms.calc = Calculator(toy)
    np.testing.assert_allclose(low, atoms.get_forces(), atol=1e-5)
    assert low.dtype == np.float64


def test_a_plain_ase_script(tmp_path):
    """Relax, run, write, read: labels come back, uncertainties lie beside them."""
    atoms = cluster(6)
    atoms.calc = Calculator(ToyPotential(), skin=0.4)
    assert BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=100, friction=0.02 / units.fs, fixcm=False,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    dynamics.run(20)
    atoms.arrays["sigma"] = atoms.calc.results["force_uncertainty"]
    write(tmp_path / "run.xyz", atoms)
    again = read(tmp_path / "run.xyz")
    np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    assert again.arrays["sigma"].shape == (6,)


def test_a_verlet_list_gives_what_a_fresh_one_gives():
    rng = np.random.default_rng(0)
    atoms = crystal(2)
    atoms.calc = Calculator(ToyPotential(), skin=0.6)
    for _ in range(10):
        atoms.positions += rng.uniform(-0.1, 0.1, atoms.positions.shape)
        fresh = atoms.copy()
        fresh.calc = Calculator(ToyPotential(), skin=0.0)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-12)


def test_it_computes_anew_when_and_only_when_something_changed():
    toy = ToyPotential()
    atoms = crystal(1)
    atoms.calc = Calculator(toy)
    atoms.get_forces()
    atoms.get_potential_energy()
    atoms.set_momenta(np.ones_like(atoms.positions))
    atoms.get_forces()
    assert toy.calls == 1
    changes = [
        (["positions"], lambda: atoms.positions.__setitem__((1, 2), atoms.positions[1, 2] + 1e-14)),
        (["numbers"], lambda: atoms.numbers.__setitem__(0, 8)),
        (["cell"], lambda: atoms.set_cell(atoms.cell * (1 + 1e-15))),
        (["pbc"], lambda: atoms.set_pbc([True, False, True])),
    ]
    for calls, (names, change) in enumerate(changes, start=2):
        change()
        assert atoms.calc.check_state(atoms) == names
        atoms.get_forces()
        assert toy.calls == calls
        assert atoms.calc.check_state(atoms) == []
    fewer = atoms[:-1]
    fewer.calc = atoms.calc
    assert fewer.get_forces().shape == (3, 3)
    fewer.positions[0] = np.nan
    for _ in range(2):
        with pytest.raises(ValueError, match="not finite"):
            fewer.get_forces()


def test_files_never_hold_the_bias(tmp_path):
    """Neither of the plain calculator nor of the one that drives; not even with constraints."""
    toy = ToyPotential()
    plain = cluster(6)
    plain.calc = Calculator(toy)
    for kind in (Calculator, BiasedCalculator):
        atoms = cluster(6)
        atoms.calc = kind(UDDPotential(toy, UDDParameters(**UDD)))
        driving = atoms.get_forces()
        bias = atoms.calc.results["forces_bias"]
        assert np.abs(bias).max() > 1e-2
        expected = plain.get_forces() + (bias if kind is BiasedCalculator else 0)
        np.testing.assert_array_equal(driving, expected)
        np.testing.assert_array_equal(atoms.calc.results["forces"], plain.get_forces())
        assert atoms.get_potential_energy() == plain.get_potential_energy()
        for name in ("a.xyz", "a.traj"):
            write(tmp_path / name, atoms)
            written = read(tmp_path / name).get_forces()
            np.testing.assert_allclose(written, plain.get_forces(), atol=1e-7)


def test_constraints_do_not_change_results():
    atoms = cluster(6)
    atoms.calc = Calculator(ToyPotential())
    free = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0, 1]))
    assert np.abs(atoms.get_forces()[:2]).max() == 0
    np.testing.assert_array_equal(atoms.calc.results["forces"], free)


def test_a_prediction_that_is_not_finite_is_heard_of():
    """Two atoms on one spot: NaN would go on without a word."""
    torch.manual_seed(0)
    network = EvidentialPotential(
        elements=(1, 8), element_energies={1: 0.0, 8: 0.0}, force_scale=1.0, channels=8
    )
    atoms = Atoms("OH2", [[0, 0, 0], [0, 0.1, 0.9], [0, 0.1, 0.9]])
    alright = Atoms("OH", [[0, 0, 0], [0, 0.1, 0.9]])
    atoms.calc = Calculator(network)
    with pytest.raises(NonFinitePrediction, match=r"for H2O: atoms 1 and 2 are on the same spot"):
        atoms.get_forces()
    with pytest.raises(NonFinitePrediction, match=r"structure 1 \(H2O\): atoms 1 and 2 are on"):
        network.predict([alright, atoms])
    assert network.predict([alright] * 2).forces.isfinite().all()
    atoms.calc = Calculator(network, allow_non_finite=True)
    assert np.isnan(atoms.get_forces()).any()


def test_results_are_what_ase_takes_and_more_by_name(tmp_path: Path) -> None:
    atoms = crystal(1)
    atoms.calc = Calculator(ToyPotential())
    atoms.get_forces()
    results = atoms.calc.results
    kept = SinglePointCalculator(atoms, **results)  # as MACE's and ASE's own tools do
    assert set(kept.results) == {"energy", "free_energy", "forces"}
    assert set(atoms.calc.export_properties()) >= {"energy", "forces"}
    assert "force_uncertainty" in results and results["force_uncertainty"].shape == (len(atoms),)
    assert results.get("uncertainty") == pytest.approx(results["force_uncertainty"].mean())
    assert results.get("nothing") is None and "nothing" not in results
    with pytest.raises(KeyError, match="nothing"):
        results["nothing"]
    assert results.everything().keys() == {*results, *results.own}
    assert pickle.loads(pickle.dumps(results))["uncertainty"] == results["uncertainty"]
    assert copy.deepcopy(results).own.keys() == results.own.keys()
    assert atoms.calc.get_property("uncertainty", atoms) == results["uncertainty"]
    for name in ("a.traj", "a.xyz", "a.db"):
        write(tmp_path / name, atoms)
        assert read(tmp_path / name).get_potential_energy() == results["energy"]
