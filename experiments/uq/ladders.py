"""Which methods of uncertainty keep its contract (`eip.testing.check_uncertainty`), which do not.

    python experiments/uq/ladders.py FRAMES tensor=MODEL gmm=MODEL …      # → ladders.json, .md

Each model is climbed with what `eip train` gives it, and again without its guard and without the
repulsion of nuclei, as σ was before there were any. FRAMES are like those that the models were
trained on, but not of them: the first 50 say what σ is at home, the ladders are those of the first.
Rows of other calls stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from eip.data import read_structures
from eip.model_file import load_model
from eip.potential import Potential
from eip.testing import Ascent, climb
from eip.uncertainty.registry import build_potential, describe_potential

HERE = Path(__file__).parent


def bare(potential: Potential, *, guard: bool, repulsion: bool) -> Potential:
    """A copy without its guard, or without the repulsion."""
    dropped = {"guard": guard, "short_range": repulsion}

    def less(described: Any) -> Any:
        if isinstance(described, list):
            return [less(one) for one in described]
        if not isinstance(described, dict):
            return described
        return {k: less(v) for k, v in described.items() if dropped.get(k, True)}

    made = build_potential(**less(describe_potential(potential))).to(potential.dtype)
    made.load_state_dict(potential.state_dict())
    return made.eval().requires_grad_(False)


def cell(ascents: Sequence[Ascent]) -> str:
    failures = [a for a in ascents if a.failure() is not None]
    if not failures:
        return f"all {len(ascents)}"
    named = ", ".join(
        f"{a.ladder.name} ({a.ratios.min():.2g} … {a.ratios[-1]:.2g})" for a in failures
    )
    return f"{len(ascents) - len(failures)} of {len(ascents)}; not: {named}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path)
    parser.add_argument("models", nargs="+", help="LABEL=model.eip")
    arguments = parser.parse_args()
    home = [_plain(atoms) for _, atoms in read_structures(arguments.frames, index=":50")]
    kept = HERE / "ladders.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    for given in arguments.models:
        label, path = given.split("=", 1)
        potential = load_model(path, device="cpu")
        rows[label] = [
            cell(climb(bare(potential, guard=guard, repulsion=repulsion), home))
            for guard, repulsion in ((True, True), (True, False), (False, True), (False, False))
        ]
        print(f"| {label} | {' | '.join(rows[label])} |", flush=True)
    kept.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    lines = [
        "# Ladders of deformations\n\n",
        "Written by `ladders.py`. How many ladders are kept: σ never below half of what it is at "
        "home, at the end ten times as large. In brackets the lowest σ and the last, over σ at "
        "home.\n\n",
        "| | guard and repulsion | guard alone | repulsion alone | neither |\n",
        "|---|---|---|---|---|\n",
    ]
    lines += [f"| {label} | {' | '.join(cells)} |\n" for label, cells in rows.items()]
    (HERE / "ladders.md").write_text("".join(lines))


def _plain(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


if __name__ == "__main__":
    main()
