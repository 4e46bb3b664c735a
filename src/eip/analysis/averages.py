"""Averages over a trajectory with their error: what the potential does not know, what was not seen.

Other last layers that the training data allow just as well would have weighted the same frames
otherwise (Imbalzano et al. 2021); how far the average moves is the potential's part of its error.

    symbol   meaning
    O_t      what is averaged, of frame t
    x_t      parts of the energy's error (`eip.Prediction.energy_deviations`), eV
    ξ_m      standard normal, as many as parts: member m has the energies E_t + x_t · ξ_m
    w_mt     exp(−(x_t − x̄) · ξ_m / kT), over their sum
    ⟨O⟩_m    Σ_t w_mt O_t; of the energy itself Σ_t w_mt (E_t + x_t · ξ_m)

The frames must be those of a canonical run at temperature T, without a bias. A shift of all
energies alike drops out, and with it what a composition leaves open, but for the mean of the energy
itself. Where few frames carry the
weights, 1/Σ_t w_mt² of them, the reweighted averages are noise, and it is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from ase import Atoms, units
from jaxtyping import Float

from eip.analysis.distributions import PairDistribution
from eip.errors import InputError
from eip.potential import Potential, prepared
from eip.uncertainty.guard import EDGE, MOST_EXTRAPOLATING

#: Members that are drawn: the spread of so many is known to 5 %.
MEMBERS = 200

#: A share of the frames below which the weights' effective number is said to be too low.
_SHARE = 0.1

#: Blocks of the block average, and independent frames, from which on a spread says something.
_LEAST, _INDEPENDENT = 8, 20

#: Of one frame: a number, or an array.
Values = float | Float[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class Average:
    """An average, of the shape and in the unit of one frame's values.

    Attributes:
        value: the mean over the frames.
        potential_error: the potential's part of its error, a standard deviation.
        sampling_error: of the finite run: by block averages, because frames that follow each other
            are alike.
        frames: how many there are.
        effective_frames: how many carry the weights of a member, the median.
        independent_frames: how many of them are independent, by the sampling error.
        doubt: why the potential's part should not be believed, a sentence; empty where it may.
    """

    value: Values
    potential_error: Values
    sampling_error: Values
    frames: int
    effective_frames: float
    independent_frames: float
    doubt: str

    @property
    def error(self) -> Values:
        """Both parts together."""
        both: Values = np.hypot(self.potential_error, self.sampling_error)
        return both


@dataclass(frozen=True, eq=False)
class Deviations:
    """What reweighting asks of a run, frame by frame.

    Attributes:
        parts: of the energy's error, as wide as they are in the run's median frame, eV.
        distributions: g(r) of each frame by pair of elements, "Li-O"; none without a cell periodic
            in three directions.
        extrapolating: share of the atoms that are beyond what the potential has seen.
    """

    parts: Float[np.ndarray, "frames directions"]
    distributions: dict[str, Float[np.ndarray, "frames bins"]]
    extrapolating: float = 0.0

    @property
    def doubt(self) -> str:
        """Why no average of this run is to be believed, a sentence; empty where it may."""
        if self.extrapolating <= MOST_EXTRAPOLATING:
            return ""
        return (
            f"{self.extrapolating:.0%} of the atoms are beyond what the potential has seen "
            "(extrapolation grade above 1): the run has left what it knows, and neither the "
            "averages nor their errors are to be believed"
        )


def deviations_of(potential: Potential, frames: Iterable[Atoms], cutoff: float = 6.0) -> Deviations:
    """One pass over the frames of a run, with the potential that drove it.

    Args:
        frames: all of the same atoms.
        cutoff: of g(r), Å.

    Raises:
        InputError: if the potential's energies have no error bar.
    """
    potential = prepared(potential)
    parts, factors, grades = [], [], []
    distributions: dict[str, list[np.ndarray]] = {}
    for several in _batched(iter(frames)):
        said = potential.predict(several, forces=False)
        if said.energy_deviations is None:
            raise InputError(
                "averages get an error where the potential's energies have an error bar, and this "
                "one's have none (see eip info; eip calibrate --trained-on FRAMES gives one)"
            )
        parts.append(said.energy_deviations)
        if said.energy_widening is not None:
            factors.append(said.energy_widening)
        if said.extrapolation_grade is not None:
            grades.append(said.extrapolation_grade)
        for atoms in several:
            if atoms.pbc.all():
                pairs = PairDistribution(cutoff)
                pairs.add(atoms)
                for name, g in pairs.by_pair().items():
                    distributions.setdefault(name, []).append(g)
    # One factor for the run: with one for each frame, what all have in common would not cancel.
    wide = torch.cat(factors).median(dim=0).values if factors else 1.0
    return Deviations(
        (torch.cat(parts) * wide).numpy(),
        {k: np.array(v) for k, v in distributions.items()},
        float((torch.cat(grades) > EDGE).double().mean()) if grades else 0.0,
    )


def _batched(frames: Iterator[Atoms], size: int = 64) -> Iterator[list[Atoms]]:
    while several := list(islice(frames, size)):
        yield several


def average(
    values: Float[np.ndarray, "..."],
    deviations: Float[np.ndarray, "..."],
    temperature: float,
    *,
    energies: bool = False,
    members: int = MEMBERS,
    seed: int = 0,
) -> Average:
    """The average of anything that each frame of a run has, with its error.

    Args:
        values: of each frame, numbers or arrays, ``[frames, …]``.
        deviations: of the same frames, ``[frames, directions]``, eV:
            ``potential.predict(frames, forces=False).energy_deviations.numpy()``.
        temperature: of the run, K.
        energies: whether the values are the energies that the deviations are of, which each member
            has its own of.
        members: last layers to draw.
        seed: of what is drawn.

    Raises:
        InputError: if there are too few frames, the arrays do not fit together or are not finite,
            or the temperature is not positive.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = member_weights(deviations, temperature, members=members, seed=seed)
    if values.ndim < 1 or len(values) != weights.shape[1]:
        raise InputError(
            f"an average needs a value of each of the {weights.shape[1]} frames, got an array of "
            f"shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise InputError("an average needs values that are finite, in every frame")
    reweighted = np.tensordot(weights, values, axes=1)
    if energies:
        reweighted = reweighted + (weights * _shifts(deviations, members, seed)).sum(axis=1)
    sampling, independent = sampling_error(values)
    effective = float(np.median(1.0 / (weights**2).sum(axis=1)))
    count = len(values)
    return Average(
        value=values.mean(axis=0),
        potential_error=np.sqrt(((reweighted - values.mean(axis=0)) ** 2).mean(axis=0)),
        sampling_error=sampling,
        frames=count,
        effective_frames=effective,
        independent_frames=independent,
        doubt=_doubt(count, effective, independent),
    )


def member_weights(
    deviations: Float[np.ndarray, "..."],
    temperature: float,
    *,
    members: int = MEMBERS,
    seed: int = 0,
) -> Float[np.ndarray, "members frames"]:
    """w_mt; the weights of each member add up to 1.

    Raises:
        InputError: as `average`.
    """
    deviations = np.asarray(deviations, dtype=np.float64)
    if deviations.ndim != 2:
        raise InputError(
            "the parts of the energies' error should be [frames, directions], got an array of "
            f"shape {deviations.shape}"
        )
    if len(deviations) < _LEAST:
        raise InputError(
            f"an average with its error needs {_LEAST} frames or more, got {len(deviations)}: "
            "write them more often (trajectory_interval, --every), or run longer"
        )
    if not np.isfinite(deviations).all():
        raise InputError("the parts of the energies' error are not finite in every frame")
    if not temperature > 0:
        raise InputError(f"temperature must be positive, in K, got {temperature}")
    shift = _shifts(deviations - deviations.mean(axis=0), members, seed) / (units.kB * temperature)
    weights = np.exp(-(shift - shift.min(axis=1, keepdims=True)))
    found: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return found


def _shifts(
    deviations: Float[np.ndarray, "frames directions"], members: int, seed: int
) -> Float[np.ndarray, "members frames"]:
    """x_t · ξ_m, eV."""
    drawn = np.random.default_rng(seed).normal(size=(deviations.shape[1], members))
    shifts: np.ndarray = (deviations @ drawn).T
    return shifts


def sampling_error(
    values: Float[np.ndarray, "frames *shape"],
) -> tuple[Values, float]:
    """Standard deviation of the mean of a time series, and how many of its frames are independent.

    By blocks of 1, 2, 4 … frames that follow each other (Flyvbjerg and Petersen 1989): the largest
    that any length of block gives.
    """
    largest = alone = np.zeros(values.shape[1:])
    size = 1
    while size == 1 or len(values) // size >= _LEAST:
        count = len(values) // size
        blocks = values[: count * size].reshape(count, size, *values.shape[1:]).mean(axis=1)
        error = blocks.std(axis=0, ddof=1) / np.sqrt(count)
        alone = error if size == 1 else alone
        largest = np.maximum(largest, error)
        size *= 2
    varies = np.atleast_1d(alone > 0)
    ratio = np.square(np.atleast_1d(alone)[varies] / np.atleast_1d(largest)[varies])
    return largest, float(len(values) * (np.median(ratio) if ratio.size else 1.0))


def _doubt(frames: int, effective: float, independent: float) -> str:
    if effective < _SHARE * frames:
        return (
            f"only {effective:.0f} of {frames} frames carry the weights of another last layer: the "
            "potential's part of the error is not to be believed; energies would have to be known "
            "better, or the system be smaller"
        )
    if independent * effective / frames < _INDEPENDENT:
        return (
            f"only about {independent * effective / frames:.0f} independent frames carry the "
            "weights: the run is too short for the potential's part of the error"
        )
    return ""
