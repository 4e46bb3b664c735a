"""How a law is held against something: what is observed of it, and how two results compare."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from ase.cell import Cell
from jaxtyping import Float
from torch import Tensor

from eip.composition import species_table
from eip.graph import AtomGraph
from eip.models.backbone import Backbone
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.prediction import Prediction

#: Largest deviation of two float64 results that exact arithmetic would make equal, relative to
#: the largest value of the quantity in the structure.
TOLERANCE = 1e-10
#: Of a derivative from central differences, relative to the largest component.
DERIVATIVE_TOLERANCE = 1e-6
#: Of float32 from float64.
PRECISION_TOLERANCE = 1e-3

#: Below these a quantity counts as zero, and deviations are taken relative to them: forces in a
#: perfect crystal cancel to rounding errors.
FLOORS = {"forces": 1e-2, "forces_bias": 1e-2, "stress": 1e-4, "vectors": 1e-3}
FLOAT64_EPS = 2.0**-52


class ContractViolation(AssertionError):
    """A law does not hold.

    Attributes:
        law: its name, "rotation" say.
        quantity: what deviates, "force_uncertainty" say; None where the law is of another kind.
        deviation, allowed: in the quantity's own unit; None likewise.
    """

    def __init__(
        self,
        law: str,
        message: str,
        *,
        quantity: str | None = None,
        deviation: float | None = None,
        allowed: float | None = None,
    ) -> None:
        super().__init__(f"{law}: {message}")
        self.law, self.quantity = law, quantity
        self.deviation, self.allowed = deviation, allowed


@dataclass(frozen=True)
class Observable:
    """A result and how it behaves.

    Attributes:
        values: ``[atoms or frames, …]``; of rank 1 and 2 the next axes are Cartesian.
        rank: how many Cartesian axes turn with the structure.
        by_atom: whether there is one value for each atom, else for each structure.
        extensive: whether a structure twice as large has twice the value.
        scale: what deviations are relative to; None: the largest value.
        unit: for the message.
    """

    values: Tensor
    rank: int = 0
    by_atom: bool = True
    extensive: bool = False
    scale: float | None = None
    unit: str = ""


Observables = dict[str, Observable]


@dataclass(frozen=True)
class Subject:
    """What a law is held against: anything that says something of a graph in float64."""

    observe: Callable[[AtomGraph], Observables]
    cutoff: float
    elements: tuple[int, ...]


def in_float64(potential: Potential) -> Potential:
    """A copy in float64 for inspection; the potential itself where it already is."""
    if potential.dtype == torch.float64 and not potential.training:
        return potential
    return copy.deepcopy(potential).to(torch.float64).eval()


def as_subject(subject: Potential | Subject) -> Subject:
    """A potential as what laws are held against."""
    if isinstance(subject, Subject):
        return subject
    potential = in_float64(subject)

    def observe(graph: AtomGraph) -> Observables:
        graph = graph.to(potential.device)
        stress = bool(graph.pbc.all(dim=1).any())
        return of_prediction(potential(graph, forces=True, stress=stress))

    return Subject(observe, potential.cutoff, potential.elements)


def of_prediction(prediction: Prediction) -> Observables:
    """The fields that a prediction has."""
    found = {
        of.name: Observable(
            value.detach().cpu().double(), of.rank, of.level == "atom", of.extensive, unit=of.unit
        )
        for of, value in prediction.figures()
    }
    forces = found.get("forces")
    if forces is not None:
        # An energy is measured by the forces it comes with, not by its offset.
        scale = max(float(forces.values.abs().max()), FLOORS["forces"]) * len(forces.values)
        found["energy"] = replace(found["energy"], scale=scale)
    return found


def subject_of_backbone(backbone: Backbone, elements: tuple[int, ...]) -> Subject:
    """A backbone likewise; its scalars are differentiated, as forces would be."""
    backbone = copy.deepcopy(backbone).to(torch.float64).eval()
    device = backbone.device
    index = species_table(elements).to(device)

    def observe(graph: AtomGraph) -> Observables:
        graph = graph.to(device)
        positions = graph.positions.detach().requires_grad_()
        graph = graph.with_positions(positions)
        features = backbone(graph, index[graph.numbers], graph.edge_vectors())
        # A fixed mix of all scalars stands for the energy.
        mix = torch.cos(torch.arange(features.scalars.shape[1], device=device).double())
        (slope,) = torch.autograd.grad(
            features.scalars.tanh().sum(dim=0) @ mix,
            [positions],
            allow_unused=True,
            materialize_grads=True,
        )
        found = {
            "scalars": Observable(features.scalars.detach().cpu()),
            "forces": Observable(slope.detach().cpu(), rank=1),
        }
        if features.vectors is not None:
            found["vectors"] = Observable(features.vectors.detach().cpu(), rank=1)
        return found

    return Subject(observe, backbone.cutoff, elements)


def observe(subject: Subject, atoms: Atoms) -> Observables:
    """What is said of one structure."""
    return subject.observe(build_graph(atoms, subject.cutoff))


def turn(observables: Observables, matrix: Float[Tensor, "3 3"]) -> Observables:
    """What it should become when the structure is turned: R v, R C Rᵀ."""
    turned = {}
    for name, one in observables.items():
        values = one.values
        if one.rank >= 1:
            values = torch.einsum("ab,nb...->na...", matrix, values)
        if one.rank == 2:
            values = torch.einsum("cd,nad->nac", matrix, values)
        turned[name] = replace(one, values=values)
    return turned


def scale_of(name: str, one: Observable) -> float:
    """What a deviation is relative to."""
    if one.scale is not None:
        return one.scale
    finite = one.values[one.values.isfinite()].abs()
    peak = float(finite.max()) if finite.numel() else 0.0
    return max(peak, FLOORS.get(name, 1e-12))


def compare(
    law: str, expected: Observables, found: Observables, tolerance: float, where: str
) -> None:
    """Raises `ContractViolation` where something found is not what was expected."""
    for name, one in expected.items():
        want = one.values
        if name not in found:
            raise ContractViolation(law, f"{name} is missing for {where}", quantity=name)
        got = found[name].values
        if got.shape != want.shape:
            raise ContractViolation(
                law,
                f"{name} has shape {tuple(got.shape)}, expected {tuple(want.shape)}",
                quantity=name,
            )
        if bool((got.isfinite() != want.isfinite()).any()):
            raise ContractViolation(law, f"{name} is not finite in {where}", quantity=name)
        if not want.numel():
            continue
        finite = want.isfinite()
        deviation = float(torch.where(finite, got - want, 0.0).abs().max())
        scale = scale_of(name, one)
        offset = float(want[finite].abs().max()) if name == "energy" else 0.0
        allowed = tolerance * scale + 32 * FLOAT64_EPS * offset
        if deviation > allowed:
            raise ContractViolation(
                law,
                f"{name} deviates by {deviation:.2e} {one.unit} in {where}, "
                f"{deviation / scale:.1e} of its scale of {scale:.2g}; allowed are {tolerance:.0e}",
                quantity=name,
                deviation=deviation,
                allowed=allowed,
            )


def moved_copy(atoms: Atoms, positions: np.ndarray, cell: np.ndarray | Cell | None = None) -> Atoms:
    return Atoms(
        numbers=atoms.numbers,
        positions=positions,
        cell=atoms.cell if cell is None else cell,
        pbc=atoms.pbc,
    )


def name_of(index: int, atoms: Atoms) -> str:
    return f"structure {index} ({atoms.get_chemical_formula()}, {len(atoms)} atoms)"
