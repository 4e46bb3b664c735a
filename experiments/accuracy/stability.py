"""Does a trajectory stay where its data are? Closest approaches and pair distributions of both.

    python experiments/accuracy/stability.py RUN/trajectory.xyz --data FRAMES [FRAMES ...]

Of each pair of elements: the closest approach beside that of the data, and how much the radial
distribution of a periodic system differs from theirs, as a share of its area. Into stability.json
beside this file, by the run's folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from eip.analysis.distributions import PairDistribution
from eip.analysis.order_parameters import pairs_within
from eip.data import read_structures

HERE = Path(__file__).parent
CUTOFF = 6.0


class Seen:
    """What is kept of frames, one after the other."""

    def __init__(self) -> None:
        self.closest: dict[str, float] = {}
        self.distribution = PairDistribution(CUTOFF)
        self.frames = 0

    def add(self, frames: Iterable[tuple[str, Atoms]]) -> None:
        for _, atoms in frames:
            self.frames += 1
            i, j, distances = pairs_within(atoms, CUTOFF)
            pairs = np.sort(np.stack([atoms.numbers[i], atoms.numbers[j]], axis=1))
            kinds, which = np.unique(pairs, axis=0, return_inverse=True)
            for kind, (a, b) in enumerate(kinds):
                name = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
                nearest = float(distances[which.ravel() == kind].min())
                self.closest[name] = min(self.closest.get(name, np.inf), nearest)
            if atoms.pbc.all():
                self.distribution.add(atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trajectory", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    run, data = Seen(), Seen()
    run.add(read_structures(arguments.trajectory))
    data.add(chain.from_iterable(read_structures(path) for path in arguments.data))
    found = {
        "frames": run.frames,
        "frames_of_data": data.frames,
        "closest": run.closest,
        "closest_of_data": {name: data.closest[name] for name in run.closest},
        "least_share": min(run.closest[name] / data.closest[name] for name in run.closest),
    }
    if data.distribution.frames and run.distribution.frames:
        ours, theirs = run.distribution.by_pair(), data.distribution.by_pair()
        found["rdf_difference"] = {
            name: float(np.abs(ours[name] - theirs[name]).sum() / theirs[name].sum())
            for name in ours
        }
    kept = HERE / "stability.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    results[arguments.trajectory.resolve().parent.name] = found
    kept.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
