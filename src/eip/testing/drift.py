"""Whether dynamics without a thermostat keep the energy: forces that are the energy's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.md.verlet import VelocityVerlet
from jaxtyping import Float

from eip.potential import Potential
from eip.simulation import Calculator
from eip.simulation.integrators import draw_momenta
from eip.testing.contract import moved_copy
from eip.units import FEMTOSECOND


@dataclass(frozen=True, eq=False)
class EnergyDrift:
    """How the total energy of a run went.

    Attributes:
        slope: of a line through it, eV/atom/ps.
        fluctuation: standard deviation about that line, eV/atom; it falls with the square of the
            time step.
        energies: total energy at each step, eV/atom, from the first one's.
    """

    slope: float
    fluctuation: float
    energies: Float[np.ndarray, "steps"]


def energy_drift(
    potential: Potential,
    atoms: Atoms,
    *,
    temperature: float = 300.0,
    timestep_fs: float = 0.5,
    steps: int = 2000,
    seed: int = 0,
) -> EnergyDrift:
    """NVE dynamics by velocity Verlet from a structure, in the potential's own precision.

    Args:
        temperature: of the first momenta, K.
        steps: after a tenth as many, which are not counted.
    """
    moving = moved_copy(atoms, atoms.positions)
    moving.calc = Calculator(potential)
    draw_momenta(moving, temperature, np.random.default_rng(seed))
    dynamics = VelocityVerlet(moving, timestep_fs * FEMTOSECOND)
    dynamics.run(steps // 10)
    found = []
    for _ in range(steps):
        dynamics.run(1)
        found.append(moving.get_total_energy() / len(moving))
    energies = np.array(found) - found[0]
    time = np.arange(steps) * timestep_fs / 1000.0
    slope, offset = np.polyfit(time, energies, 1)
    return EnergyDrift(float(slope), float((energies - slope * time - offset).std()), energies)
