"""Labelers with the real tblite, with users' calculators, with a teacher."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.units import Bohr, Hartree

from eip.active_learning.labelers import Labeler, LabelFailure, labelled_copy
from eip.active_learning.labelers.calculator import CalculatorLabeler
from eip.active_learning.labelers.model import PotentialLabeler
from eip.active_learning.labelers.pyscf import PySCFLabeler
from eip.active_learning.labelers.xtb import XTBLabeler
from eip.data.electrons import electrons_of
from eip.errors import InputError
from eip.model_file import save_model
from eip.testing.contract import ContractViolation
from eip.testing.labeler import check_labeler
from eip.uncertainty.evidential import EvidentialPotential
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM


def water(seed: int = 1, stdev: float = 0.08) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(stdev, seed=seed)
    return atoms


def ice(seed: int = 1) -> Atoms:
    atoms = water(seed)
    atoms.set_cell([[4.0, 0, 0], [0.4, 4.2, 0], [0.1, -0.3, 4.4]])
    atoms.pbc = True
    return atoms


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=3)
    return atoms


# -------------------------------------------------------------------------- PySCF


@pytest.mark.parametrize("functional", ["HF", "PBE"])
def test_pyscf_keeps_the_contract(functional: str, tmp_path: Path):
    pytest.importorskip("pyscf", reason="pyscf is not installed")
    options = {"basis": "sto-3g", "tolerance": 1e-11}
    check_labeler(
        PySCFLabeler(functional, **options),
        [water()],
        tmp_path,
        tolerance=5e-3,
        step=1e-3,
        failing=PySCFLabeler(functional, **options, max_iterations=1),
    )


def test_pyscf_gives_the_published_energy_of_water(tmp_path: Path):
    pytest.importorskip("pyscf", reason="pyscf is not installed")
    labeler = PySCFLabeler("HF", basis="sto-3g", density_fit=False)
    # The geometry and the energy of the Crawford group's programming projects: -74.942079928 Eh.
    places = [[0.0, -0.143225816552, 0.0], [1.638036840407, 1.136548822547, 0.0]]
    places.append([-places[1][0], places[1][1], 0.0])
    labelled = labeler.label(Atoms("OH2", np.array(places) * Bohr), tmp_path)
    assert labelled.get_potential_energy() / Hartree == pytest.approx(-74.942079928, abs=1e-6)


def test_pyscf_charge_and_spin_change_the_energy(tmp_path: Path):
    pytest.importorskip("pyscf", reason="pyscf is not installed")
    oxygen = molecule("O2")
    singlet = PySCFLabeler("HF", basis="sto-3g", multiplicity=1).label(oxygen, tmp_path)
    triplet = PySCFLabeler("HF", basis="sto-3g", multiplicity=3).label(oxygen, tmp_path)
    assert singlet.get_potential_energy() > triplet.get_potential_energy() + 0.5
    hydroxide = molecule("OH")
    anion = PySCFLabeler("HF", basis="sto-3g", charge=-1).label(hydroxide, tmp_path)
    radical = PySCFLabeler("HF", basis="sto-3g").label(hydroxide, tmp_path)
    assert abs(anion.get_potential_energy() - radical.get_potential_energy()) > 0.5


@pytest.mark.parametrize(
    ("options", "structure", "said"),
    [
        ({"functional": "PEB"}, water(), "PEB"),
        ({"basis": "def2-nothing"}, water(), "def2-nothing"),
        ({}, ice(), "is for molecules"),
    ],
)
def test_pyscf_refuses(options: dict, structure: Atoms, said: str, tmp_path: Path):
    pytest.importorskip("pyscf", reason="pyscf is not installed")
    with pytest.raises(InputError, match=said):
        PySCFLabeler(**options).label(structure, tmp_path)


@pytest.mark.parametrize("options", [{"grid": 12}, {"tolerance": 0.0}, {"max_iterations": 0}])
def test_pyscf_options_out_of_range_are_refused(options: dict):
    with pytest.raises(InputError, match=f"pyscf: {next(iter(options))}"):
        PySCFLabeler(**options)


def test_pyscf_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(InputError, match=r"pip install 'eip\[pyscf\]'"):
        PySCFLabeler().label(water(), tmp_path)


# ---------------------------------------------------------------------------- xTB


@pytest.mark.parametrize("method", ["GFN2-xTB", "GFN1-xTB"])
def test_xtb_keeps_the_contract(method: str, tmp_path: Path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    check_labeler(
        XTBLabeler(method, accuracy=0.1),
        [water(), ice()],
        tmp_path,
        tolerance=2e-3,
        step=1e-3,
        failing=XTBLabeler(method, max_iterations=2),
    )


def test_xtb_gives_the_published_energy_of_water(tmp_path: Path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    labelled = XTBLabeler().label(molecule("H2O"), tmp_path)
    # From the documentation of tblite, for the same geometry.
    assert labelled.get_potential_energy() == pytest.approx(-137.96777594361677, abs=1e-5)
    forces = [[0, 0, -0.749527], [0, -0.153506, 0.374764], [0, 0.153506, 0.374764]]
    np.testing.assert_allclose(labelled.get_forces(), forces, atol=1e-4)
    assert "stress" not in labelled.calc.results


def test_xtb_unconverged_is_a_failure_that_crosses_processes(tmp_path: Path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        good = pool.submit(XTBLabeler().label, water(), tmp_path / "good").result()
        bad = pool.submit(XTBLabeler(max_iterations=2).label, water(), tmp_path / "bad")
        with pytest.raises(LabelFailure, match="not converged") as caught:
            bad.result()
    assert caught.value.folder == tmp_path / "bad"
    here = XTBLabeler().label(water(), tmp_path / "here")
    np.testing.assert_allclose(good.get_forces(), here.get_forces(), atol=1e-8)


def test_xtb_charge_and_spin_change_the_energy(tmp_path: Path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    hydroxide = molecule("OH")
    anion = XTBLabeler(charge=-1).label(hydroxide, tmp_path).get_potential_energy()
    radical = XTBLabeler().label(hydroxide, tmp_path).get_potential_energy()
    assert anion < radical - 1.0
    oxygen = molecule("O2")
    singlet = XTBLabeler().label(oxygen, tmp_path).get_potential_energy()
    triplet = XTBLabeler(multiplicity=3).label(oxygen, tmp_path).get_potential_energy()
    assert abs(singlet - triplet) > 0.01
    with pytest.raises(InputError, match="10 electrons: a multiplicity of 2 is impossible"):
        XTBLabeler(multiplicity=2).label(water(), tmp_path)
    # What a structure carries does not count.
    oxygen.set_initial_magnetic_moments([1.0, 1.0])
    oxygen.set_initial_charges([1.0, 0.0])
    assert XTBLabeler().label(oxygen, tmp_path).get_potential_energy() == pytest.approx(
        singlet, abs=1e-8
    )


def test_xtb_says_how_to_install_tblite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(InputError, match=r"pip install 'eip\[reference\]'"):
        XTBLabeler().label(water(), tmp_path)


def test_xtb_refuses_elements_beyond_the_method(tmp_path: Path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    with pytest.raises(InputError, match="GFN2-xTB"):
        XTBLabeler().label(Atoms("Og"), tmp_path)


# ---------------------------------------------------------------------------- ASE calculators


class Broken(Calculator):
    """Fails, gives NaN, or does not converge."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, how: str):
        super().__init__()
        self.how, self.converged = how, how != "unconverged"

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.how == "raises":
            raise RuntimeError("SCF\n failed")
        value = np.nan if self.how == "nan" else 1.0
        count = len(atoms) - (self.how == "short")
        self.results = {"energy": 1.0, "forces": np.full((count, 3), value)}


def emt() -> EMT:
    return EMT()


def lennard_jones() -> LennardJones:
    return LennardJones(sigma=2.3, epsilon=0.3, rc=6.0, smooth=True)


@pytest.mark.parametrize("factory", [emt, lennard_jones, "ase.calculators.emt:EMT"])
def test_any_calculator_keeps_the_contract(factory, tmp_path: Path):
    check_labeler(CalculatorLabeler(factory), [copper()], tmp_path, tolerance=1e-3, step=1e-3)


def test_a_calculator_from_a_file_is_made_once_and_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "calc.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "MADE = []\n"
        "def make():\n"
        "    MADE.append(1)\n"
        "    calculator = EMT()\n"
        "    calculator.made = MADE\n"
        "    return calculator\n"
    )
    monkeypatch.chdir(tmp_path)
    labeler = CalculatorLabeler("calc.py:make", name="EMT of mine")
    assert labeler.name == "EMT of mine"
    monkeypatch.chdir("/")
    first, second = copper(), copper()
    second.rattle(0.05, seed=9)
    labels = [pickle.loads(pickle.dumps(labeler)).label(a, tmp_path) for a in (first, second)]
    assert len(labeler._calculator(copper()).made) == 1
    for atoms, label in zip((first, second), labels, strict=True):
        atoms.calc = EMT()
        assert label.get_potential_energy() == atoms.get_potential_energy()
        np.testing.assert_array_equal(label.get_stress(), atoms.get_stress())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "RuntimeError: SCF failed"),
        ("nan", "forces not finite"),
        ("short", r"forces of shape \(7, 3\) for 8 atoms"),
        ("unconverged", "not converged"),
    ],
)
def test_a_calculator_that_fails_gives_no_label(how: str, reason: str, tmp_path: Path):
    labeler = CalculatorLabeler(lambda: Broken(how), name="mine")
    with pytest.raises(LabelFailure, match=reason) as caught:
        labeler.label(copper(), tmp_path / "here")
    assert caught.value.folder == tmp_path / "here"


class Program(Calculator):
    """Writes a program's output and gives an energy whatever that says."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, name: str, text: str):
        super().__init__()
        self.file, self.text = name, text

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        (Path(self.directory) / self.file).write_text(self.text)
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}


OUTPUTS = {
    "OUTCAR": ("Iteration 1( 1) ---\n{}  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n", ""),
    "espresso.pwo": ("{}", "     convergence NOT achieved after 100 iterations: stopping\n"),
    "orca.out": ("{}ORCA TERMINATED NORMALLY\n", "   ERROR: SCF NOT CONVERGED AFTER 5 CYCLES\n"),
    "Gaussian.log": ("{}", " Convergence failure -- run terminated.\n"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_a_programs_output_says_of_its_scf_counts(name: str, tmp_path: Path):
    frame, bad = OUTPUTS[name]
    good = "aborting loop because EDIFF is reached\n" if name == "OUTCAR" else ""
    sound = CalculatorLabeler(lambda: Program(name, frame.format(good)), name="mine")
    assert sound.label(copper(), tmp_path / "good").get_potential_energy() == 1.0
    labeler = CalculatorLabeler(lambda: Program(name, frame.format(bad)), name="mine")
    with pytest.raises(LabelFailure, match=f"not converged .*{name}"):
        labeler.label(copper(), tmp_path / "bad")


def test_a_calculator_that_failed_is_made_anew(tmp_path: Path):
    (tmp_path / "fragile.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "MADE = []\n"
        "class Dies(EMT):\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        raise OSError('gone')\n"
        "def make():\n"
        "    MADE.append(1)\n"
        "    return Dies()\n"
    )
    labeler = CalculatorLabeler(f"{tmp_path / 'fragile.py'}:make")
    with pytest.raises(LabelFailure, match="gone"):
        labeler.label(copper(), tmp_path)
    calculator = labeler._calculator(copper())
    with pytest.raises(LabelFailure, match="gone"):
        labeler.label(copper(), tmp_path)
    assert labeler._calculator(copper()) is not calculator


def test_a_calculator_without_a_stress_still_labels(tmp_path: Path):
    labelled = CalculatorLabeler(lambda: Broken("not at all")).label(copper(), tmp_path)
    assert set(labelled.calc.results) == {"energy", "forces"}


def test_wrong_names_of_calculators_are_explained(tmp_path: Path):
    with pytest.raises(InputError, match=r"'file\.py:function' or 'package\.module:function'"):
        CalculatorLabeler("ase.calculators.emt")
    with pytest.raises(InputError, match="there is no file"):
        CalculatorLabeler("nowhere.py:make")
    with pytest.raises(InputError, match="did you mean 'EMT'"):
        CalculatorLabeler("ase.calculators.emt:EMTT").label(copper(), tmp_path)
    with pytest.raises(InputError, match=r"cannot be imported: ModuleNotFoundError"):
        CalculatorLabeler("no_such_package.at_all:make").label(copper(), tmp_path)
    (tmp_path / "bad.py").write_text("this is no Python")
    with pytest.raises(InputError, match="cannot be imported: SyntaxError"):
        CalculatorLabeler(f"{tmp_path / 'bad.py'}:make").label(copper(), tmp_path)


# ---------------------------------------------------------------------------- a teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    potential = EvidentialPotential(
        elements=(1, 8),
        element_energies={1: -3.0, 8: -9.0},
        force_scale=3.0,
        head="tensor",
        channels=8,
        interactions=2,
        radial_functions=5,
        cutoff=3.5,
    ).double()
    path = tmp_path_factory.mktemp("teacher") / "model.eip"
    save_model(potential, path)
    return path


def test_a_potential_keeps_the_contract(teacher: Path, tmp_path: Path):
    structures = [water(), ice()]
    check_labeler(PotentialLabeler(teacher), structures, tmp_path, tolerance=1e-4, step=1e-3)
    with pytest.raises(InputError, match="Cu"):
        PotentialLabeler(teacher).label(copper(), tmp_path)


def test_a_potential_in_memory_labels_like_its_file(teacher: Path, tmp_path: Path):
    from eip.model_file import load_model

    memory = pickle.loads(pickle.dumps(PotentialLabeler(load_model(teacher))))
    one, other = (lab.label(ice(), tmp_path) for lab in (memory, PotentialLabeler(teacher)))
    for name in ("energy", "forces", "stress"):
        np.testing.assert_allclose(one.calc.results[name], other.calc.results[name], rtol=1e-12)


def test_a_replaced_model_file_is_read_again(teacher: Path, tmp_path: Path):
    import os
    import shutil

    from eip.model_file import load_model

    path = tmp_path / "model.eip"
    shutil.copy(teacher, path)
    labeler = PotentialLabeler(path)
    before = labeler.label(water(), tmp_path).get_potential_energy()
    potential = load_model(path)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    save_model(potential, path)
    os.utime(path, ns=(1, 1))
    assert labeler.label(water(), tmp_path).get_potential_energy() != before


def test_a_missing_model_is_found_missing_at_once(tmp_path: Path):
    with pytest.raises(InputError, match="no such model file"):
        PotentialLabeler(tmp_path / "model.eip")


def test_a_failure_survives_pickling():
    for failure in (LabelFailure("broke"), LabelFailure("broke", Path("somewhere"))):
        copy = pickle.loads(pickle.dumps(failure))
        assert (copy.reason, copy.folder, str(copy)) == (
            failure.reason,
            failure.folder,
            str(failure),
        )
    assert "somewhere" in str(LabelFailure("broke", Path("somewhere")))


# ---------------------------------------------------------------------------- the contract bites


class Wrong(Labeler):
    """Copper by EMT, with one thing wrong."""

    name = "wrong"

    def __init__(self, how: str):
        self.how, self.calls = how, 0

    def label(self, atoms: Atoms, folder: Path) -> Atoms:
        self.calls += 1
        structure = atoms.copy()
        structure.calc = EMT()
        if self.how == "constrained":
            return labelled_copy(
                atoms, structure.get_potential_energy(), structure.get_forces()
            )  # fmt: skip
        structure.set_constraint()
        energy, forces = structure.get_potential_energy(), structure.get_forces()
        stress = structure.get_stress()
        hartree, bohr = ENERGY_IN_EV["Hartree"], LENGTH_IN_ANGSTROM["Bohr"]
        match self.how:
            case "forces in Hartree/Bohr":
                forces = forces / (hartree / bohr)
            case "forces in eV/Bohr":
                forces = forces * bohr
            case "energy in Hartree":
                energy = energy / hartree
            case "gradient":
                forces = -forces
            case "stress is a pressure":
                stress = -stress
            case "stress in GPa":
                stress = stress * 160.2
            case "unconverged":
                forces = forces + np.random.default_rng(0).normal(0, 0.2, forces.shape)
            case "restless":
                energy += 1e-3 * np.random.default_rng().normal()
            case "stale":
                energy, forces = 7.0, np.full((len(atoms), 3), 7.0)
            case "mutates":
                atoms.wrap()
            case "attaches":
                atoms.calc = EMT()
            case "same object":
                atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
                return atoms
            case "centered":
                shifted = atoms.copy()
                shifted.set_constraint()
                shifted.positions += 1.0
                return labelled_copy(shifted, energy, forces, stress)
        result = labelled_copy(atoms, energy, forces, stress)
        match self.how:
            case "not bare":
                result.info["source"] = "EMT"
            case "live calculator":
                result.calc = EMT()
            case "nan":
                result.calc.results["forces"][0] = np.nan
            case "no forces":
                del result.calc.results["forces"]
        return result


def outside() -> Atoms:
    atoms = copper()
    atoms.positions[0] -= 1e-2 + atoms.cell.array[0]
    return atoms


def test_the_right_one_passes(tmp_path: Path):
    check_labeler(Wrong("nothing"), [outside()], tmp_path, step=1e-3, tolerance=1e-3)


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("forces in Hartree/Bohr", "label_forces"),
        ("forces in eV/Bohr", "label_forces"),
        ("energy in Hartree", "label_forces"),
        ("gradient", "label_forces"),
        ("constrained", "label_repeated"),
        ("unconverged", "label_forces"),
        ("stress is a pressure", "label_stress"),
        ("stress in GPa", "label_stress"),
        ("restless", "label_repeated"),
        ("stale", "label_forces"),
        ("mutates", "label_copy"),
        ("attaches", "label_copy"),
        ("same object", "label_copy"),
        ("centered", "label_copy"),
        ("not bare", "label_copy"),
        ("live calculator", "label_results"),
        ("nan", "label_results"),
        ("no forces", "label_results"),
    ],
)
def test_a_broken_labeler_is_caught(how: str, law: str, tmp_path: Path):
    with pytest.raises(ContractViolation) as caught:
        check_labeler(Wrong(how), [outside()], tmp_path, step=1e-3)
    assert caught.value.law == law, caught.value


def test_one_that_labels_what_cannot_converge_is_caught(tmp_path: Path):
    with pytest.raises(ContractViolation, match="cannot have converged"):
        check_labeler(Wrong("nothing"), [outside()], tmp_path, failing=Wrong("nothing"))


def test_a_check_that_could_not_fail_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="too small to be checked"):
        check_labeler(CalculatorLabeler(emt), [bulk("Cu", cubic=True)], tmp_path)


def test_constraints_do_not_reach_the_label(tmp_path: Path):
    atoms = copper()
    free = CalculatorLabeler(emt).label(atoms, tmp_path).get_forces()
    atoms.set_constraint(FixAtoms([0, 1]))
    fixed = CalculatorLabeler(emt).label(atoms, tmp_path)
    np.testing.assert_array_equal(fixed.get_forces(), free)
    assert np.abs(free[0]).max() > 0.01


@pytest.mark.parametrize("name", ["charge", "Charge", "TOTAL_CHARGE", "tot_charge", "Net_Charge"])
def test_a_charge_is_understood_in_any_case(name: str) -> None:
    atoms = Atoms("H")
    atoms.info[name] = -1
    assert electrons_of(atoms).charge == -1
    atoms.info["Spin_Multiplicity"] = 3
    assert electrons_of(atoms).multiplicity == 3
