"""What is a cheap level of theory worth as a start, at home and away? GFN2-xTB, then the data's.

    python experiments/accuracy/from_xtb.py acac --seeds 0 1 2     # → from_xtb.json
    python experiments/accuracy/from_xtb.py 3bpa --seeds 0
    python experiments/accuracy/from_xtb.py acac --effort quick --labels 50 --beginnings xtb
    python experiments/accuracy/from_xtb.py --table

Nothing of the data's method is used but the training frames that `run.py` trains on. Frames of
GFN2-xTB's own dynamics (tblite) at four temperatures, begun with training frames, make a first
potential, one for each seed; its weights are where training on the data begins
(`model.start_from`), with an effort as `eip train` has it. Tested as in `run.py`. What was begun is
gone on with.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from ase.io import write
from run import SPLITS

import eip
from eip.config import Config
from eip.data import FrameStore

HERE = Path(__file__).parent
# Behind this folder, whose run.py is another.
sys.path.append(str(HERE.parent / "active_learning"))
from reference import dynamics  # noqa: E402

#: K; of as many frames each.
TEMPERATURES = (300.0, 600.0, 900.0, 1200.0)
SIDES = ("home", "away")
#: Frames, 20 fs apart, before the first that is kept.
_WARM = 10
#: What training on the data begins with.
BEGINNINGS = ("xtb", "nothing")
MEASURES = (
    *("force_mae", "force_rmse", "energy_mae_per_atom", "spearman_atom", "roc_auc_atom"),
    *("coverage_80",),
)


def cheap_frames(store: FrameStore, indices: np.ndarray, count: int, path: Path) -> Path:
    if not path.exists():
        began, frames = time.monotonic(), []
        chosen = np.random.default_rng(0).choice(indices, len(TEMPERATURES), replace=False)
        for seed, (index, temperature) in enumerate(zip(chosen, TEMPERATURES, strict=True)):
            start = store[int(index)].to_atoms()
            own = dynamics(
                *(start, temperature, _WARM + count // len(TEMPERATURES)),
                np.random.default_rng(seed),
                every=40,
                timestep_fs=0.5,
                friction_per_fs=0.02,
            )
            frames += list(own)[_WARM:]
        made = path.with_name(f"part-{path.name}")
        write(made, frames)
        made.rename(path)
        print(f"{len(frames)} frames of GFN2-xTB in {time.monotonic() - began:.0f} s")
    return path


def written(store: FrameStore, indices: np.ndarray | None, path: Path) -> Path:
    if not path.exists():
        chosen = range(len(store)) if indices is None else indices
        write(path, [store[int(index)].to_atoms() for index in chosen])
    return path


def train(folder: Path, data: dict, start: Path | None, training: dict) -> Path:
    values = {
        "run_dir": folder,
        "data": data,
        "model": {"start_from": start},
        "training": {"device": "cpu", **training},
    }
    resume = (folder / "run.json").exists()
    model = eip.train(Config.model_validate(values), resume=resume, progress=False).model
    assert model is not None
    return model


def errors(model: Path, files: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Of frames like the data's training frames, and of the others."""
    where = model.parent / "errors"
    found = eip.evaluate(model, files["home"], where, ood=files["away"], force=True, progress=False)
    return {
        "home": {measure: found[measure] for measure in MEASURES},
        "away": {measure: found[f"{measure}_ood"] for measure in MEASURES}
        | {"ood_ratio": found["ood_ratio"]},
    }


def table(results: dict) -> str:
    """Force errors at home / away, meV/Å, and what σ is worth there."""
    lines = [
        "| data | effort, frames | begun with | seeds | force MAE | force RMSE | Spearman, atoms "
        "| ROC-AUC | in 80 % interval | OOD ratio |",
        "|" + "---|" * 10,
    ]
    for data, of_set in results.items():
        for setting, beginnings in of_set.items():
            if setting in ("frames_of_xtb", "as it is"):
                continue
            for name, runs in beginnings.items():
                cells = []
                for measure, unit in zip(MEASURES, (1e3, 1e3, None, 1, 1, 1), strict=True):
                    if unit is not None:
                        sides = [[unit * r[s][measure] for r in runs.values()] for s in SIDES]
                        cells.append(" / ".join(_spread(side, unit) for side in sides))
                ratios = [r["away"]["ood_ratio"] for r in runs.values() if "ood_ratio" in r["away"]]
                row = [data, setting, name, str(len(runs)), *cells, _spread(ratios, 1)]
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _spread(values: list[float], unit: float) -> str:
    digits = 1 if unit > 1 else 2
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", choices=["acac", "3bpa"])
    parser.add_argument("--table", action="store_true", help="only show what there is")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/from_xtb"))
    parser.add_argument("--frames", type=int, default=2000, help="of GFN2-xTB")
    parser.add_argument("--effort", default="default", help="of the training on the data")
    parser.add_argument("--labels", type=int, help="train on so many frames of the data only")
    parser.add_argument("--beginnings", nargs="+", choices=BEGINNINGS, default=[*BEGINNINGS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    kept = HERE / "from_xtb.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    if arguments.table:
        print(table(results))
        return
    if arguments.dataset is None:
        parser.error("which data set?")

    folder = (arguments.out / arguments.dataset).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    split = SPLITS[arguments.dataset](arguments.data, folder / "store")
    chosen = split.train[: arguments.labels]
    train_file = written(split.store, chosen, folder / f"train-{len(chosen)}.xyz")
    validation = written(split.store, split.validation, folder / "validation.xyz")
    files = {
        "home": written(split.test, split.test_indices, folder / "home.xyz"),
        "away": written(split.ood, split.ood_indices, folder / "away.xyz"),
    }
    xtb = cheap_frames(split.store, split.train, arguments.frames, folder / "xtb.xyz")

    def cheap(seed: int) -> Path:
        options = {"effort": "default", "seed": seed}
        own = folder / (f"cheap-{seed}" if seed else "cheap")
        return train(own, {"train": [xtb], "validation": 0.1}, None, options)

    of_set = results.setdefault(arguments.dataset, {"frames_of_xtb": arguments.frames})
    of_set.setdefault("as it is", errors(cheap(0), files))
    data = {"train": [train_file], "validation": [validation]}
    setting = arguments.effort if arguments.labels is None else f"{arguments.effort}, {len(chosen)}"
    for name in arguments.beginnings:
        for seed in arguments.seeds:
            runs = of_set.setdefault(setting, {}).setdefault(name, {})
            if str(seed) in runs:
                continue
            start = cheap(seed) if name == "xtb" else None
            began = time.monotonic()
            options = {"effort": arguments.effort, "seed": seed}
            model = train(
                folder / f"{setting.replace(', ', '-')}-{name}-{seed}", data, start, options
            )
            runs[str(seed)] = errors(model, files) | {"seconds": time.monotonic() - began}
            kept.write_text(json.dumps(results, indent=1) + "\n")
            print(arguments.dataset, name, seed, json.dumps(runs[str(seed)], indent=1))


if __name__ == "__main__":
    main()
