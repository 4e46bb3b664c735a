"""Which of these forces can I believe? Lithium on its way between two sites of LiFePO4.

    pip install "eip[chgnet,sevenn]"
    python examples/lithium_hop/run.py --out runs/lithium_hop    # some minutes of one core

CHGNet is given an error bar by frames of the crystal with shaken atoms, and asked about one that
none of them resembles: a lithium atom halfway to a vacancy. The labels are of another universal
potential (SevenNet l3i5, trained on calculations of the same kind), which stands in for the
method that you trust: with labels of your own DFT the rest is the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import rich
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from PIL import Image

import eip
from eip.builders import lifepo4


def shaken(count: int) -> list[Atoms]:
    """Cells of the crystal, some with a vacancy, strained by a few per cent."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        atoms = lifepo4(vacancies=number % 2, seed=number)
        strain = np.eye(3) + 0.015 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
        atoms.rattle(rng.uniform(0.03, 0.15), rng=rng)
        frames.append(atoms)
    return frames


def hop() -> tuple[Atoms, int]:
    """Two cells along b with a vacancy, and the lithium atom that is halfway to it."""
    atoms = lifepo4((1, 2, 1))
    lithium = [i for i in range(len(atoms)) if atoms[i].symbol == "Li"]
    # Lithium moves along b: the next site is half a cell's b away.
    goer = min(lithium, key=lambda i: np.linalg.norm(atoms.positions[i] - 0.5 * atoms.cell.sum(0)))
    apart = {i: atoms.get_distance(goer, i, mic=True) for i in lithium if i != goer}
    vacant = min(apart, key=lambda i: apart[i])
    atoms.positions[goer] += 0.5 * atoms.get_distance(goer, vacant, mic=True, vector=True)
    others = [i for i in range(len(atoms)) if i != goer]
    atoms.positions[others] += np.random.default_rng(1).normal(scale=0.05, size=(len(others), 3))
    del atoms[vacant]
    return atoms, goer - (vacant < goer)


def label(frames: list[Atoms], calculator: Calculator) -> None:
    """Energies and forces."""
    for atoms in frames:
        known = atoms.copy()
        known.calc = calculator
        atoms.calc = SinglePointCalculator(
            atoms, energy=known.get_potential_energy(), forces=known.get_forces()
        )


def picture(atoms: Atoms, columns: dict[str, np.ndarray], goer: int, path: Path) -> None:
    """Atoms along c in the colours of numbers, eV/Å, beside each other on one scale."""
    largest = max(values.max() for values in columns.values())
    figure, axes = plt.subplots(
        1, len(columns), figsize=(7.5, 4.4), sharey=True, layout="constrained"
    )
    atoms = atoms.copy()
    atoms.wrap()
    order = np.argsort(atoms.positions[:, 2])  # what is in front comes last
    x, y, _ = atoms.positions[order].T
    for ax, (title, values) in zip(axes, columns.items(), strict=True):
        drawn = ax.scatter(
            *(x, y, 330 * covalent_radii[atoms.numbers[order]] ** 2),
            c=values[order],
            cmap="inferno_r",
            vmin=0.0,
            vmax=largest,
            edgecolors="black",
            linewidths=0.6,
        )
        ax.set(title=title, aspect="equal", xlabel="a, Å")
        place = atoms.positions[goer, :2]
        ax.annotate("Li", place, place + (0.2, 2.0), arrowprops={"arrowstyle": "->"}, fontsize=9)
    axes[0].set_ylabel("b, Å")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="eV/Å")
    figure.savefig(path, dpi=90)
    Image.open(path).quantize(96).save(path, optimize=True)  # a third of the size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--weights", default="7net-l3i5", help="of the reference: or 7net-0")
    parser.add_argument("--out", type=Path, default=Path("runs/lithium_hop"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    from sevenn.calculator import SevenNetCalculator

    reference = SevenNetCalculator(given.weights, device="cpu")
    frames = shaken(given.frames)
    label(frames, reference)
    ase.io.write(given.out / "labelled.xyz", frames)
    model = eip.attach(
        "chgnet", given.out / "labelled.xyz", given.out / "chgnet.eip", log=rich.print
    )

    atoms, goer = hop()
    label([atoms], reference)
    said = eip.load(model).predict(atoms)
    sigma, grade = said.force_uncertainty.numpy(), said.extrapolation_grade.numpy()
    error = np.linalg.norm(said.forces.numpy() - atoms.get_forces(), axis=1) / np.sqrt(3)
    print("the worst forces: atom, error, σ (eV/Å), grade, distance from the lithium (Å)")
    for i in np.argsort(-error)[:6]:
        apart = 0.0 if i == goer else atoms.get_distance(i, goer, mic=True)
        row = (error[i], sigma[i], grade[i], apart)
        print(f"{i:3d} {atoms[i].symbol:2s}", *(f"{value:6.2f}" for value in row))
    ranks = np.argsort(np.argsort(sigma)), np.argsort(np.argsort(error))
    print(f"rank correlation of σ and error over the atoms: {np.corrcoef(*ranks)[0, 1]:.2f}")
    columns = {"σ of CHGNet's forces": sigma, "what they are off by": error}
    picture(atoms, columns, goer, given.out / "picture.png")


if __name__ == "__main__":
    main()
