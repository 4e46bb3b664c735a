"""OpenMM says what ASE says, and moves atoms by it, alone and beside a force field."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units

openmm = pytest.importorskip("openmm", reason="OpenMM is not installed: pip install 'eip[openmm]'")
pytest.importorskip("openmmml", reason="OpenMM-ML is not installed: pip install 'eip[openmm]'")

from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

from eip.engines.openmm import EIPPotentialImplFactory  # noqa: E402
from eip.errors import InputError  # noqa: E402
from eip.potential import Potential  # noqa: E402
from eip.simulation import BiasedCalculator, UDDParameters, UDDPotential  # noqa: E402
from eip.testing import check_engine, engine_structures  # noqa: E402

pytestmark = pytest.mark.engines

ROOT = Path(__file__).resolve().parents[2]
KJ = units.kJ / units.mol


@pytest.fixture(autouse=True)
def registered() -> None:
    """As the entry point does where eIP is installed."""
    MLPotential.registerImplFactory("eip", EIPPotentialImplFactory())


def topology_of(atoms: Atoms) -> Any:
    topology = app.Topology()
    residue = topology.addResidue("ANY", topology.addChain())
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(atoms.cell.array * 0.1 * unit.nanometer)
    return topology


def context_of(atoms: Atoms, system: Any, integrator: Any = None) -> Any:
    made = openmm.Context(
        system,
        integrator or openmm.VerletIntegrator(0.0005),
        openmm.Platform.getPlatformByName("Reference"),
    )
    if atoms.pbc.all():
        made.setPeriodicBoxVectors(*(atoms.cell.array * 0.1))
    made.setPositions(atoms.positions * 0.1)
    return made


def evaluated(model: Potential | Path, atoms: Atoms) -> dict[str, Any]:
    said: dict[str, Any] = {}
    potential = MLPotential("eip", model=model)
    system = potential.createSystem(topology_of(atoms), watch=said.update)
    state = context_of(atoms, system).getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * KJ
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return {"energy": energy, "forces": forces * KJ, "force_uncertainty": said["force_uncertainty"]}


def taken_by_openmm(atoms: Atoms) -> bool:
    """Boxes are periodic in all directions, with vectors in reduced form."""
    if not atoms.pbc.any():
        return True
    a, b, c = atoms.cell.array
    lower = np.allclose(np.triu(atoms.cell.array, 1), 0) and (atoms.cell.array.diagonal() > 0).all()
    reduced = abs(b[0]) <= a[0] / 2 and abs(c[0]) <= a[0] / 2 and abs(c[1]) <= b[1] / 2
    return bool(atoms.pbc.all() and lower and reduced)


def test_it_keeps_the_contract_of_engines(model: Potential) -> None:
    found = engine_structures(model.elements, model.cutoff)
    structures = {name: atoms for name, atoms in found.items() if taken_by_openmm(atoms)}
    assert len(structures) >= 14
    check_engine(
        lambda atoms: evaluated(model, atoms),
        model,
        structures,
        gives=("energy", "forces", "force_uncertainty"),
    )


def test_dynamics_run_and_sigma_is_told(model_file: Path) -> None:
    atoms = engine_structures((1, 8, 14), 4.0)["silica"]
    atoms.set_cell(np.diag(atoms.cell.lengths()), scale_atoms=True)
    sigma: list[float] = []
    system = MLPotential("eip", model=model_file).createSystem(
        topology_of(atoms), watch=lambda said: sigma.append(said["uncertainty"])
    )
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    context = context_of(atoms, system, integrator)
    integrator.step(5)
    positions = context.getState(positions=True).getPositions(asNumpy=True)
    assert np.isfinite(positions.value_in_unit(unit.angstrom)).all()
    assert len(sigma) >= 5 and min(sigma) > 0


def test_a_bias_is_in_the_forces(model: Potential) -> None:
    biased = UDDPotential(model, UDDParameters(A=2.0, B=1.0, C=0.5, D=1.5))
    atoms = engine_structures(model.elements, model.cutoff)["liquid water"]
    said = evaluated(biased, atoms)
    atoms.calc = BiasedCalculator(biased)
    np.testing.assert_allclose(said["forces"], atoms.get_forces(), atol=1e-5)
    assert said["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)


def test_a_part_of_a_system_alone(model: Potential) -> None:
    """A molecule by the potential, in the field of atoms that it does not see."""
    found = engine_structures(model.elements, model.cutoff)
    both = found["water"] + Atoms("Fe", [[9.0, 9.0, 9.0]])
    topology = topology_of(both)
    field = openmm.System()
    for mass in both.get_masses():
        field.addParticle(mass)
    spring = openmm.CustomExternalForce("1000*(x*x+y*y+z*z)")
    spring.addParticle(3)
    field.addForce(spring)
    mixed = MLPotential("eip", model=model).createMixedSystem(topology, field, [0, 1, 2])
    state = context_of(both, mixed).getState(energy=True, forces=True)
    alone = evaluated(model, found["water"])
    kilojoules = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    assert kilojoules * KJ == pytest.approx(alone["energy"] + 1000 * 3 * 0.81 * KJ, abs=1e-4)


def test_what_cannot_be_is_said(model: Potential) -> None:
    water = engine_structures(model.elements, model.cutoff)["water"]
    with pytest.raises(InputError, match=r'MLPotential\("eip", model="model\.eip"\) takes a model'):
        MLPotential("eip").createSystem(topology_of(water))
    with pytest.raises(InputError, match="and nothing else, got modal"):
        MLPotential("eip", model=model, modal="x").createSystem(topology_of(water))
    potential = MLPotential("eip", model=model)
    with pytest.raises(InputError, match="takes watch and device, got info"):
        potential.createSystem(topology_of(water), info={})
    with pytest.raises(InputError, match="holds Fe"):
        potential.createSystem(topology_of(Atoms("Fe")))
    dummy = app.Topology()
    dummy.addAtom("X", None, dummy.addResidue("ANY", dummy.addChain()))
    with pytest.raises(InputError, match=r"atoms \[0\] of the topology have no element"):
        potential.createSystem(dummy)


def test_the_entry_point_leads_to_it() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, name = about["project"]["entry-points"]["openmmml.potentials"]["eip"].split(":")
    assert getattr(import_module(module), name) is EIPPotentialImplFactory
