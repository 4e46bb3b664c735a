"""From a σ that ranks to a σ that measures: a fitted scale and conformal intervals.

What an evidential variance is worth on its own scale is open (ν is weakly identified), so a raw σ
only ranks atoms. A calibration, fitted on frames that the weights were not trained on, turns it
into an error bar:

**A calibrated σ_i is the standard deviation of each Cartesian component of atom i's force error,
eV/Å, in the sense that 68.27 % of the components' errors are no larger than it** (the share that
lies within one σ of a Gaussian). A raw σ_i = ‖U_i‖_F^½ (theory, eq. 6) is larger than a component's
standard deviation by 3^¼ even where U_i is exact and isotropic; that constant goes into the factor.

    symbol      meaning
    r_ia        |f_true − f_pred| of atom i along direction a / σ_i           (nonconformity score)
    c_Z         factor of element Z: conformal quantile of its r at 68.27 %
    σ_i         calibrated: c_Z(i) · g(raw σ_i)
    g           of the isotonic method, increasing; of the others, g(σ) = σ
    U_i         calibrated: √3 (σ_i / raw σ_i)² · raw U_i; if isotropic, U_i = σ_i² 1
    k(p)        half-width, in calibrated σ_i, of the interval that holds a component with
                probability p: conformal quantile of |error| / σ_i over all elements

Four methods: "scale" has one factor, "per_element" one for each element; "isotonic" first maps raw
σ on the errors that were found with it, by a monotone curve; "split_conformal" takes per-element
factors from one half of the frames and k(p) from the other, so that its coverage is stated by
frames that chose nothing.

The conformal quantile of n scores at level p is the ⌈(n+1)p⌉-th smallest; for exchangeable data
an interval of that width holds a new value with probability ≥ p, whatever the tails (force errors
have heavy ones: a Gaussian's 1.96 σ holds fewer than 95 % of them). Two liberties are taken, both
of order 1/n: components of a frame are treated as exchangeable, and (but for split_conformal) the
factors come from the same frames as k(p). Neither helps where the data is of another kind than that
of the fit.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from eip.errors import InputError, did_you_mean

Method = Literal["scale", "per_element", "isotonic", "split_conformal"]

#: The share of a Gaussian within one standard deviation: the level that defines σ.
ONE_SIGMA = math.erf(1.0 / math.sqrt(2.0))

#: An element with fewer labelled atoms than this in the fit shares the factor of all atoms: the
#: 68.27 % quantile of 150 components is known to about 7 %, of 30 to about 15 %.
MIN_ATOMS_PER_ELEMENT = 50

#: Levels at which k(p) is tabulated; between them it is interpolated.
_LEVELS = (*(round(0.01 * i, 2) for i in range(1, 100)), 0.995, 0.999)

#: Of the isotonic curve.
_MOST_BINS = 50

#: Errors of exactly zero (labels made by the potential itself) must not give σ = 0.
_SMALLEST_FACTOR = 1e-9


@dataclass(frozen=True)
class Calibration:
    """What was fitted; plain numbers, so that it travels in a model file as JSON.

    Attributes:
        method: see the module.
        factor: of elements without a factor of their own, dimensionless.
        element_factors: by atomic number.
        interval_levels, interval_widths: the table of k(p), both ascending.
        n_frames, n_atoms: what it was fitted on (labelled atoms).
        created: date and time, ISO 8601, UTC.
        highest: the largest σ of a structure, the mean over its atoms, among the frames of the
            fit, eV/Å; None: not known, as in files of before.
        knots: of g, pairs of raw and mapped σ, eV/Å, both ascending; between them g is linear,
            beyond them proportional to σ. Empty: g(σ) = σ.
    """

    method: Method
    factor: float
    element_factors: Mapping[int, float]
    interval_levels: tuple[float, ...]
    interval_widths: tuple[float, ...]
    n_frames: int
    n_atoms: int
    created: str
    knots: tuple[tuple[float, float], ...] = ()
    highest: float | None = None

    def factor_of(self, number: int) -> float:
        """c_Z."""
        return self.element_factors.get(number, self.factor)

    def calibrated(
        self, sigma: Float[np.ndarray, "atoms"], numbers: Int[np.ndarray, "atoms"]
    ) -> Float[np.ndarray, "atoms"]:
        """σ as an error bar, eV/Å, of raw σ."""
        table = {int(z): self.factor_of(int(z)) for z in np.unique(numbers)}
        factors = np.array([table[int(z)] for z in numbers], dtype=np.float64)
        if not self.knots:
            return factors * sigma
        x, y = np.array(self.knots).T
        ends = np.clip(sigma, x[0], x[-1])
        return factors * np.interp(ends, x, y) * (sigma / ends)

    def interval(self, level: float) -> float:
        """k(p): a force component lies within ±k σ_i of its prediction with probability p.

        Raises:
            InputError: if the level is not in (0, 1), or higher than the data of the fit can state.
        """
        if not 0.0 < level < 1.0:
            raise InputError(f"level must lie between 0 and 1, got {level}")
        levels, widths = self.interval_levels, self.interval_widths
        if not levels or level > levels[-1]:
            highest = f"{levels[-1]:.3g}" if levels else "none"
            raise InputError(
                f"an interval of coverage {level:.4g} cannot be stated by a calibration fitted on "
                f"{self.n_atoms} atoms; its highest level is {highest}"
            )
        upper = bisect_left(levels, level)
        if upper == 0 or levels[upper] == level:
            # Below the first level the width falls linearly to 0 at level 0.
            return widths[upper] * (level / levels[upper] if levels[upper] != level else 1.0)
        weight = (level - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
        return (1.0 - weight) * widths[upper - 1] + weight * widths[upper]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` gives the same calibration back."""
        out = asdict(self)
        out["element_factors"] = {str(z): c for z, c in self.element_factors.items()}
        out["interval_levels"] = list(self.interval_levels)
        out["interval_widths"] = list(self.interval_widths)
        out["knots"] = [list(knot) for knot in self.knots]
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Reads what `to_dict` wrote.

        Raises:
            InputError: if a key is missing or unknown, or a value is of the wrong kind.
        """
        expected = set(cls.__dataclass_fields__)
        for key in values:
            if key not in expected:
                raise InputError(
                    f"unknown key '{key}' in a calibration: {did_you_mean(key, sorted(expected))}"
                )
        if missing := sorted(expected - set(values) - {"knots", "highest"}):  # of before
            raise InputError(f"a calibration lacks {', '.join(missing)}")
        try:
            read = cls(
                method=_check_method(values["method"]),
                factor=float(values["factor"]),
                element_factors={int(z): float(c) for z, c in values["element_factors"].items()},
                interval_levels=tuple(float(p) for p in values["interval_levels"]),
                interval_widths=tuple(float(k) for k in values["interval_widths"]),
                n_frames=int(values["n_frames"]),
                n_atoms=int(values["n_atoms"]),
                created=str(values["created"]),
                knots=tuple((float(x), float(y)) for x, y in values.get("knots", ())),
                highest=None if values.get("highest") is None else float(values["highest"]),
            )
        except (TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a calibration holds a value of the wrong kind: {error}") from error
        if len(read.interval_levels) != len(read.interval_widths):
            raise InputError(
                f"a calibration needs as many interval_widths as interval_levels, got "
                f"{len(read.interval_widths)} and {len(read.interval_levels)}"
            )
        return read


def fit_calibration(
    force_errors: Float[np.ndarray, "atoms 3"],
    force_uncertainty: Float[np.ndarray, "atoms"] | None,
    numbers: Int[np.ndarray, "atoms"],
    *,
    frames: Int[np.ndarray, "atoms"] | None = None,
    method: str = "per_element",
    created: str | None = None,
) -> Calibration:
    """Fits σ to errors on frames that the potential was not trained on.

    Multiplying ``force_uncertainty`` by any constant leaves the calibrated σ unchanged.

    Args:
        force_errors: f_true − f_pred, eV/Å; an atom with a NaN has no label and is left out.
        force_uncertainty: the potential's raw σ_i, eV/Å.
        numbers: atomic numbers.
        frames: the frame of each atom, for the record.
        method: see `Calibration`.
        created: date and time; now where None.

    Raises:
        InputError: if there is no σ, no labelled atom, σ is negative, not finite or mostly zero.
    """
    checked_method = _check_method(method)
    if force_uncertainty is None:
        raise InputError(
            "a calibration needs an uncertainty for each atom's force, but this potential has none "
            "(heads 'none' and 'global' do not give one)"
        )
    errors = np.abs(np.asarray(force_errors, dtype=np.float64))
    sigma = np.asarray(force_uncertainty, dtype=np.float64)
    numbers = np.asarray(numbers)
    if errors.shape != (len(sigma), 3) or numbers.shape != sigma.shape:
        raise InputError(
            f"a calibration needs force_errors [atoms, 3] and force_uncertainty and numbers "
            f"[atoms], got {errors.shape}, {sigma.shape} and {numbers.shape}"
        )
    if (bad := np.flatnonzero(~np.isfinite(sigma) | (sigma < 0))).size:
        raise InputError(
            f"force_uncertainty must be finite and not negative, got {sigma[bad[0]]} for atom "
            f"{bad[0]} ({bad.size} such atoms)"
        )
    labelled = np.isfinite(errors).all(axis=1)
    if not labelled.any():
        raise InputError("a calibration needs frames with force labels, got none")
    errors, sigma, numbers = errors[labelled], sigma[labelled], numbers[labelled]
    of_frame = np.zeros(len(sigma), dtype=int) if frames is None else np.asarray(frames)[labelled]
    fitted, stated = np.ones(len(sigma), dtype=bool), np.ones(len(sigma), dtype=bool)
    if checked_method == "split_conformal":
        _, rank = np.unique(of_frame, return_inverse=True)
        if rank.max() == 0:
            raise InputError("split_conformal needs at least two frames with labels, got one")
        fitted, stated = rank % 2 == 0, rank % 2 == 1
    calibration = _fit_factors(checked_method, errors[fitted], sigma[fitted], numbers[fitted])
    scores = _scores(errors[stated], calibration.calibrated(sigma[stated], numbers[stated]))
    normalized = np.sort(scores.ravel())
    table = [(p, conformal_quantile(normalized, p, is_sorted=True)) for p in _LEVELS]
    table = [(p, k) for p, k in table if math.isfinite(k)]
    frame = np.unique(of_frame, return_inverse=True)[1]
    totals = np.bincount(frame, calibration.calibrated(sigma, numbers))
    return replace(
        calibration,
        interval_levels=tuple(p for p, _ in table),
        interval_widths=tuple(k for _, k in table),
        n_frames=len(np.unique(of_frame)),
        n_atoms=len(sigma),
        created=created or calibration.created,
        highest=None if frames is None else float((totals / np.bincount(frame)).max()),
    )


def _fit_factors(
    method: Method,
    errors: Float[np.ndarray, "atoms 3"],
    sigma: Float[np.ndarray, "atoms"],
    numbers: Int[np.ndarray, "atoms"],
) -> Calibration:
    """Factors and knots, without the table of k(p)."""
    plain = Calibration(
        method=method,
        factor=1.0,
        element_factors={},
        interval_levels=(),
        interval_widths=(),
        n_frames=1,
        n_atoms=len(sigma),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        knots=_isotonic_knots(errors, sigma) if method == "isotonic" else (),
    )
    scores = _scores(errors, plain.calibrated(sigma, numbers))
    factor = conformal_quantile(scores, ONE_SIGMA)
    if not math.isfinite(factor):
        raise InputError(
            f"force_uncertainty is zero for {np.mean(sigma == 0):.0%} of the {len(sigma)} atoms of "
            f"the fit: no factor makes an error bar of it"
        )
    element_factors: dict[int, float] = {}
    if method in ("per_element", "split_conformal"):
        for number in np.unique(numbers):
            of_element = scores[numbers == number]
            own = conformal_quantile(of_element, ONE_SIGMA)
            if len(of_element) >= MIN_ATOMS_PER_ELEMENT and math.isfinite(own):
                element_factors[int(number)] = max(own, _SMALLEST_FACTOR)
    return replace(plain, factor=max(factor, _SMALLEST_FACTOR), element_factors=element_factors)


def _scores(
    errors: Float[np.ndarray, "atoms 3"], sigma: Float[np.ndarray, "atoms"]
) -> Float[np.ndarray, "atoms 3"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        scores: np.ndarray = errors / sigma[:, None]
    scores[np.isnan(scores)] = 0.0  # 0/0: an error of nothing was foretold exactly
    return scores


def _isotonic_knots(
    errors: Float[np.ndarray, "atoms 3"], sigma: Float[np.ndarray, "atoms"]
) -> tuple[tuple[float, float], ...]:
    """Raw σ and the mean error found with it, monotone; bins of equal counts against noise."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(sigma, kind="stable")
    bins = np.array_split(order, max(1, min(_MOST_BINS, len(order) // MIN_ATOMS_PER_ELEMENT)))
    x = np.array([sigma[part].mean() for part in bins])
    y = np.array([errors[part].mean() for part in bins])
    if np.ptp(x) == 0.0 or not np.all(y > 0) or not np.all(x > 0):
        return ()
    count = np.array([len(part) for part in bins], dtype=float)
    level = IsotonicRegression().fit(x, y, sample_weight=count).predict(x)
    # One knot in the middle of each level: between them the curve rises, so that σ keeps a slope.
    knots = []
    for value in np.unique(level):
        of_level = level == value
        knots.append((float(np.average(x[of_level], weights=count[of_level])), float(value)))
    return tuple(knots)


def conformal_quantile(scores: np.ndarray, level: float, *, is_sorted: bool = False) -> float:
    """The ⌈(n+1)p⌉-th smallest score; infinite where n is too small to state that coverage."""
    flat = scores.ravel()
    # The rounding keeps (n+1)p that is whole in exact arithmetic from being pushed one rank up.
    rank = math.ceil(round((flat.size + 1) * level, 9))
    if rank > flat.size:
        return math.inf
    return float(flat[rank - 1] if is_sorted else np.partition(flat, rank - 1)[rank - 1])


def _check_method(method: object) -> Method:
    if method not in get_args(Method):
        raise InputError(
            f"unknown calibration method '{method}': {did_you_mean(str(method), get_args(Method))}"
        )
    return method  # type: ignore[return-value]
