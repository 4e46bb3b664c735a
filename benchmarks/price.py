"""What a label costs by its number of atoms: GFN2-xTB on droplets of water, and on fragments.

    python benchmarks/price.py          # → results/price.json

Seconds of this process, so that a busy machine says the same. Fragments are those of `eip learn`
about the atom in the middle of the largest droplet.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from structures import water_box

from eip.active_learning.fragments import cut_out
from eip.active_learning.labelers import make_labeler
from eip.active_learning.price import fitted_price

RESULTS = Path(__file__).parent / "results/price.json"
RADII = (3.0, 4.0, 5.0)


def droplet(per_side: int) -> Atoms:
    box = water_box(per_side)
    return Atoms(box.numbers, box.positions)


def seconds(atoms: Atoms) -> float:
    labeler = make_labeler("xtb")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        labeler.label(atoms, Path(folder))
        return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-side", type=int, nargs="+", default=[1, 2, 3, 4])
    arguments = parser.parse_args()
    droplets = [droplet(count) for count in arguments.per_side]
    seconds(droplets[0])  # loads the program
    whole = [{"atoms": len(atoms), "seconds": seconds(atoms)} for atoms in droplets]
    largest = droplets[-1]
    middle = int(np.linalg.norm(largest.positions - largest.positions.mean(0), axis=1).argmin())
    fragments = []
    for radius in RADII:
        found = cut_out(largest, middle, radius)
        if found is not None:
            size = len(found[0])
            fragments.append({"radius": radius, "atoms": size, "seconds": seconds(found[0])})
    price = fitted_price([w["atoms"] for w in whole], [w["seconds"] for w in whole])
    found = {"droplets": whole, "fragments": fragments, "price": str(price)}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
