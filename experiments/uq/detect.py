"""Is water noticed that is not as the training set's: denser, thinner, frozen?

    python experiments/uq/detect.py MODEL --home FRAMES    # → detect.json

Without labels: how well σ and the extrapolation grade tell the home frames from the others (area
under the ROC curve, by atom and by structure), how much σ grows, and what share of the atoms has a
grade above 1. Other densities are the home frames with their molecules moved apart or together,
rigid; ice is the proton-ordered one (XI; Leadbetter et al., J. Chem. Phys. 82, 424, 1985), relaxed
and warmed to 250 K by the potential itself.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE
from sklearn.metrics import roc_auc_score

import eip
from eip.data import read_structures

HERE = Path(__file__).parent
DENSITIES = (0.85, 0.9, 0.95, 1.05, 1.1, 1.2)


def rescaled(atoms: Atoms, density: float) -> Atoms:
    """Rigid molecules of water at ``density`` times their own."""
    moved = atoms.copy()
    i, j, vectors = neighbor_list("ijD", atoms, 1.3)
    oxygen = np.flatnonzero(atoms.numbers == 8)
    factor = density ** (-1.0 / 3.0)
    positions = atoms.positions.copy()
    for o in oxygen:
        bound = (i == o) & (atoms.numbers[j] == 1)
        hydrogens = j[bound][np.argsort(np.linalg.norm(vectors[bound], axis=1))[:2]]
        positions[o] *= factor
        for h in hydrogens:
            (at,) = np.flatnonzero(bound & (j == h))[:1]
            positions[h] = positions[o] + vectors[at]
    moved.set_cell(atoms.cell * factor)
    moved.positions = positions
    return moved


def ice() -> Atoms:
    """64 molecules of ice XI, at its lattice's sites."""
    sites = {
        "O": [(0.0, 0.6648, 0.0631), (0.5, 0.8255, -0.0631)],
        "H": [(0.0, 0.6636, 0.1963), (0.0, 0.5363, 0.0183), (0.6766, 0.7748, -0.0183)],
    }
    fractions, symbols = [], []
    for symbol, of_symbol in sites.items():
        for x, y, z in of_symbol:
            # Cmc2₁: on the mirror (x = 0, 1/2) two sites and their centred images, else four.
            mirrored = [] if x in (0.0, 0.5) else [(-x, y, z), (x, -y, z + 0.5)]
            for one in ((x, y, z), (-x, -y, z + 0.5), *mirrored):
                for shift in (0.0, 0.5):
                    fractions.append((one[0] + shift, one[1] + shift, one[2]))
                    symbols.append(symbol)
    cell = Atoms(symbols, scaled_positions=fractions, cell=(4.465, 7.859, 7.292), pbc=True)
    return cell * (4, 2, 1)


def warmed(atoms: Atoms, potential: eip.Potential, count: int) -> list[Atoms]:
    """Frames at 250 K, every 50 fs, after a relaxation of the positions by the potential."""
    atoms.calc = eip.Calculator(potential)
    FIRE(atoms, logfile=None).run(fmax=0.05, steps=100)
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=500, rng=rng)
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=250, friction=0.02 / units.fs, rng=rng)
    frames = []
    for _ in range(count):
        dynamics.run(100)
        frames.append(atoms.copy())
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=20)
    arguments = parser.parse_args()
    potential = eip.load(arguments.model)
    home = [a for _, a in islice(read_structures(arguments.home, index="::4"), arguments.frames)]
    sets = {f"{x:g} × density": [rescaled(atoms, x) for atoms in home] for x in DENSITIES}
    sets["ice XI, 250 K"] = warmed(ice(), potential, arguments.frames)
    said = {name: potential.predict(frames) for name, frames in {"home": home, **sets}.items()}
    found: dict[str, dict[str, float]] = {}
    for name in sets:
        found[name] = {}
        for key in ("force_uncertainty", "extrapolation_grade"):
            known, other = (getattr(said[of], key).numpy() for of in ("home", name))
            per_frame = [
                x.reshape(len(frames), -1).mean(axis=1)
                for x, frames in ((known, home), (other, sets[name]))
            ]
            short = "sigma" if key == "force_uncertainty" else "grade"
            for kind, (a, b) in {"atoms": (known, other), "structures": per_frame}.items():
                truth = np.arange(len(a) + len(b)) >= len(a)
                found[name][f"auc_{short}_{kind}"] = float(
                    roc_auc_score(truth, np.concatenate([a, b]))
                )
            found[name][f"mean_{short}_ratio"] = float(other.mean() / known.mean())
        found[name]["extrapolating"] = float((said[name].extrapolation_grade > 1).double().mean())
        print(name, {key: round(value, 3) for key, value in found[name].items()})
    (HERE / "detect.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
