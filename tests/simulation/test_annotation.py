"""σ goes through every file that ASE writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.db import connect
from ase.io import read, write
from ase.io.trajectory import Trajectory

import eip
from eip.data.readers import read_frames
from eip.errors import InputError
from eip.simulation import Calculator
from eip.uncertainty.evidential import EvidentialPotential

from .toy import ToyPotential, cluster, crystal

Way = Callable[[Path, Atoms], Atoms]


def _extxyz(folder: Path, atoms: Atoms) -> Atoms:
    write(folder / "a.xyz", eip.annotate(atoms))
    write(folder / "a.xyz", eip.annotate(atoms), append=True)
    return read(folder / "a.xyz", -1)


def _trajectory(folder: Path, atoms: Atoms) -> Atoms:
    with Trajectory(folder / "a.traj", "w") as trajectory:
        trajectory.write(eip.annotate(atoms))
    return eip.annotate(Trajectory(folder / "a.traj")[0])


def _written(folder: Path, atoms: Atoms) -> Atoms:
    write(folder / "b.traj", eip.annotate(atoms))
    return eip.annotate(read(folder / "b.traj"))


def _database(suffix: str) -> Way:
    def way(folder: Path, atoms: Atoms) -> Atoms:
        with connect(folder / f"a.{suffix}") as database:
            number = database.write(eip.annotate(atoms))
        return eip.annotate(connect(folder / f"a.{suffix}").get(id=number))

    return way


def network() -> EvidentialPotential:
    torch.manual_seed(0)
    return EvidentialPotential(
        elements=(1, 8, 18, 29), element_energies=dict.fromkeys((1, 8, 18, 29), -1.0),
        force_scale=1.0, channels=8, cutoff=4.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "way",
    [_extxyz, _trajectory, _written, _database("db"), _database("json")],
    ids=["extxyz", "Trajectory", "write traj", "db", "json"],
)
def test_sigma_goes_through_a_file_and_back(tmp_path: Path, way: Way) -> None:
    atoms = crystal(1, spread=0.1)
    atoms.info["name"] = "kept"
    atoms.set_tags(range(len(atoms)))
    atoms.calc = Calculator(network(), stress=True)
    back = way(tmp_path, atoms)
    results = atoms.calc.results
    for name in ("force_uncertainty", "force_aleatoric"):
        np.testing.assert_allclose(back.arrays[name], results[name], rtol=1e-6, atol=1e-8)
    assert back.info["uncertainty"] == pytest.approx(results["uncertainty"], rel=1e-7)
    np.testing.assert_allclose(back.get_forces(), results["forces"], atol=1e-7)
    np.testing.assert_allclose(back.get_stress(), results["stress"], atol=1e-8)
    assert back.get_potential_energy() == pytest.approx(results["energy"])
    assert not {"force_uncertainty", "uncertainty"} & {*atoms.arrays, *atoms.info}
    # What it was read from may be written again.
    again = way(tmp_path, eip.annotate(back)) if way is not _extxyz else back
    np.testing.assert_array_equal(
        again.arrays["force_uncertainty"], back.arrays["force_uncertainty"]
    )


def test_what_the_structure_has_of_its_own_stays(tmp_path: Path) -> None:
    atoms = cluster(5)
    atoms.info["name"] = "kept"
    atoms.set_tags(range(5))
    atoms.calc = Calculator(ToyPotential())
    back = read_back = _extxyz(tmp_path, atoms)
    assert back.info["name"] == "kept"
    assert read_back.get_tags().tolist() == list(range(5))


def test_a_structure_that_moved_is_computed_anew() -> None:
    toy = ToyPotential()
    atoms = cluster(5)
    atoms.calc = Calculator(toy)
    before = eip.annotate(atoms)
    atoms.positions[0] += 0.1
    after = eip.annotate(atoms)
    assert toy.calls == 2
    assert (before.arrays["force_uncertainty"] != after.arrays["force_uncertainty"]).any()
    eip.annotate(atoms)
    assert toy.calls == 2


def test_matrices_are_in_what_has_room_for_them(tmp_path: Path) -> None:
    atoms = crystal(1, spread=0.1)
    atoms.calc = Calculator(network())
    annotated = eip.annotate(atoms)
    assert "force_covariance" not in annotated.arrays
    back = _trajectory(tmp_path, atoms)
    np.testing.assert_allclose(
        back.calc.parameters["predicted"]["force_covariance"],
        atoms.calc.results["force_covariance"],
    )


def test_a_database_row_is_found_by_its_sigma(tmp_path: Path) -> None:
    """The way of ASE's databases: numbers to search by, arrays as data."""
    with connect(tmp_path / "a.db") as database:
        for spread in (0.05, 0.1, 0.2):
            atoms = crystal(1, spread=spread)
            atoms.calc = Calculator(ToyPotential())
            atoms.get_forces()
            results = atoms.calc.results
            database.write(atoms, uncertainty=results["uncertainty"], data=results.own)
    last = atoms.calc.results
    (row,) = connect(tmp_path / "a.db").select(f"uncertainty>{last['uncertainty'] - 1e-6}")
    np.testing.assert_allclose(row.data["force_uncertainty"], last["force_uncertainty"])


def test_what_is_written_is_read_as_labels(tmp_path: Path) -> None:
    atoms = crystal(1, spread=0.1)
    atoms.calc = Calculator(network())
    write(tmp_path / "a.xyz", eip.annotate(atoms))
    write(tmp_path / "a.db", eip.annotate(atoms))
    for name in ("a.xyz", "a.db"):
        (frame,) = read_frames(tmp_path / name)
        assert frame.energy == pytest.approx(atoms.get_potential_energy())
        assert frame.forces == pytest.approx(atoms.get_forces(), abs=1e-7)


def test_a_structure_without_predictions_is_refused() -> None:
    with pytest.raises(InputError, match=r"eip\.Calculator, or read from a file .* got one with n"):
        eip.annotate(cluster(3))
