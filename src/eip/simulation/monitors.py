"""Why a run stops. Each monitor looks at one state and says nothing, or how the run ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float, Int

from eip.errors import InputError
from eip.graph import AtomGraph
from eip.neighbors import find_edges
from eip.prediction import Prediction, Quantity, quantities

#: "finished": all steps done. "stopped": on purpose, at a sound state (σ passed its threshold, or
#: the user interrupted). "collapsed": the state is no physics any more.
EndingKind = Literal["finished", "stopped", "collapsed"]

#: What ended a run, for programs; the reason is the sentence for people.
Cause = Literal[
    "steps",
    "interrupted",
    "uncertainty",
    "extrapolation_grade",
    "non_finite",
    "closest_approach",
    "broken_bond",
    "temperature",
    "energy_drift",
]


@dataclass(frozen=True)
class Ending:
    """How a run ended; the run says at which step."""

    kind: EndingKind
    cause: Cause
    reason: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One step of a run, as files hold it.

    Attributes:
        step, time_fs: how far the run is.
        atoms: with momenta; positions not wrapped into the cell.
        results: the calculator's (see `eip.simulation.calculator.Calculator`).
        temperature: K, over the degrees of freedom that the ensemble moves.
        quantities: what the results are.
    """

    step: int
    time_fs: float
    atoms: Atoms
    results: Mapping[str, Any]
    temperature: float
    quantities: tuple[Quantity, ...] = quantities(Prediction)


@dataclass(frozen=True, kw_only=True)
class State(Snapshot):
    """One step of a run, as the monitors see it.

    Attributes:
        graph: pairs up to the potential's cutoff and beyond.
        kinetic: kinetic energy, eV.
        drift: change of energy + kinetic − work of the bias since the start, eV per atom; what
            NVE conserves, with a bias and without.
    """

    graph: AtomGraph
    kinetic: float
    drift: float

    def snapshot(self) -> Snapshot:
        """Without the pairs of atoms, which take many times the room of all else."""
        return Snapshot(**{field.name: getattr(self, field.name) for field in fields(Snapshot)})

    @cached_property
    def lengths(self) -> Float[np.ndarray, "edges"]:
        """Lengths of the graph's edges, Å."""
        vectors = self.graph.edge_vectors().detach()
        # A product sums three columns faster than PyTorch's reductions do.
        squares = vectors.square() @ vectors.new_ones(3)
        return squares.sqrt().cpu().numpy().astype(np.float64)


@runtime_checkable
class Monitor(Protocol):
    def check(self, state: State) -> Ending | None:
        """How the run ends at this state; None if it goes on."""


def first_ending(monitors: Iterable[Monitor], state: State) -> Ending | None:
    """What the first monitor with an objection says."""
    endings = (monitor.check(state) for monitor in monitors)
    return next((ending for ending in endings if ending is not None), None)


def _name(atoms: Atoms, index: int) -> str:
    return f"{chemical_symbols[atoms.numbers[index]]} (atom {index})"


def _nearest(state: State, index: int) -> str:
    """Which atom is nearest to one and how near, the first thing to look at; "" if it is alone."""
    own = np.flatnonzero(state.graph.centers.cpu().numpy() == index)
    if not own.size:
        return ""
    edge = own[np.argmin(state.lengths[own])]
    other = _name(state.atoms, int(state.graph.neighbors[edge]))
    return f"; the nearest to it is {other}, {state.lengths[edge]:.3g} Å away"


@dataclass(frozen=True)
class NonFinite:
    """Collapsed where a position, momentum or predicted number is NaN or infinite."""

    def check(self, state: State) -> Ending | None:
        numbers = {
            "positions": state.atoms.positions,
            "momenta": state.atoms.get_momenta(),
            "cell": state.atoms.cell.array,
            **state.results,
        }
        for name, value in numbers.items():
            if not np.isfinite(value).all():
                return Ending("collapsed", "non_finite", f"{name} is not finite")
        return None


@dataclass(frozen=True)
class ClosestApproach:
    """Collapsed where two atoms are closer than a distance, or than a part of r_i + r_j.

    Attributes:
        distance: Å, of any two atoms; 0 for no such bound.
        ratio: of the sum of the two covalent radii; 0 for no such bound.
    """

    distance: float
    ratio: float = 0.0

    def check(self, state: State) -> Ending | None:
        length = state.lengths
        if len(length) == 0:
            return None
        bound: float | Float[np.ndarray, "edges"] = self.distance
        if self.ratio > 0:
            radii = covalent_radii[state.graph.numbers.cpu().numpy()]
            i, j = state.graph.centers.cpu().numpy(), state.graph.neighbors.cpu().numpy()
            bound = np.maximum(self.distance, self.ratio * (radii[i] + radii[j]))
        margin = length - bound
        worst = int(np.argmin(margin))
        if margin[worst] >= 0:
            return None
        one, other = int(state.graph.centers[worst]), int(state.graph.neighbors[worst])
        return Ending(
            "collapsed",
            "closest_approach",
            f"{_name(state.atoms, one)} and {_name(state.atoms, other)} are "
            f"{length[worst]:.3f} Å apart, closer than the bound of "
            f"{length[worst] - margin[worst]:.3f} Å",
        )


#: Elements between which a bond is taken for covalent. A lithium ion that hops, or a metal atom
#: that gets other neighbors, is no broken bond.
COVALENT = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 52, 53))


@dataclass(frozen=True)
class BrokenBond:
    """Collapsed where a covalent bond of the start is longer than ``stretch`` · (r_i + r_j).

    Attributes:
        pairs, shifts: bonds as edges i → j, with the image of j.
        bounds: longest length allowed to each, Å.
    """

    pairs: Int[np.ndarray, "bonds 2"]
    shifts: Int[np.ndarray, "bonds 3"]
    bounds: Float[np.ndarray, "bonds"]

    @classmethod
    def of(cls, start: Atoms, stretch: float, *, bonded: float = 1.2) -> BrokenBond:
        """Bonds of a structure: pairs of nonmetals closer than ``bonded`` · (r_i + r_j)."""
        radii = covalent_radii[start.numbers]
        i, j, shifts = find_edges(
            start.positions, start.cell.array, start.pbc.tolist(), 2 * bonded * float(radii.max())
        )
        vectors = start.positions[j] + shifts @ start.cell.array - start.positions[i]
        covalent = np.isin(start.numbers, list(COVALENT))
        keep = np.linalg.norm(vectors, axis=1) < bonded * (radii[i] + radii[j])
        keep &= (i <= j) & covalent[i] & covalent[j]
        i, j, shifts = i[keep], j[keep], shifts[keep]
        return cls(np.stack([i, j], axis=1), shifts, stretch * (radii[i] + radii[j]))

    def check(self, state: State) -> Ending | None:
        if len(self.pairs) == 0:
            return None
        i, j = self.pairs.T
        positions = state.atoms.positions
        vectors = positions[j] + self.shifts @ state.atoms.cell.array - positions[i]
        length = np.linalg.norm(vectors, axis=1)
        worst = int(np.argmax(length - self.bounds))
        if length[worst] <= self.bounds[worst]:
            return None
        return Ending(
            "collapsed",
            "broken_bond",
            f"the bond between {_name(state.atoms, int(i[worst]))} and "
            f"{_name(state.atoms, int(j[worst]))} is {length[worst]:.2f} Å long, over the bound of "
            f"{self.bounds[worst]:.2f} Å",
        )


@dataclass(frozen=True)
class Temperature:
    """Collapsed above a temperature, K."""

    bound: float

    def check(self, state: State) -> Ending | None:
        if state.temperature <= self.bound:
            return None
        return Ending(
            "collapsed",
            "temperature",
            f"the temperature is {state.temperature:.0f} K, over the bound of {self.bound:.0f} K",
        )


@dataclass(frozen=True)
class EnergyDrift:
    """Collapsed where what NVE conserves has moved by more than a bound, eV per atom."""

    bound: float

    def check(self, state: State) -> Ending | None:
        if abs(state.drift) <= self.bound:
            return None
        return Ending(
            "collapsed",
            "energy_drift",
            f"the conserved energy has drifted by {state.drift:.3g} eV/atom, "
            f"over the bound of {self.bound:.3g} eV/atom",
        )


@dataclass(frozen=True)
class Uncertainty:
    """Stopped where σ of the structure passes a threshold, eV/Å."""

    threshold: float

    def check(self, state: State) -> Ending | None:
        sigma = state.results.get("uncertainty", -math.inf)
        if sigma <= self.threshold:
            return None
        return Ending(
            "stopped",
            "uncertainty",
            f"σ is {sigma:.4g} eV/Å, over the threshold of {self.threshold:.4g} eV/Å",
        )


@dataclass(frozen=True)
class ExtrapolationGrade:
    """Stopped where an atom's extrapolation grade passes a threshold; 1 is the edge of the data."""

    threshold: float

    def check(self, state: State) -> Ending | None:
        grades = state.results.get("extrapolation_grade")
        if grades is None:
            raise InputError(
                "max_grade is set, but the potential gives no extrapolation grade: eip info says "
                "how it can be given one"
            )
        worst = int(np.argmax(grades))
        if grades[worst] <= self.threshold:
            return None
        return Ending(
            "stopped",
            "extrapolation_grade",
            f"the extrapolation grade of {_name(state.atoms, worst)} is "
            f"{grades[worst]:.4g}, over the threshold of {self.threshold:.4g}"
            + _nearest(state, worst),
        )
