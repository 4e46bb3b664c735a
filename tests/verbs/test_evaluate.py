"""`eip evaluate`: one evaluation in a folder, and no errors of energies that mean nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.stress import full_3x3_to_voigt_6_stress

import eip
from eip.errors import InputError
from eip.neighbors import build_graph
from eip.uncertainty.energy_error import fit_energy_error
from eip.uncertainty.methods import new_network
from eip.verbs.evaluate import NO_ENERGIES

Runner = Callable[..., tuple[int, str, str]]
NETWORK = {
    "elements": [1, 6], "force_scale": 1.0, "backbone": "painn", "channels": 8, "interactions": 1,
    "radial_functions": 6, "cutoff": 3.5, "zbl": False,
}  # fmt: skip


def model(
    path: Path, energy_weight: float = 1.0, energies: tuple[float, float] = (-3.0, -9.0)
) -> Path:
    potential = new_network(
        "none", element_energies=dict(zip((1, 6), energies, strict=True)), **NETWORK
    )
    config = {"training": {"energy_weight": energy_weight}, "model": {"uncertainty": "none"}}
    eip.save(potential, path, {"config": config})
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    out = []
    for seed in range(3):
        atoms = molecule("CH4")
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        out.append(atoms)
    write(tmp_path / "frames.xyz", out)
    return tmp_path / "frames.xyz"


def test_a_folder_holds_one_evaluation(frames: Path, tmp_path: Path) -> None:
    out, one = tmp_path / "out", model(tmp_path / "one.eip")
    eip.evaluate(one, [frames], out, ood=[frames], progress=False)
    assert (out / "predictions_ood.xyz").is_file()
    assert "gives no uncertainty" in (out / "report.html").read_text()
    again = eip.evaluate(one, [frames], out, ood=[frames], progress=False)
    assert again["n_frames"] == 3
    with pytest.raises(InputError, match=r"asked otherwise: ood was .*replace it with --force"):
        eip.evaluate(one, [frames], out, progress=False)
    eip.evaluate(one, [frames], out, force=True, progress=False)
    assert not (out / "predictions_ood.xyz").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    remedy = r"notes\.txt; replace it with --force \(force=True\), or choose another"
    with pytest.raises(InputError, match=remedy):
        eip.evaluate(one, [frames], tmp_path / "mine", progress=False)


def test_stress_is_measured_where_all_frames_have_it(tmp_path: Path) -> None:
    one = model(tmp_path / "one.eip")
    shift = np.array([0.001, -0.002, 0.003, 0.0, 0.004, -0.005])  # xx, yy, zz, yz, xz, xy
    out = []
    for seed in range(3):
        atoms = molecule("CH4", cell=[5.0, 5.5, 6.0], pbc=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = eip.Calculator(one)
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        labels["stress"] = atoms.get_stress() + shift
        atoms.calc = SinglePointCalculator(atoms, **labels)
        out.append(atoms)
    write(tmp_path / "frames.xyz", out)
    metrics = eip.evaluate(one, [tmp_path / "frames.xyz"], tmp_path / "out", progress=False)
    assert metrics["stress_mae"] == pytest.approx(np.abs(shift).mean(), rel=1e-3)
    assert metrics["stress_rmse"] == pytest.approx(np.sqrt((shift**2).mean()), rel=1e-3)
    frame = read(tmp_path / "out/predictions.xyz")
    stress = full_3x3_to_voigt_6_stress(np.reshape(frame.info["eip_stress"], (3, 3)))
    np.testing.assert_allclose(frame.get_stress() - stress, shift, atol=1e-6)
    del out[0].calc.results["stress"]
    write(tmp_path / "frames.xyz", out)
    metrics = eip.evaluate(
        one, [tmp_path / "frames.xyz"], tmp_path / "out", force=True, progress=False
    )
    assert math.isnan(metrics["stress_mae"]) and metrics["force_mae"] < 1e-5


def test_energies_of_a_model_of_forces_alone_have_no_error(frames: Path, tmp_path: Path) -> None:
    told: list[object] = []
    metrics = eip.evaluate(
        model(tmp_path / "forces.eip", energy_weight=0.0),
        [frames], tmp_path / "out", progress=False, log=told.append,
    )  # fmt: skip
    assert NO_ENERGIES in told and math.isnan(metrics["energy_mae_per_atom"])
    assert json.loads((tmp_path / "out/metrics.json").read_text())["energy_mae_per_atom"] is None
    assert metrics["force_mae"] > 0


def test_info_says_what_energies_mean(tmp_path: Path) -> None:
    told = eip.info(model(tmp_path / "one.eip", energies=(-5.0, -5.0)))
    assert "one composition" in told["note"] and "calibration" not in told
    assert "note" not in eip.info(model(tmp_path / "two.eip"))


def test_what_energies_leave_open_is_said(frames: Path, tmp_path: Path) -> None:
    inside = new_network(
        "tensor", element_energies={1: -5.0, 6: -5.0}, **NETWORK
    ).eval().requires_grad_(False)  # fmt: skip
    structures = read(frames, ":") * 4
    graph = build_graph(structures, inside.cutoff)
    labels = [(graph, inside(graph, forces=False).energy + 0.01 * torch.arange(12))]
    eip.save(fit_energy_error(inside, [graph], labels), tmp_path / "one.eip")
    said = "Energies of C and H cannot be told apart: all training frames have the composition CH4"
    told: list[object] = []
    metrics = eip.evaluate(
        tmp_path / "one.eip", frames, tmp_path / "out", progress=False, log=told.append
    )
    assert sum(str(text).startswith(said) for text in told) == 1
    assert 0.0 <= metrics["energy_coverage_80"] <= 1.0 and metrics["mean_energy_uncertainty"] > 0
    assert read(tmp_path / "out/predictions.xyz").info["energy_uncertainty"] > 0
    about = eip.info(tmp_path / "one.eip")
    assert about["note"].startswith(said) and about["kind"] == "evidential"
    assert (
        "eV an atom where it is open how energy is shared among C, H" in about["energy error bar"]
    )


def test_info_names_what_may_be_labels(frames: Path, tmp_path: Path) -> None:
    atoms = read(frames)
    atoms.info["my_E"], atoms.arrays["my_F"] = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    write(tmp_path / "odd.xyz", atoms)
    (doubt,) = [d for d in eip.info(tmp_path / "odd.xyz")["doubts"] if "my_E" in d]
    assert "my_F" in doubt and "--energy-key and --forces-key" in doubt


def test_scans_look_where_no_frame_is(frames: Path, tmp_path: Path, run: Runner) -> None:
    one, out = model(tmp_path / "one.eip"), tmp_path / "out"
    code, printed, _ = run("evaluate", one, frames, "--scan", "--out", out, "--no-progress")
    assert code == 0 and {"false", "minima"} <= set(printed.split())
    content = json.loads((out / "scans.json").read_text())
    assert content["bonds"] == 4 and len(content["structures"]) == 1  # the same molecule thrice
    (structure,) = content["structures"]
    assert structure["formula"] == "CH4" and structure["frame"].endswith("frames.xyz#0")
    assert {bond["pair"] for bond in structure["bonds"]} <= {"C–H", "H–C"}
    assert abs(structure["energy drift (meV/atom/ps)"]) < 1.0
    assert (out / "scans.png").stat().st_size > 10_000
    eip.evaluate(one, [frames], out, force=True, progress=False)
    assert not (out / "scans.json").exists()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_force_takes_nothing_of_another_run(frames: Path, tmp_path: Path) -> None:
    one, mine = model(tmp_path / "one.eip"), tmp_path / "mine"
    mine.mkdir()
    for name in ("report.html", "metrics.json", "notes.txt"):
        (mine / name).write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        eip.evaluate(one, [frames], mine, force=True, progress=False)
    (mine / "run.json").write_text(json.dumps({"format": 1, "verb": "train", "asked": {}}))
    for force in (False, True):
        with pytest.raises(InputError, match="holds a run of 'eip train'; choose another folder"):
            eip.evaluate(one, [frames], mine, force=force, progress=False)
    assert (mine / "report.html").read_text() == "mine" and "run.json" in names(mine)


def test_what_cannot_be_read_costs_no_earlier_evaluation(frames: Path, tmp_path: Path) -> None:
    one, out = model(tmp_path / "one.eip"), tmp_path / "out"
    eip.evaluate(one, frames, out, scan=True, progress=False)  # one file need not be a list
    before = names(out)
    assert "scans.json" in before
    with pytest.raises(InputError, match=r"nope\.xyz"):
        eip.evaluate(one, [tmp_path / "nope.xyz"], out, force=True, progress=False)
    lone = Atoms("S")
    lone.calc = SinglePointCalculator(lone, energy=-1.0)
    write(tmp_path / "sulfur.xyz", lone)
    with pytest.raises(InputError, match="holds S, which the potential was not made for"):
        eip.evaluate(one, [tmp_path / "sulfur.xyz"], out, force=True, progress=False)
    assert names(out) == before
    model(one, energies=(-3.5, -9.5))  # another model of the same name
    with pytest.raises(InputError, match="scan was True, now False"):
        eip.evaluate(one, frames, out, progress=False)
    eip.evaluate(one, frames, out, force=True, progress=False)
    assert "scans.json" not in names(out) and "metrics.json" in names(out)


def test_dynamics_stay_out_of_another_run(frames: Path, tmp_path: Path, run: Runner) -> None:
    one, out = model(tmp_path / "one.eip"), tmp_path / "out"
    eip.evaluate(one, frames, out, progress=False)
    code, _, error = run("md", one, frames, "--steps", 2, "--out", out, "--no-progress")
    assert code == 2 and "holds a run of 'eip evaluate'; choose another" in error
    assert "trajectory.xyz" not in names(out)
