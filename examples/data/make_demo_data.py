"""Make the demo data set: ethanol molecules and a small box of water, labelled by GFN1-xTB.

Every structure is a frame of a molecular dynamics run driven by GFN1-xTB itself (tblite), so the
label of a frame is the energy, force and stress that the run used there. All files share that one
level of theory: molecule and periodic box are consistent with each other.

Method   GFN1-xTB, tblite 0.8.0, accuracy 0.01, electronic temperature 300 K, Gamma point only.
Units    eV, Å, eV/Å, eV/Å^3 (ASE's sign of stress: negative when the box wants to expand).
Runs     Langevin NVT, 0.5 fs, friction 0.01/fs, centre of mass held; see ``JOBS`` for the rest.
Needs    ``pip install "ase>=3.29" tblite==0.8.0 rich``.
Time     about 35 minutes on one core: 0.15 s a step for the box, 3 ms for the molecule.

    python make_demo_data.py                  # every file that is not there yet
    python make_demo_data.py water_300K       # that one only
    python make_demo_data.py --check          # examine the files that are there

The seeds are fixed, but a trajectory is chaotic: another processor or another build of the linear
algebra gives other frames of the same ensemble, not the same digits.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixCom
from ase.data import covalent_radii
from ase.io import iread
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

METHOD = "GFN1-xTB (tblite 0.8.0)"
ACCURACY = 0.01  # on the scale of tblite, whose default is 1: forces repeat to 2e-6 eV/Å
TIMESTEP_FS = 0.5
FRICTION_PER_FS = 0.01
MELT_K = 600.0  # each run first forgets its artificial start at this temperature (or at its own)
N_WATER = 8
WATER_DENSITY = 0.997  # g/cm^3
MAX_STRETCH = 1.5  # a bond longer than this times its starting length counts as broken


@dataclass(frozen=True)
class Job:
    """One trajectory, hence one file; runs differ in seed, so no two files share a trajectory."""

    name: str
    temperature: float
    frames: int
    stride: int  # MD steps between frames
    melt: int
    equilibrate: int
    seed: int


JOBS = (
    Job("ethanol_300K", 300, frames=300, stride=200, melt=2000, equilibrate=4000, seed=1),
    Job("ethanol_300K_test", 300, frames=150, stride=200, melt=2000, equilibrate=4000, seed=2),
    Job("ethanol_800K_test", 800, frames=150, stride=200, melt=2000, equilibrate=4000, seed=3),
    Job("water_300K", 300, frames=120, stride=32, melt=600, equilibrate=1400, seed=4),
    Job("water_300K_test", 300, frames=40, stride=24, melt=600, equilibrate=1400, seed=5),
    Job("water_600K_test", 600, frames=40, stride=24, melt=600, equilibrate=400, seed=6),
)


def attach_xtb(atoms: Atoms) -> Atoms:
    """Give ``atoms`` a fresh GFN1-xTB calculator and return them."""
    # Systems this small only lose by threads. OpenMP reads the variable when tblite loads it,
    # which is why the import stands here and not at the top.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tblite.ase import TBLite

    atoms.calc = TBLite(method="GFN1-xTB", accuracy=ACCURACY, verbosity=0)
    return atoms


def water_box(rng: np.random.Generator) -> Atoms:
    """Put ``N_WATER`` molecules, turned at random, on a cubic grid in a cubic periodic cell."""
    water = molecule("H2O")
    water.positions -= water.get_center_of_mass()
    mass_g = N_WATER * water.get_masses().sum() / units.kg * 1e3
    edge = (mass_g / WATER_DENSITY * 1e24) ** (1 / 3)
    per_side = round(N_WATER ** (1 / 3))
    box = Atoms(cell=[edge] * 3, pbc=True)
    for corner in np.ndindex(per_side, per_side, per_side):
        # The orthogonal factor of a Gaussian matrix, signs fixed, is a uniform random rotation
        # (or a reflection, and water is its own mirror image).
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        turned = water.copy()
        turned.positions = water.positions @ (q * np.sign(np.diag(r))).T
        turned.positions += (np.array(corner) + 0.5) * edge / per_side
        box += turned
    return box


def starting_structure(job: Job) -> Atoms:
    """Return the geometry a run starts from."""
    if job.name.startswith("ethanol"):
        return molecule("CH3CH2OH")
    return water_box(np.random.default_rng(job.seed))


def bonds_of(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both ends and the length of every bond.

    Minimum images are not needed: molecules start whole and are never wrapped into the cell.
    """
    radii = covalent_radii[atoms.numbers]
    distances = atoms.get_all_distances()
    first, second = np.nonzero(np.triu(distances < 1.3 * np.add.outer(radii, radii), k=1))
    return first, second, distances[first, second]


def largest_stretch(atoms: Atoms, bonds: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Return the length of the most stretched bond over its length at the start."""
    first, second, length = bonds
    now = np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1)
    return float((now / length).max())


def run_md(job: Job) -> Iterator[Atoms]:
    """Yield the frames of one run; their calculator holds the labels."""
    rng = np.random.default_rng([job.seed, 1])
    atoms = attach_xtb(starting_structure(job))
    bonds = bonds_of(atoms)
    # FixCom samples NVT exactly; Langevin's own ``fixcm`` does not, and ASE is dropping it.
    atoms.set_constraint(FixCom())
    melt = max(MELT_K, job.temperature)
    thermalize_momenta(atoms, temperature_K=melt, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep=TIMESTEP_FS * units.fs,
        temperature_K=melt,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(job.melt)
    dynamics.set_temperature(temperature_K=job.temperature)
    dynamics.run(job.equilibrate)
    for _ in range(job.frames):
        dynamics.run(job.stride)
        if largest_stretch(atoms, bonds) > MAX_STRETCH:
            raise RuntimeError(f"{job.name}: a bond broke; this run is no longer that molecule")
        yield atoms


def extxyz(atoms: Atoms, config_type: str) -> str:
    """Format one frame as extended XYZ; ASE's own writer takes twice the room for the digits."""
    head = [
        "Properties=species:S:1:pos:R:3:forces:R:3",
        f"energy={atoms.get_potential_energy():.8f}",
        f"config_type={config_type}",
        f'method="{METHOD}"',
        f"md_temperature={atoms.get_temperature():.1f}",
        f'pbc="{" ".join("FT"[int(p)] for p in atoms.pbc)}"',
    ]
    if atoms.pbc.all():
        # Both matrices are symmetric, so row or column order is the same.
        stress = atoms.get_stress(voigt=False, apply_constraint=False)
        head.insert(0, f'Lattice="{" ".join(f"{x:.8f}" for x in atoms.cell.array.flat)}"')
        head.insert(3, f'stress="{" ".join(f"{x:.8f}" for x in stress.flat)}"')
    # Without ``apply_constraint=False`` these would be the forces of the held centre of mass.
    forces = atoms.get_forces(apply_constraint=False)
    rows = [
        f"{s} " + " ".join(f"{x:.8f}" for x in p) + " " + " ".join(f"{x:.6f}" for x in f)
        for s, p, f in zip(atoms.symbols, atoms.positions, forces, strict=True)
    ]
    return "\n".join([str(len(atoms)), " ".join(head), *rows]) + "\n"


def make(job: Job, folder: Path, progress: Progress) -> None:
    """Run one job into its file, unless the file is there."""
    target = folder / f"{job.name}.xyz"
    bar = progress.add_task(job.name, total=job.frames)
    if target.exists():
        progress.update(bar, completed=job.frames, description=f"{job.name} (there already)")
        return
    # An interrupted run leaves only the .part file, so a file with its final name is complete.
    part = target.with_suffix(".xyz.part")
    with part.open("w", encoding="utf-8", newline="\n") as out:
        for atoms in run_md(job):
            out.write(extxyz(atoms, job.name))
            progress.advance(bar)
    part.replace(target)


def force_errors(atoms: Atoms, h: float = 1e-4) -> np.ndarray:
    """Return how far each force component is from a central difference of the energy."""
    forces = atoms.get_forces()
    errors = np.zeros_like(forces)
    for index in np.ndindex(forces.shape):
        start, energy = atoms.positions[index], []
        for step in (h, -h):
            atoms.positions[index] = start + step
            energy.append(atoms.get_potential_energy())
        atoms.positions[index] = start
        errors[index] = abs((energy[1] - energy[0]) / (2 * h) - forces[index])
    return errors


def stress_error(atoms: Atoms, h: float = 1e-4) -> float:
    """Return the largest deviation of the stress from central differences over strains."""
    stress, worst = atoms.get_stress(voigt=False), 0.0
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        energy = []
        for step in (h, -h):
            strain = np.eye(3)
            strain[i, j] += step / 2
            strain[j, i] += step / 2  # on the diagonal both halves add up to the whole step
            strained = attach_xtb(atoms.copy())
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energy.append(strained.get_potential_energy())
        slope = (energy[0] - energy[1]) / (2 * h) / atoms.get_volume()
        worst = max(worst, abs(slope - stress[i, j]))
    return worst


def check(job: Job, folder: Path, console: Console) -> None:
    """Print what a file holds, and hold its labels against fresh calculations."""
    frames = list(iread(folder / f"{job.name}.xyz"))
    bonds = bonds_of(starting_structure(job))
    forces = np.array([a.get_forces() for a in frames])
    rms, peak = np.sqrt((forces**2).mean()), abs(forces).max()
    energy = np.array([a.get_potential_energy() / len(a) for a in frames])
    early, late = ((x - energy.mean()).mean() * 1e3 for x in np.array_split(energy, 2))
    temperature = np.array([a.info["md_temperature"] for a in frames])
    error = temperature.std() / len(frames) ** 0.5
    console.print(f"[bold]{job.name}[/]: {len(frames)} frames of {len(frames[0])} atoms")
    console.print(f"  temperature {temperature.mean():.0f} ± {error:.0f} K")
    console.print(f"  energy {energy.min():.4f} to {energy.max():.4f} eV/atom")
    console.print(f"  first and second half {early:+.1f}, {late:+.1f} meV/atom off the mean")
    console.print(f"  forces: RMS {rms:.3f}, largest {peak:.2f} eV/Å")
    console.print(f"  net force at most {abs(forces.sum(axis=1)).max():.1e} eV/Å")
    console.print(f"  most stretched bond {max(largest_stretch(a, bonds) for a in frames):.2f} x")
    again = [(a, attach_xtb(a.copy())) for a in frames[:: len(frames) // 5]]
    worst_e = max(abs(a.get_potential_energy() - b.get_potential_energy()) for a, b in again)
    worst_f = max(abs(a.get_forces() - b.get_forces()).max() for a, b in again)
    console.print(f"  labelled anew: energy off {worst_e:.1e} eV, forces off {worst_f:.1e} eV/Å")
    fresh = again[-1][1]
    # In the box a pair that crosses a cutoff of tblite steps the energy by some 3e-8 eV. Divided by
    # 2 h that shows in the few components whose difference straddles it: hence the median too.
    errors = force_errors(fresh)
    middle, worst = np.median(errors), errors.max()
    console.print(f"  forces off finite differences: median {middle:.1e}, largest {worst:.1e} eV/Å")
    if fresh.pbc.all():
        worst_s = max(abs(a.get_stress() - b.get_stress()).max() for a, b in again)
        console.print(f"  stress labelled anew: off {worst_s:.1e} eV/Å^3")
        console.print(f"  stress off finite differences by {stress_error(fresh):.1e} eV/Å^3")


def main() -> None:
    """Read the command line, then make or check files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [job.name for job in JOBS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of files")
    parser.add_argument("--check", action="store_true", help="examine files instead of making them")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no such file: {', '.join(sorted(unknown))}")
    jobs = [job for job in JOBS if not options.names or job.name in options.names]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.check:
        for job in jobs:
            check(job, options.out, Console())
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        for job in jobs:
            make(job, options.out, progress)


if __name__ == "__main__":
    main()
