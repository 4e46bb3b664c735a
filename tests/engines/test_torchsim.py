"""torch-sim says what ASE says, of one structure and of batches, and moves atoms by it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

ts = pytest.importorskip(
    "torch_sim", reason="torch-sim is not installed: pip install 'eip[torchsim]'"
)

from torch_sim.autobatching import BinningAutoBatcher, calculate_memory_scaler  # noqa: E402
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from eip.engines.torchsim import BiasedEIPModel, EIPModel  # noqa: E402
from eip.errors import InputError, NonFinitePrediction  # noqa: E402
from eip.potential import Potential  # noqa: E402
from eip.simulation import BiasedCalculator, Calculator, UDDParameters, UDDPotential  # noqa: E402
from eip.testing import check_engine, engine_structures  # noqa: E402

from .conftest import network  # noqa: E402

pytestmark = pytest.mark.engines

Said = dict[str, Any]
UDD = {"A": 2.0, "B": 1.0, "C": 0.5, "D": 1.5}


def in_state(atoms: Atoms | list[Atoms], dtype: torch.dtype = torch.float64) -> Any:
    return ts.io.atoms_to_state(atoms, torch.device("cpu"), dtype)


def whole(structures: dict[str, Atoms]) -> dict[str, Atoms]:
    """torch-sim 0.3 knows structures that are periodic in all directions, or in none."""
    return {n: a for n, a in structures.items() if a.pbc.all() or not a.pbc.any()}


def one_by_one(model: EIPModel) -> Callable[[Atoms], Said]:
    def evaluate(atoms: Atoms) -> Said:
        said = {name: value.numpy() for name, value in model(in_state(atoms)).items()}
        for name in ("energy", "uncertainty", "stress"):
            said[name] = said[name][0]
        stress = said.pop("stress")
        if atoms.pbc.all():
            said["virial"] = -stress * atoms.get_volume()
        return said

    return evaluate


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
def test_it_keeps_the_contract_of_engines(backbone: str) -> None:
    potential = network(backbone=backbone)
    structures = whole(engine_structures(potential.elements, potential.cutoff))
    evaluate = one_by_one(EIPModel(potential))
    periodic = {name: atoms for name, atoms in structures.items() if atoms.pbc.all()}
    check_engine(evaluate, potential, periodic)
    free = {name: atoms for name, atoms in structures.items() if name not in periodic}
    check_engine(evaluate, potential, free, gives=("energy", "forces", "force_uncertainty"))
    assert len(periodic) + len(free) >= 18


def test_its_own_consistency_test_passes(model: Potential) -> None:
    potential = network((14, 26))
    for dtype in (torch.float64, torch.float32):
        validate_model_outputs(EIPModel(potential, dtype=dtype), torch.device("cpu"), dtype)
    quiet = EIPModel(potential, compute_forces=False, compute_stress=False)
    state = in_state(bulk("Si"))
    assert not {"forces", "stress"} & quiet(state).keys()
    quiet.compute_forces = quiet.compute_stress = True
    assert {"forces", "stress"} <= quiet(state).keys()


def test_a_batch_of_many_sizes_is_its_structures(model: Potential) -> None:
    found = engine_structures(model.elements, model.cutoff)
    for periodic in (True, False):
        chosen = [a for a in found.values() if a.pbc.all() == a.pbc.any() == periodic]
        structures = [chosen[i % len(chosen)] for i in range(64)]
        engine = EIPModel(model)
        together = engine(in_state(structures))
        start = 0
        for index, atoms in enumerate(structures[: len(chosen)]):
            atoms = atoms.copy()
            atoms.calc = Calculator(model)
            part = slice(start, start + len(atoms))
            start += len(atoms)
            assert float(together["energy"][index]) == pytest.approx(
                atoms.get_potential_energy(), abs=1e-6 * len(atoms)
            )
            for name in ("forces", "force_uncertainty"):
                want = atoms.calc.results[name]
                scale = max(np.abs(want).max(), 1e-2)
                assert np.abs(together[name][part].numpy() - want).max() < 1e-5 * scale, name
        assert together["force_covariance"].shape == (sum(map(len, structures)), 3, 3)
        assert together["uncertainty"].shape == (64,)


def test_nothing_that_goes_out_has_a_gradient_or_changes_the_state(model: Potential) -> None:
    state = in_state(engine_structures(model.elements, model.cutoff)["silica"])
    before = state.clone()
    said = EIPModel(model)(state)
    assert not any(value.requires_grad for value in said.values())
    assert all(value.dtype == torch.float64 for value in said.values())
    assert torch.equal(state.positions, before.positions) and torch.equal(state.cell, before.cell)
    fields = {"positions": state.positions, "cell": state.cell, "pbc": state.pbc,
              "atomic_numbers": state.atomic_numbers, "system_idx": state.system_idx}  # fmt: skip
    again = EIPModel(model)(fields)
    assert torch.equal(said["forces"], again["forces"])


def test_dynamics_follow_those_of_ase(model: Potential) -> None:
    """The same start, velocity Verlet, 20 steps: the same end."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    atoms = engine_structures(model.elements, model.cutoff)["liquid water"]
    momenta = 0.2 * np.random.default_rng(0).normal(size=(len(atoms), 3))
    femtosecond = 0.5
    state = in_state([atoms, atoms.repeat((1, 1, 2))])
    engine = EIPModel(model)
    start, step = ts.nve(
        engine, dt=torch.tensor(femtosecond * 1e-3 * ts.units.MetalUnits.time).double(), kT=0.01
    )
    moving = start(state)
    both = np.concatenate([momenta, momenta, momenta])
    moving.momenta = torch.tensor(both)
    for _ in range(20):
        moving = step(moving)
    atoms.set_momenta(momenta)
    atoms.calc = Calculator(model)
    VelocityVerlet(atoms, femtosecond * units.fs).run(20)
    n = len(atoms)
    for copy in range(3):  # of the second system, twice the first, both halves
        away = moving.positions[copy * n : (copy + 1) * n].numpy() - atoms.positions
        away = away @ np.linalg.inv(atoms.cell)  # torch-sim keeps atoms inside their cell
        np.testing.assert_allclose(away - away.round(), 0.0, atol=2e-6)
    assert engine._neighbors.rebuilds < 20  # of two systems in 21 calls


def test_batched_udd_pushes_as_it_does_alone(model: Potential) -> None:
    found = engine_structures(model.elements, model.cutoff)
    structures = [found[name] for name in ("silica", "liquid water", "a flat cell")]
    biased = UDDPotential(model, UDDParameters(**UDD))
    plain, driving = (
        EIPModel(biased)(in_state(structures)),
        BiasedEIPModel(biased)(in_state(structures)),
    )
    assert torch.equal(plain["energy"], driving["energy"])
    assert float((driving["forces"] - plain["forces"]).abs().max()) > 1e-3
    start = 0
    for index, atoms in enumerate(structures):
        atoms = atoms.copy()
        atoms.calc = BiasedCalculator(biased)
        part = slice(start, start + len(atoms))
        start += len(atoms)
        scale = float(driving["forces"].abs().max())
        np.testing.assert_allclose(
            driving["forces"][part].numpy(), atoms.get_forces(), atol=2e-5 * scale
        )
        bias = atoms.calc.results["energy_bias"]
        assert float(driving["energy_bias"][index]) == pytest.approx(bias, rel=1e-5)
    # Without a bias it is the plain model.
    assert torch.equal(
        BiasedEIPModel(model)(in_state(structures))["forces"],
        EIPModel(model)(in_state(structures))["forces"],
    )


def test_biased_dynamics_run(model: Potential) -> None:
    found = engine_structures(model.elements, model.cutoff)
    end = ts.integrate(
        [found["silica"], found["liquid water"]],
        BiasedEIPModel(UDDPotential(model, UDDParameters(**UDD))),
        integrator=ts.nvt_langevin,
        n_steps=3,
        temperature=300,
        timestep=0.0005,
    )
    assert bool(end.positions.isfinite().all()) and end.n_systems == 2


@pytest.mark.parametrize("more", [{"memory": 50.0}, {"interval": 2}])
def test_a_bias_of_more_than_one_state_is_refused(model: Potential, more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no memory and no interval"):
        BiasedEIPModel(UDDPotential(model, UDDParameters(**UDD, **more)))


def test_batches_are_made_by_memory(model: Potential) -> None:
    found = engine_structures(model.elements, model.cutoff)
    periodic = [atoms for atoms in found.values() if atoms.pbc.all()]
    molecules = [atoms for atoms in found.values() if not atoms.pbc.any()]
    by_atoms = EIPModel(model, memory_scales_with="n_atoms")
    for engine, structures in ((EIPModel(model), periodic), (by_atoms, molecules)):
        metric = engine.memory_scales_with
        sizes = [calculate_memory_scaler(in_state(a), metric) for a in structures]
        batcher = BinningAutoBatcher(
            engine, memory_scales_with=metric, max_memory_scaler=1.2 * max(sizes)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = ts.static(structures, engine, autobatcher=batcher)
        assert len(batcher.index_bins) > 1
        for atoms, one in zip(structures, said, strict=True):
            atoms = atoms.copy()
            atoms.calc = Calculator(model)
            assert float(one["potential_energy"]) == pytest.approx(
                atoms.get_potential_energy(), abs=1e-5
            )


def test_it_takes_a_model_file(model: Potential, model_file: Path) -> None:
    atoms = engine_structures(model.elements, model.cutoff)["silica"]
    one, other = EIPModel(model_file)(in_state(atoms)), EIPModel(model)(in_state(atoms))
    assert torch.equal(one["energy"], other["energy"])


def test_what_cannot_be_is_said(model: Potential) -> None:
    engine = EIPModel(model)
    with pytest.raises(InputError, match="holds Fe, which"):
        engine(in_state(bulk("Fe")))
    atoms = engine_structures(model.elements, model.cutoff)["silica"]
    broken = atoms.copy()
    broken.positions[1] = broken.positions[0]
    with pytest.raises(NonFinitePrediction, match="system 1: atoms 0 and 1 are on the same spot"):
        engine(in_state([atoms, broken]))
