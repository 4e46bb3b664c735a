"""Is the potential good enough? Frames of its own dynamics, drawn at random, labelled and never
trained on, say so.

    symbol      meaning
    e_k         root mean square of the force error's components in frame k, eV/Å
    n           frames drawn in a generation; one whose label failed counts with e_k = ∞
    bound       the ⌈(n + 1) p⌉-th smallest e_k: another frame of the same runs errs by no more with
                probability p at least, whatever the errors' distribution (split conformal)

The frames are drawn from the very runs that the statement is about, after the potential was
trained, so that they are exchangeable with the runs' other frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms

from eip.data.dataset import Batch
from eip.evaluation import compute_metrics, evaluate
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.uncertainty.calibration import conformal_quantile
from eip.uncertainty.guard import MOST_EXTRAPOLATING

#: What a verdict begins with.
DONE, NOT_YET = "done", "not yet good enough"
#: Of the components within intervals that should hold 80 %; fewer: σ promises too much.
LEAST_COVERAGE = 0.7


@dataclass(frozen=True)
class Check:
    """What the frames of a generation that nothing was trained on say of its potential.

    Attributes:
        frames: labelled ones, n without those that failed.
        failed: frames without a label.
        confidence: p.
        bound: eV/Å; None: n is too small to state one, or too many failed.
        force_rmse, force_mae: over all components, eV/Å.
        energy_mae_per_atom: eV.
        shifted: whether that is of energies less their mean error: a potential that was trained on
            none of these labels knows nothing of their zero.
        coverage_80: share of the components within intervals of 80 %; None without σ.
        extrapolating: share of the atoms with an extrapolation grade above 1; None without one.
    """

    frames: int
    failed: int
    confidence: float
    bound: float | None
    force_rmse: float
    force_mae: float
    energy_mae_per_atom: float
    coverage_80: float | None
    extrapolating: float | None
    shifted: bool = False

    def missing(self, target: float) -> list[str]:
        """What keeps the potential from being good enough; empty: it is.

        Args:
            target: of the bound, eV/Å.
        """
        said = []
        if self.bound is None:
            said.append(
                f"{self.frames} frames with a label and {self.failed} without bound no error with "
                f"a confidence of {self.confidence:.0%}"
            )
        elif self.bound > target:
            said.append(
                f"their forces err by up to {1e3 * self.bound:.3g} meV/Å, the target is "
                f"{1e3 * target:.3g}"
            )
        if self.coverage_80 is not None and self.coverage_80 < LEAST_COVERAGE:
            said.append(f"intervals of 80 % hold {self.coverage_80:.0%} of their force components")
        if self.extrapolating is not None and self.extrapolating > MOST_EXTRAPOLATING:
            said.append(f"{self.extrapolating:.1%} of their atoms are beyond what was seen")
        return said

    def __str__(self) -> str:
        said = f"on {self.frames} frames of MD that nothing was trained on, forces err by "
        said += f"{_mev(self.force_rmse)} RMSE"
        if self.bound is not None:
            said += f" (one frame by no more than {_mev(self.bound)} with "
            said += f"{self.confidence:.0%} confidence)"
        but = ", but for a constant," if self.shifted else ""
        said += f", energies{but} by {1e3 * self.energy_mae_per_atom:.2g} meV an atom"
        if self.coverage_80 is not None:
            said += f", intervals of 80 % hold {self.coverage_80:.0%}"
        if self.extrapolating is not None:
            said += f", {self.extrapolating:.1%} of the atoms are beyond what was seen"
        return said

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _mev(force: float) -> str:
    return f"{1e3 * force:.3g} meV/Å"


def check_of(
    potential: Potential,
    labelled: Sequence[Atoms],
    failed: int,
    confidence: float,
    *,
    shifted: bool = False,
) -> Check | None:
    """Of frames with labels; None where there are none. See `Check`."""
    if not labelled:
        return None
    evaluation = evaluate(potential, _batches(labelled, potential.cutoff), progress=False)
    found = compute_metrics(evaluation)
    squares = np.square(evaluation.force_error).mean(axis=1)
    of_frame = np.sqrt(np.bincount(evaluation.frame, squares) / evaluation.n_atoms)
    energy = evaluation.energy_error[:, 0] / evaluation.n_atoms
    bound = conformal_quantile(np.array([*of_frame, *[math.inf] * failed]), confidence)

    def known(name: str) -> float | None:
        return None if math.isnan(found[name]) else found[name]

    return Check(
        frames=len(labelled),
        failed=failed,
        confidence=confidence,
        bound=bound if math.isfinite(bound) else None,
        force_rmse=found["force_rmse"],
        force_mae=found["force_mae"],
        energy_mae_per_atom=float(np.abs(energy - energy.mean() * shifted).mean()),
        shifted=shifted,
        # What nobody calibrated promises nothing.
        coverage_80=None if evaluation.interval is None else known("coverage_80"),
        extrapolating=known("extrapolating"),
    )


def _batches(labelled: Sequence[Atoms], cutoff: float) -> Iterator[Batch]:
    for number, atoms in enumerate(labelled):
        yield Batch(
            graph=build_graph(atoms, cutoff),
            energy=torch.tensor([atoms.get_potential_energy()], dtype=torch.float64),
            forces=torch.from_numpy(
                # Of fixed atoms, too: ASE would say that they feel none.
                np.asarray(atoms.get_forces(apply_constraint=False), dtype=np.float64)
            ),
            stress=None,
            sources=(f"check {number}",),
        )


def verdict_of(
    check: Check | None,
    target: float,
    stable: bool,
    frames: int,
    curve: Sequence[tuple[int, float]],
) -> str:
    """Whether a potential is good enough (`DONE` comes first), and if not, what is missing.

    Args:
        check: of this generation; None: nothing was labelled for it.
        target: eV/Å.
        stable: whether every run of MD reached its end.
        frames: that the potential was trained on.
        curve: of each generation before the frames that it was trained on, and its RMSE, eV/Å.
    """
    if check is None:
        return f"{NOT_YET}: there is no labelled frame of MD to say so"
    missing = check.missing(target)
    if not stable:
        missing.insert(0, "not every run of MD reached its end")
    if not missing:
        return f"{DONE}: {check}; every run of MD is stable"
    likely = ""
    if check.bound is not None and check.bound > target:
        # The bound goes with the error: what it takes to have that at the same share of it.
        share = check.force_rmse / check.bound
        likely = f"; {labels_to(share * target, [*curve, (frames, check.force_rmse)])}"
    return f"{NOT_YET}: {check}; but {', '.join(missing)}{likely}"


def labels_to(target: float, curve: Sequence[tuple[int, float]]) -> str:
    """How many labels more it is likely to take, in words: a power law through what was measured.

    Args:
        target: of the error, eV/Å.
        curve: of each generation the frames that it was trained on, and its error.
    """
    from scipy.stats import linregress

    known = [(n, e) for n, e in curve if n > 0 and e > 0]
    if len({n for n, _ in known}) < 2:
        return "how many labels that takes is not to be said of one generation"
    x, y = np.log(np.array(known, dtype=np.float64)).T
    line = linregress(x, y)
    if line.slope >= 0:
        return "the error did not fall with the labels so far"

    def more(slope: float) -> float:
        # Through the middle of the points, where the line is known best.
        middle = float(np.exp(x.mean() + (np.log(target) - y.mean()) / slope))
        return max(0.0, middle - known[-1][0])

    likely = f"likely about {_count(more(line.slope))} labels more"
    if len(known) < 3:
        return f"{likely}, of two generations alone"
    steep, flat = line.slope - line.stderr, line.slope + line.stderr
    most = f"{_count(more(flat))}" if flat < 0 else "any number"
    return f"{likely} ({_count(more(steep))} to {most})"


def _count(number: float) -> str:
    """To two digits: more are not known."""
    if number > 1e6:
        return "a million or more"
    return f"{float(f'{number:.2g}'):.0f}"
