"""Does it pay to let many walkers share one call of the model? `python benchmarks/walkers.py`

Time of one step of one walker, on one thread: "alone" through eIP's ASE calculator, one structure
in a call, as `eip md` does; "shared" with W walkers in one graph, W Verlet lists whose batch is
made anew only when one of them was. Neighbor lists are in both, integrators in neither. Rounds take
all variants in turn, so that what else the machine does hits all; figures are medians of rounds,
and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from ase import Atoms
from ase.io import read
from rich.console import Console
from structures import Motion, water_box

import eip
from eip.graph import AtomGraph, batch_graphs
from eip.neighbors import VerletList
from eip.potential import Potential
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import fit_calibration
from eip.uncertainty.evidential import EvidentialPotential

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "examples" / "data"
SKIN = 0.5


def potential_of(atoms: Atoms, channels: int, cutoff: float) -> Potential:
    """Untrained, of the size of a real one, calibrated as a real one is."""
    torch.manual_seed(0)
    elements = sorted(set(atoms.numbers.tolist()))
    inner = EvidentialPotential(
        elements=elements,
        element_energies=dict.fromkeys(elements, 0.0),
        force_scale=1.0,
        head="tensor",
        channels=channels,
        cutoff=cutoff,
    )
    rng = np.random.default_rng(0)
    fitted = fit_calibration(
        rng.normal(size=(60, 3)),
        np.ones(60),
        np.full(60, elements[0]),
        created="benchmark",
        method="scale",
    )
    return CalibratedPotential(inner, fitted).eval()


class Alone:
    """One walker: what a step of `eip md` asks of the calculator."""

    walkers = 1

    def __init__(self, potential: Potential, atoms: Atoms) -> None:
        self._atoms, self._motion = atoms.copy(), Motion(atoms)
        self._atoms.calc = eip.Calculator(potential, skin=SKIN)

    def step(self) -> np.ndarray:
        self._atoms.positions = self._motion.next()
        return self._atoms.get_forces()


class Shared:
    """Walkers in one graph, each with its own motion; results as NumPy arrays, as "alone"."""

    def __init__(self, potential: Potential, atoms: Atoms, walkers: int) -> None:
        self._potential, self.walkers = eip.prepared(potential), walkers
        self._atoms = [atoms.copy() for _ in range(walkers)]
        self._motions = [Motion(atoms, seed) for seed in range(walkers)]
        self._lists = [VerletList(potential.cutoff, SKIN) for _ in range(walkers)]
        self._batch: AtomGraph | None = None
        self._rebuilds: list[int] = []

    def step(self) -> np.ndarray:
        for atoms, motion in zip(self._atoms, self._motions, strict=True):
            atoms.positions = motion.next()
        graphs = [find(atoms) for find, atoms in zip(self._lists, self._atoms, strict=True)]
        rebuilds = [find.rebuilds for find in self._lists]
        if self._batch is None or rebuilds != self._rebuilds:
            self._batch, self._rebuilds = batch_graphs(graphs), rebuilds
        graph = self._batch.with_positions(torch.cat([g.positions for g in graphs]))
        found = self._potential(graph)
        for name in ("energy", "force_uncertainty", "force_covariance", "uncertainty"):
            getattr(found, name).detach().numpy().astype(np.float64)
        return found.forces.detach().numpy().astype(np.float64)


def timed(step: Callable[[], Any], walkers: int, seconds: float) -> float:
    """Seconds of a walker-step, over at least so many seconds and two steps."""
    begun, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - begun < seconds:
        step()
        steps += 1
    return (time.perf_counter() - begun) / (steps * walkers)


def measure(
    atoms: Atoms, channels: int, cutoff: float, counts: list[int], rounds: int, seconds: float
) -> dict[str, Any]:
    """Milliseconds of a walker-step by variant, and how much faster sharing is."""
    potential = potential_of(atoms, channels, cutoff)
    variants: dict[str, Alone | Shared] = {"alone": Alone(potential, atoms)}
    variants |= {f"shared_{n}": Shared(potential, atoms, n) for n in counts}
    first = {name: variant.step()[: len(atoms)] for name, variant in variants.items()}
    for name, forces in first.items():  # the same walker: a wrong batch is fast, too
        np.testing.assert_allclose(forces, first["alone"], atol=2e-4, err_msg=name)
    for variant in variants.values():
        timed(variant.step, variant.walkers, seconds / 2)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds):
        order = list(variants) if index % 2 == 0 else list(variants)[::-1]
        for name in order:
            times[name].append(timed(variants[name].step, variants[name].walkers, seconds))
    return {
        "atoms": len(atoms),
        "periodic": bool(atoms.pbc.all()),
        "ms_per_walker_step": {n: round(1e3 * statistics.median(t), 4) for n, t in times.items()},
        "rounds_ms": {n: [round(1e3 * value, 4) for value in t] for n, t in times.items()},
        "speedup": {
            name: round(
                statistics.median(a / b for a, b in zip(times["alone"], times[name], strict=True)),
                3,
            )
            for name in times
            if name != "alone"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--walkers", nargs="+", type=int, default=[4, 16, 64])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each variant in each round")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    systems = {
        "ethanol": read(DATA / "ethanol_300K.xyz", 0),
        "water_24": read(DATA / "water_300K.xyz", 0),
        "water_192": water_box(4),
    }
    content: dict[str, Any] = {
        "circumstances": report.circumstances(),
        "eip": eip.__version__,
        "threads": 1,
        "channels": given.channels,
        "cutoff": given.cutoff,
        "rounds": given.rounds,
        "systems": {},
    }
    console = Console()
    for name, atoms in systems.items():
        figures = measure(
            atoms, given.channels, given.cutoff, given.walkers, given.rounds, given.seconds
        )
        content["systems"][name] = figures
        console.print(name, figures["ms_per_walker_step"], figures["speedup"])
    content["load_average_at_the_end"] = report.circumstances()["load_average"]
    console.print(str(report.write("walkers", content, given.out)))


if __name__ == "__main__":
    main()
