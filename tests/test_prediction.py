"""A quantity is described once: what a stranger's potential says is found wherever ours is."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import read
from jaxtyping import Float
from torch import Tensor

from eip.evaluation import evaluate
from eip.evaluation.report import write_predictions
from eip.graph import AtomGraph
from eip.neighbors import build_graph
from eip.potential import Potential, WrappedPotential
from eip.prediction import Prediction, Quantity, quantities
from eip.simulation import Calculator, DynamicsSettings, run_dynamics
from eip.testing import ContractViolation, check_potential, check_prediction
from eip.uncertainty.evidential import EvidentialPotential

WATER = molecule("H2O")


@dataclass(frozen=True)
class Charged(Prediction):
    charges: Annotated[
        Float[Tensor, "atoms"] | None, Quantity("e", "partial charge", ase=("charges",))
    ] = None
    softness: Annotated[Float[Tensor, "atoms"] | None, Quantity("1/eV", "of an atom")] = None
    dipole_of_parts: Annotated[Float[Tensor, "frames 3"] | None, Quantity("e Å", "a vector")] = None
    spread: Annotated[Float[Tensor, "frames"] | None, Quantity("e", "of charges")] = None


class Charging(WrappedPotential):
    """Says of each atom and of each structure what the potential inside knows nothing of."""

    def forward(self, graph: AtomGraph, **asked: Any) -> Charged:
        inside = self.potential(graph, **asked)
        charges = inside.features[:, 0].tanh()
        around = graph.positions - graph.mean_by_frame(graph.positions)[graph.frame]
        return Charged(
            **vars(inside),
            charges=charges,
            softness=charges**2,
            dipole_of_parts=graph.mean_by_frame(charges[:, None] * around),
            spread=graph.mean_by_frame(charges**2),
        )


@dataclass(frozen=True)
class Labelled:
    graph: AtomGraph
    energy: Tensor
    forces: Tensor
    sources: tuple[str, ...]
    stress: Tensor | None = None


def charging() -> Potential:
    torch.manual_seed(0)
    inside = EvidentialPotential(
        elements=(1, 8), element_energies={1: -1.0, 8: -2.0}, force_scale=1.0, head="tensor",
        channels=16, interactions=1, cutoff=4.0,
    )  # fmt: skip
    return Charging(inside.double()).eval()


def test_the_contract_holds_for_what_is_added() -> None:
    check_potential(charging(), [WATER, molecule("H2O2")])


def test_the_contract_finds_a_wrong_shape() -> None:
    class Wrong(Charging):
        def forward(self, graph: AtomGraph, **asked: Any) -> Charged:
            said = super().forward(graph, **asked)
            return Charged(**{**vars(said), "spread": said.charges})

    with pytest.raises(ContractViolation, match=r"spread has shape \(3,\), expected \(1,\)"):
        check_prediction(Wrong(charging().potential), [WATER])


def test_a_batch_is_what_its_structures_are() -> None:
    potential, structures = charging(), [WATER, molecule("H2O2"), WATER]
    together = potential.predict(structures, atoms_per_batch=4)
    assert isinstance(together, Charged)
    assert together.charges.shape == (10,) and together.spread.shape == (3,)
    alone = potential.predict(WATER)
    torch.testing.assert_close(together.charges[7:], alone.charges)


def test_results_of_the_calculator() -> None:
    atoms = WATER.copy()
    atoms.calc = Calculator(charging())
    atoms.get_potential_energy()
    results = pickle.loads(pickle.dumps(atoms.calc.results))
    assert results["charges"].shape == (3,)
    assert results["dipole_of_parts"].shape == (3,)
    assert isinstance(results["spread"], float)
    assert "charges" in dict(results) and "spread" not in dict(results)
    assert "features" not in results


def test_results_are_found_by_the_names_of_other_codes() -> None:
    atoms = WATER.copy()
    atoms.calc = Calculator(charging())
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert "forces_uncertainty" in results
    expected = np.repeat(results["force_uncertainty"][:, None], 3, axis=1)
    np.testing.assert_array_equal(results["forces_uncertainty"], expected)
    np.testing.assert_array_equal(results.get("forces_uncertainty"), expected)
    assert results.get("stress_uncertainty", "none") == "none"
    assert "forces_uncertainty" not in results.everything()


def test_a_written_trajectory(tmp_path: Path) -> None:
    settings = DynamicsSettings(steps=4, timestep_fs=0.1, temperature=10.0, trajectory_interval=2)
    run_dynamics(WATER, charging(), settings, tmp_path / "run", progress=False)
    frames = read(tmp_path / "run" / "trajectory.xyz", ":")
    assert len(frames) == 3
    said = charging().predict(frames[-1])
    assert isinstance(said, Charged)
    np.testing.assert_allclose(frames[-1].arrays["softness"], said.softness, atol=1e-6)
    np.testing.assert_allclose(frames[-1].calc.results["charges"], said.charges, atol=1e-6)
    np.testing.assert_allclose(frames[-1].info["spread"], said.spread, atol=1e-6)
    np.testing.assert_allclose(
        frames[-1].info["dipole_of_parts"], said.dipole_of_parts[0], atol=1e-6
    )
    # Nine columns of matrices would make it twice as large.
    assert "force_covariance" not in frames[-1].arrays


def test_predictions_xyz(tmp_path: Path) -> None:
    graph = build_graph([WATER, WATER], 4.0)
    batch = Labelled(graph, torch.zeros(2), torch.zeros(6, 3), ("a", "b"))
    evaluation = evaluate(charging(), [batch], progress=False)
    write_predictions(evaluation, tmp_path / "predictions.xyz")
    frames = read(tmp_path / "predictions.xyz", ":")
    said = charging().predict([WATER, WATER])
    assert isinstance(said, Charged)
    np.testing.assert_allclose(frames[1].arrays["eip_charges"], said.charges[3:], atol=1e-6)
    np.testing.assert_allclose(frames[1].arrays["softness"], said.softness[3:], atol=1e-6)
    np.testing.assert_allclose(frames[1].info["spread"], said.spread[1], atol=1e-6)
    assert frames[1].arrays["force_covariance"].shape == (3, 9)
    assert "features" not in frames[1].arrays


def test_a_quantity_says_whose_it_is() -> None:
    @dataclass(frozen=True)
    class Nowhere(Prediction):
        charge: Annotated[Float[Tensor, "sites"] | None, Quantity("e", "of a site")] = None

    with pytest.raises(TypeError, match=r"Nowhere\.charge should be annotated as"):
        quantities(Nowhere)


def test_every_quantity_has_its_sentence_in_the_docstring() -> None:
    found = quantities(Prediction)
    assert {of.level for of in found} == {"atom", "frame"}
    assert all(f"{of.name}: {of.about}" in (Prediction.__doc__ or "") for of in found)
