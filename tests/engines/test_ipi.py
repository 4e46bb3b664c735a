"""i-PI's driver says what ASE says, over a socket and inside i-PI, for ring polymers too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.socketio import SocketIOCalculator, SocketServer
from ase.io import write

import eip
import eip.engines.ipi_driver as driver_file
from eip.engines.ipi_driver import EIPDriver
from eip.errors import InputError, NonFinitePrediction
from eip.potential import Potential
from eip.simulation import Calculator
from eip.testing import check_engine, engine_structures
from eip.uncertainty.ensemble import EnsemblePotential

from .conftest import network

Said = dict[str, Any]


def in_atomic_units(driver: EIPDriver, atoms: Atoms) -> tuple[Any, ...]:
    return driver(atoms.cell.array.T / units.Bohr, atoms.positions / units.Bohr)


def by_driver(model: Potential, folder: Path) -> Callable[[Atoms], Said]:
    def evaluate(atoms: Atoms) -> Said:
        template = folder / f"{uuid.uuid4().hex}.xyz"
        write(template, atoms)
        celled = atoms.copy()
        if atoms.cell.rank < 3:
            celled.cell = np.eye(3) * 50.0  # i-PI always has a box
        energy, forces, virial, extras = in_atomic_units(EIPDriver(model, template), celled)
        said = {name: np.array(value) for name, value in json.loads(extras).items()}
        said |= {"energy": energy * units.Hartree, "virial": virial * units.Hartree}
        return said | {"forces": forces * units.Hartree / units.Bohr}

    return evaluate


@pytest.mark.parametrize("backbone", ["painn", "cartesian_ace"])
def test_it_keeps_the_contract_of_engines(backbone: str, tmp_path: Path) -> None:
    potential = network(backbone=backbone)
    check_engine(by_driver(potential, tmp_path), potential)


def test_a_batch_is_its_structures(model: Potential, tmp_path: Path) -> None:
    atoms = engine_structures(model.elements, model.cutoff)["silica"]
    write(tmp_path / "start.xyz", atoms)
    driver = EIPDriver(model, str(tmp_path / "start.xyz"), verbosity="high")
    beads = [atoms.copy() for _ in range(4)]
    for index, bead in enumerate(beads):
        bead.rattle(0.02, seed=index)
    together = driver(
        [bead.cell.array.T / units.Bohr for bead in beads],
        [bead.positions / units.Bohr for bead in beads],
    )
    for bead, (energy, forces, virial, extras) in zip(beads, together, strict=True):
        alone = in_atomic_units(driver, bead)
        assert energy == pytest.approx(alone[0], abs=1e-8)
        np.testing.assert_allclose(forces, alone[1], atol=1e-7)
        np.testing.assert_allclose(virial, alone[2], atol=1e-6)
        assert json.loads(extras)["uncertainty"] == pytest.approx(
            json.loads(alone[3])["uncertainty"], rel=1e-5
        )


@pytest.mark.parametrize("unix", [True, False])
def test_over_a_socket(unix: bool, model_file: Path, tmp_path: Path) -> None:
    """`eip serve`, with ASE's server in i-PI's place."""
    atoms = engine_structures((1, 8, 14), 4.0)["liquid water"]
    write(tmp_path / "start.xyz", atoms)
    where: dict[str, Any] = {"unix": f"eip_{uuid.uuid4().hex[:12]}"} if unix else {"port": _port()}
    listening = {"unixsocket": where["unix"]} if unix else where
    answered: list[int] = []
    with SocketServer(**listening) as server:
        served = threading.Thread(
            target=lambda: answered.append(eip.serve(model_file, tmp_path / "start.xyz", **where))
        )
        served.start()
        expected = atoms.copy()
        expected.calc = Calculator(model_file)
        for _ in range(3):
            said = server.calculate(atoms)
            extras = json.loads(said["morebytes"].tobytes().decode())
            assert said["energy"] == pytest.approx(expected.get_potential_energy(), abs=1e-5)
            np.testing.assert_allclose(said["forces"], expected.get_forces(), atol=1e-5)
            np.testing.assert_allclose(
                said["virial"], -expected.get_stress(voigt=False) * atoms.get_volume(), atol=1e-4
            )
            np.testing.assert_allclose(
                extras["force_uncertainty"], expected.calc.results["force_uncertainty"], rtol=1e-5
            )
            atoms.positions += 0.01
    served.join(60)
    assert answered == [3]


def test_ase_relaxes_by_it(run: Callable[..., Any], model_file: Path, tmp_path: Path) -> None:
    """The command, and a server that has a calculator's face."""
    atoms = engine_structures((1, 8, 14), 4.0)["silica"]
    write(tmp_path / "start.xyz", atoms)
    name = f"eip_{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "eip", "serve", model_file, tmp_path / "start.xyz"]
    with SocketIOCalculator(unixsocket=name) as server:
        process = subprocess.Popen(
            [*map(str, command), "--unix", name], stdout=subprocess.PIPE, text=True
        )
        atoms.calc = server
        forces = atoms.get_forces()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "1 structures were answered" in out
    expected = atoms.copy()
    expected.calc = Calculator(model_file)
    np.testing.assert_allclose(forces, expected.get_forces(), atol=1e-5)


def test_what_cannot_be_is_said(model: Potential, model_file: Path, tmp_path: Path) -> None:
    atoms = engine_structures(model.elements, model.cutoff)["silica"]
    write(tmp_path / "start.xyz", atoms)
    driver = EIPDriver(model, tmp_path / "start.xyz")
    with pytest.raises(InputError, match=r"asks for 6 atoms, and .*start\.xyz has 9"):
        in_atomic_units(driver, atoms[:6])
    broken = atoms.copy()
    broken.positions[1] = broken.positions[0]
    with pytest.raises(NonFinitePrediction, match="structure 0: atoms 0 and 1"):
        in_atomic_units(driver, broken)
    write(tmp_path / "iron.xyz", Atoms("Fe"))
    with pytest.raises(InputError, match="holds Fe"):
        EIPDriver(model, tmp_path / "iron.xyz")
    with pytest.raises(InputError, match=r"nobody listens at /tmp/ipi_nobody.*start the server"):
        eip.serve(model_file, tmp_path / "start.xyz", unix="nobody")
    with pytest.raises(InputError, match="nobody listens at localhost:1"):
        eip.serve(model_file, tmp_path / "start.xyz", port=1)
    with pytest.raises(InputError, match="got both"):
        eip.serve(model_file, tmp_path / "start.xyz", port=1, unix="nobody")


PATH_INTEGRALS = """<simulation mode='md' verbosity='low' threading='false'>
  <output prefix='run'>
    <properties filename='out' stride='1'> [step, potential, conserved] </properties>
    <trajectory filename='pos' stride='1' format='xyz' bead='0'> positions{{angstrom}} </trajectory>
    <trajectory filename='sigma' stride='1' extra_type='force_uncertainty'> extras </trajectory>
  </output>
  <total_steps> 4 </total_steps>
  <prng> <seed> 7 </seed> </prng>
  {forcefield}
  <system>
    <initialize nbeads='8'>
      <file mode='ase' units='angstrom'> start.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='eip'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.25 </timestep>
        <thermostat mode='pile_g'> <tau units='femtosecond'> 100 </tau> </thermostat>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


def _i_pi(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("i-pi"), "input.xml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _sigma(folder: Path, bead: int) -> np.ndarray:
    """σ of a bead's atoms at each step, eV/Å."""
    text = (folder / f"run.sigma_{bead}").read_text()
    rows = [line.split() for line in text.splitlines() if "#" not in line]
    return np.array([float(word) for row in rows for word in row])


@pytest.mark.engines
@pytest.mark.parametrize("how", ["eip serve", "i-PI's own driver", "inside i-PI"])
def test_path_integrals_of_water(how: str, model_file: Path, tmp_path: Path) -> None:
    """Eight beads, σ in the extras, by each of the ways to join the two."""
    pytest.importorskip("ipi", reason="i-PI is not installed: pip install 'eip[ipi]'")
    atoms = engine_structures((1, 8, 14), 4.0)["liquid water"]
    write(tmp_path / "start.xyz", atoms)
    name = f"eip_{uuid.uuid4().hex[:12]}"
    forcefield = (
        f"<ffsocket name='eip' mode='unix' pbc='false'> <address>{name}</address> </ffsocket>"
    )
    parameters = f"model:{model_file},template:start.xyz"
    if how == "inside i-PI":
        forcefield = (
            "<ffdirect name='eip' pbc='false'> <pes>custom</pes> "
            f"<pes_path>{driver_file.__file__}</pes_path> <batch_size>8</batch_size> "
            f"<parameters> {{{parameters}}} </parameters> </ffdirect>"
        )
    (tmp_path / "input.xml").write_text(PATH_INTEGRALS.format(forcefield=forcefield))
    served = None
    ipi = _i_pi(tmp_path)
    try:
        if how == "eip serve":
            _wait_for(Path(f"/tmp/ipi_{name}"), ipi)
            assert eip.serve(model_file, tmp_path / "start.xyz", unix=name) >= 40
        elif how == "i-PI's own driver":
            _wait_for(Path(f"/tmp/ipi_{name}"), ipi)
            served = subprocess.Popen(
                [
                    *(Path(sys.executable).with_name("i-pi-driver-py"), "-m", "custom"),
                    *("-P", driver_file.__file__, "-u", "-a", name),
                    *("-o", f"model={model_file},template={tmp_path / 'start.xyz'}"),
                ]
            )
        said, _ = ipi.communicate(timeout=600)
    finally:
        ipi.kill()
        if served is not None:
            served.kill()
    assert ipi.returncode == 0, said
    table = np.loadtxt(tmp_path / "run.out")
    assert len(table) == 5 and np.isfinite(table).all()
    # σ of the first bead at the start is that of the structure i-PI began with.
    atoms.calc = Calculator(model_file)
    atoms.get_forces()
    first = _sigma(tmp_path, 0)
    assert len(first) == 5 * len(atoms)
    np.testing.assert_allclose(
        first[: len(atoms)], atoms.calc.results["force_uncertainty"], rtol=1e-4
    )
    assert np.ptp(table[:, 2]) < 1e-3  # what is conserved, Hartree


COMMITTEE = """<simulation mode='md' verbosity='low' threading='false'>
  <output prefix='run'>
    <properties filename='out' stride='1'> [step, potential] </properties>
    <trajectory filename='spread' extra_type='committee_uncertainty'> extras </trajectory>
    <trajectory filename='forces' stride='1' format='xyz'> forces </trajectory>
  </output>
  <total_steps> 1 </total_steps>
  <ffcommittee name='all'>
    {members}
    {more}
  </ffcommittee>
  <system>
    <initialize nbeads='1'> <file mode='ase' units='angstrom'> start.xyz </file> </initialize>
    <forces> <force forcefield='all'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.25 </timestep> </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""


@pytest.mark.engines
def test_a_committee_of_i_pi_is_an_ensemble(tmp_path: Path) -> None:
    """Its mean is `EnsemblePotential`'s, its spread that of the members' energies; over a baseline
    it is weighted by that spread, as i-PI has it."""
    pytest.importorskip("ipi", reason="i-PI is not installed: pip install 'eip[ipi]'")
    atoms = engine_structures((1, 8, 14), 4.0)["liquid water"]
    write(tmp_path / "start.xyz", atoms)
    members = []
    for k in range(3):
        member = network(head="none")
        with torch.no_grad():
            for weight in member.parameters():
                weight.mul_(1 + 0.02 * k)
        eip.save(member, tmp_path / f"{k}.eip")
        members.append(member)

    def run(of: Sequence[int], more: str = "") -> tuple[float, float, np.ndarray]:
        forcefields = "".join(
            f"<ffdirect name='m{k}' pbc='false'> <pes>custom</pes> "
            f"<pes_path>{driver_file.__file__}</pes_path> "
            f"<parameters> {{model:{k}.eip,template:start.xyz}} </parameters> </ffdirect>"
            for k in of
        )
        (tmp_path / "input.xml").write_text(COMMITTEE.format(members=forcefields, more=more))
        ipi = _i_pi(tmp_path)
        said, _ = ipi.communicate(timeout=600)
        assert ipi.returncode == 0, said
        spread = np.loadtxt(tmp_path / "run.spread_0", ndmin=1)[0] * units.Hartree
        energy = np.loadtxt(tmp_path / "run.out", ndmin=2)[0, 1] * units.Hartree
        rows = (tmp_path / "run.forces_0.xyz").read_text().splitlines()[2 : 2 + len(atoms)]
        said_forces = np.array([row.split()[1:4] for row in rows], dtype=float)
        return energy, spread, said_forces * units.Hartree / units.Bohr

    def by_ase(potential: Potential) -> tuple[float, np.ndarray]:
        alone = atoms.copy()
        alone.calc = Calculator(potential)
        return alone.get_potential_energy(), alone.get_forces()

    energies, forces = zip(*(by_ase(member) for member in members), strict=True)
    energy, spread, mean_forces = run([0, 1])
    ensemble_energy, ensemble_forces = by_ase(EnsemblePotential(members[:2]))
    assert energy == pytest.approx(ensemble_energy, abs=1e-4)
    assert spread == pytest.approx(np.std(energies[:2], ddof=1), rel=1e-4)
    digits = 1e-4 * np.abs(ensemble_forces).max()  # that i-PI writes
    np.testing.assert_allclose(mean_forces, ensemble_forces, atol=digits)

    # The first two are a correction of the third, which is trusted to `trust` Hartree.
    trust = float(np.std(energies[:2], ddof=1)) / units.Hartree
    energy, _, weighted_forces = run(
        [0, 1, 2],
        "<weights> [1.0, 1.0] </weights> <baseline_name> m2 </baseline_name> "
        f"<baseline_uncertainty> {trust} </baseline_uncertainty>",
    )
    mean = np.mean(energies[:2])
    # The half is a ratio of variances, known as well as float32 knows the energies' difference.
    assert energy == pytest.approx(energies[2] + mean / 2, abs=1e-6 * abs(mean))
    apart = (np.array(energies[:2]) - mean)[:, None, None] * (forces[:2] - np.mean(forces[:2], 0))
    variance = np.var(energies[:2], ddof=1)
    push = -2 * mean * variance / (2 * variance) ** 2 * apart.sum(0)
    expected = forces[2] + np.mean(forces[:2], 0) / 2 + push
    np.testing.assert_allclose(weighted_forces, expected, atol=1e-4 * np.abs(expected).max())


def _port() -> int:
    """One that nobody listens at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
