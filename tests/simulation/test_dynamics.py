"""Runs: their physics, their three endings, and what a killed one leaves to go on from."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms, FixCartesian, FixedPlane
from ase.io import read

from eip.data import read_structures
from eip.errors import InputError
from eip.simulation import (
    Calculator,
    DynamicsSettings,
    DynamicsSummary,
    Ensemble,
    UDDParameters,
    UDDPotential,
    propose_udd,
    run_dynamics,
    settled,
)
from eip.simulation.integrators import Integrator, degrees_of_freedom, draw_momenta
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Calibration, fit_calibration
from eip.units import BOLTZMANN

from .toy import ToyPotential, cluster, crystal, water

ENSEMBLES = get_args(Ensemble)
UDD = UDDParameters(A=2.3, B=0.017, C=0.94, D=1.9)


def settings(**changes) -> DynamicsSettings:
    base = {
        "steps": 20, "timestep_fs": 2.0, "temperature": 200.0, "log_interval": 1,
        "trajectory_interval": 5, "checkpoint_interval": 6, "seed": 3,
    }  # fmt: skip
    return DynamicsSettings(**(base | changes))


def run(atoms, folder, potential=None, udd=None, resume=False, **changes) -> DynamicsSummary:
    return run_dynamics(
        atoms,
        potential or ToyPotential(),
        settings(**changes),
        folder,
        udd=udd,
        resume=resume,
        progress=False,
    )


def rows(folder):
    with (folder / "log.csv").open() as handle:
        return [
            {k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(handle)
        ]


class Interrupts(ToyPotential):
    """Sends itself a signal, or fails, at one call."""

    def __init__(self, at: int, how: str = "signal") -> None:
        super().__init__()
        self.at, self.how = at, how

    def forward(self, graph, **kwargs):
        if self.calls == self.at:
            if self.how == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                self.calls += 1
                raise MemoryError("killed")
        return super().forward(graph, **kwargs)


# Physics.


def test_nve_conserves_energy(tmp_path):
    summary = run(cluster(9), tmp_path, ensemble="nve", steps=200, timestep_fs=1.0)
    assert summary.ending == "finished"
    drifts = np.array([row["drift"] for row in rows(tmp_path)])
    kinetic = np.array([row["kinetic"] for row in rows(tmp_path)]) / 9
    assert kinetic.std() > 1e-3
    assert np.abs(drifts).max() < 0.02 * kinetic.std()
    assert summary.energy_drift == pytest.approx(drifts[-1])


def test_the_error_of_nve_falls_with_the_square_of_the_step(tmp_path):
    worst = []
    for step in (4.0, 2.0):
        folder = tmp_path / str(step)
        run(cluster(9), folder, ensemble="nve", steps=int(400 / step), timestep_fs=step)
        worst.append(max(abs(row["drift"]) for row in rows(folder)))
    assert 3.0 < worst[0] / worst[1] < 5.5


def test_work_of_the_bias_balances_the_energy(tmp_path):
    """Under NVE with UDD, energy + kinetic − work is conserved, and energy + energy_bias is not."""
    summary = run(
        cluster(9), tmp_path, udd=UDD, ensemble="nve", steps=150, timestep_fs=1.0, temperature=300.0
    )
    assert summary.ending == "finished"
    log = rows(tmp_path)
    total = np.array([row["energy"] + row["kinetic"] for row in log])
    work = np.array([row["bias_work"] for row in log])
    with_bias = total + np.array([row["energy_bias"] for row in log])
    assert abs(work[-1]) > 0.05 and summary.bias_work == work[-1]
    assert np.ptp(total - work) < 0.02 * np.ptp(total)
    assert np.ptp(with_bias) > 0.05 * np.ptp(total)
    assert summary.max_bias_force <= UDD.max_bias_force * (1 + 1e-12)
    assert summary.max_bias_force >= max(row["max_bias_force"] for row in log)


def test_udd_drives_the_uncertainty_up(tmp_path):
    plain = run(cluster(13), tmp_path / "md", steps=150, temperature=100.0)
    biased = run(cluster(13), tmp_path / "udd", udd=UDD, steps=150, temperature=100.0)
    assert plain.ending == biased.ending == "finished"
    assert biased.mean_uncertainty > 1.1 * plain.mean_uncertainty
    assert biased.udd["A"] == 2.3 and plain.udd is None and plain.bias_work is None


@pytest.mark.parametrize("ensemble", [e for e in ENSEMBLES if e != "nve"])
def test_thermostats_hold_their_temperature(ensemble, tmp_path):
    summary = run(
        crystal(3), tmp_path, potential=ToyPotential(cutoff=3.2, dtype=torch.float32),
        ensemble=ensemble, steps=400, timestep_fs=4.0, temperature=300.0, friction=0.02,
        log_interval=10, trajectory_interval=1000, checkpoint_interval=1000,
    )  # fmt: skip
    assert summary.ending == "finished", summary.reason
    late = [row["temperature"] for row in rows(tmp_path)[15:]]
    assert np.mean(late) == pytest.approx(300.0, rel=0.1)


def test_npt_relaxes_the_pressure(tmp_path):
    atoms = crystal(2)
    atoms.set_cell(atoms.cell * 0.92, scale_atoms=True)
    run(
        atoms, tmp_path, ensemble="npt", steps=200, timestep_fs=3.0, taup_fs=100.0,
        temperature=100.0, trajectory_interval=1000,
    )  # fmt: skip
    log = rows(tmp_path)
    assert log[0]["pressure"] > 0.01
    late = np.mean([row["pressure"] for row in log[100:]])
    assert abs(late) < 0.3 * log[0]["pressure"]
    assert log[-1]["volume"] > log[0]["volume"]


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_net_momentum_stays_zero(ensemble, tmp_path):
    run(crystal(1), tmp_path, ensemble=ensemble)
    momenta = read(tmp_path / "last.xyz").get_momenta()
    assert np.abs(momenta).max() > 0.1
    assert np.abs(momenta.sum(axis=0)).max() < 1e-6


def test_start_is_maxwell_boltzmann_without_drift_or_rotation():
    rng = np.random.default_rng(0)
    atoms = water()
    dof = degrees_of_freedom(atoms, "bussi")
    assert dof == 3
    kinetic = []
    for _ in range(2000):
        draw_momenta(atoms, 300.0, rng)
        assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
        kinetic.append(atoms.get_kinetic_energy())
    # Mean and variance of χ² with dof degrees of freedom, in kT/2.
    assert np.mean(kinetic) == pytest.approx(0.5 * dof * BOLTZMANN * 300, rel=0.06)
    assert np.var(kinetic) == pytest.approx(0.5 * dof * (BOLTZMANN * 300) ** 2, rel=0.15)


def test_degrees_of_freedom():
    linear = Atoms("OCO", [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]])
    assert degrees_of_freedom(linear, "nve") == 4
    assert degrees_of_freedom(linear, "langevin") == 6
    assert degrees_of_freedom(crystal(1), "nve") == 9
    assert degrees_of_freedom(Atoms("Cu"), "nve") == 3
    fixed = cluster(5)
    fixed.set_constraint(FixAtoms([0]))
    assert degrees_of_freedom(fixed, "langevin") == 12


@pytest.mark.parametrize("ensemble", ["bussi", "nose-hoover", "nvt-berendsen", "langevin"])
def test_a_small_molecule_is_not_overheated(ensemble):
    """Thermostats that count 3N degrees of freedom would heat three atoms by half and more."""
    atoms = Atoms("Cu3", [[0, 0, 0], [2.4, 0, 0], [1.2, 2.1, 0]])
    # Not the toy: 3000 steps of one that checks its types would take half a minute.
    atoms.calc = MorsePotential(epsilon=0.4, r0=2.4, rho0=4.0)
    told = settings(ensemble=ensemble, timestep_fs=4.0, temperature=100.0, friction=0.02)
    rng = np.random.default_rng(1)
    draw_momenta(atoms, 100.0, rng)
    integrator = Integrator(atoms, told, degrees_of_freedom(atoms, ensemble), rng)
    temperatures = []
    for _ in range(1500):
        integrator.step()
        temperatures.append(integrator.temperature())
    assert np.mean(temperatures) == pytest.approx(100.0, rel=0.25)


@pytest.mark.parametrize("ensemble", [e for e in ENSEMBLES if e not in ("npt", "nose-hoover")])
def test_fixed_atoms_stay_and_keep_their_labels(ensemble, tmp_path):
    atoms = cluster(6)
    atoms.set_constraint(FixAtoms([0, 2]))
    run(atoms, tmp_path, ensemble=ensemble)
    last = read(tmp_path / "last.xyz")
    np.testing.assert_allclose(last.positions[[0, 2]], atoms.positions[[0, 2]], atol=1e-7)
    assert np.abs(last.positions[1] - atoms.positions[1]).max() > 1e-3
    assert np.abs(last.get_forces(apply_constraint=False)[[0, 2]]).min() > 1e-6


@pytest.mark.parametrize("ensemble", [e for e in ENSEMBLES if e != "npt"])
def test_one_atom_flies_straight(ensemble, tmp_path):
    summary = run(Atoms("Cu"), tmp_path, ensemble=ensemble, temperature=50.0)
    assert summary.ending == "finished"
    assert summary.closest_distance is None


# Endings.


def test_finished(tmp_path):
    summary = run(cluster(6), tmp_path)
    assert (summary.ending, summary.cause, summary.steps) == ("finished", "steps", 20)
    assert summary.time_fs == 40.0
    assert summary.approach is None and not (tmp_path / "approach.xyz").exists()
    assert [row["step"] for row in rows(tmp_path)] == list(range(21))
    assert [a.info["step"] for a in read(tmp_path / "trajectory.xyz", ":")] == [0, 5, 10, 15, 20]
    assert read(tmp_path / "last.xyz").info["step"] == summary.last_good_step == 20


def test_stopped_by_uncertainty(tmp_path):
    free = run(cluster(9, spread=0.0), tmp_path / "free", steps=40, temperature=600.0)
    sigmas = [row["uncertainty"] for row in rows(tmp_path / "free")]
    threshold = float(np.quantile(sigmas, 0.8))
    assert sigmas[0] < threshold
    start, same = cluster(9, spread=0.0), {"steps": 40, "temperature": 600.0}
    summary = run(start, tmp_path / "run", max_uncertainty=threshold, **same)
    first = next(step for step, sigma in enumerate(sigmas) if sigma > threshold)
    assert (summary.ending, summary.cause, summary.steps) == ("stopped", "uncertainty", first)
    assert summary.max_uncertainty == pytest.approx(sigmas[first])
    approach = read(tmp_path / "run" / "approach.xyz", ":")
    assert approach[-1].info["step"] == first == summary.last_good_step
    assert approach[-1].info["uncertainty"] > threshold >= approach[-2].info["uncertainty"]
    # With the threshold raised it goes on as if it had never stopped.
    summary = run(start, tmp_path / "run", resume=True, **same)
    assert summary.ending == "finished" and not (tmp_path / "run" / "approach.xyz").exists()
    assert without_wall(summary) == without_wall(free)
    same_files(tmp_path / "run", tmp_path / "free")


def test_the_bound_of_sigma_may_be_the_calibration_s(tmp_path):
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.01, 0.02, 3000)
    errors = sigma[:, None] * rng.standard_normal((3000, 3))
    frames = np.repeat(np.arange(300), 10)
    argon = np.full(3000, 18)
    calibration = fit_calibration(errors, sigma, argon, frames=frames, method="scale")
    means = calibration.calibrated(sigma, argon).reshape(300, 10).mean(axis=1)
    assert calibration.highest == pytest.approx(means.max())
    assert fit_calibration(errors, sigma, argon, method="scale").highest is None
    known = CalibratedPotential(ToyPotential(), calibration)
    bound = settled(settings(max_uncertainty="auto"), known).max_uncertainty
    assert bound == calibration.highest == Calibration.from_dict(calibration.to_dict()).highest
    summary = run(cluster(9, spread=0.0), tmp_path / "a", known, max_uncertainty="auto")
    assert summary.settings["max_uncertainty"] == bound
    for other in (
        ToyPotential(),
        CalibratedPotential(ToyPotential(), replace(calibration, highest=None)),
    ):
        with pytest.raises(InputError, match="does not say how large σ was on held-out frames"):
            run(cluster(9), tmp_path / "b", other, max_uncertainty="auto")


@pytest.mark.parametrize("value", ["automatic", 0, -1.0, math.inf, "nan"])
def test_a_bound_of_sigma_is_a_number_or_auto(value):
    with pytest.raises(InputError, match="should be a number of eV/Å above 0, or auto"):
        settings(max_uncertainty=value)
    assert settings(max_uncertainty="0.5").max_uncertainty == 0.5


def test_collapsed_by_temperature(tmp_path):
    """A strained start that heats up: what led to the end is on disk, and the last good frame."""
    summary = run(
        cluster(9), tmp_path, ensemble="nve", temperature=10.0, max_temperature=100.0,
        approach_frames=4,
    )  # fmt: skip
    assert (summary.ending, summary.cause) == ("collapsed", "temperature")
    assert "over the bound of 100 K" in summary.reason
    assert summary.last_good_step == summary.steps - 1
    last = read(summary.last_good_frame)
    assert last.info["step"] == summary.steps - 1
    assert np.isfinite(last.get_forces()).all()
    frames = read(tmp_path / "approach.xyz", ":")
    assert [a.info["step"] for a in frames] == list(range(summary.steps - 3, summary.steps + 1))
    assert frames[-1].info["temperature"] > 100 >= frames[-2].info["temperature"]
    assert rows(tmp_path)[-1]["step"] == summary.steps - 1
    stored = json.loads((tmp_path / "summary.json").read_text())
    files = {k: Path(getattr(summary, k)).name for k in ("log", "trajectory", "approach")}
    files["last_good_frame"] = "last.xyz"  # by name: the folder may go anywhere
    assert stored == json.loads(json.dumps(asdict(summary))) | files


def test_collapsed_at_the_start(tmp_path):
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]])
    summary = run(atoms, tmp_path)
    assert (summary.ending, summary.cause, summary.steps) == ("collapsed", "closest_approach", 0)
    assert summary.last_good_frame is None and not (tmp_path / "last.xyz").exists()


class Breaks(ToyPotential):
    """NaN forces from one call on."""

    def forward(self, graph, **kwargs):
        prediction = super().forward(graph, **kwargs)
        if self.calls > 8:
            return replace(prediction, forces=prediction.forces * float("nan"))
        return prediction


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_collapsed_by_numbers_that_are_none(ensemble, tmp_path):
    summary = run(crystal(1), tmp_path, potential=Breaks(), ensemble=ensemble)
    assert (summary.ending, summary.cause) == ("collapsed", "non_finite")
    assert "not finite" in summary.reason
    last = read(tmp_path / "last.xyz")
    assert np.isfinite(last.positions).all() and np.isfinite(last.get_forces()).all()
    for frame in read(tmp_path / "approach.xyz", ":"):
        assert np.isfinite(frame.get_forces()).all()
    assert json.loads((tmp_path / "summary.json").read_text())["ending"] == "collapsed"


def test_collapsed_by_a_broken_bond(tmp_path):
    """Two hydrogens that their momenta tear apart."""
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    atoms.set_momenta([[0, 0, -0.5], [0, 0, 0.5]])
    summary = run(
        atoms, tmp_path, ensemble="nve", keep_momenta=True, steps=200, timestep_fs=0.5,
        max_temperature=1e6,
    )  # fmt: skip
    assert (summary.ending, summary.cause) == ("collapsed", "broken_bond")


def test_collapsed_by_drift(tmp_path):
    summary = run(
        cluster(9), tmp_path, ensemble="nve", timestep_fs=20.0, steps=300, max_energy_drift=1e-4
    )
    assert (summary.ending, summary.cause) == ("collapsed", "energy_drift")


def test_interrupted_between_steps_and_continued(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run(cluster(6), tmp_path / "whole")
    summary = run(cluster(6), tmp_path / "cut", potential=Interrupts(at=9))
    assert (summary.ending, summary.cause) == ("stopped", "interrupted")
    assert "SIGINT" in summary.reason
    assert signal.getsignal(signal.SIGINT) is before
    assert 0 < summary.steps < 20
    summary = run(cluster(6), tmp_path / "cut", resume=True)
    assert summary.ending == "finished"
    same_files(tmp_path / "cut", tmp_path / "whole")


# Continuation.


def same_files(one, other):
    for name in ("trajectory.xyz", "log.csv", "last.xyz"):
        assert (one / name).read_text() == (other / name).read_text(), name


def without_wall(summary: DynamicsSummary):
    told = asdict(summary)
    for key in (
        "wall_seconds", "steps_per_second", "trajectory", "log", "last_good_frame", "settings"
    ):  # fmt: skip
        del told[key]
    return told


@pytest.mark.parametrize(
    "udd",
    [None, UDD, replace(UDD, memory=10.0), replace(UDD, memory=10.0, soft=True, interval=4)],
    ids=["md", "udd", "udd with a memory", "soft, every fourth step"],
)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_killed_and_continued_equals_uninterrupted(ensemble, udd, tmp_path):
    """To the last bit: positions in full precision, every line and frame once."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    hot = {"ensemble": ensemble, "temperature": 600.0}
    expected = run(crystal(1), whole, udd=udd, **hot)
    with pytest.raises(MemoryError):
        run(crystal(1), cut, potential=Interrupts(15, "kill"), udd=udd, **hot)
    # Half-written: a line and a frame cut off in the middle.
    for name in ("log.csv", "trajectory.xyz"):
        with (cut / name).open("a") as handle:
            handle.write("14,28.0,-3.0")
    got = run(crystal(1), cut, udd=udd, resume=True, **hot)
    assert without_wall(got) == without_wall(expected)
    same_files(cut, whole)
    with np.load(whole / "checkpoint.npz") as a, np.load(cut / "checkpoint.npz") as b:
        for name in ("positions", "momenta", "cell"):
            np.testing.assert_array_equal(a[name], b[name])


def test_a_push_every_few_steps_does_as_one_at_each(tmp_path):
    """Impulses of several steps at once: the same work, to what a step's error is."""
    nve = {"ensemble": "nve", "steps": 400, "timestep_fs": 0.25, "log_interval": 1}
    often = run(cluster(9), tmp_path / "1", udd=UDD, **nve)
    assert abs(often.bias_work) > 1e-3
    for interval in (2, 4):
        folder = tmp_path / str(interval)
        got = run(cluster(9), folder, udd=replace(UDD, interval=interval), **nve)
        assert got.bias_work == pytest.approx(often.bias_work, rel=0.05)
        assert abs(got.energy_drift) < 1e-3
        assert [row["energy_bias"] is None for row in rows(folder)] == [
            row["step"] % interval != 0 for row in rows(folder)
        ]


def test_a_finished_run_is_prolonged(tmp_path):
    run(cluster(6), tmp_path / "whole", steps=30)
    run(cluster(6), tmp_path / "parts", steps=17)
    run(cluster(6), tmp_path / "parts", steps=17, resume=True)
    run(cluster(6), tmp_path / "parts", steps=30, resume=True)
    same_files(tmp_path / "parts", tmp_path / "whole")


def test_continuing_where_nothing_was_begun_starts(tmp_path):
    assert run(cluster(6), tmp_path / "new", resume=True).steps == 20


def test_a_run_is_not_overwritten(tmp_path):
    run(cluster(6), tmp_path)
    with pytest.raises(InputError, match=r"is not empty \(checkpoint\.npz.*resume"):
        run(cluster(6), tmp_path)
    mine = tmp_path / "other"
    mine.mkdir()
    (mine / "last.xyz").write_text("my start")
    with pytest.raises(InputError, match=r"is not empty \(last\.xyz\)"):
        run(cluster(6), mine)


def test_another_run_is_not_continued(tmp_path):
    run(cluster(6), tmp_path)
    with pytest.raises(InputError, match=r"timestep_fs was 2\.0, now 1\.0"):
        run(cluster(6), tmp_path, resume=True, timestep_fs=1.0)
    with pytest.raises(InputError, match="udd was None, now"):
        run(cluster(6), tmp_path, resume=True, udd=UDD)
    with pytest.raises(InputError, match="begun with other atoms"):
        run(cluster(5), tmp_path, resume=True)
    with pytest.raises(InputError, match="another potential"):
        run(cluster(6), tmp_path, resume=True, potential=ToyPotential(depth=0.5))
    with pytest.raises(InputError, match=r"σ is .* calibrated anew since"):
        run(cluster(6), tmp_path, resume=True, potential=ToyPotential(sigma_scale=1.5))
    heavy, fixed = cluster(6), cluster(6)
    heavy.set_masses(2.0 * heavy.get_masses())
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(InputError, match="begun with other masses"):
        run(heavy, tmp_path, resume=True)
    with pytest.raises(InputError, match="begun with other constraints"):
        run(fixed, tmp_path, resume=True)
    # The refusals left it as it was.
    assert run(cluster(6), tmp_path, resume=True, steps=25).steps == 25


def test_momenta_that_are_to_be_kept_have_to_be_there(tmp_path):
    with pytest.raises(InputError, match="the start has no momenta"):
        run(cluster(6), tmp_path / "none", keep_momenta=True)
    slow = cluster(6)
    draw_momenta(slow, 200.0, np.random.default_rng(0))
    slow.set_momenta(1e-3 * slow.get_momenta())
    with pytest.warns(UserWarning, match=r"200 K are asked for: are its velocities"):
        run(slow, tmp_path / "slow", keep_momenta=True)


def test_damaged_files_are_named(tmp_path):
    run(cluster(6), tmp_path)
    (tmp_path / "log.csv").write_text("step\n")
    with pytest.raises(InputError, match=r"log\.csv has 5 bytes"):
        run(cluster(6), tmp_path, resume=True)
    path = tmp_path / "checkpoint.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(InputError, match=r"no readable checkpoint.*checksum is not that of what"):
        run(cluster(6), tmp_path, resume=True)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="no readable checkpoint"):
        run(cluster(6), tmp_path, resume=True)


# What is written.


def test_what_is_written_are_labels(tmp_path):
    """Trajectory, last frame and approach hold the plain potential's energies, forces, stress."""
    toy = ToyPotential()
    summary = run(
        crystal(1), tmp_path, potential=toy, udd=UDD, ensemble="npt", max_uncertainty=0.5, steps=10
    )
    frames = [*read(tmp_path / "trajectory.xyz", ":"), read(summary.last_good_frame)]
    for frame in frames:
        plain = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)
        plain.calc = Calculator(toy)
        np.testing.assert_allclose(frame.get_forces(), plain.get_forces(), atol=1e-5)
        np.testing.assert_allclose(frame.get_stress(), plain.get_stress(), atol=1e-5)
        assert frame.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=1e-5)
        sigma = plain.calc.results["force_uncertainty"]
        np.testing.assert_allclose(frame.arrays["force_uncertainty"], sigma, atol=1e-5)
        assert frame.info["uncertainty"] == pytest.approx(sigma.mean(), abs=1e-5)
        assert np.abs(frame.arrays["forces_bias"]).max() > 1e-3
        assert frame.info["energy_bias"] < 0
        assert frame.has("momenta") and frame.info["temperature"] > 0


def test_a_potential_without_uncertainty_runs(tmp_path):
    summary = run(cluster(6), tmp_path, potential=ToyPotential(uncertain=False))
    assert summary.ending == "finished"
    assert summary.mean_uncertainty is None
    assert rows(tmp_path)[0]["uncertainty"] is None


def test_a_wrapped_potential_and_a_proposal_do_the_same(tmp_path):
    toy = ToyPotential()
    proposal = propose_udd(toy, cluster(9), 200.0)
    p = proposal.parameters
    one = run(cluster(9), tmp_path / "a", potential=toy, udd=proposal)
    two = run(cluster(9), tmp_path / "b", potential=UDDPotential(toy, p))
    assert without_wall(one) == without_wall(two)
    with pytest.raises(InputError, match="bias of its own"):
        run(cluster(9), tmp_path / "c", potential=UDDPotential(toy, p), udd=p)


def test_the_callers_structure_and_numpys_generator_stay_as_they_are(tmp_path):
    atoms = cluster(6)
    before, noise = atoms.copy(), np.random.get_state()[1].copy()
    run(atoms, tmp_path)
    assert atoms == before and atoms.calc is None and not atoms.has("momenta")
    np.testing.assert_array_equal(noise, np.random.get_state()[1])


def test_a_seed_is_a_run(tmp_path):
    one, two = run(cluster(6), tmp_path / "a"), run(cluster(6), tmp_path / "b")
    other = run(cluster(6), tmp_path / "c", seed=4)
    assert one.final_energy == two.final_energy != other.final_energy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": "nvt-berendson"}, r"did you mean 'nvt-berendsen'\?"),
        ({"timestep_fs": 0.0}, "'timestep_fs' should be greater than 0, got 0.0"),
        ({"steps": -1}, "'steps' should be greater than or equal to 0, got -1"),
        ({"temperature": 0.0}, "temperature > 0, got 0.0"),
        (
            {"max_uncertainty": -0.1},
            "'max_uncertainty' should be a number of eV/Å above 0, or auto, got -0.1",
        ),
        ({"max_energy_drift": 0.1}, "looks at what NVE conserves"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_structures_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="npt needs a structure periodic"):
        run(cluster(4), tmp_path / "a", ensemble="npt")
    with pytest.raises(InputError, match="holds Au"):
        run(Atoms("Au"), tmp_path / "b")
    with pytest.raises(InputError, match="at least one atom"):
        run(Atoms(), tmp_path / "c")
    fixed = crystal(1)
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(InputError, match="cannot hold constraints"):
        run(fixed, tmp_path / "d", ensemble="npt")


def test_what_is_fixed_stays_fixed_in_a_run_from_the_last_frame(tmp_path):
    atoms = cluster()
    atoms.set_constraint(FixAtoms([0, 2]))
    atoms.info.update(charge=-1, material_id="mp-1", energy=7.0, step=3)
    run_dynamics(atoms, ToyPotential(), settings(steps=4, trajectory_interval=2), tmp_path / "a")
    for name in ("last.xyz", "trajectory.xyz"):
        for frame in read(tmp_path / "a" / name, ":"):
            assert [c.index.tolist() for c in frame.constraints] == [[0, 2]]
            # Labels are written as they are, of fixed atoms too.
            assert np.abs(frame.calc.results["forces"][[0, 2]]).min() > 0
            assert frame.info["charge"] == -1 and frame.info["material_id"] == "mp-1"
            assert frame.get_potential_energy() != 7.0
    _, last = next(read_structures(tmp_path / "a" / "last.xyz"))
    run_dynamics(last, ToyPotential(), settings(steps=4), tmp_path / "b")
    moved = read(tmp_path / "b" / "last.xyz").positions - last.positions
    assert (moved[[0, 2]] == 0).all() and np.abs(moved[1]).max() > 0


def test_constraints_whose_count_is_a_numpy_number(tmp_path):
    """ASE's degrees of freedom are then one too, and were written as np.float64(…)."""
    atoms = cluster(5)
    atoms.set_constraint(FixCartesian([0], [True, False, False]))
    run(atoms, tmp_path, steps=4)
    assert all(float(row["temperature"]) >= 0 for row in rows(tmp_path))
    last = read_structures(tmp_path / "last.xyz")
    assert next(atoms.constraints for _, atoms in last)


def test_a_constraint_that_a_frame_cannot_say_is_named(tmp_path):
    atoms = cluster(5)
    atoms.set_constraint(FixedPlane([0], (0, 0, 1)))
    with pytest.warns(UserWarning, match=r"FixedPlane of the start is kept to in this run, but"):
        run(atoms, tmp_path, steps=2)
