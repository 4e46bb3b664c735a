"""A potential's predictions beside the labels: the arrays that every measure is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eip.data.frame import LABELS
from eip.errors import InputError
from eip.graph import AtomGraph
from eip.potential import Potential, prepared
from eip.prediction import Prediction, Quantity, check_finite, quantities
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Calibration, fit_calibration


@runtime_checkable
class LabelledBatch(Protocol):
    """What `evaluate` reads of a batch; `eip.data.dataset.Batch` is one."""

    @property
    def graph(self) -> AtomGraph: ...

    @property
    def energy(self) -> Tensor | None: ...

    @property
    def forces(self) -> Tensor | None: ...

    @property
    def stress(self) -> Tensor | None: ...

    @property
    def sources(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Evaluation:
    """Labels and predictions of a set of frames; read-only arrays in eV and Å.

    A label that a frame lacks is NaN; a field that the potential does not give is None.

    Attributes:
        numbers: atomic numbers.
        frame: the frame of each atom, ascending from 0.
        positions, cell, pbc: the structures, so that predictions can be written with them.
        energy_true, energy_pred: total energies, eV.
        forces_true, forces_pred: eV/Å.
        stress_true, stress_pred: eV/Å³; predicted where there are labels.
        force_uncertainty: σ_i, eV/Å.
        force_covariance: (eV/Å)².
        force_aleatoric: eV/Å.
        extrapolation_grade: above 1 an atom is beyond the range of held-out atoms.
        uncertainty: σ of each frame, the mean of its σ_i, eV/Å.
        energy_uncertainty: eV.
        others: what else was predicted, by name.
        quantities: what the predictions are.
        sources: where each frame came from.
        interval: coverage → half-width in σ_i, of a calibrated potential (`Calibration.interval`);
            None where σ is not calibrated.
    """

    numbers: Int[np.ndarray, "atoms"]
    frame: Int[np.ndarray, "atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    cell: Float[np.ndarray, "frames 3 3"]
    pbc: Bool[np.ndarray, "frames 3"]
    energy_true: Float[np.ndarray, "frames"]
    energy_pred: Float[np.ndarray, "frames"]
    forces_true: Float[np.ndarray, "atoms 3"]
    forces_pred: Float[np.ndarray, "atoms 3"]
    stress_true: Float[np.ndarray, "frames 3 3"] | None = None
    stress_pred: Float[np.ndarray, "frames 3 3"] | None = None
    force_uncertainty: Float[np.ndarray, "atoms"] | None = None
    force_covariance: Float[np.ndarray, "atoms 3 3"] | None = None
    force_aleatoric: Float[np.ndarray, "atoms"] | None = None
    extrapolation_grade: Float[np.ndarray, "atoms"] | None = None
    uncertainty: Float[np.ndarray, "frames"] | None = None
    energy_uncertainty: Float[np.ndarray, "frames"] | None = None
    sources: tuple[str, ...] = ()
    interval: Mapping[float, float] | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    quantities: tuple[Quantity, ...] = quantities(Prediction)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.ndarray):
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, one.name, view)

    def predictions(self) -> Iterator[tuple[Quantity, np.ndarray]]:
        """All that was predicted, ``[atoms or frames, …]``, and what it is."""
        for of in self.quantities:
            array = self.others.get(of.name, getattr(self, _column(of), None))
            if array is not None and not of.internal:
                yield of, array

    @property
    def n_frames(self) -> int:
        return len(self.energy_pred)

    @property
    def n_atoms(self) -> Int[np.ndarray, "frames"]:
        """Atoms of each frame."""
        return np.bincount(self.frame, minlength=self.n_frames)

    @property
    def force_error(self) -> Float[np.ndarray, "atoms 3"]:
        """f_true − f_pred, eV/Å; NaN where there is no label."""
        return self.forces_true - self.forces_pred

    @property
    def energy_error(self) -> Float[np.ndarray, "frames 1"]:
        """E_true − E_pred, eV; NaN where there is no label."""
        return (self.energy_true - self.energy_pred)[:, None]

    @property
    def stress_error(self) -> Float[np.ndarray, "frames components"]:
        """σ_true − σ_pred, eV/Å³, of the six components; none where stress was not compared."""
        if self.stress_true is None or self.stress_pred is None:
            return np.zeros((0, 6))
        rows, columns = np.triu_indices(3)
        return (self.stress_true - self.stress_pred)[:, rows, columns]

    @property
    def atom_error(self) -> Float[np.ndarray, "atoms"]:
        """An atom's error, mean_a |f_true − f_pred|, eV/Å (theory §4)."""
        return np.abs(self.force_error).mean(axis=1)

    @property
    def structure_error(self) -> Float[np.ndarray, "frames"]:
        """The mean of a frame's atoms' errors, eV/Å."""
        return np.bincount(self.frame, self.atom_error, minlength=self.n_frames) / self.n_atoms

    @property
    def structure_uncertainty(self) -> Float[np.ndarray, "frames"] | None:
        """σ of a frame, eV/Å; σ of its energy (eV) where a potential has that alone."""
        return self.uncertainty if self.uncertainty is not None else self.energy_uncertainty


def _column(of: Quantity) -> str:
    """What a quantity is called in an evaluation; labels stand beside what has one."""
    return f"{of.name}_pred" if of.name in LABELS else of.name


def evaluate(
    potential: Potential, batches: Iterable[LabelledBatch], *, progress: bool = True
) -> Evaluation:
    """Predicts every frame once and keeps predictions and labels together.

    Frames follow each other in the order of ``batches``. Memory grows with the number of atoms
    (about 0.3 kB each), never with the number of edges.

    Raises:
        InputError: if there is no frame, or a prediction is not finite (the frame is named).
    """
    was_training = potential.training
    snapshot = prepared(potential.eval())
    columns: dict[str, list[np.ndarray]] = {}
    described = quantities(Prediction)
    n_batches = 0
    sources: list[str] = []
    n_frames = 0
    try:
        for batch in _with_progress(batches) if progress else batches:
            graph = batch.graph.to(potential.device)
            prediction = snapshot(graph, forces=True, stress=batch.stress is not None).detach()
            check_finite(prediction, graph, partial(_source, batch.sources))
            found = {
                "numbers": _numpy(graph.numbers),
                "frame": _numpy(graph.frame) + n_frames,
                "positions": _float64(batch.graph.positions),
                "cell": _float64(batch.graph.cell),
                "pbc": _numpy(graph.pbc),
                "energy_true": _label(batch.energy, (graph.n_frames,)),
                "forces_true": _label(batch.forces, (graph.n_atoms, 3)),
            }
            if batch.stress is not None:
                found["stress_true"] = _float64(batch.stress)
            described = quantities(type(prediction))
            for of, value in prediction.figures():
                if of.filed and not of.internal:
                    found[_column(of)] = _float64(value)
            for name, array in found.items():
                columns.setdefault(name, []).append(array)
            sources += batch.sources
            n_frames += graph.n_frames
            n_batches += 1
    finally:
        potential.train(was_training)
    if not n_frames:
        raise InputError("an evaluation needs at least one frame, got none")
    # What one batch lacks is not there.
    arrays = {k: np.concatenate(v) for k, v in columns.items() if len(v) == n_batches}
    own = {one.name for one in fields(Evaluation)}
    others = {name: arrays.pop(name) for name in set(arrays) - own}
    return Evaluation(
        **arrays,
        others=others,
        quantities=described,
        sources=tuple(sources),
        interval=_interval_of(potential),
    )


def calibrate(
    potential: Potential, evaluation: Evaluation, *, method: str = "per_element"
) -> CalibratedPotential:
    """The potential with a calibration fitted on an evaluation of validation frames.

    Raises:
        InputError: if the evaluation is of a calibrated potential, or `fit_calibration` refuses.
    """
    if evaluation.interval is not None or isinstance(potential, CalibratedPotential):
        raise InputError(
            "the potential is calibrated already: evaluate and calibrate the one inside "
            "(calibrated.potential)"
        )
    calibration = fit_calibration(
        evaluation.force_error,
        evaluation.force_uncertainty,
        evaluation.numbers,
        frames=evaluation.frame,
        method=method,
    )
    return CalibratedPotential(potential, calibration)


def _interval_of(potential: Potential) -> dict[float, float] | None:
    calibration = getattr(potential, "calibration", None)
    if not isinstance(calibration, Calibration):
        return None
    return dict(zip(calibration.interval_levels, calibration.interval_widths, strict=True))


def _with_progress(batches: Iterable[LabelledBatch]) -> Iterable[LabelledBatch]:
    from rich.console import Console
    from rich.progress import track

    total = len(batches) if isinstance(batches, Sized) else None
    # On stderr, so that what a command prints as its result stays clean.
    return track(batches, "Evaluating", total=total, console=Console(stderr=True), transient=True)


def _source(sources: Sequence[str], index: int) -> str:
    return sources[index] if index < len(sources) else f"frame {index} of the batch"


def _label(label: Tensor | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if label is None else _float64(label)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _float64(tensor: Tensor) -> np.ndarray:
    return _numpy(tensor).astype(np.float64)
