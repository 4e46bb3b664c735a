"""Dynamics of LiFePO4 by CHGNet with an error bar, left alone and driven to where it is uncertain.

    python examples/lithium_hop/run.py --out runs/lithium_hop              # labels, chgnet.eip
    python experiments/backbones/dynamics.py runs/lithium_hop/chgnet.eip   # → dynamics.json

28 atoms, NVT at 300 K (Langevin), steps of 2 fs. UDD begins with a frame of MD, and its bias is
proposed from MD's frames, but for its largest force. Frames of both are then labelled by the
reference that chgnet.eip was made with, to see whether σ told the truth. What was begun is gone on
with: a run is longer if --md or --udd is.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.calculators.calculator import Calculator
from scipy.stats import spearmanr

import eip
from eip.builders import lifepo4

HERE = Path(__file__).parent
#: fs; steps between frames.
TIMESTEP, EVERY = 2.0, 25
#: ps that are not counted: the crystal begins at rest, UDD where MD ended.
LEFT_OUT = {"md": 0.5, "udd": 0.1}


def ran_on(
    model: Path, start: Path, ps: float, folder: Path, udd: dict[str, Any] | None = None
) -> None:
    """Dynamics up to a time, from the last frame of a file."""
    settings = {
        "steps": round(1000 * ps / TIMESTEP),
        "timestep_fs": TIMESTEP,
        "temperature": 300.0,
        "trajectory_interval": EVERY,
        "checkpoint_interval": 100,
    }
    begun = (folder / "run.json").is_file()
    eip.md(
        *(model, start, settings, folder),
        frame=-1,
        udd=udd,
        resume=begun,
        progress=False,
        log=print,
    )


def ran(folder: Path, left_out: float) -> dict[str, Any]:
    """How a run went, by its log and its summary."""
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "log.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["time_fs"]) >= 1000 * left_out]
    grades = [a.arrays["extrapolation_grade"].max() for a in frames_of(folder, left_out)]
    out = {
        "ps": summary["time_fs"] / 1000,
        "ending": summary["ending"],
        "temperature_K": np.mean([float(row["temperature"]) for row in rows]),
        "sigma_mean": np.mean([float(row["uncertainty"]) for row in rows]),
        "sigma_max": np.max([float(row["uncertainty"]) for row in rows]),
        "sigma_max_of_an_atom": summary["max_force_uncertainty"],
        "grade_mean_of_frames": np.mean(grades),
        "grade_max": np.max(grades),
        "closest_distance": summary["closest_distance"],
    }
    if summary["udd"]:
        out |= {"largest_bias_force": summary["max_bias_force"], "udd": summary["udd"]}
    return out


def frames_of(folder: Path, left_out: float) -> list[ase.Atoms]:
    found = ase.io.read(folder / "trajectory.xyz", ":")
    return found[round(1000 * left_out / TIMESTEP / EVERY) :]


def truth(frames: list[ase.Atoms], reference: Calculator) -> dict[str, float]:
    """What σ said, beside what the forces are off by."""
    sigma = np.concatenate([atoms.arrays["force_uncertainty"] for atoms in frames])
    errors = []
    for atoms in frames:
        known = atoms.copy()
        known.calc = reference
        errors.append(atoms.get_forces() - known.get_forces())
    error = np.concatenate(errors)
    inside = np.abs(error) < 1.2816 * sigma[:, None]
    return {
        "frames": len(frames),
        "force_mae": np.abs(error).mean(),
        "force_rmse": np.sqrt((error**2).mean()),
        "sigma_rms": np.sqrt((sigma**2).mean()),
        "spearman_atom": spearmanr(sigma, np.linalg.norm(error, axis=1)).statistic,
        "coverage_80": inside.mean(),
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--md", type=float, default=10.0, help="ps")
    parser.add_argument("--udd", type=float, default=2.0, help="ps")
    parser.add_argument("--max-bias-force", type=float, default=5.5, help="eV/Å")
    parser.add_argument("--hover", type=float, default=None, help="grade")
    parser.add_argument("--labels", type=int, default=10, help="frames of each that are labelled")
    parser.add_argument("--weights", default="7net-l3i5", help="of the reference: or 7net-0")
    parser.add_argument("--work", type=Path, default=Path("runs/lifepo4_dynamics"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    start = given.work / "start.xyz"
    if not start.is_file():
        ase.io.write(start, lifepo4())
    md, udd = given.work / "md", given.work / "udd"
    ran_on(given.model, start, given.md, md)
    thermal = given.work / "thermal.xyz"
    if not thermal.is_file():
        ase.io.write(thermal, frames_of(md, LEFT_OUT["md"]))
    bias = {"max_bias_force": given.max_bias_force, "hover": given.hover}
    ran_on(given.model, thermal, given.udd, udd, bias)
    found = {f.name: ran(f, LEFT_OUT[f.name]) for f in (md, udd)}
    found["sigma_udd_over_md"] = found["udd"]["sigma_mean"] / found["md"]["sigma_mean"]
    if given.labels:
        from sevenn.calculator import SevenNetCalculator

        reference = SevenNetCalculator(given.weights, device="cpu")
        for folder in (md, udd):
            frames = frames_of(folder, LEFT_OUT[folder.name])
            which = np.unique(np.linspace(0, len(frames) - 1, given.labels).round().astype(int))
            found[folder.name]["labelled"] = truth([frames[i] for i in which], reference)
    text = json.dumps(rounded(found), indent=1, ensure_ascii=False)
    (HERE / "dynamics.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
