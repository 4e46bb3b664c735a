"""What is believed of a label that came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from eip.composition import OpenEnergies, open_energies
from eip.errors import InputError


@dataclass(frozen=True)
class LabelLimits:
    """What a label must keep to be believed.

    Attributes:
        max_force: of any atom, eV/Å.
        max_net_force: |ΣF| of the structure, eV/Å; None: not looked at. Exact forces sum to zero;
            the rest is the error of grids and of unconverged densities.
        energy_per_atom_window: (lowest, highest) eV per atom after ``element_energies`` are
            subtracted; None: not looked at.
        element_energies: eV by atomic number; None: zero.
        open_energies: what is not known of these. Energies of structures that hold it are not
            looked at: fragments of another composition than all whole frames have.

    Raises:
        InputError: if a bound is not positive or the window is empty.
    """

    max_force: float = 50.0
    max_net_force: float | None = 0.5
    energy_per_atom_window: tuple[float, float] | None = None
    element_energies: Mapping[int, float] | None = None
    open_energies: tuple[OpenEnergies, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_force", "max_net_force"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be > 0, got {value}")
        window = self.energy_per_atom_window
        if window is not None and not window[0] < window[1]:
            raise InputError(f"energy_per_atom_window must be (lower, upper), got {window}")


def check_label(labelled: Atoms, limits: LabelLimits) -> str | None:
    """Why a label is not to be believed; None if it is.

    Args:
        labelled: with a calculator that holds its results.

    Raises:
        InputError: if ``element_energies`` lacks an element of the structure.
    """
    results = getattr(labelled.calc, "results", None) or {}
    if results.get("energy") is None or results.get("forces") is None:
        return "it has no energy or no forces"
    energy, forces = float(results["energy"]), np.asarray(results["forces"], dtype=np.float64)
    if forces.shape != (len(labelled), 3):
        return f"forces of shape {forces.shape} for {len(labelled)} atoms"
    stress = results.get("stress")
    for name, values in (("energy", energy), ("forces", forces), ("stress", stress)):
        if values is not None and not np.isfinite(values).all():
            return f"{name} not finite"
    largest = np.linalg.norm(forces, axis=1)
    atom = int(largest.argmax())
    if largest[atom] > limits.max_force:
        return (
            f"force of {largest[atom]:.1f} eV/Å on atom {atom} "
            f"({chemical_symbols[labelled.numbers[atom]]}), more than {limits.max_force:g}"
        )
    net = float(np.linalg.norm(forces.sum(axis=0)))
    if limits.max_net_force is not None and net > limits.max_net_force:
        return f"net force of {net:.2f} eV/Å, more than {limits.max_net_force:g}"
    nothing = np.zeros(0, dtype=np.int64)
    has_open = any(one.differ(nothing, labelled.numbers) for one in limits.open_energies)
    if limits.energy_per_atom_window is not None and not has_open:
        lowest, highest = limits.energy_per_atom_window
        bound = (energy - _energy_of_elements(labelled, limits.element_energies)) / len(labelled)
        if not lowest <= bound <= highest:
            return (
                f"energy of {bound:.3f} eV per atom off the scale of the elements, expected "
                f"{lowest:g} to {highest:g}"
            )
    return None


def _energy_of_elements(atoms: Atoms, energies: Mapping[int, float] | None) -> float:
    if energies is None:
        return 0.0
    missing = set(atoms.numbers.tolist()) - set(energies)
    if missing:
        names = ", ".join(chemical_symbols[z] for z in sorted(missing))
        raise InputError(f"element_energies lack {names}")
    return float(sum(energies[z] for z in atoms.numbers.tolist()))


def with_energy_window(limits: LabelLimits, known: Sequence[Atoms]) -> LabelLimits:
    """The limits, with a window of energies about those of labelled structures.

    Energies of elements are fitted to them; the window is wide, 20 standard deviations of the
    residuals and 3 eV an atom at least: it is to catch another electronic state or a broken run,
    not strain.
    """
    elements = sorted({int(z) for atoms in known for z in atoms.numbers})
    counts = np.array([[np.sum(a.numbers == z) for z in elements] for a in known], float)
    energies = np.array([a.get_potential_energy() for a in known])
    # Median and a few rounds, because wrong ones may be among those that set the scale.
    inside = np.ones(len(known), dtype=bool)
    for _ in range(4):
        fitted = np.linalg.lstsq(counts[inside], energies[inside], rcond=None)[0]
        rest = (energies - counts @ fitted) / counts.sum(axis=1)
        middle = float(np.median(rest))
        spread = 1.4826 * float(np.median(np.abs(rest - middle)))
        width = max(3.0, 20.0 * spread)
        inside = np.abs(rest - middle) <= width
    return replace(
        limits,
        energy_per_atom_window=(middle - width, middle + width),
        element_energies=dict(zip(elements, fitted.tolist(), strict=True)),
        open_energies=tuple(open_energies(counts, elements)),
    )
