"""`eip label`: frames to labelled frames, killed and failed calculations included."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from typer.testing import CliRunner

from eip.active_learning.labelers import Labeler, LabelLimits, labelled_copy
from eip.active_learning.labelling import (
    label_frames,
    label_one,
    read_label,
    write_frames,
    written_frames,
)
from eip.cli import app
from eip.errors import InputError
from eip.files import UncheckedFile, load_arrays
from eip.model_file import save_model
from eip.uncertainty.methods import new_network

CALCULATOR = """
from pathlib import Path
from ase.calculators.emt import EMT

class Counting(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        with open({log!r}, "a") as file:
            file.write(atoms.get_chemical_formula() + "\\n")
        if "N" in atoms.get_chemical_formula() and not Path({mend!r}).exists():
            raise RuntimeError("no such luck")
        super().calculate(atoms, *args, **kwargs)

def make():
    return Counting()
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, str]:
    content = CALCULATOR.format(log=str(tmp_path / "log"), mend=str(tmp_path / "mend"))
    (tmp_path / "calc.py").write_text(content)
    return {"calculator": f"{tmp_path / 'calc.py'}:make"}


def computed(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


def structures() -> dict[str, Atoms]:
    water, ammonia = molecule("H2O"), molecule("NH3")
    stretched = water.copy()
    stretched.positions[0, 2] += 0.1
    return {"a#0": water, "a#1": ammonia, "a#2": stretched, "a#3": water.copy()}


def test_what_fails_is_told_and_tried_again(tmp_path: Path, options: dict[str, str]) -> None:
    out, said = tmp_path / "out.xyz", []
    arguments = (structures(), out, "ase", options)
    done = label_frames(*arguments, executor="serial", progress=False, say=said.append)
    assert done.labelled == 3 and list(done.failed) == ["a#1"]
    assert "no such luck" in done.failed["a#1"] and len(said) == 1 and "a#1" in said[0]
    frames = read(out, ":")
    # In the order of the file; the same structure twice is computed once.
    assert [len(f) for f in frames] == [3, 3, 3]
    assert frames[0].get_potential_energy() == frames[2].get_potential_energy()
    assert frames[0].get_potential_energy() != frames[1].get_potential_energy()
    assert computed(tmp_path).count("H2O") == 2
    (tmp_path / "mend").touch()
    done = label_frames(*arguments, executor="serial", progress=False)
    assert done.labelled == 4 and not done.failed and len(read(out, ":")) == 4
    assert computed(tmp_path).count("H2O") == 2


def test_what_is_not_believed_is_left_out(tmp_path: Path, options: dict[str, str]) -> None:
    (tmp_path / "mend").touch()
    crushed = molecule("H2O")
    crushed.positions[1] = crushed.positions[0] + [0.0, 0.0, 0.3]
    done = label_frames(
        {"good": molecule("H2O"), "crushed": crushed},
        *(tmp_path / "out.xyz", "ase", options),
        limits=LabelLimits(max_force=20.0),
        executor="serial",
        progress=False,
    )
    assert done.labelled == 1 and "label not believed: force of" in done.failed["crushed"]


def test_other_labels_and_files_are_not_touched(tmp_path: Path, options: dict[str, str]) -> None:
    (tmp_path / "mend").touch()
    out = tmp_path / "out.xyz"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        label_frames(structures(), out, "ase", options, progress=False)
    assert out.read_text() == "mine" and not (tmp_path / "out.xyz.labels").exists()
    out.unlink()
    label_frames(structures(), out, "ase", options, executor="serial", progress=False)
    with pytest.raises(InputError, match="labeler was ase, now xtb"):
        label_frames(structures(), out, "xtb", {}, progress=False)


def test_other_structures_do_not_replace_a_file(tmp_path: Path, options: dict[str, str]) -> None:
    out, three = tmp_path / "out.xyz", structures()
    del three["a#1"]
    named = {"executor": "serial", "progress": False}
    label_frames(three, out, "ase", options, **named)
    kept = out.read_bytes()
    with pytest.raises(InputError, match=r"2 labelled frames of other structures.*a#0"):
        label_frames({"b#0": three["a#2"]}, out, "ase", options, **named)
    assert out.read_bytes() == kept
    more = three | {"b#0": molecule("CH4")}
    assert label_frames(more, out, "ase", options, **named).labelled == 4


def test_an_edited_method_goes_on_only_if_it_says_the_same(
    tmp_path: Path, options: dict[str, str]
) -> None:
    out, water = tmp_path / "out.xyz", {"a#0": molecule("H2O")}
    named = {"executor": "serial", "progress": False}
    label_frames(water, out, "ase", options, **named)
    kept, script = out.read_bytes(), tmp_path / "calc.py"
    script.write_text("# a comment\n" + script.read_text())
    more = water | {"a#1": molecule("CH4")}
    assert label_frames(more, out, "ase", options, **named).labelled == 2
    kept = out.read_bytes()
    usual = script.read_text()
    script.write_text(usual.replace("EMT", "LennardJones").replace(".emt", ".lj"))
    more |= {"a#2": molecule("NH2")}
    for _ in range(2):  # the record stays as it was
        with pytest.raises(InputError, match=r"calc.py.* changed since.*meV/Å"):
            label_frames(more, out, "ase", options, **named)
    assert out.read_bytes() == kept
    script.write_text(usual)
    (tmp_path / "mend").touch()
    assert label_frames(more, out, "ase", options, **named).labelled == 3


def test_frames_of_all_digits_and_fixed_atoms_are_the_same_again(
    tmp_path: Path, options: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    many = {}
    for k in range(30):
        atoms = molecule("CH3OH")
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.set_constraint(FixAtoms([0, 1]))
        many[f"a#{k}"] = atoms
    named = {"executor": "serial", "progress": False}
    label_frames(many, tmp_path / "out.xyz", "ase", options, **named)
    script = tmp_path / "calc.py"
    script.write_text("# a comment\n" + script.read_text())
    assert label_frames(many, tmp_path / "out.xyz", "ase", options, **named).labelled == 30
    script.write_text(script.read_text().replace("EMT", "LennardJones").replace(".emt", ".lj"))
    (tmp_path / "out.xyz").unlink()
    with pytest.raises(InputError, match=r"changed since .* none of them is of a structure"):
        label_frames(structures(), tmp_path / "out.xyz", "ase", options, **named)


def test_nothing_could_be_labelled(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"no label could be made of 1 frames.*no such luck"):
        label_frames(
            {"a#0": molecule("NH3")},
            *(tmp_path / "out.xyz", "ase", options),
            executor="serial",
            progress=False,
        )
    assert not (tmp_path / "out.xyz").exists()


def test_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(4):
        frames.append(molecule("CH3OH"))
        frames[-1].positions += rng.normal(0.0, 0.02, (6, 3))
    write(tmp_path / "in.xyz", frames)
    arguments = ["label", str(tmp_path / "in.xyz"), "--out", str(tmp_path / "out.xyz")]
    arguments += ["--every", "2", "--option", "method=GFN1-xTB", "--workers", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 labelled frames" in " ".join(result.output.split())
    labelled = read(tmp_path / "out.xyz", ":")
    for frame, label in zip(frames[::2], labelled, strict=True):
        np.testing.assert_allclose(label.positions, frame.positions, atol=1e-7)
        assert np.abs(label.get_forces().sum(axis=0)).max() < 1e-3
    result = CliRunner().invoke(app, [*arguments, "--option", "nonsense"])
    assert isinstance(result.exception, InputError)
    assert "--option expects key=value, got 'nonsense'" in str(result.exception)


CHARGED = """
from ase.calculators.lj import LennardJones

def plain():
    return LennardJones()

def make(charge, multiplicity):
    calculator = LennardJones(epsilon=(1.0 + 0.1 * charge + 0.01 * multiplicity) / 10)
    return calculator
"""


def charged(tmp_path: Path) -> dict[str, Atoms]:
    (tmp_path / "charged.py").write_text(CHARGED)
    found = {}
    for k, info in enumerate(
        ({}, {"charge": -1}, {"charge": 1, "spin": 2}, {"multiplicity": 3, "charge": 0.0})
    ):
        found[f"a#{k}"] = molecule("H2O")
        found[f"a#{k}"].info.update(info, material_id=f"mp-{k}", energy=7.0)
        found[f"a#{k}"].arrays["site"] = np.arange(3) + k
        found[f"a#{k}"].set_constraint(FixAtoms([k % 3]))
    return found


def test_charge_and_multiplicity_go_to_the_method_and_all_else_is_kept(tmp_path: Path) -> None:
    given = charged(tmp_path)
    options = {"calculator": f"{tmp_path / 'charged.py'}:make"}
    out = tmp_path / "out.xyz"
    label_frames(given, out, "ase", options, executor="serial", progress=False)
    frames = read(out, ":")
    scale = np.array([1.01, 0.92, 1.12, 1.03])  # by charge and multiplicity, 1 or 2 if not given
    energies = np.array([frame.get_potential_energy() for frame in frames])
    np.testing.assert_allclose(energies / energies[0], scale / scale[0])
    for k, frame in enumerate(frames):
        assert frame.info["material_id"] == f"mp-{k}"
        assert frame.arrays["site"].tolist() == [k, k + 1, k + 2]
        assert frame.constraints[0].index.tolist() == [k % 3]
    assert frames[1].info["charge"] == -1


def test_the_same_geometry_twice_keeps_what_each_says_of_itself(
    tmp_path: Path, options: dict[str, str]
) -> None:
    one, other = molecule("H2O"), molecule("H2O")
    one.info["material_id"], other.info["material_id"] = "a", "b"
    out = tmp_path / "out.xyz"
    label_frames({"x#0": one, "x#1": other}, out, "ase", options, executor="serial", progress=False)
    assert [f.info["material_id"] for f in read(out, ":")] == ["a", "b"]
    assert computed(tmp_path) == ["H2O"]


def test_a_charge_that_cannot_be_told_to_the_method_is_an_error(tmp_path: Path) -> None:
    given = charged(tmp_path)
    plain = {"calculator": f"{tmp_path / 'charged.py'}:plain"}

    def message(structures: dict[str, Atoms], labeler: str, options: dict[str, object]) -> str:
        with pytest.raises(InputError) as caught:
            label_frames(structures, tmp_path / "out.xyz", labeler, options, progress=False)
        assert not list(tmp_path.glob("out*"))
        return str(caught.value)

    said = message(given, "ase", plain)
    assert "a#1: the structure has charge -1" in said and "argument 'charge'" in said
    network = new_network(
        "none", None, elements=[1, 8], element_energies={1: 0.0, 8: 0.0}, force_scale=1.0,
        channels=4, interactions=1, radial_functions=4, cutoff=3.0, zbl=False,
    )  # fmt: skip
    save_model(network, tmp_path / "model.eip", {})
    said = message(given, "model", {"model": str(tmp_path / "model.eip")})
    assert "a#1: the structure has charge -1, which model.eip cannot be told" in said
    assert "a#1: the structure has charge -1, and GFN2-xTB was told charge=1 for all" in (
        message({"a#1": given["a#1"]}, "xtb", {"charge": 1})
    )
    for info, expected in (
        ({"charge": 0.5}, "'charge' should be a whole number, got 0.5"),
        ({"charge": "one"}, "'charge' should be a whole number"),
        ({"spin": 0}, "2S \\+ 1, so 1"),
        ({"spin": 2}, "multiplicity of 2 is impossible"),
        ({"charge": 1, "total_charge": 2}, "contradict each other"),
        ({"charge": 11}, "has fewer electrons than charge 11"),
    ):
        water = molecule("H2O")
        water.info.update(info)
        assert expected.replace("\\", "") in message({"w": water}, "xtb", {})


def test_the_anion_of_xtb_is_not_the_neutral_molecule(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    neutral, anion = molecule("OH"), molecule("OH")
    anion.info["charge"] = -1
    out = tmp_path / "out.xyz"
    label_frames({"n": neutral, "a": anion}, out, "xtb", {}, executor="serial", progress=False)
    energies = [frame.get_potential_energy() for frame in read(out, ":")]
    assert abs(energies[1] - energies[0]) > 0.5  # eV: an electron affinity


# What is kept of a calculation is what it gave.


def kept_label(tmp_path: Path) -> tuple[Atoms, Path]:
    class Spring(Labeler):
        name = "spring"

        def label(self, atoms: Atoms, folder: Path) -> Atoms:
            out = atoms.copy()
            forces, stress = -atoms.positions, np.arange(6.0)
            out.calc = SinglePointCalculator(out, energy=-1 / 3, forces=forces, stress=stress)
            return out

    atoms = molecule("H2O")
    label_one(Spring(), atoms, tmp_path / "labels" / "a")
    return atoms, tmp_path / "labels" / "a" / "label.npz"


def test_a_flipped_bit_in_a_label_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    atoms, path = kept_label(tmp_path)
    whole, expected = path.read_bytes(), read_label(atoms, path.parent).calc.results
    rng, refused = np.random.default_rng(0), 0
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UncheckedFile)
                found = read_label(atoms, path.parent).calc.results
        except InputError as error:
            assert "delete it, and it will be computed again" in str(error)
            refused += 1
            continue
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert refused > 0.9 * len(whole) / 3


def test_a_label_without_a_checksum_is_read_with_a_warning(tmp_path: Path) -> None:
    atoms, path = kept_label(tmp_path)
    expected = read_label(atoms, path.parent).calc.results
    arrays, checked = load_arrays(path)
    assert checked
    with path.open("wb") as file:  # as they were written before
        np.savez(file, **arrays)
    with pytest.warns(UncheckedFile, match="labels in .*labels: written by an earlier eIP"):
        found = read_label(atoms, path.parent).calc.results
    assert found["energy"] == expected["energy"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"label\.npz cannot be read .*delete it"):
        read_label(atoms, path.parent)


def test_a_label_does_not_pass_for_that_of_another_method(
    tmp_path: Path, options: dict[str, str]
) -> None:
    (tmp_path / "mend").touch()
    atoms, out = molecule("H2O"), tmp_path / "out.xyz"
    atoms.info["method"] = "CCSD(T)"
    label_frames({"a": atoms}, out, "ase", options, executor="serial", progress=False)
    assert read(out).info["method"] not in ("CCSD(T)", "")


def test_a_charge_is_kept_beside_the_labels(tmp_path: Path) -> None:
    frames = []
    for charge in (0, 1):
        atoms = molecule("NH3")
        atoms.info["charge"] = charge
        frames.append(labelled_copy(atoms, 1.0, np.zeros((4, 3))))
        frames[-1].info["charge"] = charge
    write_frames(frames, tmp_path / "train.xyz")
    plain, ion = written_frames(tmp_path / "train.xyz")
    assert plain.info.get("charge") is None and ion.info["charge"] == 1
