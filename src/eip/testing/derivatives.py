"""Forces, stress and the gradient of the uncertainty, by central differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from eip.graph import AtomGraph, batch_graphs
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.prediction import Prediction
from eip.testing.contract import (
    DERIVATIVE_TOLERANCE,
    FLOORS,
    ContractViolation,
    in_float64,
    name_of,
)


def check_forces(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    tolerance: float = DERIVATIVE_TOLERANCE,
    seed: int = 0,
) -> None:
    """F = −∂E/∂R by central differences: single atoms, and all atoms at once."""
    double, rng = in_float64(potential), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        graph = _margin_graph(double, atoms)
        forces = double(graph).forces
        if forces is None:
            raise ContractViolation("forces", "there are none, though they were asked for")

        def energy(
            displacements: Float[Tensor, "steps atoms 3"], graph: AtomGraph = graph
        ) -> Tensor:
            moved = [graph.with_positions(graph.positions + d) for d in displacements]
            return double(batch_graphs(moved), forces=False).energy

        peak = max(float(forces.abs().max()), FLOORS["forces"])
        for direction in _directions(graph, rng):
            along = float((forces * direction).sum())
            _check_slope(
                "forces",
                "forces",
                energy,
                direction,
                -along,
                tolerance * peak * float(direction.norm()),
                name_of(index, atoms),
            )


def check_stress(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    tolerance: float = DERIVATIVE_TOLERANCE,
    seed: int = 0,
) -> None:
    """Stress = (1/V) ∂E/∂ε by central differences of six strains; symmetric.

    Structures that are not periodic in all three directions have no stress and are passed over.
    """
    double = in_float64(potential)
    for index, atoms in enumerate(structures):
        if not atoms.pbc.all():
            continue
        graph = _margin_graph(double, atoms)
        stress = double(graph, stress=True).stress
        if stress is None:
            raise ContractViolation("stress", "there is none, though it was asked for")
        stress, volume = stress[0], float(atoms.get_volume())
        where = name_of(index, atoms)
        skew = float((stress - stress.T).abs().max())
        peak = max(float(stress.abs().max()), FLOORS["stress"])
        if skew > tolerance * peak:
            raise ContractViolation(
                "stress",
                f"not symmetric by {skew:.2e} eV/Å³ in {where}",
                quantity="stress",
                deviation=skew,
                allowed=tolerance * peak,
            )

        def energy(strains: Float[Tensor, "steps 3 3"], graph: AtomGraph = graph) -> Tensor:
            strained = [
                replace(
                    graph,
                    positions=graph.positions + graph.positions @ strain,
                    cell=graph.cell + graph.cell @ strain,
                )
                for strain in strains
            ]
            return double(batch_graphs(strained), forces=False).energy

        for a in range(3):
            for b in range(a, 3):
                strain = torch.zeros(3, 3, dtype=torch.float64, device=double.device)
                strain[a, b] += 0.5
                strain[b, a] += 0.5
                _check_slope(
                    "stress",
                    f"stress[{'xyz'[a]}{'xyz'[b]}]",
                    energy,
                    strain,
                    float(stress[a, b]) * volume,
                    tolerance * peak * volume,
                    where,
                )


def check_uncertainty_gradient(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    tolerance: float = DERIVATIVE_TOLERANCE,
    seed: int = 0,
) -> None:
    """∂σ/∂R with ``differentiable="uncertainty"`` by central differences: what UDD pushes along.

    A potential without an uncertainty passes.
    """
    double, rng = in_float64(potential), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        graph = _margin_graph(double, atoms)
        weights = torch.from_numpy(rng.uniform(0.5, 1.5, len(atoms))).to(double.device)

        def measure(prediction: Prediction, weights: Tensor = weights) -> Tensor | None:
            """A figure for each frame that depends on each atom's σ_i in a way of its own."""
            if prediction.force_uncertainty is not None:
                return (prediction.force_uncertainty.reshape(-1, len(weights)) * weights).sum(1)
            return prediction.energy_uncertainty

        for with_forces in (False, True):
            positions = graph.positions.clone().requires_grad_()
            value = measure(
                double(
                    graph.with_positions(positions),
                    forces=with_forces,
                    differentiable="uncertainty",
                )
            )
            if value is None:
                return
            if not value.requires_grad:
                raise ContractViolation(
                    "uncertainty_gradient",
                    "the uncertainty is cut off from the positions though it was asked for with "
                    'differentiable="uncertainty"',
                )
            (gradient,) = torch.autograd.grad(value.sum(), [positions])

            def sigma(
                displacements: Float[Tensor, "steps atoms 3"], graph: AtomGraph = graph
            ) -> Tensor:
                moved = [graph.with_positions(graph.positions + d) for d in displacements]
                found = measure(double(batch_graphs(moved), forces=False))
                assert found is not None
                return found

            # Relative to σ/Å too: at a symmetric site the gradient is zero.
            peak = max(float(gradient.abs().max()), 1e-2 * float(value.detach().abs().max()))
            for direction in _directions(graph, rng, single_atoms=1):
                _check_slope(
                    "uncertainty_gradient",
                    "the gradient of the uncertainty",
                    sigma,
                    direction,
                    float((gradient * direction).sum()),
                    tolerance * peak * float(direction.norm()),
                    name_of(index, atoms),
                )


#: Å (or strain). A pair that crosses the cutoff within a step costs accuracy there, rounding
#: costs it where the step is small: the best of the three counts, and a wrong slope fails all.
_STEPS = (2e-3, 5e-4, 1e-4)


def _check_slope(
    law: str,
    quantity: str,
    function: Callable[[Tensor], Tensor],
    direction: Tensor,
    slope: float,
    allowed: float,
    where: str,
) -> None:
    """Compares a slope with central differences of fourth order."""
    best, found = math.inf, math.nan
    for h in _STEPS:
        points = h * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
        points = points.to(direction.device).reshape(-1, *[1] * direction.ndim)
        values = function(points * direction).detach()
        numeric = float(values @ values.new_tensor([1.0, -8.0, 8.0, -1.0])) / (12 * h)
        if abs(numeric - slope) < best:
            best, found = abs(numeric - slope), numeric
        if best <= allowed:
            return
    raise ContractViolation(
        law,
        f"{quantity} disagree with central differences in {where}: the slope is {slope:.9g} by "
        f"derivative, {found:.9g} by differences; they differ by {best:.2e}, allowed {allowed:.2e}",
        quantity=quantity,
        deviation=best,
        allowed=allowed,
    )


def _directions(
    graph: AtomGraph, rng: np.random.Generator, single_atoms: int = 2
) -> list[Float[Tensor, "atoms 3"]]:
    """A few random displacements of one atom each, and one of all atoms."""
    directions = []
    for _ in range(min(single_atoms, graph.n_atoms)):
        direction = torch.zeros_like(graph.positions)
        direction[int(rng.integers(graph.n_atoms))] = _unit_vector(rng).to(direction)
        directions.append(direction)
    everywhere = torch.from_numpy(rng.normal(size=(graph.n_atoms, 3)) / math.sqrt(graph.n_atoms))
    return [*directions, everywhere.to(graph.positions)]


def _unit_vector(rng: np.random.Generator) -> Tensor:
    vector = rng.normal(size=3)
    return torch.from_numpy(vector / np.linalg.norm(vector))


def _margin_graph(potential: Potential, atoms: Atoms) -> AtomGraph:
    """With the pairs that a small displacement could bring inside the cutoff."""
    return build_graph(atoms, potential.cutoff + 0.1, device=potential.device)
