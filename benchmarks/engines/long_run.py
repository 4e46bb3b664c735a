"""A long run of water in LAMMPS: `python benchmarks/engines/long_run.py MODEL START FOLDER`

NVT, then NVE, in pieces, each begun from the restart file of the one before: what was stopped goes
on where it was when it is called again. FOLDER keeps log, positions and restart of each piece.
`benchmarks/results/lammps_long_run.json` gets drift, σ, extrapolation grade and closest pairs of
what there is, beside those of the training frames (`--training`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import iread, read, write
from vesin import ase_neighbor_list

import eip
from eip.engines.lammps import build, export

sys.path.insert(0, str(Path(__file__).parent.parent))
import report

ELEMENTS = ("H", "O")
COLUMNS = ("step", "temperature", "potential", "total", "pressure", "mean", "largest", "grade")
THERMO_EVERY, FRAMES_EVERY = 10, 20

SCRIPT = """
units metal
atom_style atomic
newton on
{begin}
plugin load {plugin}
pair_style eip
pair_coeff * * {model} H O
neighbor 1.0 bin
{velocities}
timestep {timestep}
fix dynamics all {ensemble}
compute sigma all pair eip
thermo {thermo_every}
thermo_style custom step temp pe etotal press c_sigma[1] c_sigma[2] c_sigma[3]
thermo_modify format float %.12g
dump positions all custom {frames_every} {name}.dump type x y z
dump_modify positions sort id format float %.4f first no
run {steps}
write_restart {name}.unfinished
"""


def pieces(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Name and ensemble of each piece."""
    of = {"nvt": given.nvt, "nve": given.nve}
    return [
        (f"{ensemble}-{k:03d}", ensemble)
        for ensemble, time in of.items()
        for k in range(round(time / given.piece))
    ]


def run(given: argparse.Namespace) -> None:
    """Whatever pieces are missing."""
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "start.data").is_file():
        potential = eip.load(given.model, device="cpu")
        export(potential, folder / "model.lmp.eip")
        start = read(given.start).repeat(given.repeat)
        write(
            folder / "start.data",
            start,
            format="lammps-data",
            specorder=list(ELEMENTS),
            masses=True,
        )
    plugin = build(folder / "eippair.so").path
    programs = Path(sys.executable).parent
    launched = [] if given.ranks == 1 else [str(programs / "mpiexec"), "-n", str(given.ranks)]
    ensembles = {"nvt": f"nvt temp {given.kelvin} {given.kelvin} 0.1", "nve": "nve"}
    before = None
    for name, ensemble in pieces(given):
        finished = folder / f"{name}.restart"
        if not finished.is_file():
            script = SCRIPT.format(
                begin=f"read_restart {before}" if before else "read_data start.data",
                velocities="" if before else f"velocity all create {given.kelvin} 1 dist gaussian",
                plugin=plugin.resolve(),
                model="model.lmp.eip",
                timestep=given.timestep / 1000,
                ensemble=ensembles[ensemble],
                thermo_every=THERMO_EVERY,
                frames_every=FRAMES_EVERY,
                steps=round(1000 * given.piece / given.timestep),
                name=name,
            )
            (folder / f"{name}.in").write_text(script)
            subprocess.run(
                [
                    *launched,
                    sys.executable,
                    str(programs / "lmp"),
                    "-in",
                    f"{name}.in",
                    "-log",
                    f"{name}.log",
                ],
                cwd=folder,
                env={**os.environ, "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            (folder / f"{name}.unfinished").replace(finished)
            print(f"{name} done", flush=True)
        before = finished.name


def thermo(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The columns of the pieces' logs, one behind the other."""
    rows: dict[int, list[float]] = {}
    for name in names:
        text = (folder / f"{name}.log").read_text()
        table = text[text.index("   Step ") : text.index("Loop time of")]
        for line in table.splitlines()[1:]:
            # Warnings come in between.
            if line.split()[0].isdigit():
                step, *values = map(float, line.split())
                rows[int(step)] = [step, *values]
    return dict(zip(COLUMNS, np.array([rows[step] for step in sorted(rows)]).T, strict=True))


def frames(path: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Types, positions and edges of the box of each frame of a dump, orthogonal."""
    found = []
    with path.open() as file:
        for line in file:
            if not line.startswith("ITEM: NUMBER"):
                continue
            count = int(next(file))
            next(file)
            bounds = np.array([next(file).split() for _ in range(3)], dtype=float)
            next(file)
            rows = np.array([line.split() for line in itertools.islice(file, count)], dtype=float)
            found.append((rows[:, 0].astype(int), rows[:, 1:], bounds[:, 1] - bounds[:, 0]))
    return found


def closest(atoms: Atoms, reach: float = 3.0) -> dict[str, float]:
    """The shortest distance of each kind of pair, Å."""
    i, j, distances = ase_neighbor_list("ijd", atoms, reach)
    kinds = np.array(atoms.get_chemical_symbols())
    pairs = np.array(
        [f"{a}-{b}" if a < b else f"{b}-{a}" for a, b in zip(kinds[i], kinds[j], strict=True)]
    )
    return {pair: float(distances[pairs == pair].min()) for pair in np.unique(pairs)}


def shortest(several: list[dict[str, float]]) -> dict[str, float]:
    """Of several frames."""
    kinds = sorted({kind for one in several for kind in one})
    return {kind: round(min(one.get(kind, np.inf) for one in several), 4) for kind in kinds}


def slope(time: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """A line's slope, and its error from the slopes of eight parts of the run."""
    parts = [
        np.polyfit(t, v, 1)[0]
        for t, v in zip(np.array_split(time, 8), np.array_split(values, 8), strict=True)
    ]
    return float(np.polyfit(time, values, 1)[0]), float(np.std(parts, ddof=1) / len(parts) ** 1.5)


def analyzed(given: argparse.Namespace) -> dict[str, object]:
    """What there is of the run so far."""
    folder = given.folder
    done = [(name, e) for name, e in pieces(given) if (folder / f"{name}.restart").is_file()]
    content: dict[str, object] = {}
    pairs: list[dict[str, float]] = []
    for ensemble in ("nvt", "nve"):
        names = [name for name, e in done if e == ensemble]
        if not names:
            continue
        of = thermo(folder, names)
        time = of["step"] * given.timestep / 1000
        for name in names:
            for types, positions, edges in frames(folder / f"{name}.dump"):
                symbols = [ELEMENTS[k - 1] for k in types]
                pairs.append(closest(Atoms(symbols, positions, cell=edges, pbc=True)))
        count = len(types)
        content["atoms"] = count
        half = len(time) // 2 if ensemble == "nvt" else 0
        part = {
            "ps": round(float(time[-1] - time[0]), 3),
            "kelvin": round(float(of["temperature"][half:].mean()), 2),
            "sigma_mean": round(float(of["mean"].mean()), 5),
            "sigma_largest": round(float(of["largest"].max()), 4),
            "grade_largest": round(float(of["grade"].max()), 3),
            "steps_with_grade_above_1": round(float((of["grade"] > 1).mean()), 5),
        }
        if ensemble == "nve":
            per_atom = 1000 * (of["total"] - of["total"][0]) / count
            found, error = slope(time, per_atom)
            part |= {
                "drift_meV_per_atom_per_ps": round(found, 6),
                "drift_error": round(error, 6),
                "total_energy_std_meV_per_atom": round(float(per_atom.std()), 5),
            }
        content[ensemble] = part
    content["closest_in_run"] = shortest(pairs)
    content["frames_looked_at"] = len(pairs)
    if given.training:
        content["closest_in_training"] = shortest(
            [closest(one) for one in iread(given.training, ":")]
        )
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model.eip of water")
    parser.add_argument("start", type=Path, help="the frame to begin with, orthogonal cell")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=1, help="times the frame along each axis")
    parser.add_argument("--nvt", type=float, default=20.0, help="ps")
    parser.add_argument("--nve", type=float, default=80.0, help="ps")
    parser.add_argument("--piece", type=float, default=5.0, help="ps")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--kelvin", type=float, default=300.0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--training", type=Path, help="frames of the training")
    parser.add_argument("--only-look", action="store_true", help="at what is there; runs nothing")
    parser.add_argument("--out", type=Path, default=report.HERE / "results")
    given = parser.parse_args()
    if not given.only_look:
        run(given)
    content = analyzed(given)
    print(json.dumps(content, indent=1))
    whole = {"circumstances": report.circumstances(), "version": version("lammps"), **content}
    print(report.write("lammps_long_run", whole, given.out))


if __name__ == "__main__":
    main()
