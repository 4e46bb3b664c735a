"""One run of molecular dynamics: start or continue, step, watch, record, end."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from eip.errors import InputError
from eip.files import json_text, to_json, write_whole
from eip.neighbors import TooDense
from eip.potential import Potential, layers
from eip.prediction import quantities
from eip.run_folder import RECORD, working_in
from eip.signals import deferred_interrupts
from eip.simulation.bias import UDDParameters, UDDPotential
from eip.simulation.calculator import BiasedCalculator, Results, as_potential, check_elements
from eip.simulation.integrators import Integrator, degrees_of_freedom, draw_momenta
from eip.simulation.monitors import Ending, Snapshot, State, first_ending
from eip.simulation.proposal import UDDProposal
from eip.simulation.records import (
    Checkpoint,
    Recorder,
    RunPaths,
    as_text,
    bare,
    labelled,
    plain_info,
)
from eip.simulation.session import progress_bar
from eip.simulation.settings import DynamicsSettings
from eip.simulation.summary import DynamicsSummary, Totals
from eip.simulation.together import Together
from eip.uncertainty.calibrated import CalibratedPotential

#: Settings that a continued run may change; all others make it another run.
_MAY_CHANGE = frozenset(
    {
        "steps", "log_interval", "trajectory_interval", "checkpoint_interval", "approach_frames",
        "max_uncertainty", "max_grade", "max_temperature", "min_distance", "min_distance_ratio",
        "max_bond_stretch", "max_energy_drift",
    }
)  # fmt: skip


#: fs; two pushes to a fifth of the period of a bond to hydrogen, as with any multiple time steps.
_PUSHES_APART = 2.0


#: Of the temperature asked for: velocities a thousand times too small are a millionth of it.
_COLD = 1e-3


def settled(settings: DynamicsSettings, potential: Potential) -> DynamicsSettings:
    """With what is "auto" read from the potential.

    Raises:
        InputError: if the potential does not hold it.
    """
    if settings.max_uncertainty != "auto":
        return settings
    for layer in layers(potential):
        if isinstance(layer, CalibratedPotential) and layer.calibration.highest is not None:
            return settings.replace(max_uncertainty=layer.calibration.highest)
    raise InputError(
        "max_uncertainty is auto, but the model does not say how large σ was on held-out frames: "
        "eip calibrate MODEL FRAMES writes it"
    )


def run_dynamics(
    atoms: Atoms,
    potential: str | Path | Potential,
    settings: DynamicsSettings,
    run_dir: str | Path,
    *,
    resume: bool = False,
    udd: UDDParameters | UDDProposal | None = None,
    progress: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    skin: float = 0.5,
    patience: float = 0.0,
    together: Together | None = None,
) -> DynamicsSummary:
    """Runs dynamics; everything it learns is in ``run_dir`` before it returns.

    Files: trajectory.xyz (every ``trajectory_interval``, labels unbiased, momenta, σ_i), log.csv,
    last.xyz (the last good frame), approach.xyz (the last steps before a run that did not
    finish), checkpoint.npz, udd.json (the bias), run.json (what was asked), summary.json (see
    `DynamicsSummary`; files by their names in the folder).

    Ctrl-C or SIGTERM ends the run after the step at hand as "stopped", to be continued; a second
    one at once. With UDD the structure moves under forces + bias; pressure (NPT) is the unbiased.

    Args:
        atoms: the start; left as it is. Constraints of it are kept.
        potential: path of a model.eip, or a potential.
        resume: continue from the folder's checkpoint up to ``settings.steps``; a folder without
            one is started. A stopped run goes on from its end, a collapsed one from the last
            checkpoint before.
        udd: bias of UDD.
        progress: show a bar with temperature and σ on stderr.
        patience: seconds to wait for another process in the folder that is about to end.
        together: of other runs, whose calls of the potential this one shares.

    Raises:
        InputError: if the folder holds a run already (``resume`` not set), or one of other
            settings, structure or potential (``resume`` set), or another process is at work
            there; or if the potential does not know
            an element, or the ensemble does not fit the structure.
    """
    if isinstance(udd, UDDProposal):
        udd = udd.parameters
    model = as_potential(potential, device=device, dtype=dtype)
    settings = settled(settings, model)
    if udd is not None:
        if isinstance(model, UDDPotential):
            raise InputError("the potential has a bias of its own: drop it or drop udd")
        model = UDDPotential(model, udd)
    bias: dict[str, Any] = {}
    share = (lambda potential: potential) if together is None else together.share
    if isinstance(model, UDDPotential):
        udd = model.parameters_udd
        memory = (udd.memory or 0.0) / (settings.timestep_fs * udd.interval)
        bias = {"memory": memory, "interval": udd.interval}
        if udd.interval > 1:
            bias["between"] = share(model.potential)
            apart = udd.interval * settings.timestep_fs
            if apart > _PUSHES_APART and 1 in atoms.numbers:
                warnings.warn(
                    f"UDD pushes every {apart:g} fs: beyond {_PUSHES_APART:g} fs the pushes can "
                    "swing with the bonds of hydrogen and heat them; take a smaller interval",
                    stacklevel=2,
                )
    if len(atoms) == 0:
        raise InputError("dynamics needs at least one atom, got none")
    check_elements(model, atoms.numbers)
    if not np.isfinite(atoms.positions).all():
        raise InputError("the start's positions are not finite")

    paths = RunPaths(Path(run_dir))
    names = [path.name for path in paths.all()]
    asked = {**settings.model_dump(), "udd": udd.as_dict() if udd else None}
    with working_in(
        paths.folder,
        "md",
        asked,
        resume=resume,
        result=lambda: paths.checkpoint.exists() or paths.summary.exists(),
        may_change=_MAY_CHANGE,
        earlier=lambda: _asked_earlier(paths.checkpoint),
        own=names,
        scratch=names,
        patience=patience,
    ):
        # What is not finite is a run's end, for the monitors to tell.
        calculator = BiasedCalculator(
            share(model),
            stress=True if settings.ensemble == "npt" else None,
            skin=skin,
            allow_non_finite=True,
            **bias,
        )
        run = _Run(atoms, calculator, settings, udd, paths)
        try:
            if paths.checkpoint.exists():
                run.restore(Checkpoint.read(paths.checkpoint))
            else:
                run.begin()
            with deferred_interrupts() as interrupted, progress_bar(settings, progress) as show:
                ending = run.go(together.interrupted if together else interrupted, show)
                return run.finish(ending)
        finally:
            run.close()


def _asked_earlier(checkpoint: Path) -> dict[str, Any] | None:
    """What a run was asked for by a version that kept it in the checkpoint alone."""
    if not checkpoint.exists():
        return None
    meta = Checkpoint.read(checkpoint).meta
    if "settings" not in meta:
        raise InputError(f"cannot go on with {checkpoint.parent}: its {RECORD} is gone")
    return {**meta["settings"], "udd": meta["udd"]}


class _Run:
    """A run in progress."""

    def __init__(
        self,
        start: Atoms,
        calculator: BiasedCalculator,
        settings: DynamicsSettings,
        udd: UDDParameters | None,
        paths: RunPaths,
    ) -> None:
        self.settings, self.udd, self.paths, self.calculator = settings, udd, paths, calculator
        # A structure of our own: the user's may carry arrays and a calculator.
        self.atoms = bare(start)
        self.atoms.set_constraint([constraint.copy() for constraint in start.constraints])
        self._moves = start.has("momenta")
        # Of the start alone: an integrator adds some of its own.
        self.about, self.held = plain_info(start), [c.copy() for c in start.constraints]
        lost = {type(c).__name__ for c in self.held if not isinstance(c, FixAtoms | FixCartesian)}
        if lost:
            warnings.warn(
                f"{', '.join(sorted(lost))} of the start is kept to in this run, but extended xyz "
                f"cannot say it: a run that begins from {paths.last.name} will not",
                stacklevel=3,
            )
        self.atoms.calc = calculator
        self.step = self._session_start = 0
        self.totals = Totals()
        self.energy_start = math.nan
        self.state: State
        self.good: State | None = None
        self.ending: Ending | None = None
        self.recorder: Recorder | None = None
        self._push: np.ndarray | float = 0.0
        self._clock = self._session_clock = time.perf_counter()

    # How a run starts.

    def begin(self) -> None:
        """At the start; what an earlier run without a checkpoint left is removed."""
        for path in self.paths.all():
            if path != self.paths.record:
                path.unlink(missing_ok=True)
        rng = np.random.default_rng(self.settings.seed)
        if not self.settings.keep_momenta:
            draw_momenta(self.atoms, self.settings.temperature, rng)
        else:
            self._check_momenta()
        self._prepare(self.atoms.copy(), rng)
        self.recorder = Recorder(self.paths)
        self.state = self._observe(None)
        self.energy_start = self._conserved(self.state)
        self.ending = self._judge()
        if self.udd is not None:
            write_whole(self.paths.udd, json_text(self.udd.as_dict()))
        if self.good is not None:
            self._record()
            self.checkpoint()

    def _check_momenta(self) -> None:
        """Momenta to be kept have to be there, and should be of this world."""
        if not self._moves:
            raise InputError(
                "keep_momenta: the start has no momenta; leave it out and they are drawn at the "
                "temperature, or give a frame of dynamics"
            )
        has = self.atoms.get_temperature()
        if has < _COLD * self.settings.temperature:
            warnings.warn(
                f"the momenta of the start are those of {has:.2g} K, and "
                f"{self.settings.temperature:g} K are asked for: are its velocities in another "
                "unit (LAMMPS' real, Å/fs, say)?",
                stacklevel=4,
            )

    def restore(self, checkpoint: Checkpoint) -> None:
        """At a checkpoint."""
        arrays, meta = checkpoint.arrays, checkpoint.meta
        if not np.array_equal(arrays["numbers"], self.atoms.numbers):
            raise InputError(f"cannot go on with {self.paths.folder}: begun with other atoms")
        begun = arrays["start_positions"]
        if not np.allclose(begun, self.atoms.positions, rtol=0, atol=1e-6):
            raise InputError(
                f"cannot go on with {self.paths.folder}: begun with the same atoms elsewhere, "
                f"up to {np.abs(begun - self.atoms.positions).max():.3g} Å away; give the "
                "structure that it began with"
            )
        for name, now in self._of_start().items():
            # Those of an earlier version are not there.
            if name in arrays and not _alike(arrays[name], now):
                raise InputError(
                    f"cannot go on with {self.paths.folder}: begun with other "
                    f"{name.removeprefix('start_')}; give the structure that it began with"
                )
        start = self.atoms.copy()
        start.set_constraint()
        start.positions, start.cell = arrays["start_positions"], arrays["start_cell"]
        start.set_constraint([c.copy() for c in self.atoms.constraints])
        self.atoms.set_cell(arrays["cell"], apply_constraint=False)
        self.atoms.set_positions(arrays["positions"], apply_constraint=False)
        self.atoms.set_momenta(arrays["momenta"], apply_constraint=False)
        self.calculator.relist(self.atoms, arrays["listed_at"])
        self.calculator.recall(arrays.get("mean_bias"))
        self._prepare(start, np.random.default_rng(self.settings.seed))
        self.integrator.restore(meta["integrator"])
        self.step, self.totals = meta["step"], Totals(**meta["totals"])
        self.energy_start = meta["energy_start"]
        self._session_start = self.step
        self._settle_push()
        self.state = self._observe(None)
        self._check_same_potential(meta["energy"], meta.get("uncertainty"))
        self.recorder = Recorder(self.paths, meta["lengths"])
        for stale in (self.paths.summary, self.paths.approach):
            stale.unlink(missing_ok=True)
        self.ending = self._judge()

    def _prepare(self, start: Atoms, rng: np.random.Generator) -> None:
        self.start = start
        dof = degrees_of_freedom(start, self.settings.ensemble)
        self.integrator = Integrator(self.atoms, self.settings, dof, rng)
        self.monitors = self.settings.monitors(start)
        # Kept whole, one by step: what led to an ending is of more use than a sparse trajectory.
        self.approach: deque[Snapshot] = deque(maxlen=self.settings.approach_frames)

    def _of_start(self) -> dict[str, np.ndarray]:
        """What dynamics hangs on beside places and momenta."""
        held = json.dumps(to_json([_said(constraint) for constraint in self.held]))
        return {"start_masses": self.atoms.get_masses(), "start_constraints": np.array(held)}

    def _check_same_potential(self, before: float, sigma: float | None) -> None:
        now = self.state.results["energy"]
        if not abs(now - before) <= 1e-4 * len(self.atoms):
            raise InputError(
                f"cannot go on with {self.paths.folder}: the potential gives {now:.6f} eV at the "
                f"checkpoint, and gave {before:.6f} eV; it is another potential or precision"
            )
        own = self.state.results.get("uncertainty")
        if sigma is not None and own is not None and not math.isclose(own, sigma, rel_tol=0.01):
            raise InputError(
                f"cannot go on with {self.paths.folder}: the potential's σ is {own:.4g} eV/Å at "
                f"the checkpoint, and was {sigma:.4g} eV/Å; it was calibrated anew since"
            )

    # How a run goes on.

    def go(self, interrupted: Callable[[], str | None], show: Callable[[State], None]) -> Ending:
        """Steps until something ends the run."""
        self._session_clock = time.perf_counter()
        while self.ending is None:
            show(self.state)
            if self.step >= self.settings.steps:
                return Ending("finished", "steps", f"all {self.settings.steps} steps are done")
            if (name := interrupted()) is not None:
                return Ending("stopped", "interrupted", f"step {self.step}: interrupted ({name})")
            self.ending = self._advance()
        return self.ending

    def _advance(self) -> Ending | None:
        before = self.state
        self.step += 1
        self._settle_push()
        try:
            # Overflow on the way to a collapse is the monitors' to report.
            with np.errstate(over="ignore", invalid="ignore"):
                self.integrator.step()
            self.state = self._observe(before)
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            # Neighbors cannot be found among atoms that are nowhere; any other error is an error.
            atoms = self.atoms
            if isinstance(error, TooDense):
                return Ending("collapsed", "closest_approach", f"step {self.step}: {error}")
            if np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all():
                raise
            return Ending(
                "collapsed", "non_finite", f"step {self.step}: positions are not finite ({error})"
            )
        ending = self._judge()
        if self.good is self.state:
            self._record()
            if ending is None and self.step % self.settings.checkpoint_interval == 0:
                self.checkpoint()
        return ending

    def _settle_push(self) -> None:
        self.calculator.pushes = self.udd is None or self.step % self.udd.interval == 0

    def _observe(self, before: State | None) -> State:
        """The state as it is now; with the state before it, the step between is added up."""
        atoms = self.atoms
        atoms.get_forces(md=True)
        if self.settings.ensemble == "npt":
            atoms.get_stress()
        computed = self.calculator.results
        assert isinstance(computed, Results)
        results = computed.everything()
        push, self._push = self._push, self.calculator.push
        if before is not None and self.udd is not None:
            moved = atoms.positions - before.atoms.positions
            self.totals.bias_work += float((0.5 * (push + self._push) * moved).sum())
        frozen = bare(atoms)
        state = State(
            step=self.step,
            time_fs=self.step * self.settings.timestep_fs,
            atoms=frozen,
            graph=self.calculator.graph,
            results=results,
            kinetic=float(frozen.get_kinetic_energy()),
            temperature=self.integrator.temperature(),
            drift=0.0,
            quantities=quantities(computed.kind),
        )
        if math.isnan(self.energy_start):
            return state
        return replace(state, drift=(self._conserved(state) - self.energy_start) / len(atoms))

    def _conserved(self, state: State) -> float:
        """Energy + kinetic − work of the bias, eV: what NVE conserves."""
        return float(state.results["energy"]) + state.kinetic - self.totals.bias_work

    def _judge(self) -> Ending | None:
        """The monitors' word; whatever is not collapsed is the new last good state."""
        ending = first_ending(self.monitors, self.state)
        if ending is None or ending.cause != "non_finite":
            self.approach.append(self.state.snapshot())
        if ending is None or ending.kind != "collapsed":
            self.good = self.state
        if ending is None:
            return None
        return replace(ending, reason=f"step {self.step}: {ending.reason}")

    # What a run leaves.

    def _record(self) -> None:
        state = self.state
        row = self._row(state)
        self.totals.add(row)
        assert self.recorder is not None
        if self.step % self.settings.log_interval == 0:
            self.recorder.log(row)
        if self.step % self.settings.trajectory_interval == 0:
            self.recorder.frame(self._frame(state))

    def _row(self, state: State) -> dict[str, Any]:
        results = state.results
        sigmas, bias = results.get("force_uncertainty"), results.get("forces_bias")
        pressure = None
        if self.settings.ensemble == "npt":
            stress = self.atoms.get_stress(include_ideal_gas=True)
            pressure = -float(stress[:3].mean())
        return {
            "step": state.step,
            "time_fs": state.time_fs,
            "energy": results["energy"],
            "kinetic": state.kinetic,
            "temperature": state.temperature,
            "uncertainty": results.get("uncertainty"),
            "max_force_uncertainty": None if sigmas is None else float(sigmas.max()),
            "max_force": _longest(results["forces"]),
            "energy_bias": results.get("energy_bias"),
            "bias_work": None if self.udd is None else self.totals.bias_work,
            "max_bias_force": None if bias is None else _longest(bias),
            "closest_distance": float(state.lengths.min()) if len(state.lengths) else None,
            "drift": state.drift if self.settings.ensemble == "nve" else None,
            "volume": float(state.atoms.cell.volume) if state.atoms.pbc.all() else None,
            "pressure": pressure,
        }

    def checkpoint(self) -> None:
        """Everything on disk that a continuation needs, and the last good frame."""
        assert self.recorder is not None and self.good is not None
        self._tick()
        write_whole(self.paths.last, as_text([self._frame(self.good)]))
        arrays = {
            "numbers": self.atoms.numbers,
            "positions": self.atoms.positions,
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array,
            "listed_at": self.calculator.listed_at,
            "start_positions": self.start.positions,
            "start_cell": self.start.cell.array,
            **self._of_start(),
        }
        if self.calculator.mean_bias is not None:
            arrays["mean_bias"] = self.calculator.mean_bias
        meta = {
            "step": self.step,
            "integrator": self.integrator.state(),
            "totals": asdict(self.totals),
            "energy": self.state.results["energy"],
            "uncertainty": self.state.results.get("uncertainty"),
            "energy_start": self.energy_start,
            "lengths": self.recorder.lengths(),
        }
        Checkpoint(arrays, meta).write(self.paths.checkpoint)

    def finish(self, ending: Ending) -> DynamicsSummary:
        """Writes what the ending calls for, the summary last."""
        if ending.kind != "collapsed":
            self.checkpoint()
        else:
            self._tick()
            if self.good is not None:
                write_whole(self.paths.last, as_text([self._frame(self.good)]))
        told = ending.kind != "finished" and len(self.approach) > 0
        if told:
            write_whole(self.paths.approach, as_text(map(self._frame, self.approach)))
        summary = self._summary(ending, str(self.paths.approach) if told else None)
        content = asdict(summary)
        for key in ("last_good_frame", "approach", "trajectory", "log"):
            content[key] = content[key] and Path(content[key]).name  # wherever the folder may go
        write_whole(self.paths.summary, json_text(content))
        return summary

    def _summary(self, ending: Ending, approach: str | None) -> DynamicsSummary:
        totals, results = self.totals, self.state.results
        count = max(totals.states, 1)
        has_sigma = "uncertainty" in results and totals.states > 0
        biased = self.udd is not None
        done = self.step - self._session_start
        session = time.perf_counter() - self._session_clock
        return DynamicsSummary(
            ending=ending.kind,
            cause=ending.cause,
            reason=ending.reason,
            steps=self.step,
            time_fs=self.step * self.settings.timestep_fs,
            wall_seconds=totals.wall_seconds,
            steps_per_second=done / session if done else None,
            mean_temperature=totals.temperature / count if totals.states else None,
            mean_uncertainty=totals.sigma / count if has_sigma else None,
            max_uncertainty=totals.max_sigma if has_sigma else None,
            max_force_uncertainty=totals.max_force_sigma if has_sigma else None,
            final_energy=results["energy"],
            bias_work=totals.bias_work if biased else None,
            max_bias_force=totals.max_bias_force if biased else None,
            closest_distance=totals.closest,
            energy_drift=self.state.drift if self.settings.ensemble == "nve" else None,
            last_good_step=None if self.good is None else self.good.step,
            last_good_frame=None if self.good is None else str(self.paths.last),
            approach=approach,
            trajectory=str(self.paths.trajectory),
            log=str(self.paths.log),
            settings=self.settings.model_dump(),
            udd=self.udd.as_dict() if self.udd else None,
        )

    def _frame(self, state: Snapshot) -> Atoms:
        """A state as it is written, with what the start said of itself: its charge, say."""
        own = {"step": state.step, "time_fs": state.time_fs, "temperature": state.temperature}
        info = {**self.about, **own}
        return labelled(state.atoms, state.results, info, self.held, state.quantities)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.totals.wall_seconds += now - self._clock
        self._clock = now

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


def _said(constraint: Any) -> Any:
    """What a constraint holds; its kind where it cannot say."""
    try:
        return constraint.todict()
    except (AttributeError, NotImplementedError):
        return type(constraint).__name__


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-6))


def _longest(vectors: np.ndarray) -> float:
    return float(np.linalg.norm(vectors, axis=1).max())
