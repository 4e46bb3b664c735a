"""CP2K: the real code where it is installed; its outputs, templates and failures everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from eip.active_learning.labelers import LabelFailure, make_labeler
from eip.active_learning.labelers.cp2k.input import SCF_LADDER
from eip.active_learning.labelers.cp2k.labeler import CP2KLabeler
from eip.active_learning.labelers.cp2k.output import read_output
from eip.errors import InputError
from eip.testing.labeler import check_labeler
from eip.units import ENERGY_IN_EV, LENGTH_IN_ANGSTROM

needs_cp2k = pytest.mark.skipif(
    shutil.which("cp2k.psmp") is None, reason="cp2k.psmp is not installed (apt-get install cp2k)"
)
HARTREE, BOHR = ENERGY_IN_EV["Hartree"], LENGTH_IN_ANGSTROM["Bohr"]
#: Cannot converge, and ends as if it had.
HOPELESS = "EPS_SCF 1.0E-9\nMAX_SCF 2\n&OT\n  MINIMIZER DIIS\n&END OT"


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.08, seed=1)
    atoms.set_cell([[4.6, 0, 0], [0.2, 4.4, 0], [0, 0.1, 4.8]])
    atoms.pbc = True
    return atoms


def hydrogen(length: float = 0.85) -> Atoms:
    return Atoms("H2", [[0, 0, 0], [0, 0, length]])


# ---------------------------------------------------------------------------- the real code


@needs_cp2k
@pytest.mark.slow
def test_water_in_a_cell_has_forces_that_are_slopes(tmp_path: Path):
    # Each from the last wavefunction: a fraction of the time, and the same label within the SCF's
    # threshold. A low cutoff leaves the forces an error of their own (egg-box).
    labeler = CP2KLabeler(cutoff=200.0, wavefunctions=tmp_path / "kept")
    check_labeler(
        labeler,
        [water()],
        tmp_path / "labels",
        tolerance=0.03,
        step=0.01,
        stress=False,
        repeat_tolerance=1e-3,
    )
    place = tmp_path / "labels" / "structure-0"
    assert _steps(place / "again/attempt-1") < _steps(place / "first/attempt-1") / 2
    assert "PROGRAM ENDED" in (place / "first/attempt-1/cp2k.out").read_text()
    assert not list(place.rglob("*.wfn*"))


@needs_cp2k
def test_an_inner_loop_that_the_outer_one_saves_is_converged(tmp_path: Path):
    rung = "EPS_SCF 1.0E-6\nMAX_SCF 4\n&OT\n&END\n&OUTER_SCF\n  EPS_SCF 1.0E-6\n  MAX_SCF 20\n&END"
    atoms = Atoms("H2", [[0, 0, 0], [0.1, 0.2, 0.7]], cell=[4, 4, 4], pbc=True)
    short = CP2KLabeler(cutoff=120.0, scf_ladder=[rung]).label(atoms, tmp_path / "short")
    text = (tmp_path / "short/attempt-1/cp2k.out").read_text()
    assert "Leaving inner SCF loop after reaching" in text
    other = CP2KLabeler(cutoff=120.0).label(atoms, tmp_path / "long")
    assert short.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-5)


@needs_cp2k
@pytest.mark.slow
def test_hydrogen_in_a_cell_has_forces_and_stress_that_are_slopes(tmp_path: Path):
    atoms = Atoms("H2", [[1, 2, 2], [1.6, 2.1, 2.05]], cell=[4, 4, 4], pbc=True)
    check_labeler(CP2KLabeler(cutoff=250.0), [atoms], tmp_path, tolerance=2e-3)


@needs_cp2k
def test_a_molecule_gets_open_boundaries(tmp_path: Path):
    labeler = CP2KLabeler(cutoff=250.0, vacuum=2.5)
    labels = [labeler.label(hydrogen(r), tmp_path / str(r)) for r in (0.6, 0.84, 0.85, 0.86)]
    assert "stress" not in labels[0].calc.results
    assert "PERIODIC NONE" in (tmp_path / "0.6/attempt-1/cp2k.inp").read_text()
    energies = [label.get_potential_energy() for label in labels]
    force = labels[2].get_forces()[1, 2]
    # 0.02 Å of grid (egg-box) make themselves felt.
    assert force == pytest.approx(-(energies[3] - energies[1]) / 0.02, rel=0.05)
    assert force < 0 < labels[0].get_forces()[1, 2]  # too long, too short
    # PBE's minimum of H2 is -1.166 Hartree (all electrons; the pseudopotential is a bare proton's).
    assert energies[2] / HARTREE == pytest.approx(-1.16, abs=0.02)


@needs_cp2k
def test_an_unconverged_scf_is_never_a_label(tmp_path: Path):
    labeler = CP2KLabeler(cutoff=150.0, scf_ladder=[HOPELESS, HOPELESS, HOPELESS])
    with pytest.raises(LabelFailure, match="attempt-3: SCF not converged") as caught:
        labeler.label(water(), tmp_path)
    assert caught.value.folder == tmp_path
    for attempt in (1, 2, 3):
        text = (tmp_path / f"attempt-{attempt}" / "cp2k.out").read_text()
        # The trap: CP2K itself is content with it.
        assert "ENERGY| Total FORCE_EVAL" in text and "PROGRAM ENDED" in text


@needs_cp2k
def test_the_second_rung_and_a_kept_wavefunction(tmp_path: Path):
    kept = tmp_path / "kept"
    labeler = CP2KLabeler(
        cutoff=150.0, scf_ladder=[HOPELESS, *SCF_LADDER[1:]], wavefunctions=kept
    )  # fmt: skip
    first = labeler.label(water(), tmp_path / "first")
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == ["attempt-1", "attempt-2"]
    assert "NOT converged" in (tmp_path / "first/attempt-1/cp2k.out").read_text()
    assert len(list(kept.iterdir())) == 1
    # From the wavefunction of the second rung even two steps are enough.
    again = CP2KLabeler(cutoff=150.0, scf_ladder=SCF_LADDER, wavefunctions=kept)
    second = again.label(water(), tmp_path / "second")
    assert _steps(tmp_path / "second/attempt-1") < _steps(tmp_path / "first/attempt-2")
    np.testing.assert_allclose(second.get_forces(), first.get_forces(), atol=1e-4)
    # Another charge is another wavefunction, and none is kept of it yet.
    assert again._wavefunction_of(water()) != CP2KLabeler(
        charge=1, wavefunctions=kept
    )._wavefunction_of(water())


@needs_cp2k
@pytest.mark.parametrize("rung", range(1, len(SCF_LADDER)))
def test_every_rung_finds_the_same_ground_state(rung: int, tmp_path: Path):
    atoms = Atoms("H2", [[0, 0, 0], [0.1, 0.2, 0.7]], cell=[4, 4, 4], pbc=True)
    one = CP2KLabeler(cutoff=120.0).label(atoms, tmp_path / "one")
    other = CP2KLabeler(cutoff=120.0, scf_ladder=[SCF_LADDER[rung]]).label(atoms, tmp_path / "two")
    assert other.get_potential_energy() == pytest.approx(one.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(other.get_forces(), one.get_forces(), atol=2e-3)


@pytest.mark.slow
@needs_cp2k
def test_two_processes_and_a_radical(tmp_path: Path):
    if shutil.which("mpiexec") is None:
        pytest.skip("mpiexec is not installed")
    atom = Atoms("H", cell=[5, 5, 5], pbc=True)
    molecule = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]], cell=[5, 5, 5], pbc=True)
    # Not MOLOPT-SR, which is too short for a free atom.
    options = {"cutoff": 200.0, "basis": "TZV2P-GTH"}
    energies = [
        CP2KLabeler(processes=processes, **options)
        .label(atom, tmp_path / str(processes))
        .get_potential_energy()
        for processes in (1, 2)
    ]
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)
    assert "UKS TRUE" in (tmp_path / "1/attempt-1/cp2k.inp").read_text()
    bound = CP2KLabeler(**options).label(molecule, tmp_path / "H2").get_potential_energy()
    # PBE binds H2 by 4.54 eV, with the atom spin-polarized; without, by 6.8.
    assert 2 * energies[0] - bound == pytest.approx(4.54, abs=0.15)


@needs_cp2k
def test_an_input_that_cp2k_refuses_is_a_failure_with_its_words(tmp_path: Path):
    labeler = CP2KLabeler(basis="NO-SUCH-BASIS")
    with pytest.raises(LabelFailure, match=r"exit status \d+: .*NO-SUCH-BASIS") as caught:
        labeler.label(water(), tmp_path)
    assert "attempt-4" in caught.value.reason


def _steps(folder: Path) -> int:
    import re

    text = (folder / "cp2k.out").read_text()
    found = re.search(r"outer SCF loop converged in +\d+ iterations or +(\d+) steps", text)
    assert found is not None
    return int(found[1])


# ---------------------------------------------------------------------------- a program that fails

GOOD = """\
 SCF WAVEFUNCTION OPTIMIZATION
  *** SCF run converged in    17 steps ***
  outer SCF loop converged in   1 iterations or   17 steps
 ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:              -17.219576034709718

 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X                  Y                  Z
      1      1      O           0.003163144949    -0.001590914400     0.004500272417
      2      2      H          -0.000003606789     0.000899295403    -0.001104410824
      3      2      H           0.000001450107    -0.000890546485    -0.001095310320
 SUM OF ATOMIC FORCES           0.003160988267    -0.001582165482     0.002300551273     0.00421

 STRESS| Analytical stress tensor [GPa]
 STRESS|                        x                   y                   z
 STRESS|      x        1.31156747852E-01   5.59550751701E-04  -8.89268770535E-04
 STRESS|      y        5.59550751701E-04   9.75116031237E-02   3.28009833082E-04
 STRESS|      z       -8.89268770535E-04   3.28009833082E-04   6.25339934862E-02
 STRESS| 1/3 Trace                                             9.70674481541E-02
  **** **** ******  **  PROGRAM ENDED AT                 2026-11-23 14:11:39.116
"""
#: As CP2K prints it since 2024.
NEWER = """\
  *** SCF run converged in    17 steps ***
 ENERGY| Total FORCE_EVAL ( QS ) energy [hartree]            -17.219576034709718
 FORCES| Atomic forces [hartree/bohr]
 FORCES| Atom      x                   y                   z                   |f|
 FORCES|      1  3.16314494900E-03  -1.59091440000E-03   4.50027241700E-03   5.72608E-03
 FORCES|      2 -3.60678900000E-06   8.99295403000E-04  -1.10441082400E-03   1.42426E-03
 FORCES|      3  1.45010700000E-06  -8.90546485000E-04  -1.09531032000E-03   1.41169E-03
 FORCES| Sum     3.16098826700E-03  -1.58216548200E-03   2.30055127300E-03   4.21753E-03
 STRESS| Analytical stress tensor [bar]
 STRESS|                        x                   y                   z
 STRESS|      x        1.31156747852E+03   5.59550751701E+00  -8.89268770535E+00
 STRESS|      y        5.59550751701E+00   9.75116031237E+02   3.28009833082E+00
 STRESS|      z       -8.89268770535E+00   3.28009833082E+00   6.25339934862E+02
  **** **** ******  **  PROGRAM ENDED AT                 2026-11-23 14:11:39.116
"""


def fake(folder: Path, script: str) -> list[str]:
    """A program in the place of CP2K; $4 is the output that it is to write."""
    path = folder / "cp2k.fake"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


@pytest.mark.parametrize("text", [GOOD, NEWER], ids=["2023", "2025"])
def test_an_output_is_read_to_its_last_digit(text: str, tmp_path: Path):
    (tmp_path / "cp2k.out").write_text(text)
    result = read_output(tmp_path / "cp2k.out", 3)
    assert result.energy == -17.219576034709718 * HARTREE
    assert result.forces[1, 2] == pytest.approx(-0.001104410824 * HARTREE / BOHR, rel=1e-12)
    assert result.forces.shape == (3, 3)
    # 0.131 GPa of pressure along x: 8.186e-4 eV/Å³, and ASE's sign is the other one.
    assert result.stress is not None
    np.testing.assert_allclose(
        result.stress[[0, 3]], [-8.18616e-4, -2.04728e-6], rtol=1e-5
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (lambda text: text[: len(text) // 2], 0, "cut off"),
        (lambda text: text.replace("PROGRAM ENDED", ""), 0, "cut off"),
        (lambda text: text.replace("run converged in", "run NOT converged"), 0, "not converged"),
        (lambda text: text + "outer SCF loop FAILED to converge after 2", 0, "not converged"),
        (lambda text: text.replace("converged in", ""), 0, "does not say"),
        (lambda text: text.replace("      3      2      H ", " # "), 0, "forces on 2 atoms"),
        (lambda text: text.replace("0.004500272417", "**************"), 0, "forces on 2 atoms"),
        (lambda text: text.replace("-17.2195", "      NaN"), 0, "0 energies"),
        (lambda text: text + text, 0, "2 energies"),
        (lambda text: text, 9, "exit status 9"),
        (lambda text: "", 0, "cut off"),
    ],
)
def test_an_output_that_is_not_whole_is_refused(change, status, reason, tmp_path: Path):
    (tmp_path / "cp2k.out").write_text(change(GOOD))
    with pytest.raises(LabelFailure, match=reason):
        read_output(tmp_path / "cp2k.out", 3, status)


def test_what_cp2k_says_when_it_aborts_is_passed_on(tmp_path: Path):
    (tmp_path / "cp2k.out").write_text(
        " *******************************************************************************\n"
        " *   ___                                                                       *\n"
        " *  /   \\                                                                      *\n"
        " * [ABORT]                                                                     *\n"
        " *  \\___/        found an unknown keyword NDIGITS in section STRESS_TENSOR     *\n"
        " *    |                                                                        *\n"
        " *  O/|                                                                        *\n"
        " * /| |                                                                        *\n"
        " * / \\                                               input/input_parsing.F:246 *\n"
        " *******************************************************************************\n"
    )
    with pytest.raises(LabelFailure, match="status 1: found an unknown keyword NDIGITS in section"):
        read_output(tmp_path / "cp2k.out", 3, 1)


def test_a_crash_at_every_attempt_keeps_the_outputs(tmp_path: Path):
    command = fake(tmp_path, 'echo "half an outp" > "$4"; echo "signal 11" >&2; exit 139')
    folder = tmp_path / "label"
    with pytest.raises(LabelFailure, match="attempt-4: ended with exit status 139") as caught:
        CP2KLabeler(command=command).label(water(), folder)
    assert caught.value.folder == folder
    for attempt in range(1, 5):
        place = folder / f"attempt-{attempt}"
        assert place.joinpath("cp2k.out").read_text() == "half an outp\n"
        assert place.joinpath("messages").read_text() == "signal 11\n"
        assert "&OT" in place.joinpath("cp2k.inp").read_text() or attempt == 3


def test_leftovers_of_an_interrupted_call_are_no_label(tmp_path: Path):
    stale = tmp_path / "label" / "attempt-1"
    stale.mkdir(parents=True)
    (stale / "cp2k.out").write_text(GOOD)
    with pytest.raises(LabelFailure, match="cut off"):
        CP2KLabeler(command=fake(tmp_path, "exit 0")).label(water(), tmp_path / "label")


def test_a_good_output_of_any_program_is_a_label(tmp_path: Path):
    (tmp_path / "good").write_text(GOOD)
    command = fake(tmp_path, f'cp {tmp_path}/good "$4"')
    labelled = make_labeler("cp2k", command=command).label(water(), tmp_path / "label")
    assert labelled.get_potential_energy() == -17.219576034709718 * HARTREE
    gas = water()
    gas.pbc = False
    assert "stress" not in CP2KLabeler(command=command).label(gas, tmp_path / "gas").calc.results


def test_a_calculation_that_hangs_is_stopped_with_all_it_started(tmp_path: Path):
    command = fake(tmp_path, f"sleep 987 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(LabelFailure, match="stopped after 1 s") as caught:
        CP2KLabeler(command=command, timeout_seconds=1.0).label(water(), tmp_path / "label")
    assert "attempt-1" in caught.value.reason
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 100
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_a_killed_worker_takes_its_calculation_along(tmp_path: Path):
    import signal
    import sys

    command = fake(
        tmp_path,
        f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid\nexec sleep 987",
    )
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; from ase.build import molecule\n"
            "from eip.active_learning.labelers.cp2k.labeler import CP2KLabeler\n"
            f"CP2KLabeler(command={command!r}).label(molecule('H2O'), Path({str(tmp_path)!r}))",
        ]
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    assert _runs(pid)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deadline = time.monotonic() + 100
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_cp2k_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for command in ("cp2k.nowhere", "env cp2k.nowhere"):
        with pytest.raises(InputError, match=r"no program 'cp2k\.nowhere'.*apt-get install cp2k"):
            CP2KLabeler(command=command).label(water(), tmp_path)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(InputError, match=r"no program 'cp2k\.psmp'"):
        CP2KLabeler().label(water(), tmp_path)


# ---------------------------------------------------------------------------- the input


def test_the_input_holds_the_structure():
    text = CP2KLabeler(multiplicity=None, charge=1).input_for(water())
    assert "{{" not in text
    for line in ("CHARGE 1", "MULTIPLICITY 2", "UKS TRUE", "STRESS_TENSOR ANALYTICAL"):
        assert line in text
    assert "SCF_GUESS ATOMIC" in text and "WFN_RESTART" not in text
    assert "B 0.200000000000 4.400000000000 0.000000000000" in text
    oxygen = next(line for line in text.splitlines() if line.strip().startswith("O "))
    np.testing.assert_allclose(
        [float(x) for x in oxygen.split()[1:]], water().positions[0], atol=1e-11
    )  # fmt: skip
    assert text.count("&KIND") == 2


def test_frames_of_a_molecule_share_a_box():
    labeler = CP2KLabeler()
    inputs = [labeler.input_for(hydrogen(r)) for r in (0.7, 0.9)]
    for text in inputs:
        assert "ABC 12.000000000000 12.000000000000 12.000000000000" in text
        assert "POISSON_SOLVER WAVELET" in text and "STRESS_TENSOR NONE" in text
    assert "H 6.000000000000 6.000000000000 6.350000000000" in inputs[0]
    with pytest.raises(LabelFailure, match=r"2\.0 Å long in a box of 3 Å"):
        CP2KLabeler(box=3.0).input_for(hydrogen(2.0))


def test_slabs_are_refused(tmp_path: Path):
    slab = water()
    slab.pbc = (True, True, False)
    with pytest.raises(InputError, match="in all three directions or in none"):
        CP2KLabeler(command="true").label(slab, tmp_path)
    with pytest.raises(InputError, match="in all three directions or in none"):
        CP2KLabeler().check(slab)  # as a learning run does first of all


def test_a_template_of_the_user(tmp_path: Path):
    template = tmp_path / "mine.inp"
    body = (
        "&FORCE_EVAL\n  &PRINT\n    &FORCES ON\n    &END\n  &END\n"
        "  &DFT\n    &SCF\n    &END\n  &END\n"
        "  &CELL\n    {{ cell }}\n  &END\n  &COORD\n    {{coordinates}}\n  &END\n&END\n"
    )
    template.write_text(body)
    labeler = CP2KLabeler(template=template, command=fake(tmp_path, "exit 3"))
    assert "    PERIODIC XYZ\n" in labeler.input_for(water())
    with pytest.raises(LabelFailure) as caught:
        labeler.label(water(), tmp_path / "label")
    # With an SCF of its own there is nothing to vary.
    assert "attempt-1" in caught.value.reason and "attempt-2" not in caught.value.reason
    with pytest.raises(InputError, match=r"without \{\{restart\}\} and \{\{scf\}\}"):
        CP2KLabeler(template=template, wavefunctions=tmp_path)
    for change, message in (
        (body.replace("coordinates", "coordinate"), "did you mean 'coordinates'"),
        (body.replace("{{ cell }}", "ABC 5 5 5"), r"lacks \{\{cell\}\}"),
        (body.replace("{{coordinates}}", ""), r"lacks \{\{coordinates\}\}"),
        (body.replace("&FORCES ON", "&OTHER"), "prints no forces"),
    ):
        template.write_text(change)
        with pytest.raises(InputError, match=message):
            CP2KLabeler(template=template)
    with pytest.raises(InputError, match="cannot read the template"):
        CP2KLabeler(template=tmp_path / "none.inp")


@pytest.mark.parametrize(
    "options",
    [{"cutoff": 0.0}, {"processes": 0}, {"timeout_seconds": -1.0}, {"scf_ladder": []}]
    + [{"scf_ladder": "&OT"}, {"command": ""}, {"multiplicity": 0}, {"box": float("nan")}],
)
def test_values_that_make_no_sense_are_refused(options: dict):
    with pytest.raises(InputError):
        CP2KLabeler(**options)
