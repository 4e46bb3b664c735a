"""Closer than any training frame has two atoms: the network is not asked, and the nuclei repel.

Where no frame was, a network may find two nuclei attractive by hundreds of eV, and the more so the
longer it was trained; uncertainty-driven dynamics goes and looks.

    symbol      meaning
    r           distance of two atoms, Å
    b           where the data of their elements begin: the closest approach in the training frames
    a           (1 − WIDTH) b
    s(r)        distance that the network is told: r above b, (a + b)/2 below a, between them of
                slope s' = u³ (10 − 15u + 6u²), u = (r − a)/(b − a): three continuous derivatives
    Z(r)        screened repulsion of the nuclei (`eip.models.zbl`)
    E           E_network(s) + Σ_pairs [Z(r) − Z(s)]
    m           (1 − s') |Z'(r)|, the slope of a repulsion that no frame shows

So the force between two atoms is s' times what the network finds at s, plus −Z'(r) + s' Z'(s),
which is at least (1 − s') times the repulsion at s: it grows from the network's into that of the
nuclei, and below a there is no other. No training frame changes at all. Directions, and with them
angles, are the true ones, so everything stays the exact gradient of an energy.

Where the data begin is only known of elements that meet often enough; of others b is a share of
the sum of their covalent radii, well inside a bond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from jaxtyping import Float, Int
from torch import Tensor, nn

from eip.graph import AtomGraph
from eip.kernels.geometry import closer_than
from eip.kernels.indexing import sums
from eip.models.zbl import screened_repulsion

#: Length of the transition, as a share of b. Narrower, and forces of frames a little beyond the
#: training set get worse (acetylacetone, 1,500 epochs, RMSE at 300 K 5.7 meV/Å, with 0.1 39, 0.2
#: 7.7, 0.3 5.5); wider, and the holes of a network without a limit come back (0.35).
WIDTH = 0.3
#: Of the sum of covalent radii: b of elements of which the frames say too little.
SHARE = 0.75
#: In so many frames, or in half of them, two elements have to meet. Crystals of many kinds hold
#: most pairs of elements in a few frames, and others of their kind have them at half the distance.
FRAMES = 100

#: Pairs of elements that are named one by one: those of seven elements.
_MOST_NAMED = 28

Pair = tuple[int, int]


@dataclass(frozen=True)
class ShortRangeSettings:
    """Where the data of each pair of elements begin.

    Attributes:
        closest: closest approach of two elements (atomic numbers, ascending), Å, where the
            training frames tell.
        share: of the sum of covalent radii, for all other pairs.
        width: see `WIDTH`.
    """

    closest: Mapping[Pair, float]
    share: float = SHARE
    width: float = WIDTH

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("width", self.width)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        for pair, distance in self.closest.items():
            if not (math.isfinite(distance) and distance > 0):
                raise ValueError(f"closest approach of {_name(pair)} must be positive: {distance}")

    @classmethod
    def of_frames(
        cls, approaches: Mapping[Pair, tuple[float, int]], n_frames: int
    ) -> ShortRangeSettings:
        """As training frames have it.

        Args:
            approaches: of each pair of elements (ascending) the closest approach, Å, and in how
                many frames it is within the cutoff, as `eip.data.GraphDataset` gives it.
            n_frames: how many frames there are.
        """
        enough = min(FRAMES, n_frames / 2)
        return cls(
            {
                pair: distance
                for pair, (distance, frames) in sorted(approaches.items())
                # What was seen is always left to the network.
                if frames >= enough or distance < _radii(pair, SHARE)
            }
        )

    def with_closest(self, closest: Mapping[Pair, float]) -> ShortRangeSettings:
        """Where the data of both begin: the closer of the two approaches."""
        both = dict(self.closest)
        for pair, distance in closest.items():
            both[pair] = min(distance, both.get(pair, distance))
        return replace(self, closest=dict(sorted(both.items())))

    def begin(self, pair: Pair, cutoff: float) -> float:
        """b, Å."""
        low, high = sorted(pair)
        found = self.closest.get((low, high))
        return min(cutoff, _radii(pair, self.share) if found is None else found)

    def __str__(self) -> str:
        names = [f"{_name(pair)} {distance:.3f}" for pair, distance in self.closest.items()]
        if len(names) > _MOST_NAMED:
            ends = min(self.closest.values()), max(self.closest.values())
            names = [f"{len(names)} pairs of elements from {ends[0]:.3f} to {ends[1]:.3f}"]
        others = f"{self.share:g} of the sum of covalent radii"
        return f"{', '.join(names)} Å; others {others}" if names else others

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; elements by their symbols."""
        closest = {_name(pair): distance for pair, distance in self.closest.items()}
        return {"closest": closest, "share": self.share, "width": self.width}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ShortRangeSettings:
        """What `to_dict` gave.

        Raises:
            LookupError, TypeError, ValueError: if it did not.
        """
        closest = {}
        for name, distance in given["closest"].items():
            one, two = (atomic_numbers[symbol] for symbol in name.split("-"))
            closest[min(one, two), max(one, two)] = float(distance)
        return cls(closest, float(given["share"]), float(given["width"]))


def _name(pair: Pair) -> str:
    return "-".join(chemical_symbols[z] for z in pair)


def _radii(pair: Pair, share: float) -> float:
    return share * float(covalent_radii[pair[0]] + covalent_radii[pair[1]])


@dataclass(frozen=True)
class Approach:
    """Pairs of atoms that are closer than the data begin, or might be.

    Attributes:
        energy: of each atom, half of each of its pairs, eV.
        centers, directions: of the edges.
        missing: m of each edge, eV/Å.
        nearness: b/r of each edge.
    """

    energy: Float[Tensor, "atoms"]
    centers: Int[Tensor, "close"]
    directions: Float[Tensor, "close 3"]
    missing: Float[Tensor, "close"]
    nearness: Float[Tensor, "close"]

    def covariance(self) -> Float[Tensor, "atoms 3 3"]:
        """Σ m² r̂ r̂ᵀ of each atom, (eV/Å)²: what its force is not known by."""
        along = self.missing[:, None] * self.directions
        squares = along[:, :, None] * along[:, None, :]
        found: Tensor = sums(squares, self.centers, self.energy.shape[0])
        return found

    def grade(self) -> Float[Tensor, "atoms"]:
        """Extrapolation grade: the largest b/r of each atom, above 1 below the closest approach."""
        zeros = torch.zeros_like(self.energy)
        return zeros.scatter_reduce(0, self.centers, self.nearness, "amax")


class ShortRange(nn.Module):
    """What the network is told of distances, and the repulsion in place of what it is not.

    Args:
        settings: where the data begin.
        elements: atomic numbers by species.
        cutoff: Å.
    """

    begins: Tensor
    numbers: Tensor

    def __init__(
        self, settings: ShortRangeSettings, elements: Sequence[int], cutoff: float
    ) -> None:
        super().__init__()
        self.settings = settings
        count = len(elements)
        begins = torch.zeros(count, count, dtype=torch.float64)
        for i, j in combinations_with_replacement(range(count), 2):
            begins[i, j] = begins[j, i] = settings.begin((elements[i], elements[j]), cutoff)
        # Not persistent: the settings are the one truth.
        self.register_buffer("begins", begins, persistent=False)
        self.register_buffer("numbers", torch.tensor(list(elements)), persistent=False)

    def forward(
        self, graph: AtomGraph, species: Int[Tensor, "atoms"], vectors: Float[Tensor, "edges 3"]
    ) -> tuple[Float[Tensor, "edges 3"], Approach | None]:
        """The vectors that the network is told, and what comes in place of the true ones.

        None: no two atoms are closer than the data begin, and the vectors are those given.
        """
        begins = self.begins.to(vectors.dtype)
        centers, neighbors, close = graph.centers, graph.neighbors, vectors
        which = None
        # A GPU's host would have to wait for the answer: there all edges are worked on.
        if vectors.device.type == "cpu":
            found = closer_than(vectors.detach(), species, centers, neighbors, begins)
            if not bool(found.any()):
                return vectors, None
            which = found.nonzero()[:, 0]
            centers, neighbors = centers[which], neighbors[which]
            close = vectors.index_select(0, which)
        kinds = species[centers], species[neighbors]
        z_i, z_j = (self.numbers[kind].to(vectors.dtype) for kind in kinds)
        r = close.square().sum(dim=1).sqrt()
        s, slope = self._told(r, begins[kinds])
        (value, steepness), (at_s, _) = (screened_repulsion(z_i, z_j, d) for d in (r, s))
        energy = sums(0.5 * (value - at_s), centers, graph.n_atoms)
        missing = (1.0 - slope) * steepness
        told = close * (s / r)[:, None]
        return (
            told if which is None else vectors.index_copy(0, which, told),
            Approach(energy, centers, close / r[:, None], missing, begins[kinds] / r),
        )

    def _told(
        self, r: Float[Tensor, "close"], begin: Float[Tensor, "close"]
    ) -> tuple[Float[Tensor, "close"], Float[Tensor, "close"]]:
        """s and s'."""
        length = self.settings.width * begin
        u = (1.0 - (begin - r) / length).clamp(0.0, 1.0)
        inside = begin - length * (0.5 - u**4 * (2.5 - 3.0 * u + u.square()))
        return torch.where(r < begin, inside, r), u**3 * (10.0 - 15.0 * u + 6.0 * u.square())
