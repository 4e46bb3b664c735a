"""LAMMPS says of structures what the potential says of them, on one rank and on two."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from eip.engines.lammps import compiling, export
from eip.neighbors import build_graph
from eip.potential import Potential
from eip.simulation.bias import UDDParameters, UDDPotential
from eip.testing import ContractViolation, check_engine, engine_structures
from eip.testing.engines import GIVES

pytestmark = pytest.mark.engines

ELEMENTS = (1, 8, 14)
Water = Callable[[int, float, int], Atoms]
Trained = Callable[..., Potential]

#: By the network's type: eV/atom, and relative to the largest of a structure. In float32 a digit of
#: a small cell's virial is lost where large terms cancel.
TOLERANCES = {torch.float64: (1e-10, 1e-8), torch.float32: (1e-6, 5e-5)}


def structures(water: Water) -> dict[str, Atoms]:
    found = engine_structures(ELEMENTS, 3.5)
    found["a molecule in a box"] = Atoms(molecule("H2O2"), cell=[20] * 3, pbc=True)
    found["squeezed water"] = water(2, 0.25, 11)
    return found


@pytest.mark.parametrize("backbone", ["cartesian_ace", "painn"])
@pytest.mark.parametrize(
    ("dtype", "ranks"), [(torch.float64, 1), (torch.float64, 2), (torch.float32, 1)]
)
def test_lammps_says_what_ase_says(
    lammps: Any, water: Water, trained: Trained, backbone: str, ranks: int, dtype: torch.dtype
) -> None:
    potential, given = trained(dtype, backbone), structures(water)
    found = lammps.evaluate(potential, given, ranks)
    of_energy, tolerance = TOLERANCES[dtype]
    said = iter(found.values())
    check_engine(
        lambda atoms: next(said),
        potential,
        given,
        gives=(*GIVES, "uncertainty", "extrapolation_grade"),
        energy_tolerance=of_energy,
        tolerance=tolerance,
    )
    for name, one in found.items():
        assert one["energy_of_atoms"] == pytest.approx(one["energy"], abs=1e-9), name
        largest = one["force_uncertainty"].max(), one["extrapolation_grade"].max()
        assert one["largest"] == pytest.approx(largest, rel=1e-9), name
        apart = np.abs(one["virial_of_atoms"] - one["virial"]).max()
        assert apart <= 1e-9 * max(1.0, np.abs(one["virial"]).max()), name


def test_a_wrong_file_is_caught(lammps: Any, water: Water, trained: Trained) -> None:
    # The comparison of the test above sees a filter that is off by a thousandth.
    potential = trained(torch.float64)
    atoms = {"water": water(2, 0.05, 1)}
    before = copy.deepcopy(potential)
    weight = potential.potential.potential.energy_model.backbone.messages[1].filter.weight
    weight *= 1.001
    found = lammps.evaluate(potential, atoms)["water"]
    with pytest.raises(ContractViolation, match=r"(energy|forces).* in the engine and"):
        check_engine(lambda _: found, before, atoms)


@pytest.mark.parametrize(
    ("ranks", "limiter"),
    [(1, "global"), (2, "global"), (2, "atom"), (1, "component"), (2, "saturating")],
)
def test_the_bias_is_that_of_udd(
    lammps: Any, water: Water, trained: Trained, ranks: int, limiter: str
) -> None:
    potential, atoms = trained(torch.float64), water(2, 0.1, 5)
    export(potential, lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", atoms)
    text = lammps.output(
        f"""{lammps.head("w.data")}
fix udd all eip/udd 2.0 3.0 3.0 30.0 {limiter}
dump d all custom 1 w.dump id fx fy fz
dump_modify d sort id format float %.17g
thermo_style custom pe f_udd f_udd[*]
thermo_modify format float %.17g
run 0""",
        ranks,
    )
    lines = text.splitlines()
    row = next(lines[k + 1] for k, line in enumerate(lines) if line.split()[:1] == ["PotEng"])
    energy, bias, sigma, largest = map(float, row.split())
    dump = (lammps.folder / "w.dump").read_text().split("ITEM: ATOMS")[1].splitlines()[1:]
    forces = np.array([line.split()[1:] for line in dump], dtype=float)
    graph = build_graph(atoms, potential.cutoff)
    want = UDDPotential(potential, UDDParameters(2.0, 3.0, 3.0, 30.0, limiter))(graph)
    assert want.forces is not None and want.forces_bias is not None
    of_bias = want.forces_bias.numpy()
    assert np.abs(of_bias).max() > 1e-2
    np.testing.assert_allclose(forces - want.forces.numpy(), of_bias, rtol=0, atol=1e-9)
    assert energy == pytest.approx(float(want.energy), abs=1e-8)
    assert bias == pytest.approx(float(want.energy_bias), rel=1e-9)
    assert sigma == pytest.approx(float(want.uncertainty), rel=1e-9)
    assert largest == pytest.approx(np.linalg.norm(of_bias, axis=1).max(), rel=1e-9)


FORCES = """
dump d all custom 1 w.dump id x y z fx fy fz
dump_modify d sort id format float %.17g
"""


def dumped(path: Path) -> Any:
    """Positions and forces by step."""
    frames = path.read_text().split("ITEM: ATOMS")[1:]
    rows = [[line.split()[1:] for line in text.splitlines()[1:]] for text in frames]
    kept = [[row for row in frame if len(row) == 6] for frame in rows]
    return np.array(kept, dtype=float)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_bias_turns_round_at_a_grade(
    lammps: Any, water: Water, trained: Trained, ranks: int
) -> None:
    potential, atoms = trained(torch.float64), water(2, 0.25, 11)
    graph = build_graph(atoms, potential.cutoff)
    grade = float(potential(graph).extrapolation_grade.max())
    assert grade > 1.0
    export(potential, lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", atoms)
    pushes = []
    for hover in (1.0 + 2.0 * (grade - 1.0), 1.0 + 0.8 * (grade - 1.0)):
        fix = f"fix udd all eip/udd 2.0 3.0 3.0 30.0 hover {hover:.17g}"
        lammps.output(f"{lammps.head('w.data')}\n{fix}{FORCES}run 0", ranks)
        udd = UDDParameters(2.0, 3.0, 3.0, 30.0, "saturating", hover=hover)
        want = UDDPotential(potential, udd)(graph)
        assert want.forces is not None and want.forces_bias is not None
        found = dumped(lammps.folder / "w.dump")[0, :, 3:] - want.forces.numpy()
        np.testing.assert_allclose(found, want.forces_bias.numpy(), rtol=0, atol=1e-8)
        pushes.append(found)
    assert np.abs(pushes[0]).max() > 1e-3
    np.testing.assert_allclose(pushes[1], -0.5 * pushes[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_bias_is_averaged_over_its_memory(
    lammps: Any, water: Water, trained: Trained, ranks: int
) -> None:
    """Over two runs and a restart, with atoms that change their place in LAMMPS' arrays."""
    potential, atoms = trained(torch.float64), water(2, 0.1, 5)
    export(potential, lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", atoms)
    head = lammps.head("w.data")
    fix = "fix udd all eip/udd 2.0 3.0 3.0 30.0 memory 0.002\nfix nve all nve\ntimestep 0.0005"
    begin = (
        "velocity all create 900 1\natom_modify sort 1 2.0\nneigh_modify every 1 delay 0 check no"
    )
    lammps.output(f"{head}\n{begin}\n{fix}{FORCES}run 3\nrun 3\nwrite_restart half\nrun 3", ranks)
    whole = dumped(lammps.folder / "w.dump")
    assert len(whole) == 10
    kept, mean = np.exp(-0.0005 / 0.002), np.zeros((len(atoms), 3))
    for frame in whole:
        moved = atoms.copy()
        moved.positions = frame[:, :3]
        graph = build_graph(moved, potential.cutoff)
        said = UDDPotential(potential, UDDParameters(2.0, 3.0, 3.0, 30.0))(graph)
        assert said.forces is not None and said.forces_bias is not None
        mean = kept * mean + (1 - kept) * said.forces_bias.numpy()
        np.testing.assert_allclose(frame[:, 3:] - said.forces.numpy(), mean, rtol=0, atol=1e-7)
    assert np.abs(mean).max() > 1e-2
    head = head.replace("read_data w.data", "read_restart half")
    lammps.output(f"{head}\n{fix}{FORCES}run 3", ranks)
    np.testing.assert_allclose(
        dumped(lammps.folder / "w.dump")[:, :, 3:], whole[-4:, :, 3:], rtol=0, atol=1e-7
    )


def test_sigma_is_worked_out_where_it_is_asked_for(
    lammps: Any, water: Water, trained: Trained
) -> None:
    export(trained(torch.float32), lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", water(2, 0.05, 1))
    text = lammps.output(
        f"""{lammps.head("w.data")}
velocity all create 300 1
timestep 0.0002
fix nve all nve
fix said all pair 2 eip sigma 1
compute largest all reduce max f_said
compute frame all pair eip
thermo 2
thermo_style custom step c_largest c_frame[2]
thermo_modify format float %.12g
run 4"""
    )
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
    rows = np.array([line.split() for line in lines[start + 1 : start + 4]], dtype=float)
    np.testing.assert_array_equal(rows[:, 0], [0, 2, 4])
    np.testing.assert_allclose(rows[:, 1], rows[:, 2], rtol=1e-9)
    assert len(set(rows[:, 1])) == 3


def test_a_run_stops_where_sigma_passes_a_bound(
    lammps: Any, water: Water, trained: Trained
) -> None:
    export(trained(torch.float32), lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", water(2, 0.05, 1))
    text = lammps.output(
        f"""{lammps.head("w.data")}
velocity all create 300 1
timestep 0.0002
fix nve all nve
compute frame all pair eip
variable sigma equal c_frame[2]
fix stop all halt 1 v_sigma > 0.001 error soft
run 10"""
    )
    assert "Fix halt condition for fix-id stop met on step 1 " in text


def test_energy_is_kept(lammps: Any, water: Water, trained: Trained) -> None:
    export(trained(torch.float32), lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", water(2, 0.05, 1))
    text = lammps.output(
        f"""{lammps.head("w.data")}
velocity all create 100 1
timestep 0.0001
fix nve all nve
thermo 50
thermo_style custom step etotal ke
thermo_modify format float %.12g
run 200"""
    )
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
    rows = np.array([line.split() for line in lines[start + 1 : start + 6]], dtype=float)
    assert np.ptp(rows[:, 1]) < 0.01 * np.ptp(rows[:, 2])


def test_it_stands_beside_another_pair_style(lammps: Any, water: Water, trained: Trained) -> None:
    export(trained(torch.float64), lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", water(2, 0.05, 1))
    alone = lammps.head("w.data")
    both = alone.replace("pair_style eip", "pair_style hybrid/overlay eip zero 4.0")
    both = both.replace("pair_coeff * * model", "pair_coeff * * zero\npair_coeff * * eip model")
    found = []
    for script in (alone, both):
        text = lammps.output(f"{script}\nthermo_modify format float %.12g\nrun 0", ranks=2)
        lines = text.splitlines()
        row = next(lines[k + 1] for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
        found.append([float(x) for x in row.split()])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_restart_goes_on_bit_for_bit(
    lammps: Any, water: Water, trained: Trained, ranks: int
) -> None:
    export(trained(torch.float32), lammps.folder / "model.lmp.eip")
    lammps.write_data(lammps.folder / "w.data", water(3, 0.05, 1))
    running = """timestep 0.0002
fix nve all nve
dump d all custom 20 {name}.dump id x y z vx vy vz
dump_modify d sort id first no format float %.17g
"""
    lammps.output(
        f"""{lammps.head("w.data")}
velocity all create 300 1
{running.format(name="whole")}
restart 20 half.*
run 40""",
        ranks,
    )
    head = lammps.head("w.data").replace("read_data w.data", "read_restart half.20")
    lammps.output(
        f"""{head.replace("atom_style atomic", "").replace("boundary p p p", "")}
{running.format(name="rest")}
run 20""",
        ranks,
    )

    def last(name: str) -> str:
        return (lammps.folder / name).read_text().split("ITEM: ATOMS")[-1]

    assert last("whole.dump") == last("rest.dump")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("units metal", "units real", "needs 'units metal', got 'units real'"),
        ("newton on", "newton off", "needs 'newton on'"),
        ("H O Si", "H O", "names 2 elements, and there are 3 atom types"),
        ("H O Si", "H O Ge", "atom type 3 is 'Ge', and the model model.lmp.eip knows H, O, Si"),
        ("model.lmp.eip", "no-such", "the file no-such cannot be read"),
        ("model.lmp.eip", "cut", "the file cut is cut off or too long"),
        ("model.lmp.eip", "short", "the file short is cut off"),
        ("model.lmp.eip", "altered", "the file altered is damaged: its checksum"),
        ("model.lmp.eip", "w.data", "the file w.data is no file that 'eip export MODEL"),
        ("pair_style eip", "pair_style eip 5.0", "takes no arguments, got '5.0'"),
        ("model.lmp.eip H O Si", "", "pair_coeff of pair style eip is '* * FILE ELEMENT"),
        ("run 0", "fix u all eip/udd 1 1 1 0\nrun 0", "fix eip/udd needs D > 0, got 0"),
        ("run 0", "fix u all eip/udd 1 1 1 1 hover 1\nrun 0", "needs hover > 1, got 1"),
        ("run 0", "fix u all eip/udd 1 1 1 1 memory 50\nrun 0", "in ps here and at most 10"),
        ("run 0", "fix u all eip/udd 1 1 1 1 memory\nrun 0", "memory needs a number after it"),
        ("run 0", "fix u all eip/udd 1 1 1 1 soon\nrun 0", "saturating, got 'soon'"),
        ("run 0", "fix u all eip/udd 1 1 1\nrun 0", "fix eip/udd is 'fix ID all eip/udd A B C D"),
    ],
)
def test_what_is_wrong_is_told_as_lammps_tells_it(
    lammps: Any, water: Water, trained: Trained, ranks: int, old: str, new: str, said: str
) -> None:
    if ranks == 2 and old not in ("units metal", "model.lmp.eip"):
        pytest.skip("said before ranks part")
    model = lammps.folder / "model.lmp.eip"
    export(trained(torch.float32), model)
    content = model.read_bytes()
    (lammps.folder / "cut").write_bytes(content[:-8])
    (lammps.folder / "short").write_bytes(content[:20])
    middle = len(content) // 2
    altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    (lammps.folder / "altered").write_bytes(altered)
    lammps.write_data(lammps.folder / "w.data", water(1, 0.02, 3))
    script = f"{lammps.head('w.data')}\nrun 0"
    assert old in script
    text = lammps.error(script.replace(old, new), ranks)
    assert "ERROR" in text and said in text and ".cpp:" in text


def test_two_atoms_on_one_spot_end_the_run_with_their_number(
    lammps: Any, network: Callable[..., Potential]
) -> None:
    export(network(), lammps.folder / "model.lmp.eip")
    atoms = Atoms("OHH", [[1, 1, 1], [4, 4, 4], [4, 4, 4]], cell=[8] * 3, pbc=True)
    lammps.write_data(lammps.folder / "w.data", atoms)
    text = lammps.error(f"{lammps.head('w.data')}\nrun 0")
    assert "the force on atom 2 is not finite at step 0" in text


@pytest.mark.slow
def test_a_plugin_for_another_lammps_is_refused(
    lammps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = compiling.Lammps(compiling.find_lammps().include, 20230802, ())
    monkeypatch.setattr(compiling, "find_lammps", lambda include: other)
    plugin = compiling.build(tmp_path / "other.so").path
    text = type(lammps)(tmp_path, plugin).error("units metal\npair_style eip")
    assert "was built for LAMMPS 20230802 and is used with LAMMPS 2025" in text


def test_a_model_without_uncertainty_runs_and_says_that_it_has_none(
    lammps: Any, water: Water, network: Callable[..., Potential]
) -> None:
    potential = network("none")
    export(potential, lammps.folder / "model.lmp.eip")
    atoms = water(1, 0.02, 3)
    lammps.write_data(lammps.folder / "w.data", atoms)
    script = lammps.head("w.data")
    assert "Loop time" in lammps.output(f"{script}\nrun 0")
    text = lammps.error(f"{script}\nfix said all pair 1 eip sigma 0\nrun 0")
    assert "the model has no uncertainty" in text
    text = lammps.error(f"{script}\nfix udd all eip/udd 1 1 1 1\nrun 0")
    assert "follows the uncertainty, and the model of pair style eip has none" in text
