"""What must hold for every backbone and every potential, as tests that anyone can run on theirs.

    from eip.testing import check_backbone, check_potential

    check_potential(MyPotential())                  # on structures made up for its elements
    check_potential(MyPotential(), list_of_atoms)   # and on yours
    check_backbone(MyBackbone(), elements=(1, 8))

Each law is a function of its own, so that a test can demand one alone; ``POTENTIAL_LAWS`` and
``BACKBONE_LAWS`` list them. A law that is broken raises `ContractViolation`, which says by how
much. All laws but `check_precision` are held against a float64 copy: in float32 a small violation
and rounding look alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from ase.cell import Cell
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from eip.errors import InputError
from eip.graph import AtomGraph, batch_graphs
from eip.models.backbone import Backbone
from eip.neighbors import build_graph
from eip.potential import Potential, Prediction

__all__ = [
    "BACKBONE_LAWS",
    "POTENTIAL_LAWS",
    "ContractViolation",
    "check_backbone",
    "check_batching",
    "check_beyond_cutoff",
    "check_elements",
    "check_forces",
    "check_isolated_atoms",
    "check_permutation",
    "check_potential",
    "check_precision",
    "check_prediction",
    "check_reflection",
    "check_rotation",
    "check_smoothness",
    "check_stress",
    "check_supercell",
    "check_translation",
    "check_uncertainty_gradient",
    "check_wrapping",
    "example_structures",
]

#: Largest deviation of two float64 results that exact arithmetic would make equal, relative to
#: the largest value of the quantity in the structure.
TOLERANCE = 1e-10
#: Of a derivative from central differences, relative to the largest component.
DERIVATIVE_TOLERANCE = 1e-6
#: Of float32 from float64.
PRECISION_TOLERANCE = 1e-3

#: Below these a quantity counts as zero, and deviations are taken relative to them: forces in a
#: perfect crystal cancel to rounding errors.
_FLOORS = {"forces": 1e-2, "forces_bias": 1e-2, "stress": 1e-4, "vectors": 1e-3}
_FLOAT64_EPS = 2.0**-52


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
    """

    values: Tensor
    rank: int = 0
    by_atom: bool = True
    extensive: bool = False
    scale: float | None = None


Observables = dict[str, Observable]


@dataclass(frozen=True)
class Subject:
    """What a law is held against: anything that says something of a graph in float64."""

    observe: Callable[[AtomGraph], Observables]
    cutoff: float
    elements: tuple[int, ...]


# Potentials and backbones, each as a whole.


def check_potential(
    potential: Potential,
    structures: Sequence[Atoms] | None = None,
    *,
    tolerance: float = TOLERANCE,
    derivative_tolerance: float = DERIVATIVE_TOLERANCE,
    precision_tolerance: float = PRECISION_TOLERANCE,
    seed: int = 0,
) -> None:
    """Holds all laws of a potential against it.

    Args:
        potential: any; it is copied, not changed.
        structures: by default `example_structures` of its elements. Give weights that matter: a
            force or an uncertainty that is zero everywhere keeps every law.
        tolerance, derivative_tolerance, precision_tolerance: see the constants of this module.
        seed: of rotations, permutations and displacements.

    Raises:
        ContractViolation: with the first law that is broken.
    """
    if structures is None:
        structures = example_structures(potential.elements, potential.cutoff, seed=seed)
    check_prediction(potential, structures)
    check_elements(potential)
    potential = _in_float64(potential)
    for law in SYMMETRY_LAWS:
        law(potential, structures, tolerance=tolerance, seed=seed)
    for derivative_law in DERIVATIVE_LAWS:
        derivative_law(potential, structures, tolerance=derivative_tolerance, seed=seed)
    check_precision(potential, structures, tolerance=precision_tolerance, seed=seed)


def check_backbone(
    backbone: Backbone | Callable[[], Backbone],
    elements: Sequence[int],
    structures: Sequence[Atoms] | None = None,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Holds the symmetries of a backbone against it: scalars stay, vectors turn.

    Args:
        backbone: one, or a function that makes one; it is copied, not changed.
        elements: atomic numbers in the order of its species index.
        structures: by default `example_structures` of the elements.

    Raises:
        ContractViolation: with the first law that is broken.
    """
    made = backbone if isinstance(backbone, Backbone) else backbone()
    subject = _subject_of_backbone(made, tuple(elements))
    if structures is None:
        structures = example_structures(subject.elements, subject.cutoff, seed=seed)
    for law in SYMMETRY_LAWS:
        law(subject, structures, tolerance=tolerance, seed=seed)


# Symmetries.


def check_rotation(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Scalars stay, vectors and tensors turn with the structure."""
    _check_orthogonal("rotation", 1.0, _as_subject(subject), structures, tolerance, seed)


def check_reflection(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Of a structure and its mirror image too, turned at random besides."""
    _check_orthogonal("reflection", -1.0, _as_subject(subject), structures, tolerance, seed)


def _check_orthogonal(
    law: str,
    determinant: float,
    subject: Subject,
    structures: Sequence[Atoms],
    tolerance: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        matrix *= determinant * np.sign(np.linalg.det(matrix))
        turned = _copy(atoms, atoms.positions @ matrix.T, atoms.cell.array @ matrix.T)
        expected = _turn(_observe(subject, atoms), torch.from_numpy(matrix))
        _compare(law, expected, _observe(subject, turned), tolerance, _name(index, atoms))


def check_translation(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Where a structure lies changes nothing."""
    subject, rng = _as_subject(subject), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        moved = _copy(atoms, atoms.positions + rng.uniform(-10, 10, 3))
        _compare(
            "translation",
            _observe(subject, atoms),
            _observe(subject, moved),
            tolerance,
            _name(index, atoms),
        )


def check_permutation(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """The order of atoms changes nothing but the order of the results."""
    subject, rng = _as_subject(subject), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        order = rng.permutation(len(atoms))
        expected = {
            name: replace(one, values=one.values[order]) if one.by_atom else one
            for name, one in _observe(subject, atoms).items()
        }
        _compare(
            "permutation",
            expected,
            _observe(subject, atoms[order]),
            tolerance,
            _name(index, atoms),
        )


def check_wrapping(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """An atom and its periodic image are the same atom."""
    subject, rng = _as_subject(subject), np.random.default_rng(seed)
    for index, atoms in enumerate(structures):
        if not atoms.pbc.any():
            continue
        cells_away = rng.integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
        moved = _copy(atoms, atoms.positions + cells_away @ atoms.cell.array)
        _compare(
            "wrapping",
            _observe(subject, atoms),
            _observe(subject, moved),
            tolerance,
            _name(index, atoms),
        )


def check_batching(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Structures of any sizes, predicted together, are what they are one by one."""
    subject, rng = _as_subject(subject), np.random.default_rng(seed)
    order = [int(i) for i in rng.permutation(len(structures))]
    together = subject.observe(
        build_graph([structures[i] for i in order], subject.cutoff, dtype=torch.float64)
    )
    atom = 0
    for frame, index in enumerate(order):
        atoms = structures[index]
        part = {
            name: replace(
                one,
                values=one.values[atom : atom + len(atoms)]
                if one.by_atom
                else one.values[frame : frame + 1],
            )
            for name, one in together.items()
        }
        atom += len(atoms)
        _compare("batching", _observe(subject, atoms), part, tolerance, _name(index, atoms))


def check_beyond_cutoff(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Edges longer than the cutoff, which a Verlet list brings, change nothing."""
    subject = _as_subject(subject)
    for index, atoms in enumerate(structures):
        longer = build_graph(atoms, subject.cutoff + 1.0, dtype=torch.float64)
        _compare(
            "beyond_cutoff",
            _observe(subject, atoms),
            subject.observe(longer),
            tolerance,
            _name(index, atoms),
        )


def check_supercell(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """A crystal described by a larger cell is the same crystal.

    A cell smaller than the cutoff, where an atom is its own neighbor, has thus a known answer.
    """
    subject = _as_subject(subject)
    for index, atoms in enumerate(structures):
        if not atoms.pbc.any():
            continue
        # Grown where it is shortest, and there beyond the cutoff if three cells can do it.
        lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
        axis = int(lengths.argmin())
        times = min(3, max(2, math.ceil(subject.cutoff / lengths[axis])))
        repeats = [1, 1, 1]
        repeats[axis] = times
        single = _observe(subject, atoms)
        # A bias may depend on σ of the whole structure in any way: it is not asked.
        expected = {
            name: replace(one, values=one.values.repeat(times, *[1] * (one.values.ndim - 1)))
            if one.by_atom
            else replace(one, values=one.values * (times if one.extensive else 1))
            for name, one in single.items()
            if not name.endswith("_bias") and name != "forces_bias"
        }
        _compare(
            "supercell",
            expected,
            _observe(subject, atoms.repeat(repeats)),
            tolerance,
            _name(index, atoms),
        )


def check_isolated_atoms(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """One atom has finite results and no force; atoms too far apart do not know of each other.

    The structures are not looked at: they are made from the subject's elements.
    """
    potential = subject if isinstance(subject, Potential) else None
    subject = _as_subject(subject)
    singles = [Atoms(numbers=[z], positions=[[0.3, -0.2, 0.1]]) for z in subject.elements]
    apart = Atoms(
        numbers=[a.numbers[0] for a in singles],
        positions=[[5 * subject.cutoff * i + 0.3, -0.2, 0.1] for i in range(len(singles))],
    )
    parts = [_observe(subject, atoms) for atoms in singles]
    together = _observe(subject, apart)
    for name, one in together.items():
        values = [part[name].values for part in parts]
        if one.by_atom:
            expected = replace(one, values=torch.cat(values))
        elif name == "energy":
            expected = replace(one, values=torch.cat(values).sum(dim=0, keepdim=True))
        else:
            continue
        _compare("isolated_atoms", {name: expected}, {name: one}, tolerance, "atoms far apart")
    for atoms, part in zip(singles, parts, strict=True):
        where = f"one atom of {atoms.get_chemical_formula()}"
        for name, one in part.items():
            # A single atom has no volume and so no stress.
            if name != "stress" and not bool(one.values.isfinite().all()):
                raise ContractViolation(
                    "isolated_atoms", f"{name} is not finite for {where}", quantity=name
                )
        if "forces" in part:
            zero = replace(part["forces"], values=torch.zeros_like(part["forces"].values))
            _compare("isolated_atoms", {"forces": zero}, part, tolerance, where)
        if potential is not None:
            _check_finite_gradient(potential, atoms, where)


def _check_finite_gradient(potential: Potential, atoms: Atoms, where: str) -> None:
    double = _in_float64(potential)
    graph = build_graph(atoms, double.cutoff, dtype=torch.float64, device=double.device)
    positions = graph.positions.requires_grad_()
    prediction = double(graph.with_positions(positions), forces=False, differentiable="uncertainty")
    for name in ("energy", "uncertainty", "energy_uncertainty"):
        value = getattr(prediction, name)
        if value is None or not value.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(
            value.sum(), [positions], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if not bool(gradient.isfinite().all()):
            raise ContractViolation(
                "isolated_atoms",
                f"the gradient of {name} is not finite for {where}: is a norm taken of a zero "
                "vector?",
                quantity=name,
            )


def check_smoothness(
    subject: Potential | Subject,
    structures: Sequence[Atoms],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> None:
    """Everything, forces included, is continuous when an atom crosses the cutoff.

    An atom is carried over the cutoff of another, in a made-up structure. A step that a hundred
    times nearer to the cutoff is no smaller is a jump.
    """
    subject = _as_subject(subject)
    numbers = [subject.elements[i % len(subject.elements)] for i in range(4)]
    away = np.array([0.31, 0.83, -0.46])
    away /= np.linalg.norm(away)
    near = np.array([[0.0, 0.0, 0.0], [1.3, 0.4, -0.2], [-0.6, 1.1, 0.7]])

    def step(half_width: float) -> Observables:
        sides = []
        for sign in (-1.0, 1.0):
            last = away * (subject.cutoff + sign * half_width)
            sides.append(_observe(subject, Atoms(numbers, np.vstack([near, last[None]]))))
        inside, outside = sides
        return {
            name: replace(one, values=inside[name].values - one.values, scale=_scale(name, one))
            for name, one in outside.items()
            if name != "stress"
        }

    wide, narrow = step(1e-3), step(1e-5)
    for name, one in narrow.items():
        deviation = float(one.values.abs().max())
        before = float(wide[name].values.abs().max())
        allowed = 0.1 * before + (one.scale or 0.0) * tolerance + _rounding(name, subject, numbers)
        if not deviation <= allowed:
            raise ContractViolation(
                "smoothness",
                f"{name} jumps by {deviation:.2e} ({_unit(name)}) when an atom crosses the cutoff "
                f"of {subject.cutoff} Å; 100 times farther from it the step was {before:.2e}",
                quantity=name,
                deviation=deviation,
                allowed=allowed,
            )


def _rounding(name: str, subject: Subject, numbers: Sequence[int]) -> float:
    """What a total energy loses to its offset, eV."""
    if name != "energy":
        return 0.0
    single = sum(float(_observe(subject, Atoms([z]))["energy"].values.abs().sum()) for z in numbers)
    return 32 * _FLOAT64_EPS * single


# Derivatives.


def check_forces(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    tolerance: float = DERIVATIVE_TOLERANCE,
    seed: int = 0,
) -> None:
    """F = −∂E/∂R by central differences: single atoms, and all atoms at once."""
    double, rng = _in_float64(potential), np.random.default_rng(seed)
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

        peak = max(float(forces.abs().max()), _FLOORS["forces"])
        for direction in _directions(graph, rng):
            along = float((forces * direction).sum())
            _check_slope(
                "forces",
                "forces",
                energy,
                direction,
                -along,
                tolerance * peak * float(direction.norm()),
                _name(index, atoms),
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
    double = _in_float64(potential)
    for index, atoms in enumerate(structures):
        if not atoms.pbc.all():
            continue
        graph = _margin_graph(double, atoms)
        stress = double(graph, stress=True).stress
        if stress is None:
            raise ContractViolation("stress", "there is none, though it was asked for")
        stress, volume = stress[0], float(atoms.get_volume())
        where = _name(index, atoms)
        skew = float((stress - stress.T).abs().max())
        peak = max(float(stress.abs().max()), _FLOORS["stress"])
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
    double, rng = _in_float64(potential), np.random.default_rng(seed)
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
                    _name(index, atoms),
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
    return build_graph(atoms, potential.cutoff + 0.1, dtype=torch.float64, device=potential.device)


# What a prediction looks like.


def check_prediction(potential: Potential, structures: Sequence[Atoms]) -> None:
    """Shapes, signs, what is asked for is there, what is not asked for is not differentiable."""
    law = "prediction"
    for index, atoms in enumerate(structures):
        where = _name(index, atoms)
        graph = build_graph(atoms, potential.cutoff, dtype=potential.dtype, device=potential.device)
        with torch.no_grad():
            prediction = potential(graph, forces=True, stress=bool(atoms.pbc.all()))
        n = len(atoms)
        if prediction.energy.dtype != torch.float64:
            raise ContractViolation(
                law,
                f"energy is {prediction.energy.dtype}; totals must be float64, or they lose meV",
                quantity="energy",
            )
        shapes = {
            "energy": (1,),
            "forces": (n, 3),
            "stress": (1, 3, 3),
            "force_uncertainty": (n,),
            "force_covariance": (n, 3, 3),
            "force_aleatoric": (n,),
            "energy_uncertainty": (1,),
            "uncertainty": (1,),
            "energy_bias": (1,),
            "forces_bias": (n, 3),
        }
        for name, shape in shapes.items():
            value = getattr(prediction, name)
            if value is None:
                if name == "forces" or (name == "stress" and atoms.pbc.all()):
                    raise ContractViolation(law, f"{name} asked for, got None", quantity=name)
                continue
            if tuple(value.shape) != shape:
                raise ContractViolation(
                    law,
                    f"{name} has shape {tuple(value.shape)}, expected {shape} in {where}",
                    quantity=name,
                )
            if name != "stress" and not bool(value.isfinite().all()):
                raise ContractViolation(law, f"{name} is not finite in {where}", quantity=name)
            if value.requires_grad:
                raise ContractViolation(
                    law, f'{name} is attached though differentiable="nothing"', quantity=name
                )
        for name in ("force_uncertainty", "force_aleatoric", "energy_uncertainty", "uncertainty"):
            value = getattr(prediction, name)
            if value is not None and not bool((value >= 0).all()):
                raise ContractViolation(
                    law, f"{name} is negative in {where}: {float(value.min())}", quantity=name
                )
        sigma, total = prediction.force_uncertainty, prediction.uncertainty
        if sigma is not None and total is not None:
            deviation = abs(float(sigma.double().mean()) - float(total))
            if deviation > 1e-5 * float(total) + 1e-12:
                raise ContractViolation(
                    law,
                    f"uncertainty is {float(total)}, but the mean of its atoms is "
                    f"{float(sigma.mean())} in {where}",
                    quantity="uncertainty",
                    deviation=deviation,
                )
        covariance = prediction.force_covariance
        if covariance is not None:
            lowest = float(torch.linalg.eigvalsh(covariance.double()).min())
            highest = float(covariance.abs().max())
            if lowest < -1e-5 * highest or not torch.allclose(
                covariance, covariance.transpose(1, 2), rtol=1e-5, atol=1e-6 * highest
            ):
                raise ContractViolation(
                    law,
                    f"force_covariance is not symmetric and positive in {where}: its lowest "
                    f"eigenvalue is {lowest}, its largest entry {highest}",
                    quantity="force_covariance",
                )


def check_elements(potential: Potential) -> None:
    """Elements ascend; one that the potential was not made for is refused, by name."""
    elements = potential.elements
    if list(elements) != sorted(set(elements)):
        raise ContractViolation("elements", f"not ascending: {elements}")
    foreign = next((z for z in range(118, 0, -1) if z not in elements), None)
    if foreign is None:
        return
    try:
        potential.predict(Atoms(numbers=[foreign]))
    except InputError as error:
        if chemical_symbols[foreign] in str(error):
            return
        raise ContractViolation(
            "elements", f"the error does not name {chemical_symbols[foreign]}: {error}"
        ) from error
    raise ContractViolation(
        "elements", f"{chemical_symbols[foreign]} is predicted though it is not among {elements}"
    )


def check_precision(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    tolerance: float = PRECISION_TOLERANCE,
    seed: int = 0,
) -> None:
    """In float32 the results are those of float64 to about six digits, offsets left out.

    A total summed in float32 fails: beside −17,617 eV it has 2 meV left. Energies may be off by
    a hundredth of ``tolerance`` times the largest force · 1 Å for each atom.
    """
    double = _in_float64(potential)
    single = copy.deepcopy(double).to(torch.float32)
    for index, atoms in enumerate(structures):
        # Wrapped, or float32 positions far from the origin would be to blame.
        atoms = _copy(atoms, atoms.positions - atoms.positions.mean(axis=0))
        graph = build_graph(atoms, double.cutoff, dtype=torch.float64, device=double.device)
        # The same geometry to the last bit.
        graph = graph.to(dtype=torch.float32).to(dtype=torch.float64)
        expected = _of_prediction(double(graph))
        found = _of_prediction(single(graph.to(dtype=torch.float32)))
        if "energy" in expected:
            energy = expected["energy"]
            expected["energy"] = replace(energy, scale=0.01 * (energy.scale or 1.0))
        _compare("precision", expected, found, tolerance, _name(index, atoms))


SYMMETRY_LAWS = (
    check_rotation,
    check_reflection,
    check_translation,
    check_permutation,
    check_wrapping,
    check_batching,
    check_beyond_cutoff,
    check_supercell,
    check_isolated_atoms,
    check_smoothness,
)
DERIVATIVE_LAWS = (check_forces, check_stress, check_uncertainty_gradient)
POTENTIAL_LAWS = (*SYMMETRY_LAWS, *DERIVATIVE_LAWS, check_precision)
BACKBONE_LAWS = SYMMETRY_LAWS


# Structures to hold laws against.


def example_structures(elements: Sequence[int], cutoff: float, *, seed: int = 0) -> list[Atoms]:
    """Made-up structures where implementations go wrong, of up to four of the elements.

    A molecule; one with a dummy cell; a triclinic crystal smaller than the cutoff, with atoms
    outside their cell; a left-handed cell; a slab; a single atom; a crystal of one atom.
    """
    rng = np.random.default_rng(seed)
    elements = list(elements)
    if len(elements) > 4:
        elements = sorted(int(z) for z in rng.choice(elements, 4, replace=False))
    radius = max(float(covalent_radii[z]) for z in elements)
    triclinic = np.array([[1.0, 0.0, 0.0], [0.3, 0.95, 0.0], [-0.25, 0.2, 1.05]])
    small = triclinic * 0.8 * cutoff
    many = [elements[i % len(elements)] for i in range(7)]
    few = many[: max(2, min(3, len(elements)))]

    molecule = _pack(many, np.eye(3) * 5.2 * radius, [False] * 3, rng)
    dummy = _copy(molecule, molecule.positions[::-1] * 1.02, np.eye(3) * 2.0)
    crystal = _pack(few, small, [True] * 3, rng)
    crystal.positions += rng.integers(-2, 3, size=(len(crystal), 3)) @ small
    left_handed = _pack(few, small[[1, 0, 2]] * 1.1, [True] * 3, rng)
    slab = _pack(few, small, [True, False, True], rng)
    one_in_cell = Atoms([elements[0]], cell=0.8 * small, pbc=True, positions=[[0.1, 0.2, 0.3]])
    alone = Atoms([elements[-1]], positions=[[1.0, 2.0, 3.0]])
    return [molecule, dummy, crystal, left_handed, slab, one_in_cell, alone]


def _pack(
    numbers: Sequence[int], cell: np.ndarray, pbc: Sequence[bool], rng: np.random.Generator
) -> Atoms:
    """Random atoms no closer than a short bond; the demand is lowered until they fit."""
    radii = np.array([covalent_radii[z] for z in numbers])
    shortest = 0.95
    placed: list[np.ndarray] = []
    while len(placed) < len(numbers):
        i = len(placed)
        for _ in range(200):
            trial = rng.random(3) @ cell
            if i == 0:
                break
            images = np.stack(
                np.meshgrid(*[(-1, 0, 1) if p else (0,) for p in pbc], indexing="ij"), axis=-1
            ).reshape(-1, 3)
            gaps = trial - np.array(placed)[:, None] - (images @ cell)[None]
            distances = np.linalg.norm(gaps, axis=2).min(axis=1)
            if (distances > shortest * (radii[:i] + radii[i])).all():
                break
        else:
            placed, shortest = [], 0.9 * shortest
            continue
        placed.append(trial)
    return Atoms(numbers=numbers, positions=np.array(placed), cell=cell, pbc=pbc)


# The machinery.


def _in_float64(potential: Potential) -> Potential:
    """A copy in float64 for inspection; the potential itself where it already is."""
    if potential.dtype == torch.float64 and not potential.training:
        return potential
    return copy.deepcopy(potential).to(torch.float64).eval()


def _as_subject(subject: Potential | Subject) -> Subject:
    if isinstance(subject, Subject):
        return subject
    potential = _in_float64(subject)

    def observe(graph: AtomGraph) -> Observables:
        graph = graph.to(device=potential.device)
        stress = bool(graph.pbc.all(dim=1).any())
        return _of_prediction(potential(graph, forces=True, stress=stress), graph.atoms_per_frame)

    return Subject(observe, potential.cutoff, potential.elements)


def _of_prediction(
    prediction: Prediction, atoms_per_frame: Int[Tensor, "frames"] | None = None
) -> Observables:
    kinds = {
        "energy": Observable(prediction.energy, by_atom=False, extensive=True),
        "forces": Observable(prediction.energy, rank=1),
        "stress": Observable(prediction.energy, rank=2, by_atom=False),
        "force_uncertainty": Observable(prediction.energy),
        "force_covariance": Observable(prediction.energy, rank=2),
        "force_aleatoric": Observable(prediction.energy),
        "energy_uncertainty": Observable(prediction.energy, by_atom=False, extensive=True),
        "uncertainty": Observable(prediction.energy, by_atom=False),
        "features": Observable(prediction.energy),
        "energy_bias": Observable(prediction.energy, by_atom=False),
        "forces_bias": Observable(prediction.energy, rank=1),
    }
    found = {}
    for name, kind in kinds.items():
        value = getattr(prediction, name)
        if value is not None:
            found[name] = replace(kind, values=value.detach().cpu().double())
    forces = found.get("forces")
    if forces is not None:
        # An energy is measured by the forces it comes with, not by its offset.
        scale = max(float(forces.values.abs().max()), _FLOORS["forces"]) * len(forces.values)
        found["energy"] = replace(found["energy"], scale=scale)
    return found


def _subject_of_backbone(backbone: Backbone, elements: tuple[int, ...]) -> Subject:
    backbone = copy.deepcopy(backbone).to(torch.float64).eval()
    index = torch.full((119,), -1)
    index[list(elements)] = torch.arange(len(elements))
    device = next(backbone.parameters()).device

    def observe(graph: AtomGraph) -> Observables:
        graph = graph.to(device=device)
        positions = graph.positions.detach().requires_grad_()
        graph = graph.with_positions(positions)
        features = backbone(graph, index.to(device)[graph.numbers], graph.edge_vectors())
        # What forces would be made of: a fixed mix of all scalars, differentiated.
        mix = torch.cos(torch.arange(features.scalars.shape[1], device=device).double())
        (slope,) = torch.autograd.grad(
            features.scalars.tanh().sum(dim=0) @ mix,
            [positions],
            allow_unused=True,
            materialize_grads=True,
        )
        return {
            "scalars": Observable(features.scalars.detach().cpu()),
            "vectors": Observable(features.vectors.detach().cpu(), rank=1),
            "forces": Observable(slope.detach().cpu(), rank=1),
        }

    return Subject(observe, backbone.cutoff, elements)


def _observe(subject: Subject, atoms: Atoms) -> Observables:
    return subject.observe(build_graph(atoms, subject.cutoff, dtype=torch.float64))


def _turn(observables: Observables, matrix: Float[Tensor, "3 3"]) -> Observables:
    turned = {}
    for name, one in observables.items():
        values = one.values
        if one.rank >= 1:
            values = torch.einsum("ab,nb...->na...", matrix, values)
        if one.rank == 2:
            values = torch.einsum("cd,nad->nac", matrix, values)
        turned[name] = replace(one, values=values)
    return turned


def _scale(name: str, one: Observable) -> float:
    if one.scale is not None:
        return one.scale
    finite = one.values[one.values.isfinite()].abs()
    peak = float(finite.max()) if finite.numel() else 0.0
    return max(peak, _FLOORS.get(name, 1e-12))


def _compare(
    law: str, expected: Observables, found: Observables, tolerance: float, where: str
) -> None:
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
        scale = _scale(name, one)
        offset = float(want[finite].abs().max()) if name == "energy" else 0.0
        allowed = tolerance * scale + 32 * _FLOAT64_EPS * offset
        if deviation > allowed:
            raise ContractViolation(
                law,
                f"{name} deviates by {deviation:.2e} {_unit(name)} in {where}, "
                f"{deviation / scale:.1e} of its scale of {scale:.2g}; allowed are {tolerance:.0e}",
                quantity=name,
                deviation=deviation,
                allowed=allowed,
            )


def _unit(name: str) -> str:
    if name in ("energy", "energy_uncertainty", "energy_bias"):
        return "eV"
    if name == "stress":
        return "eV/Å³"
    if name == "force_covariance":
        return "(eV/Å)²"
    return "" if name in ("features", "scalars", "vectors") else "eV/Å"


def _copy(atoms: Atoms, positions: np.ndarray, cell: np.ndarray | Cell | None = None) -> Atoms:
    return Atoms(
        numbers=atoms.numbers,
        positions=positions,
        cell=atoms.cell if cell is None else cell,
        pbc=atoms.pbc,
    )


def _name(index: int, atoms: Atoms) -> str:
    return f"structure {index} ({atoms.get_chemical_formula()}, {len(atoms)} atoms)"
