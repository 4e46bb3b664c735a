"""Runs that share their calls are what they would be alone, and end each for itself."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import read

from eip.errors import InputError
from eip.neighbors import build_graph
from eip.potential import prepared
from eip.prediction import Prediction
from eip.simulation import DynamicsSettings, Together, UDDParameters, UDDPotential, run_dynamics
from eip.simulation.together import _asked, _Kind, _Question
from eip.uncertainty.evidential import EvidentialPotential

from .toy import ToyPotential, cluster, crystal

UDD = UDDParameters(A=2.3, B=0.017, C=0.94, D=1.9)
SETTINGS = DynamicsSettings(
    steps=20, timestep_fs=2.0, temperature=200.0, log_interval=1, trajectory_interval=2,
    checkpoint_interval=6,
)  # fmt: skip


def runs(potential, folder: Path, together=None, count=6, resume=False, **changes):
    """Of clusters of several sizes, every second one driven."""
    return {
        f"run{k}": partial(
            run_dynamics,
            cluster(4 + k),
            potential,
            SETTINGS.replace(seed=k, **changes),
            folder / f"run{k}",
            udd=UDD if k % 2 else None,
            resume=resume,
            progress=False,
            together=together,
        )
        for k in range(count)
    }


def positions(folder: Path) -> np.ndarray:
    return np.array([atoms.positions for atoms in read(folder / "trajectory.xyz", ":")])


def check_same(folder: Path, other: Path, count=6) -> None:
    for k in range(count):
        one, two = (positions(path / f"run{k}") for path in (folder, other))
        assert one.shape == two.shape
        np.testing.assert_allclose(one, two, atol=1e-10, rtol=0)


def test_runs_are_what_they_are_alone(tmp_path: Path) -> None:
    alone, potential, together = ToyPotential(), ToyPotential(), Together()
    for one in runs(alone, tmp_path / "alone").values():
        one()
    summaries = together.run([*runs(potential, tmp_path / "shared", together).values()])
    assert [summary.ending for summary in summaries] == ["finished"] * 6
    check_same(tmp_path / "shared", tmp_path / "alone")
    # 21 states of six runs; those of MD are one call, those of UDD another.
    assert (alone.calls, potential.calls) == (6 * 21, 2 * 21)


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
def test_a_structure_is_told_the_same_bits_in_any_company(backbone: str) -> None:
    torch.manual_seed(0)
    network = EvidentialPotential(
        elements=(1, 6, 8), element_energies={1: -1.0, 6: -2.0, 8: -3.0}, force_scale=1.0,
        head="tensor", backbone=backbone, channels=16, cutoff=4.0,
    ).eval()  # fmt: skip
    potential = UDDPotential(network, UDD)
    rng = np.random.default_rng(0)
    graphs = []
    for name in ("C2H6", "H2O", "CH3OH", "O", "CH4"):
        atoms = molecule(name)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        graphs.append(build_graph(atoms, 4.5))
    kind = _Kind(potential, prepared(potential))

    def told(chosen: list[int]) -> list[Prediction]:
        return _asked([_Question(kind, graphs[k], False) for k in chosen])

    alone = [told([k])[0] for k in range(5)]
    for size in range(2, 8):
        for _ in range(4):
            chosen = rng.integers(0, 5, size).tolist()
            for k, said in zip(chosen, told(chosen), strict=True):
                for of, value in said.figures():
                    assert torch.equal(value, getattr(alone[k], of.name)), (chosen, k, of.name)


def test_runs_that_are_pushed_every_few_steps_share_their_calls(tmp_path: Path) -> None:
    potential, together = ToyPotential(), Together()
    udd = replace(UDD, interval=4, soft=True)

    def made(k: int, together: Together | None, folder: Path):
        return partial(
            run_dynamics, cluster(4 + k), potential, SETTINGS, folder / f"run{k}", udd=udd,
            progress=False, together=together,
        )  # fmt: skip

    for k in range(3):
        made(k, None, tmp_path / "alone")()
    potential.calls = 0
    together.run([made(k, together, tmp_path / "shared") for k in range(3)])
    check_same(tmp_path / "shared", tmp_path / "alone", 3)
    assert potential.calls == 21


def test_npt_and_nvt_share_a_potential(tmp_path: Path) -> None:
    together, potential = Together(), ToyPotential()
    settings = [SETTINGS, SETTINGS.replace(ensemble="npt", steps=9)]

    def made(k: int, together: Together | None, folder: Path):
        return partial(
            run_dynamics, crystal(), potential, settings[k], folder / f"run{k}", progress=False,
            together=together,
        )  # fmt: skip

    for k in range(2):
        made(k, None, tmp_path / "alone")()
    together.run([made(k, together, tmp_path / "shared") for k in range(2)])
    check_same(tmp_path / "shared", tmp_path / "alone", 2)


def test_a_run_that_collapses_leaves_the_others_alone(tmp_path: Path) -> None:
    together, potential = Together(), ToyPotential()
    asked = runs(potential, tmp_path, together)
    asked["run2"] = partial(asked["run2"].func, *asked["run2"].args[:2], SETTINGS.replace(
        seed=2, temperature=1e7, keep_momenta=False), tmp_path / "run2", progress=False,
        together=together,
    )  # fmt: skip
    endings = [summary.ending for summary in together.run([*asked.values()])]
    assert endings[2] == "collapsed"
    assert endings[:2] + endings[3:] == ["finished"] * 5


def test_an_error_of_one_run_is_told_once_the_others_have_ended(tmp_path: Path) -> None:
    together = Together()
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "trajectory.xyz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(InputError, match="run1"):
        together.run([*runs(ToyPotential(), tmp_path, together).values()])
    for k in (0, 2, 3, 4, 5):
        assert (tmp_path / f"run{k}" / "summary.json").is_file()


class Refuses(ToyPotential):
    """Structures of seven atoms, as a network refuses what no memory holds."""

    def forward(self, graph, **kwargs):
        if (graph.atoms_per_frame == 7).any() and self.calls > 10:
            raise RuntimeError("seven")
        return super().forward(graph, **kwargs)


def test_what_the_potential_refuses_ends_only_the_run_that_asked(tmp_path: Path) -> None:
    together = Together()
    with pytest.raises(RuntimeError, match="seven"):
        together.run([*runs(Refuses(), tmp_path, together).values()])
    whole = [(tmp_path / f"run{k}" / "summary.json").is_file() for k in range(6)]
    assert whole == [True, True, True, False, True, True]


class Interrupted(ToyPotential):
    """At a call it sends itself a signal, or two."""

    def __init__(self, at: int, times: int = 1) -> None:
        super().__init__()
        self.at, self.times = at, times

    def forward(self, graph, **kwargs):
        if self.calls == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)  # or two of them are one
        return super().forward(graph, **kwargs)


def test_interrupted_runs_go_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    together = Together()
    together.run([*runs(ToyPotential(), tmp_path / "whole", together).values()])
    together, folder = Together(), tmp_path / "stopped"
    stopped = together.run([*runs(Interrupted(17), folder, together).values()])
    assert {summary.cause for summary in stopped} == {"interrupted"}
    # Two of them are gone on with alone, the others together.
    left = runs(ToyPotential(), folder, Together(), resume=True)
    for names in (("run1",), ("run2",), ("run0", "run3", "run4", "run5")):
        together = Together()
        left = runs(ToyPotential(), folder, together, resume=True)
        together.run([left[name] for name in names])
    for k in range(6):
        one, two = (positions(path / f"run{k}") for path in (folder, tmp_path / "whole"))
        assert (one == two).all()


def test_a_second_interrupt_ends_all_at_once(tmp_path: Path) -> None:
    together = Together()
    # A test's process may ignore the signal, as one in the background does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            together.run([*runs(Interrupted(17, times=2), tmp_path, together).values()])
    finally:
        signal.signal(signal.SIGINT, before)
    # Nothing is left waiting, and what was written before is there to go on from.
    together = Together()
    ended = together.run([*runs(ToyPotential(), tmp_path, together, resume=True).values()])
    assert {summary.ending for summary in ended} == {"finished"}
