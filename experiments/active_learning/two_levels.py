"""What is a cheap level of theory worth as a start? Formic acid: GFN2-xTB first, then PBE.

    python experiments/active_learning/two_levels.py      # → two_levels.json
    python experiments/active_learning/two_levels.py --table

A potential is trained on 240 frames of GFN2-xTB (MD at 500 K, 40 of them to validate). Then, with
10, 20 and 40 frames of PBE/def2-svp (PySCF; a fifth of them validates), one potential begins with
nothing and one with that potential's weights (`model.start_from`). Both are tested on frames of
PBE, and so is the first one as it is. All frames are of GFN2-xTB's dynamics, of three runs: to
train at xTB, to train at PBE, to test.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from reference import dynamics

import eip
from eip.config import Config

HERE = Path(__file__).parent
CHEAP, COUNTS, TEST = 240, (10, 20, 40), 12
PBE = {"functional": "PBE", "basis": "def2-svp"}


def of_xtb(seed: int, count: int) -> list[Atoms]:
    """Frames of GFN2-xTB at 500 K, 20 fs apart, after 200 fs."""
    rng = np.random.default_rng(seed)
    found = dynamics(molecule("HCOOH"), 500.0, 10 + count, rng, every=40, timestep_fs=0.5)
    return [Atoms(a.numbers, a.positions) for a in found][10:]


def labelled(folder: Path) -> dict[str, Path]:
    """The three files, labelled; what is there is kept."""
    asked: dict[str, tuple[int, int, str, dict[str, Any]]] = {
        "xtb": (0, CHEAP, "xtb", {}),
        "pbe": (1, max(COUNTS), "pyscf", PBE),
        "test": (2, TEST, "pyscf", PBE),
    }
    out = {}
    for name, (seed, count, labeler, options) in asked.items():
        bare, out[name] = folder / f"{name}-bare.xyz", folder / f"{name}.xyz"
        if not bare.exists():
            write(bare, of_xtb(seed, count))
        if not out[name].exists():
            eip.label(bare, out[name], labeler, options, executor="serial", progress=False)
    return out


def train(folder: Path, frames: Path, held_out: int, seed: int, start: Path | None = None) -> Path:
    config = Config.model_validate(
        {
            "run_dir": folder,
            "data": {"train": [frames], "validation": held_out, "split_seed": seed},
            "model": {"start_from": start},
            "training": {"effort": "quick", "device": "cpu", "seed": seed},
        }
    )
    model = eip.train(config, resume=(folder / "run.json").exists(), progress=False).model
    assert model is not None
    return model


def error(model: Path, test: Path) -> dict[str, float]:
    found = eip.evaluate(model, test, model.parent / "test", force=True, progress=False)
    return {name: found[name] for name in ("force_mae", "force_rmse", "energy_mae_per_atom")}


def run(
    folder: Path, seed: int, files: dict[str, Path], found: dict[str, Any], keep: Callable[[], None]
) -> None:
    """What is not in ``found`` yet, by the number of frames; kept as it comes."""
    began = time.monotonic()
    cheap = train(folder / "xtb", files["xtb"], 40, seed)
    if "0" not in found:
        found["0"] = {"start": error(cheap, files["test"]), "seconds": time.monotonic() - began}
        keep()
    for count in COUNTS:
        if str(count) in found:
            continue
        part = folder / f"pbe{count}.xyz"
        write(part, read(files["pbe"], f":{count}"))
        begun = time.monotonic()
        names = {"alone": None, "start": cheap}
        models = {
            name: train(folder / f"{name}{count}", part, count // 5, seed, start)
            for name, start in names.items()
        }
        found[str(count)] = {name: error(model, files["test"]) for name, model in models.items()}
        found[str(count)]["seconds"] = time.monotonic() - begun
        keep()


def table(runs: dict[str, Any]) -> str:
    lines = [
        "| PBE frames | PBE alone, force MAE (RMSE), meV/Å | begun with xTB's weights |",
        "|---|---|---|",
    ]
    for count in ("0", *map(str, COUNTS)):
        cells = []
        for name in ("alone", "start"):
            own = [r[count][name] for r in runs.values() if name in r.get(count, {})]
            of = {k: [1e3 * o[k] for o in own] for k in ("force_mae", "force_rmse")}
            cells.append(
                f"{_spread(of['force_mae'])} ({_spread(of['force_rmse'])})" if own else "–"
            )
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.0f}" if len(values) > 1 else ""
    return f"{np.mean(values):.0f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/two_levels"))
    parser.add_argument("--table", action="store_true", help="of two_levels.json, and nothing else")
    arguments = parser.parse_args()
    kept = HERE / "two_levels.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}

    def keep() -> None:
        kept.write_text(json.dumps(found, indent=1) + "\n")

    if not arguments.table:
        folder = arguments.out.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        files = labelled(folder)
        for seed in arguments.seeds:
            of_seed = found.setdefault(str(seed), {})
            run(folder / f"seed{seed}", seed, files, of_seed, keep)
    print(table(found))


if __name__ == "__main__":
    main()
