"""Trajectories to figures, frame by frame: what is kept of a frame does not grow with its atoms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float

from eip.analysis.diffusion import Displacements
from eip.analysis.distributions import PairDistribution
from eip.analysis.entropy import (
    TORSION_BINS,
    Ranges,
    coverage_growth,
    entropy_growth,
    histogram_entropy,
    shared_ranges,
)
from eip.analysis.kinds import Kind, Measure, kind_named, measure_of
from eip.analysis.order_parameters import coordination_numbers, pairs_within, torsions
from eip.analysis.settings import BINS
from eip.data.labels import Labels
from eip.data.store import is_store
from eip.data.structures import read_structures
from eip.errors import InputError

#: Neighbors count fully up to, and no more from so many times the sum of covalent radii.
_FULL, _NONE = 1.2, 1.5


@dataclass(frozen=True)
class Sampling:
    """What one run sampled of its order parameters.

    Attributes:
        times: of each frame, fs; its number where the trajectory does not say.
        first, second: the order parameters, a sample for each phosphate, chain or molecule.
        entropy, coverage: of all frames up to each, 0 to 1; on a grid that all runs compared share.
    """

    times: Float[np.ndarray, "frames"]
    first: Float[np.ndarray, "frames samples"]
    second: Float[np.ndarray, "frames samples"]
    entropy: Float[np.ndarray, "frames"]
    coverage: Float[np.ndarray, "frames"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What one pass over a trajectory found.

    Attributes:
        times: of each frame, fs; its number where the trajectory does not say.
        timed: whether it said.
        energies: eV; NaN where a frame has none.
        uncertainties: σ of the structure, eV/Å; NaN where a frame has none.
        first, second: the order parameters; None for the kind "none".
        torsions: counts of 10° each from −180°, by torsion.
        coordination: mean number of neighbors and its spread over atoms and frames, by pair of
            elements, "Li-O" being the O of a Li.
        coordination_of_frames: the mean of each frame, by pair.
        distribution: of pairs; None without a cell periodic in three directions.
        displacements: of atoms; lags count frames.
    """

    times: Float[np.ndarray, "frames"]
    timed: bool
    energies: Float[np.ndarray, "frames"]
    uncertainties: Float[np.ndarray, "frames"]
    first: Float[np.ndarray, "frames samples"] | None
    second: Float[np.ndarray, "frames samples"] | None
    torsions: dict[str, Float[np.ndarray, "bins"]]
    coordination: dict[str, tuple[float, float]]
    coordination_of_frames: dict[str, Float[np.ndarray, "frames"]]
    distribution: PairDistribution | None
    displacements: Displacements

    def torsion_entropies(self) -> dict[str, float]:
        """Of each torsion, 0 (one cell of 10°) to 1 (all alike)."""
        whole = float(np.log(TORSION_BINS))
        return {name: histogram_entropy(of) / whole for name, of in self.torsions.items()}


def read_trajectory(path: Path, *, every: int = 1, skip_fs: float = 0.0) -> Iterator[Atoms]:
    """Frames of a file that ASE reads, or of a run's folder, one at a time.

    Args:
        every: stride; 10 takes every tenth frame.
        skip_fs: frames earlier than that, by their ``time_fs``, are left out.

    Raises:
        InputError: if the file is missing, empty, or cannot be read, or frames do not say when they
            are of and some are to be left out; it says which frame.
    """
    if every < 1:
        raise InputError(f"every expects a number of frames from 1, got {every}")
    # A folder that a run has not begun to fill is told by the file that it lacks.
    file = path / "trajectory.xyz" if path.is_dir() and not _holds_frames(path) else path
    given = 0
    for name, atoms in read_structures(file, index=slice(None, None, every), labels=Labels()):
        if skip_fs and "time_fs" not in atoms.info:
            raise InputError(
                f"{name}: nothing says when this frame is of (no 'time_fs'), so the first "
                f"{skip_fs / 1000.0:g} ps cannot be left out: give a run's folder, or leave those "
                "frames out of the file and skip none"
            )
        if skip_fs and _number(atoms, "time_fs", np.inf, name) < skip_fs:
            continue
        given += 1
        yield atoms
    if not given:
        raise InputError(f"{file}: there are no frames that late")


def _holds_frames(folder: Path) -> bool:
    """Whether a folder is itself frames: a store, or a DeePMD system."""
    return is_store(folder) or (folder / "type.raw").exists()


def _number(atoms: Atoms, key: str, default: float, where: str) -> float:
    value = atoms.info.get(key, default)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: '{key}' should be a number, got {value}") from None


def analyze_trajectory(
    path: Path,
    measure: Measure,
    *,
    every: int = 1,
    skip_fs: float = 0.0,
    structure: bool = True,
    cutoff: float = 6.0,
) -> Trajectory:
    """One pass over a trajectory.

    Args:
        measure: the order parameters, made from a first frame; all frames must have its atoms.
        structure: also distributions of pairs, displacements and coordination numbers.
        cutoff: of the distributions of pairs, Å.

    Raises:
        InputError: as `read_trajectory`, or if a frame does not fit; it says which.
    """
    times: list[float] = []
    energies: list[float] = []
    uncertainties: list[float] = []
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    turned = {name: np.zeros(TORSION_BINS) for name in measure.torsions}
    pairs: PairDistribution | None = None
    displacements, coordination = Displacements(), _Coordination()
    timed = True
    for index, atoms in enumerate(read_trajectory(path, every=every, skip_fs=skip_fs)):
        try:
            if not measure.fits(atoms):
                raise InputError(
                    f"its atoms ({atoms.get_chemical_formula()}) are not those, in their order, "
                    f"that the analysis began with"
                )
            if measure.take is not None:
                a, b = measure.take(atoms)
                first.append(a)
                second.append(b)
            for name, four in measure.torsions.items():
                at = (torsions(atoms, four) + 180.0) * (TORSION_BINS / 360.0)
                cells = np.minimum(at.astype(np.int64), TORSION_BINS - 1)
                turned[name] += np.bincount(cells, minlength=TORSION_BINS)
            if structure:
                displacements.add(atoms)
                coordination.add(atoms)
                if atoms.pbc.all():
                    pairs = pairs or PairDistribution(cutoff)
                    pairs.add(atoms)
        except ValueError as error:  # InputError is one; so is what positions of NaN raise
            raise InputError(f"{path}: frame {index * every}: {error}") from error
        timed = timed and "time_fs" in atoms.info
        where = f"{path}: frame {index * every}"
        times.append(_number(atoms, "time_fs", float(index), where))
        energies.append(_energy(atoms))
        uncertainties.append(_number(atoms, "uncertainty", np.nan, where))
    return Trajectory(
        np.array(times),
        timed,
        np.array(energies),
        np.array(uncertainties),
        np.array(first) if first else None,
        np.array(second) if second else None,
        turned,
        coordination.by_pair(),
        coordination.of_frames(),
        pairs,
        displacements,
    )


def _energy(atoms: Atoms) -> float:
    results: Mapping[str, Any] = getattr(atoms.calc, "results", {})
    return float(results.get("energy", np.nan))


class _Coordination:
    """Sums over the atoms of all frames, of those pairs that are neighbors in the first one."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], np.ndarray] | None = None
        self._means: dict[tuple[int, int], list[float]] = {}

    def add(self, atoms: Atoms) -> None:
        known = self._sums
        if known is None:
            elements = np.unique(atoms.numbers).tolist()
            known = {(a, b): np.zeros(3) for a in elements for b in elements}
        reach = max((_reach(*pair) for pair in known), default=1.0)
        pairs = pairs_within(atoms, _NONE * reach)
        for (a, b), sums in known.items():
            limits = _FULL * _reach(a, b), _NONE * _reach(a, b)
            found = coordination_numbers(atoms, a, b, *limits, pairs)
            sums += [len(found), found.sum(), (found**2).sum()]
            self._means.setdefault((a, b), []).append(float(found.mean()))
        self._sums = {pair: of for pair, of in known.items() if of[1] > 0.0}

    def by_pair(self) -> dict[str, tuple[float, float]]:
        out = {}
        for (a, b), (count, whole, squares) in (self._sums or {}).items():
            mean = whole / count
            spread = float(np.sqrt(max(0.0, squares / count - mean**2)))
            out[_name(a, b)] = (float(mean), spread)
        return out

    def of_frames(self) -> dict[str, np.ndarray]:
        return {_name(*pair): np.array(self._means[pair]) for pair in self._sums or {}}


def _name(a: int, b: int) -> str:
    return f"{chemical_symbols[a]}-{chemical_symbols[b]}"


def _reach(a: int, b: int) -> float:
    return float(covalent_radii[a] + covalent_radii[b])


def common_measure(runs: Mapping[str, Path], kind: str) -> Measure:
    """The order parameters of the first run's first frame, for all of them.

    Args:
        kind: see `eip.analysis.kinds.Kind`; "auto" finds out.

    Raises:
        InputError: if the kind is unknown or the structure has no such order parameters.
    """
    asked = kind_named(kind)
    if not runs:
        raise InputError("there is no trajectory to analyze")
    path = next(iter(runs.values()))
    atoms = next(read_trajectory(path))
    try:
        return measure_of(atoms, asked)
    except ValueError as error:
        raise InputError(f"{path}: frame 0: {error}") from error


def sampling_of(
    found: Mapping[str, Trajectory], measure: Measure, bins: int = BINS
) -> tuple[dict[str, Sampling], Ranges | None]:
    """Entropy and coverage of several runs on one grid; nothing for the kind "none"."""
    both = {
        name: (of.first, of.second)
        for name, of in found.items()
        if of.first is not None and of.second is not None
    }
    if not both:
        return {}, None
    ranges = shared_ranges(list(both.values()), measure.ranges)
    return {
        name: Sampling(
            found[name].times,
            a,
            b,
            entropy_growth(a, b, ranges, bins),
            coverage_growth(a, b, ranges, bins),
        )
        for name, (a, b) in both.items()
    }, ranges


def compare_sampling(runs: Mapping[str, Path], kind: Kind, bins: int = BINS) -> dict[str, Sampling]:
    """Order parameters and entropy of several trajectories on one grid.

    Args:
        runs: by name, a trajectory that ASE reads, or a folder of `eip md`.

    Raises:
        InputError: as `analyze_trajectory` and `common_measure`.
    """
    measure = common_measure(runs, kind)
    found = {n: analyze_trajectory(p, measure, structure=False) for n, p in runs.items()}
    return sampling_of(found, measure, bins)[0]
