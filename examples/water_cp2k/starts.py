"""Boxes of liquid water to start from: a classical force field (TIP3P), no label of any kind.

python examples/water_cp2k/starts.py --molecules 16 --boxes 4 --out runs/water_cp2k/starts.xyz
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase.io import write

from eip.builders import water
from eip.files import replacing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--molecules", type=int, default=16)
    parser.add_argument("--boxes", type=int, default=2)
    parser.add_argument("--density", type=float, default=1.0, help="g/cm³")
    parser.add_argument("--temperature", type=float, default=330.0, help="K")
    parser.add_argument("--ps", type=float, default=1.0, help="of dynamics for each box")
    parser.add_argument("--out", type=Path, default=Path("runs/water_cp2k/starts.xyz"))
    arguments = parser.parse_args()
    frames = [
        water(
            arguments.molecules,
            arguments.density,
            melt_ps=arguments.ps,
            temperature=arguments.temperature,
            seed=seed,
        )
        for seed in range(arguments.boxes)
    ]
    with replacing(arguments.out) as temporary:
        write(temporary, frames, format="extxyz")
    print(f"{arguments.out}: {len(frames)} boxes of {arguments.molecules} molecules, "
          f"{frames[0].cell.lengths()[0]:.2f} Å")  # fmt: skip


if __name__ == "__main__":
    main()
