"""What atoms do alone, and at the edge of each other's reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms

from eip.neighbors import build_graph
from eip.potential import Potential
from eip.testing.contract import (
    FLOAT64_EPS,
    TOLERANCE,
    ContractViolation,
    Observables,
    Subject,
    as_subject,
    compare,
    in_float64,
    observe,
    scale_of,
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
    subject = as_subject(subject)
    singles = [Atoms(numbers=[z], positions=[[0.3, -0.2, 0.1]]) for z in subject.elements]
    apart = Atoms(
        numbers=[a.numbers[0] for a in singles],
        positions=[[5 * subject.cutoff * i + 0.3, -0.2, 0.1] for i in range(len(singles))],
    )
    parts = [observe(subject, atoms) for atoms in singles]
    together = observe(subject, apart)
    for name, one in together.items():
        values = [part[name].values for part in parts]
        if one.by_atom:
            expected = replace(one, values=torch.cat(values))
        elif name in ("energy", "energy_deviations"):
            expected = replace(one, values=torch.cat(values).sum(dim=0, keepdim=True))
        else:
            continue
        compare("isolated_atoms", {name: expected}, {name: one}, tolerance, "atoms far apart")
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
            compare("isolated_atoms", {"forces": zero}, part, tolerance, where)
        if potential is not None:
            _check_finite_gradient(potential, atoms, where)


def _check_finite_gradient(potential: Potential, atoms: Atoms, where: str) -> None:
    double = in_float64(potential)
    graph = build_graph(atoms, double.cutoff, device=double.device)
    positions = graph.positions.requires_grad_()
    prediction = double(graph.with_positions(positions), forces=False, differentiable="uncertainty")
    for of, value in prediction.figures():
        name = of.name
        if of.level != "frame" or not value.requires_grad:
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
    subject = as_subject(subject)
    numbers = [subject.elements[i % len(subject.elements)] for i in range(4)]
    away = np.array([0.31, 0.83, -0.46])
    away /= np.linalg.norm(away)
    near = np.array([[0.0, 0.0, 0.0], [1.3, 0.4, -0.2], [-0.6, 1.1, 0.7]])

    def step(half_width: float) -> Observables:
        sides = []
        for sign in (-1.0, 1.0):
            last = away * (subject.cutoff + sign * half_width)
            sides.append(observe(subject, Atoms(numbers, np.vstack([near, last[None]]))))
        inside, outside = sides
        return {
            name: replace(one, values=inside[name].values - one.values, scale=scale_of(name, one))
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
                f"{name} jumps by {deviation:.2e} ({one.unit}) when an atom crosses the cutoff "
                f"of {subject.cutoff} Å; 100 times farther from it the step was {before:.2e}",
                quantity=name,
                deviation=deviation,
                allowed=allowed,
            )


def _rounding(name: str, subject: Subject, numbers: Sequence[int]) -> float:
    """What a total energy loses to its offset, eV."""
    if name != "energy":
        return 0.0
    single = sum(float(observe(subject, Atoms([z]))["energy"].values.abs().sum()) for z in numbers)
    return 32 * FLOAT64_EPS * single
