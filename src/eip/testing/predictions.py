"""Shapes, signs, elements and digits of what a potential says."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from ase import Atoms
from ase.data import chemical_symbols

from eip.errors import InputError
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.testing.contract import (
    PRECISION_TOLERANCE,
    ContractViolation,
    compare,
    in_float64,
    name_of,
    of_prediction,
)


def check_prediction(potential: Potential, structures: Sequence[Atoms]) -> None:
    """Shapes, signs, what is asked for is there, what is not asked for is not differentiable."""
    law = "prediction"
    for index, atoms in enumerate(structures):
        where = name_of(index, atoms)
        graph = build_graph(atoms, potential.cutoff, device=potential.device)
        with torch.no_grad():
            prediction = potential(graph, forces=True, stress=bool(atoms.pbc.all()))
        n = len(atoms)
        if prediction.energy.dtype != torch.float64:
            raise ContractViolation(
                law,
                f"energy is {prediction.energy.dtype}; totals must be float64, or they lose meV",
                quantity="energy",
            )
        for asked in ("forces", "stress") if atoms.pbc.all() else ("forces",):
            if getattr(prediction, asked) is None:
                raise ContractViolation(law, f"{asked} asked for, got None", quantity=asked)
        for of, value in prediction.figures():
            name, found = of.name, tuple(value.shape)
            expected = (n if of.level == "atom" else 1, *of.shape)
            # A width that has a name is the potential's own.
            given = (b if isinstance(a, str) else a for a, b in zip(expected, found, strict=False))
            if len(found) != len(expected) or found != tuple(given):
                raise ContractViolation(
                    law,
                    f"{name} has shape {found}, expected {expected} in {where}",
                    quantity=name,
                )
            if name != "stress" and not bool(value.isfinite().all()):
                raise ContractViolation(law, f"{name} is not finite in {where}", quantity=name)
            if value.requires_grad:
                raise ContractViolation(
                    law, f'{name} is attached though differentiable="nothing"', quantity=name
                )
            if of.deviation and not bool((value >= 0).all()):
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
        parts, wider = prediction.energy_deviations, prediction.energy_widening
        if parts is not None:
            length = float(torch.linalg.vector_norm(parts if wider is None else parts * wider))
            sigma = prediction.energy_uncertainty
            if sigma is None or not math.isclose(float(sigma), length, rel_tol=1e-5, abs_tol=1e-12):
                raise ContractViolation(
                    law,
                    f"energy_uncertainty is {sigma if sigma is None else float(sigma)} in {where}, "
                    f"but its parts, energy_deviations, come to {length}",
                    quantity="energy_uncertainty",
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
    """In float32 the results are those of float64 to ``tolerance``, offsets left out.

    A total summed in float32 fails: beside −17,617 eV it has 2 meV left. An energy may be off by
    tolerance/200 · √N times 1 eV (or the largest force · 1 Å, if that is more).
    """
    double = in_float64(potential)
    single = copy.deepcopy(double).to(torch.float32)
    for index, atoms in enumerate(structures):
        graph = build_graph(atoms, double.cutoff, device=double.device)
        expected = of_prediction(double(graph))
        found = of_prediction(single(graph))
        if "energy" in expected:
            force = float(expected["forces"].values.abs().max()) if "forces" in expected else 0.0
            scale = max(1.0, force) * math.sqrt(len(atoms)) / 200
            expected["energy"] = replace(expected["energy"], scale=scale)
        compare("precision", expected, found, tolerance, name_of(index, atoms))
