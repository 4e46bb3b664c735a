"""ASE's integrators: the start of a run, one step, and their state as JSON."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixCom
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.verlet import VelocityVerlet
from jaxtyping import Float

from eip.errors import InputError
from eip.simulation.settings import DynamicsSettings
from eip.units import BOLTZMANN, FEMTOSECOND

_CHAIN = ("_thermostat._eta", "_thermostat._p_eta")
#: What an integrator remembers beside positions, momenta, cell and the noise's generator. ASE has
#: no way to ask for it, hence the private names; the tests of continuation hold them in place.
_MEMORY: dict[str, tuple[str, ...]] = {
    "langevin": (),
    "bussi": (),
    "nose-hoover": _CHAIN,
    "nvt-berendsen": (),
    "nve": (),
    "npt": (*_CHAIN, "_barostat._xi", "_barostat._p_xi", "_eps", "_p_eps", "_cell0", "_volume0"),
}


class _Conserved:
    """Tells ASE how many degrees of freedom never move, and constrains nothing.

    Without it ASE's thermostats count 3N and heat a small molecule by N/(N − 1) or more.
    """

    def __init__(self, removed: int) -> None:
        self.removed = removed

    def get_removed_dof(self, atoms: Atoms) -> int:
        return self.removed

    def adjust_positions(self, atoms: Atoms, new: np.ndarray) -> None: ...

    def adjust_momenta(self, atoms: Atoms, momenta: np.ndarray) -> None: ...

    def adjust_forces(self, atoms: Atoms, forces: np.ndarray) -> None: ...

    def copy(self) -> _Conserved:
        return _Conserved(self.removed)


def draw_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Momenta of Maxwell and Boltzmann, without net momentum, and without rotation of a molecule.

    The projection of the distribution is the distribution in the subspace: nothing is rescaled.
    With constraints the momenta are only constrained.
    """
    masses = atoms.get_masses()[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * BOLTZMANN * temperature)
    if atoms.constraints:
        atoms.set_momenta(momenta)
        return
    if len(atoms) > 1:
        velocities = momenta / masses - momenta.sum(axis=0) / masses.sum()
        if not atoms.pbc.any():
            arm = atoms.positions - atoms.get_center_of_mass()
            angular = (masses * np.cross(arm, velocities)).sum(axis=0)
            # A linear molecule's inertia is singular; its own axis carries no rotation.
            spin = np.linalg.pinv(_inertia(atoms), rcond=1e-8) @ angular
            velocities -= np.cross(spin, arm)
        momenta = masses * velocities
    atoms.set_momenta(momenta)


def _inertia(atoms: Atoms) -> Float[np.ndarray, "3 3"]:
    arm = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    second = np.einsum("n,na,nb->ab", masses, arm, arm)
    return np.trace(second) * np.eye(3) - second


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """Degrees of freedom that carry kinetic energy, for the temperature.

    The centre of mass rests. A molecule in vacuum does not rotate either, where the ensemble's
    thermostat scales velocities or is none; Langevin's noise sets it spinning.
    """
    if atoms.constraints or len(atoms) == 1:
        return max(int(atoms.get_number_of_degrees_of_freedom()), 1)
    rotations = 0
    if not atoms.pbc.any() and ensemble != "langevin":
        rotations = int(np.linalg.matrix_rank(_inertia(atoms), rtol=1e-8))
    return max(3 * len(atoms) - 3 - rotations, 1)


class Integrator:
    """One of ASE's integrators on a structure with a calculator and momenta.

    Args:
        dof: degrees of freedom that move, of the run's start; see `degrees_of_freedom`.
        rng: noise of Langevin and Bussi.

    Raises:
        InputError: if the ensemble cannot be had for this structure.
    """

    def __init__(
        self, atoms: Atoms, settings: DynamicsSettings, dof: int, rng: np.random.Generator
    ) -> None:
        self.atoms, self.rng, self._ensemble, self._dof = atoms, rng, settings.ensemble, dof
        self._dynamics = self._build(settings)

    def _build(self, settings: DynamicsSettings) -> Any:
        atoms, ensemble = self.atoms, settings.ensemble
        constrained = bool(atoms.constraints)
        if constrained and ensemble in ("nose-hoover", "npt"):
            raise InputError(
                f"ensemble '{ensemble}' cannot hold constraints, and the structure has "
                f"{len(atoms.constraints)}; take langevin or bussi, or drop them"
            )
        if ensemble == "npt" and not atoms.pbc.all():
            raise InputError(
                f"npt needs a structure periodic in all three directions, got pbc "
                f"{atoms.pbc.tolist()}"
            )
        temperature = settings.temperature
        thermostat = {"temperature_K": temperature, "taut": settings.taut_fs * FEMTOSECOND}
        # The chains' kinetic energy is to be that of 3N degrees of freedom, some of which rest.
        chain: dict[str, Any] = {
            "temperature_K": temperature * self._dof / (3 * len(atoms)),
            "tdamp": settings.taut_fs * FEMTOSECOND,
        }
        step = settings.timestep_fs * FEMTOSECOND
        if ensemble == "npt":  # Takes no constraint at all, nor asks for degrees of freedom.
            pdamp = settings.taup_fs * FEMTOSECOND
            return IsotropicMTKNPT(atoms, step, pressure_au=settings.pressure, pdamp=pdamp, **chain)
        if not constrained and len(atoms) > 1:
            removed = 3 * len(atoms) - self._dof
            atoms.set_constraint(FixCom() if ensemble == "langevin" else _Conserved(removed))
        if ensemble == "langevin":
            friction = settings.friction / FEMTOSECOND
            # Its own fixcm is deprecated, for it samples small systems wrongly.
            return Langevin(
                atoms, step, temperature_K=temperature, friction=friction, fixcm=False, rng=self.rng
            )
        if ensemble == "bussi":
            return Bussi(atoms, step, rng=self.rng, **thermostat)
        if ensemble == "nvt-berendsen":
            still = not constrained and len(atoms) > 1
            return NVTBerendsen(atoms, step, fixcm=still, **thermostat)
        if ensemble == "nose-hoover":
            return NoseHooverChainNVT(atoms, step, **chain)
        return VelocityVerlet(atoms, step)

    def step(self) -> None:
        self._dynamics.step()

    def temperature(self) -> float:
        """K, over the degrees of freedom that move."""
        return 2 * float(self.atoms.get_kinetic_energy()) / (self._dof * BOLTZMANN)

    def state(self) -> dict[str, Any]:
        """All that positions, momenta and cell do not tell; JSON-able and exact."""
        memory = {path: np.asarray(self._get(path)).tolist() for path in _MEMORY[self._ensemble]}
        return {"memory": memory, "noise": self.rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`; positions, momenta and cell are in the atoms already."""
        self.rng.bit_generator.state = state["noise"]
        for path, value in state["memory"].items():
            owner, _, name = path.rpartition(".")
            target = reduce(getattr, owner.split("."), self._dynamics) if owner else self._dynamics
            setattr(target, name, np.array(value) if isinstance(value, list) else value)

    def _get(self, path: str) -> Any:
        return reduce(getattr, path.split("."), self._dynamics)
