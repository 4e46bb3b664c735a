"""What σ is at least beyond the range of held-out atoms, whatever a fit from home says.

    symbol      meaning
    d_i, D_i    distance of an atom and of its surroundings, of `eip.uncertainty.latent_distance`
    d_Z, D_Z    edges: 99.9th percentiles of both over held-out atoms of element Z
    γ_i         extrapolation grade, max(d_i/d_Z, D_i/D_Z): 1 at the edge of what was seen
    f_Z         root mean square of a force component over the same atoms, eV/Å
    k(x)        u³/(u² + w²) with u = max(x − 1, 0), w = 0.1: 0 for x ≤ 1, about x − 1 beyond
    h_i         ½ arsinh(2 c [k(d_i/d_Z) + k(D_i/D_Z)])
    σ_i²        (σ_i without guard)² + (f_Z h_i)²

Within the range nothing changes. Beyond it a variance is added that knows nothing but the distance
and how large forces are; it has two continuous derivatives, and no fit on frames from home can take
it away. It grows with the distance first, and slower (as its logarithm) once it is as large as
forces are: what is wrong altogether is hardly wrong by more than that.

It is added and does not multiply, because what it would multiply is not to be relied on out there:
the raw σ of trained networks *falls*, below a hundredth of its value at home where two atoms
collide, and then no power of the distance brings it back. Its unit are the forces and not the
errors at home: how wrong a force is on a molecule never seen hardly depends on how well the
network knows its own (three trainings on acetylacetone, whose errors at home were 3, 5 and 7 meV/Å,
err by 610, 620 and 630 on aspirin). So one c serves every method and every length of training; it
is a prior, `STRENGTH`, chosen on data sets that play the unknown one by turns
(`experiments/uq/guard.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eip.errors import InputError
from eip.uncertainty.calibration import fit_calibration

#: The extrapolation grade at the edge of what was seen.
EDGE = 1.0
#: A larger share of atoms beyond it is not rare.
MOST_EXTRAPOLATING = 0.05

#: c.
STRENGTH = 0.2

#: Of the two distances; the largest where there are fewer than 1,000 values.
PERCENTILE = 99.9

#: An element with fewer held-out atoms has an edge no nearer than that of all elements together.
ENOUGH_ATOMS = 100

#: What is given a guard afterwards wants held-out frames of so many atoms.
FEWEST_ATOMS = 30

#: w²: how sharply the law sets in.
ONSET = 0.01


@dataclass(frozen=True)
class Guard:
    """Edges of what was seen, by atomic number; plain numbers, kept in a model file.

    Attributes:
        strength: c.
        edges: d_Z and D_Z.
        unit: σ before calibration that stands for an error as large as forces are: f_Z over the
            factor that a calibration on the same atoms gives, eV/Å.
        n_atoms: held-out atoms that the edges were taken from.
    """

    strength: float
    edges: Mapping[int, tuple[float, float]]
    unit: Mapping[int, float]
    n_atoms: int

    def table(self) -> Float[Tensor, "3 119"]:
        """1/d_Z², 1/D_Z² and the unit by atomic number; 0 of an element that it does not know."""
        found = torch.zeros(3, 119, dtype=torch.float64)
        for z, edges in self.edges.items():
            column = [*(edge**-2 for edge in edges), self.unit[z]]
            found[:, z] = torch.tensor(column, dtype=torch.float64)
        return found

    def share(self, reach: Float[Tensor, "2 atoms"]) -> Float[Tensor, "atoms"]:
        """h, of d/d_Z and D/D_Z: what is added to σ, over the unit."""
        return 0.5 * torch.asinh(2.0 * self.strength * excess(reach).sum(dim=0))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        elements = {
            str(z): {"d": d, "D": around, "unit": self.unit[z]}
            for z, (d, around) in self.edges.items()
        }
        return {"strength": self.strength, "n_atoms": self.n_atoms, "elements": elements}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Guard:
        """Of `to_dict`.

        Raises:
            InputError: if something is missing or no positive number.
        """
        try:
            elements = {int(z): of for z, of in content["elements"].items()}
            found = cls(
                strength=float(content["strength"]),
                edges={z: (float(of["d"]), float(of["D"])) for z, of in elements.items()},
                unit={z: float(of["unit"]) for z, of in elements.items()},
                n_atoms=int(content["n_atoms"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the description of a guard is damaged ({error!r})") from error
        numbers = [
            found.strength,
            *found.unit.values(),
            *(e for x in found.edges.values() for e in x),
        ]
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise InputError("the description of a guard holds a number that is not positive")
        return found


def fit_guard(
    elements: Sequence[int],
    numbers: Int[np.ndarray, "atoms"],
    distances: Float[np.ndarray, "atoms 2"],
    sigma: Float[np.ndarray, "atoms"],
    forces: Float[np.ndarray, "atoms 3"],
    errors: Float[np.ndarray, "atoms 3"],
    strength: float = STRENGTH,
) -> Guard:
    """Edges and units, of held-out atoms; an element without any takes those of all.

    Args:
        elements: of the potential.
        numbers: atomic numbers.
        distances: d and D.
        sigma: without guard, eV/Å.
        forces, errors: the labels, and they less what was predicted, eV/Å; NaN where there is none.

    Raises:
        InputError: if there is no atom with a label.
    """
    factors = fit_calibration(errors, sigma, numbers)
    squares = np.square(forces).mean(axis=1)
    edges, unit = {}, {}
    for z in elements:
        own = numbers == z
        few = own.sum() < ENOUGH_ATOMS
        found = _edges(distances[own] if own.any() else distances)
        nearest = np.maximum(found, _edges(distances)) if few else found
        edges[z] = (float(nearest[0]), float(nearest[1]))
        labelled = np.isfinite(squares) & (own | few)
        size = squares[labelled if labelled.any() else np.isfinite(squares)].mean()
        unit[z] = float(np.sqrt(size) / factors.factor_of(z))
    return Guard(strength, edges, unit, len(numbers))


def _edges(distances: Float[np.ndarray, "atoms 2"]) -> Float[np.ndarray, "2"]:
    """The ⌈0.999 (n + 1)⌉-th smallest of each column, the largest where that is beyond n."""
    count = len(distances)
    rank = min(count, math.ceil(PERCENTILE / 100 * (count + 1)))
    return np.sort(distances, axis=0)[rank - 1]


def excess(x: Tensor) -> Tensor:
    """k: 0 up to 1, then rising towards x − 1, twice continuously differentiable."""
    beyond = (x - 1.0).clamp(min=0.0)
    # Not u³ / (u² + w²), whose powers overflow in float32 where γ does not.
    return beyond * (1.0 - ONSET / (beyond.square() + ONSET))
