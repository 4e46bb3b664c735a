"""`eip evaluate --scan`: what a potential says away from all frames, where there are no labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from rich.table import Table

from eip import plots
from eip.data import FrameStore
from eip.files import json_text, write_whole
from eip.potential import Potential
from eip.testing import BondScan, energy_drift, scan_bonds
from eip.verbs.messages import Log

#: What `scan` writes.
SCAN_FILES = ("scans.json", "scans.png")
#: Structures that are scanned, each of another composition.
MOST_STRUCTURES = 5
#: Larger ones have thousands of bonds that are alike.
MOST_ATOMS = 200
_DRIFT_STEPS = 1000


def scan(potential: Potential, store: FrameStore, folder: Path, log: Log) -> dict[str, Any]:
    """Scans of bonds, and the drift of the energy, of the first frame of each composition.

    Returns:
        what is in scans.json.
    """
    found: list[dict[str, Any]] = []
    curves: dict[str, BondScan] = {}
    for source, atoms in _structures(store):
        scans = scan_bonds(potential, atoms)
        drift = energy_drift(potential, atoms, steps=_DRIFT_STEPS)
        found.append(
            {
                "frame": source,
                "formula": atoms.get_chemical_formula(),
                "energy drift (meV/atom/ps)": 1000 * drift.slope,
                "energy fluctuation (meV/atom)": 1000 * drift.fluctuation,
                "bonds": [_described(one, atoms) for one in scans],
            }
        )
        curves |= {f"{_name(one, atoms)} {one.length:.2f} Å": one for one in scans}
    content = {
        "structures": found,
        "bonds": sum(len(one["bonds"]) for one in found),
        "with false minima": sum(bool(b["false minima"]) for one in found for b in one["bonds"]),
    }
    if curves:
        scanned = {name: (one.factors, one.energies) for name, one in curves.items()}
        plots.save_figure(plots.bond_scans(scanned), folder / "scans.png")
    write_whole(folder / "scans.json", json_text(content))
    log(_table(content))
    return content


def _structures(store: FrameStore) -> Iterator[tuple[str, Atoms]]:
    seen: set[str] = set()
    for index in np.flatnonzero(store.n_atoms <= MOST_ATOMS).tolist():
        atoms = store[index].to_atoms()
        formula = atoms.get_chemical_formula()
        if formula not in seen:
            seen.add(formula)
            yield store.source(index), atoms
        if len(seen) == MOST_STRUCTURES:
            return


def _name(one: BondScan, atoms: Atoms) -> str:
    return "–".join(chemical_symbols[atoms.numbers[k]] for k in one.bond)


def _described(one: BondScan, atoms: Atoms) -> dict[str, Any]:
    return {
        "atoms": list(one.bond),
        "pair": _name(one, atoms),
        "length (Å)": one.length,
        "false minima": list(one.false_minima),
        "lowest (eV)": float(one.energies.min()),
        "shortest (eV)": float(one.energies[0]),
        "longest (eV)": float(one.energies[-1]),
    }


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        "frame", "bonds", "false minima", "lowest, eV", "drift, meV/atom/ps",
        title="bonds from 0.6 to 1.8 of their length, and energy in NVE",
    )  # fmt: skip
    for one in content["structures"]:
        wrong = [bond for bond in one["bonds"] if bond["false minima"]]
        table.add_row(
            f"{one['formula']} ({one['frame']})",
            str(len(one["bonds"])),
            str(len(wrong)),
            f"{min((bond['lowest (eV)'] for bond in wrong), default=0.0):.3g}",
            f"{one['energy drift (meV/atom/ps)']:.2g}",
        )
    return table
