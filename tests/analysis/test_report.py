"""From files of trajectories to analysis.json, plots and the table that `eip analyze` prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import eip
from eip.analysis import compare_sampling, guess_kind, measure_of, read_trajectory
from eip.analysis.report import label_runs, write_analysis
from eip.builders import lifepo4, pdms, water
from eip.errors import InputError
from eip.model_file import save_model
from eip.neighbors import build_graph
from eip.uncertainty.energy_error import fit_energy_error
from eip.uncertainty.evidential import EvidentialPotential

PNG = b"\x89PNG"


def trajectory(path: Path, start: Atoms, scale: float, frames: int = 12, step: float = 5.0) -> Path:
    """Frames as `eip md` writes them: rattled, with time, energy and σ."""
    rng = np.random.default_rng(0)
    written = []
    for k in range(frames):
        atoms = start.copy()
        atoms.positions += rng.normal(scale=scale, size=atoms.positions.shape)
        atoms.info.update(time_fs=step * k, uncertainty=scale)
        atoms.calc = SinglePointCalculator(atoms, energy=-100.0 + scale)
        written.append(atoms)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, written, format="extxyz")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of `eip md` with its log, and a longer and wider file without."""
    folder = tmp_path_factory.mktemp("runs")
    trajectory(folder / "md/trajectory.xyz", lifepo4(), 0.02)
    log = "step,time_fs,energy,uncertainty,drift\n0,0.0,-3.0,0.1,\n10,5.0,-5.0,0.3,\n"
    (folder / "md/log.csv").write_text(log)
    trajectory(folder / "wide.xyz", lifepo4(), 0.08, frames=20)
    return {"md": folder / "md", "udd": folder / "wide.xyz"}


def test_a_comparison_of_two_runs(runs, tmp_path, run):
    code, said, _ = run("analyze", *runs.values(), "--labels", "MD, UDD", "--out", tmp_path)
    assert code == 0 and "kind lifepo4" in said and "configurational entropy" in said
    content = json.loads((tmp_path / "analysis.json").read_text())
    md, udd = (content["runs"][name] for name in ("MD", "UDD"))
    assert (md["frames"], udd["frames"], content["frames_compared"]) == (12, 20, 12)
    assert (md["length_ps"], udd["length_ps"]) == (0.055, 0.095)
    # The log where there is one, the frames where not.
    assert (md["mean_energy"], md["mean_uncertainty"], md["max_uncertainty"]) == (-4.0, 0.2, 0.3)
    assert udd["mean_energy"] == pytest.approx(-99.92) and udd["max_uncertainty"] == 0.08
    assert 0 < md["entropy"] < udd["entropy_same_length"] < udd["entropy"] < 1
    assert 0 < md["coverage"] < udd["coverage_same_length"] <= udd["coverage"] < 1
    assert md["coordination"]["P-O"]["mean"] == pytest.approx(4.0, abs=1e-6)
    assert md["first_peak"]["O-P"]["r"] == pytest.approx(1.54, abs=0.05)
    assert len(md["distribution"]["r"]) == len(md["distribution"]["Fe-O"]) == 120
    moved = md["squared_displacement"]
    assert moved["time_ps"][:2] == [0.0, 0.005] and len(moved["Li"]) == 12
    # Frames rattled on their own are √2 apart.
    assert moved["O"][1] == pytest.approx(2 * 3 * 0.02**2, rel=0.1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"analysis.json", "sampling.png", "order_parameters.png", "structure.png"}
    assert all((tmp_path / n).read_bytes().startswith(PNG) for n in names if n.endswith("png"))


def test_one_grid_for_all_runs(runs, tmp_path):
    content = write_analysis(runs, "auto", tmp_path)
    both = compare_sampling({"md": runs["md"] / "trajectory.xyz", "udd": runs["udd"]}, "lifepo4")
    for (low, high), which in zip(
        content["order_parameters"].values(), ("first", "second"), strict=True
    ):
        values = np.concatenate([getattr(of, which).ravel() for of in both.values()])
        assert low == values.min() and high == pytest.approx(values.max())
    for name, of in both.items():
        assert content["runs"][name]["entropy"] == of.entropy[-1]
        assert of.first.shape == (len(of.times), 4)


def test_every_key_is_documented(runs, tmp_path):
    page = (Path(__file__).parents[2] / "docs/analysis.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)`", page))
    content = write_analysis(runs, "lifepo4", tmp_path)
    assert set(content) | set(content["runs"]["md"]) <= documented


def test_frames_without_a_time_cannot_be_skipped(tmp_path):
    frames = [molecule("H2O") for _ in range(4)]
    write(tmp_path / "plain.xyz", frames)
    assert len(list(read_trajectory(tmp_path / "plain.xyz"))) == 4
    with pytest.raises(InputError, match=r"plain\.xyz#0: nothing says when .* first 5 ps"):
        list(read_trajectory(tmp_path / "plain.xyz", skip_fs=5000.0))


def test_frames_may_be_skipped(runs):
    times = [atoms.info["time_fs"] for atoms in read_trajectory(runs["md"], every=3, skip_fs=20.0)]
    assert times == [30.0, 45.0]
    with pytest.raises(InputError, match="no frames that late"):
        list(read_trajectory(runs["md"], skip_fs=1e9))
    with pytest.raises(InputError, match="from 1, got 0"):
        list(read_trajectory(runs["md"], every=0))


def test_chains_and_molecules(tmp_path, run):
    chains = pdms(2, 4, 0.6, anneal_ps=0.0)
    chains.wrap()
    trajectory(tmp_path / "a.xyz", chains, 0.02, frames=4)
    code, said, _ = run("analyze", tmp_path / "a.xyz", "--kind", "pdms", "--out", tmp_path)
    assert code == 0 and "kind polymer" in said
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert list(content["order_parameters"]) == [
        "end-to-end distance (Å)",
        "radius of gyration (Å)",
    ]
    of = content["runs"]["a"]
    assert list(of["torsion_entropy"]) == ["O–Si–O–Si"]
    assert of["coordination"]["Si-C"]["mean"] == pytest.approx(2.0, abs=1e-6)

    trajectory(tmp_path / "b.xyz", molecule("CH3CH2OH"), 0.1, frames=30)
    content = write_analysis({"b": tmp_path / "b.xyz"}, "auto", tmp_path / "b")
    assert content["kind"] == "molecule"
    assert set(map(tuple, content["order_parameters"].values())) == {(-180.0, 180.0)}
    of = content["runs"]["b"]
    assert len(of["torsion_entropy"]) == 2 and "distribution" not in of
    assert all(0 < value < 1 for value in of["torsion_entropy"].values())


def test_a_liquid_has_no_order_parameters_but_a_structure(tmp_path, run):
    box = water(8, melt_ps=0.0)
    file = trajectory(tmp_path / "w.xyz", box, 0.02, frames=3)
    code, said, _ = run("analyze", file, "--out", tmp_path / "out")
    assert code == 0 and "kind none" in said and "entropy" not in said
    content = json.loads((tmp_path / "out/analysis.json").read_text())
    assert content["order_parameters"] is None
    assert content["runs"]["w"]["coordination"]["O-H"]["mean"] == pytest.approx(2.0)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"analysis.json", "sampling.png", "structure.png"}


def test_averages_have_their_error(tmp_path, run):
    """With the model that drove the run: of energy, torsions and g(r), as bands in the plot."""
    torch.manual_seed(0)
    box = molecule("CH3CH2OH", cell=[6.0] * 3, pbc=True)
    frames = [box.copy() for _ in range(24)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    inside = EvidentialPotential(
        elements=(1, 6, 8), element_energies={1: -5.0, 6: -5.0, 8: -5.0}, force_scale=1.0,
        backbone="painn", channels=8, interactions=1, cutoff=3.0,
    ).eval().requires_grad_(False)  # fmt: skip
    graph = build_graph(frames, 3.0)
    labels = inside(graph, forces=False).energy + 0.003 * torch.randn(24)
    model = tmp_path / "model.eip"
    save_model(fit_energy_error(inside, [graph], [(graph, labels)]), model)
    for atoms in frames:
        energy = float(inside.predict(atoms).energy)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    write(tmp_path / "run.xyz", frames)
    out = tmp_path / "out"
    driven = ("--model", model, "--temperature", "300")
    code, said, err = run("analyze", tmp_path / "run.xyz", *driven, "--out", out)
    assert code == 0, err
    assert "the potential's error" in " ".join(said.split())
    of = json.loads((out / "analysis.json").read_text())["runs"]["run"]
    averages = of["averages"]
    energy = averages["quantities"]["energy"]
    neighbors = averages["quantities"]["coordination C-H"]
    assert neighbors["mean"] == pytest.approx(of["coordination"]["C-H"]["mean"])
    assert neighbors["error"] > 0
    assert energy["mean"] == pytest.approx(of["mean_energy"])
    assert 0 < energy["potential_error"] < 1.0
    assert 1 < averages["effective_frames"] <= 24 and "too short" in averages["doubt"]
    band = averages["distribution"]["C-H"]
    np.testing.assert_allclose(band["mean"], of["distribution"]["C-H"])
    assert len(band["error"]) == 120 and max(band["potential_error"]) > 0
    documented = (Path(__file__).parents[2] / "docs/analysis.md").read_text()
    assert all(f"`{key}`" in documented for key in ("averages", *averages, *band))

    with pytest.raises(InputError, match="give both"):
        eip.analyze(tmp_path / "run.xyz", out, model=model)
    folder = tmp_path / "md"
    folder.mkdir()
    write(folder / "trajectory.xyz", frames)
    for asked, words in (
        ({"temperature": 450.0}, "run at 450 K, and the temperature given is 300 K"),
        ({"udd": {"A": 1.0}}, "driven by the uncertainty"),
        ({"ensemble": "nve"}, "of ensemble nve"),
    ):
        asked = {"temperature": 300.0, "ensemble": "langevin", "udd": None, **asked}
        record = {"format": 1, "eip": "0", "verb": "md", "asked": asked}
        (folder / "run.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=words):
            eip.analyze(folder, out, model=model, temperature=300.0)
    save_model(inside, model)
    with pytest.raises(InputError, match="energies have an error bar, and this one's have none"):
        eip.analyze(tmp_path / "run.xyz", out, model=model, temperature=300.0)


def test_frames_that_say_no_time_are_numbered(tmp_path):
    frames = [molecule("CH3CH2OH") for _ in range(3)]
    write(tmp_path / "plain.traj", frames)
    content = write_analysis({"a": tmp_path / "plain.traj"}, "auto", tmp_path / "out")
    of = content["runs"]["a"]
    assert of["length_ps"] is None and of["mean_energy"] is None and of["frames"] == 3
    assert of["squared_displacement"]["time_ps"] is None
    assert not (tmp_path / "out/structure.png").exists()


@pytest.mark.parametrize(
    ("atoms", "kind"),
    [
        (lifepo4(), "lifepo4"),
        (lifepo4(vacancies=4), "lifepo4"),
        (molecule("CH3CH2OH"), "molecule"),
        (molecule("C6H6"), "none"),
        (molecule("H2O"), "none"),
        (bulk("Si", cubic=True), "none"),
        (bulk("NaCl", "rocksalt", a=5.6), "none"),
        (Atoms("PFeO", [[0, 0, 0], [9, 0, 0], [0, 9, 0]]), "none"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get_chemical_formula(),
)
def test_the_kind_is_found_out(atoms, kind):
    assert guess_kind(atoms) == kind


def test_a_kind_that_is_not_there_is_said(tmp_path):
    for kind, atoms, said in (
        ("lifepo4", molecule("H2O"), "no phosphate"),
        ("polymer", molecule("H2O"), "there is no chain"),
        ("polymer", bulk("Si", cubic=True), "through the cell's faces"),
        ("molecule", molecule("C6H6"), "no bond to turn around"),
        ("molecule", water(2, melt_ps=0.0), "one molecule is expected, there are 2"),
    ):
        with pytest.raises(InputError, match=said):
            measure_of(atoms, kind)


def test_what_is_wrong_names_file_and_frame(runs, tmp_path, run):
    def fails(*arguments: object) -> str:
        code, _, said = run("analyze", *arguments, "--out", tmp_path / "out")
        assert code == 2 and not (tmp_path / "out").exists()
        return said

    assert "did you mean 'polymer'" in fails(runs["md"], "--kind", "polimer")
    assert f"{tmp_path / 'none.xyz'} does not exist" in fails(tmp_path / "none.xyz")
    assert f"{tmp_path / 'trajectory.xyz'} does not exist" in fails(tmp_path)
    assert "1 labels for 2 trajectories" in fails(*runs.values(), "--labels", "MD")
    assert "the same label" in fails(*runs.values(), "--labels", "a,a")
    empty = tmp_path / "empty.xyz"
    empty.write_text("")
    assert "empty.xyz" in fails(empty)

    other = tmp_path / "other.xyz"
    write(other, [lifepo4(), lifepo4(vacancies=1)])
    assert f"{other}: frame 1: its atoms (Fe4Li3O16P4)" in fails(other)
    assert f"{other}: frame 0: its atoms" in fails(
        trajectory(tmp_path / "w.xyz", water(2, melt_ps=0.0), 0.1), other
    )

    lost = lifepo4()
    lost.positions[3] = np.nan
    write(other, [lifepo4(), lost], format="extxyz")
    assert f"{other}#1: positions of atom 3 are not finite" in fails(other)
    whole = (runs["udd"]).read_text().splitlines()
    cut = tmp_path / "cut.xyz"
    cut.write_text("\n".join(whole[: 2 * 30 + 5]) + "\n")
    assert "cut.xyz: frame" in fails(cut)


def test_a_file_that_could_run_code_is_not_opened(tmp_path):
    (tmp_path / "a.py").write_text("raise SystemExit")
    with pytest.raises(InputError, match=r"a\.py"):
        list(read_trajectory(tmp_path / "a.py"))


def test_labels_come_from_paths_as_far_as_they_differ(tmp_path):
    a, b = tmp_path / "a/md.xyz", tmp_path / "b/md.xyz"
    assert list(label_runs([a])) == ["md"]
    assert list(label_runs([a, b])) == [str(a), str(b)]


def test_structures_are_built_from_the_command_line(tmp_path, run):
    out = tmp_path / "sub/a.xyz"
    code, said, _ = run("build", "lifepo4", "--supercell", 1, 2, 3, "--out", out)
    assert code == 0 and "168 atoms" in said and "10.332, 12.020, 14.076 Å" in said
    code, said, _ = run(
        "build", "pdms", "--chains", 1, "--units", 1, "--anneal-ps", 0, "--out", out,
        "--no-progress",
    )  # fmt: skip
    assert code == 0 and "13 atoms, C2H8O2Si" in said
    code, said, _ = run(
        "build", "water", "--molecules", 4, "--melt-ps", 0, "--out", out, "--seed", 3
    )
    assert code == 0 and "12 atoms" in said
    assert run("build", "molecule", "C6H6", "--out", out)[0] == 0
    code, _, said = run("build", "pdms", "--density", 50, "--out", tmp_path / "b.xyz")
    assert code == 2 and "density expects g/cm³" in said and not (tmp_path / "b.xyz").exists()
    code, _, said = run("build", "lifepo4", "--out", tmp_path / "b.nonsense")
    assert code == 2 and "knows no format" in said
