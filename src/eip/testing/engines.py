"""Whether an engine says of a structure what the potential says of it through ASE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.geometry import complete_cell

from eip.errors import did_you_mean
from eip.neighbors import build_graph
from eip.potential import Potential, prepared
from eip.prediction import Prediction, quantities
from eip.testing.contract import FLOORS, ContractViolation
from eip.testing.structures import pack

#: What an engine owes by default; what of it the potential does not give is not asked for.
GIVES = ("energy", "forces", "virial", "force_uncertainty")
#: eV/atom, and of all else relative to its largest component in a structure.
ENERGY_TOLERANCE, ENGINE_TOLERANCE = 1e-6, 1e-5

_TILTED = np.array([[1.0, 0.0, 0.0], [0.3, 0.95, 0.0], [-0.25, 0.2, 1.05]])
_VERY_TILTED = np.array([[1.0, 0.0, 0.0], [0.8, 0.7, 0.0], [-0.7, 0.6, 0.9]])


def engine_structures(elements: Sequence[int], cutoff: float, *, seed: int = 0) -> dict[str, Atoms]:
    """Structures where engines go wrong, by name, of up to four of the elements.

    Atoms alone, molecules, cells smaller than the cutoff, triclinic and left-handed ones, atoms
    outside their cell, slabs and wires, close pairs, and a box that has room for two domains; of
    hydrogen and oxygen also water, of silicon and oxygen a silica of nine atoms.
    """
    rng = np.random.default_rng(seed)
    given, elements = set(elements), list(elements)
    if len(elements) > 4:
        elements = sorted(int(z) for z in rng.choice(elements, 4, replace=False))
    radius = max(float(covalent_radii[z]) for z in elements)
    seven = [elements[i % len(elements)] for i in range(7)]
    few = seven[: max(2, min(3, len(elements)))]
    whole = [True] * 3

    def alone(**where: Any) -> Atoms:
        return Atoms([elements[-1]], [[1.0, 2.0, 3.0]], **where)

    def packed(numbers: Sequence[int], cell: np.ndarray, pbc: Sequence[bool] = whole) -> Atoms:
        return pack(numbers, np.asarray(cell, dtype=float), pbc, rng)

    def moved(atoms: Atoms, positions: np.ndarray, **where: Any) -> Atoms:
        return Atoms(atoms.numbers, positions, **where)

    free = packed(seven, np.eye(3) * 5.2 * radius, [False] * 3)
    # Never less than what the atoms need, however short the cutoff.
    small = max(0.8 * cutoff, 2.6 * radius)
    crystal = packed(few, small * _TILTED)
    pair = Atoms(
        [elements[0], elements[-1]],
        [[0.0, 0.0, 0.0], [0.4, 0.3, 1.6 * radius]],
    )
    apart = np.where(np.arange(7)[:, None] < 3, 0.0, [3.0 * cutoff, 0.0, 0.0])
    box = 5.2 * radius + 2.0 * cutoff
    domains = np.diag([4.6, 2.3, 2.2]) * max(cutoff, 2.4 * radius)
    found = {
        "a lone atom": alone(),
        "a lone atom in a box": alone(cell=np.eye(3) * 2.5 * cutoff, pbc=True),
        "a crystal of one atom": alone(cell=0.8 * small * _TILTED, pbc=True),
        "a pair": pair,
        "a molecule": free,
        "a molecule with a dummy cell": moved(free, free.positions[::-1], cell=np.eye(3) * 2.0),
        "a molecule far out": moved(free, free.positions + [300.0, -200.0, 500.0]),
        "two fragments beyond reach": moved(free, free.positions + apart),
        "a molecule across a boundary": moved(
            free, free.positions - free.positions.mean(axis=0), cell=np.eye(3) * box, pbc=True
        ),
        "a large cubic cell": packed(seven * 2, np.eye(3) * 2.2 * small),
        "a small cubic cell": packed(few, np.eye(3) * small),
        "a flat cell": packed(seven, np.diag([0.7, 2.0, 1.6]) * small),
        "a small triclinic cell": crystal,
        "a very tilted cell": packed(few, 1.3 * small * _VERY_TILTED),
        "a left-handed cell": packed(few, 1.1 * small * _TILTED[[1, 0, 2]]),
        "atoms outside their cell": moved(
            crystal,
            crystal.positions + rng.integers(-2, 3, size=(len(few), 3)) @ crystal.cell.array,
            cell=crystal.cell,
            pbc=True,
        ),
        "a slab along z": packed(few, small * _TILTED, [True, True, False]),
        "a slab along x": packed(few, small * _TILTED, [False, True, True]),
        "a wire": packed(few, small * np.diag([2.0, 1.6, 1.0]), [False, False, True]),
        "close pairs": moved(pair, 0.6 * pair.positions),
        "room for two domains": packed(seven * 6, domains),
    }
    if {1, 8} <= given:
        found |= {"water": molecule("H2O"), "liquid water": _liquid_water(rng)}
    if {8, 14} <= given:
        found["silica"] = _quartz(rng)
    return found


def check_engine(
    evaluate: Callable[[Atoms], Mapping[str, Any]],
    potential: Potential,
    structures: Mapping[str, Atoms] | None = None,
    *,
    gives: Sequence[str] = GIVES,
    energy_tolerance: float = ENERGY_TOLERANCE,
    tolerance: float = ENGINE_TOLERANCE,
) -> None:
    """Holds an engine to what the potential says of structures through ASE.

    Args:
        evaluate: one structure in the engine: a mapping of ``energy`` (eV), ``forces`` (atoms 3,
            eV/Å), ``virial`` (3 3, eV: −∂E/∂ε, also of structures that are not periodic) and
            whatever else `eip.prediction.quantities` names, ``force_uncertainty`` (atoms, eV/Å)
            say. Whatever is in it of the potential's quantities is compared.
        potential: what the engine was given.
        structures: by name; `engine_structures` of the potential's elements by default. Leave out
            of those what your engine refuses.
        gives: what must be in each mapping, where the potential has it.
        energy_tolerance: eV/atom.
        tolerance: of all else, relative to its largest component in the structure; of a virial at
            least to the largest force times the cutoff.

    Raises:
        ContractViolation: at the first structure of which the engine says something else, naming
            the structure, the quantity, the atom and by how much.
        ValueError: if ``gives`` names what no prediction has.
    """
    known = {of.name: of for of in quantities(Prediction)}
    for name in gives:
        if name not in known and name != "virial":
            raise ValueError(f"gives: '{name}' is no quantity, {did_you_mean(name, list(known))}")
    if structures is None:
        structures = engine_structures(potential.elements, potential.cutoff)
    potential = prepared(potential)
    for name, atoms in structures.items():
        where = f"{name} ({atoms.get_chemical_formula()}, {len(atoms)} atoms)"
        expected = said_through_ase(potential, atoms)
        given = atoms.copy()
        found = evaluate(given)
        if given != atoms:
            raise ContractViolation("engine", f"it changes the structure it was given: {where}")
        for missing in (name for name in gives if name in expected and name not in found):
            raise ContractViolation("engine", f"{missing} is missing for {where}", quantity=missing)
        force = float(np.abs(expected["forces"]).max())
        for quantity, want in expected.items():
            if quantity not in found:
                continue
            # A virial is a sum of forces times distances, of which most cancel.
            floor = force * potential.cutoff if quantity == "virial" else 0.0
            peak = max(float(np.abs(want).max()), floor, FLOORS.get(quantity, 1e-12))
            allowed = tolerance * peak
            if quantity in ("energy", "free_energy"):
                allowed = energy_tolerance * len(atoms)
            unit = "eV" if quantity == "virial" else known[quantity].unit
            _compare(quantity, want, found[quantity], allowed, unit, where)


def said_through_ase(potential: Potential, atoms: Atoms) -> dict[str, np.ndarray]:
    """What there is to compare: the quantities of a `Prediction` and the virial, float64."""
    graph = build_graph(atoms, potential.cutoff, device=potential.device)
    # Any volume will do for a virial, also where there is none.
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    graph = graph.in_cell(graph.cell.new_tensor(cell[None]))
    prediction = potential(graph, stress=True)
    found = {}
    for of, value in prediction.figures():
        if of.internal or value is None:
            continue
        array = value.detach().cpu().numpy().astype(np.float64)
        found[of.name] = array if of.level == "atom" else np.asarray(array[0])
    stress = found.pop("stress")
    found["virial"] = -stress * abs(float(np.linalg.det(cell)))
    if atoms.pbc.any() and atoms.cell.rank == 3:
        found["stress"] = -found["virial"] / atoms.cell.volume
    return found


def _compare(
    quantity: str, want: np.ndarray, given: Any, allowed: float, unit: str, where: str
) -> None:
    got = np.asarray(given, dtype=np.float64)
    if got.shape != want.shape:
        raise ContractViolation(
            "engine",
            f"{quantity} has shape {got.shape}, expected {want.shape} for {where}",
            quantity=quantity,
        )
    if not np.isfinite(got).all():
        raise ContractViolation(
            "engine", f"{quantity} is not finite for {where}", quantity=quantity
        )
    away = np.abs(got - want)
    worst = np.unravel_index(int(away.argmax()), away.shape)
    if away[worst] > allowed:
        place = f"[{', '.join(map(str, worst))}]" if worst else ""
        raise ContractViolation(
            "engine",
            f"{quantity}{place} is {got[worst]:.8g} {unit} in the engine and {want[worst]:.8g} "
            f"through ASE for {where}: {away[worst]:.2e} apart, allowed are {allowed:.1e}",
            quantity=quantity,
            deviation=float(away[worst]),
            allowed=allowed,
        )


def _liquid_water(rng: np.random.Generator) -> Atoms:
    """Eight molecules at the density of water, each turned at random."""
    edge, liquid = 3.104, Atoms(cell=np.eye(3) * 2 * 3.104, pbc=True)
    for corner in np.ndindex(2, 2, 2):
        one = molecule("H2O")
        one.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        one.positions += edge * (np.array(corner) + 0.5) + rng.uniform(-0.1, 0.1, 3)
        liquid += one
    return liquid


def _quartz(rng: np.random.Generator) -> Atoms:
    """α-quartz, its atoms off their places."""
    a, c, u, x, y, z = 4.913, 5.405, 0.4697, 0.4135, 0.2669, 0.1191
    third = 1.0 / 3.0
    silicon = [[u, 0, 0], [0, u, 2 * third], [-u, -u, third]]
    oxygen = [
        *([x, y, z], [-y, x - y, z + 2 * third], [y - x, -x, z + third]),
        *([y, x, -z], [x - y, -y, third - z], [-x, y - x, 2 * third - z]),
    ]
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    quartz = Atoms("Si3O6", scaled_positions=np.array(silicon + oxygen), cell=cell, pbc=True)
    quartz.positions += rng.uniform(-0.05, 0.05, (9, 3))
    return quartz
