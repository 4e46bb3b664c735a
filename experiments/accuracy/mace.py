"""MACE trained here by its own recipe, on the same frames, beside ours.

    make bench-env PEERS=mace
    python experiments/accuracy/mace.py 3bpa --epochs 60      # → mace.json

Two layers, 64 channels with L = 1 (or `--channels`, `--max-L`), l up to 3, correlation 3, cutoff
5 Å; AMSGrad at 0.01 with a plateau scheduler, batches of 5, an average of the weights over 0.99,
weight decay 5e-7, energies : forces = 27 : 1000; its second stage (energies 1000 : forces 100) in
the last fifth; float32. What was begun is gone on with. Errors are of the frames that `run.py`
tests on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from ase.io import read, write
from run import SPLITS

from eip.data import FrameStore, fit_element_energies

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / "benchmarks/.envs/mace/bin/python"
#: The e3nn that MACE pins reads its constants by torch.load, which by now refuses a slice.
COMMAND = """
import sys, torch
torch.serialization.add_safe_globals([slice])
from mace.cli.{module} import main
main()
"""


def written(store: FrameStore, indices: np.ndarray | None, path: Path) -> Path:
    frames = []
    for index in range(len(store)) if indices is None else indices:
        atoms = store[int(index)].to_atoms()
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    write(path, frames)
    return path


def mace(module: str, folder: Path, **options: object) -> None:
    given = []
    for name, value in options.items():
        given += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    command = [PYTHON, "-c", COMMAND.format(module=module), *given]
    subprocess.run([str(part) for part in command], check=True, cwd=folder)


def errors(path: Path) -> dict[str, float]:
    frames = read(path, ":")
    force = np.concatenate([a.arrays["MACE_forces"] - a.arrays["REF_forces"] for a in frames])
    energy = [(a.info["MACE_energy"] - a.info["REF_energy"]) / len(a) for a in frames]
    return {
        "force_mae": float(np.abs(force).mean()),
        "force_rmse": float(np.sqrt(np.square(force).mean())),
        "energy_mae_per_atom": float(np.abs(energy).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=[*SPLITS])
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data")
    parser.add_argument("--out", type=Path, default=Path("runs/mace"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--max-L", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = f"{arguments.channels}x{arguments.max_L}"
    name = f"{arguments.dataset}-{size}-epochs={arguments.epochs}-seed={arguments.seed}"
    folder = arguments.out.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    split = SPLITS[arguments.dataset](arguments.data, folder / "cache")
    sets = {
        "train": (split.store, split.train),
        "validation": (split.store, split.validation),
        "test": (split.test, split.test_indices),
        "ood": (split.ood, split.ood_indices),
    }
    files = {
        key: written(*of, folder / f"{key}.xyz") for key, of in sets.items() if of[0] is not None
    }
    energies = {int(z): e for z, e in fit_element_energies(split.store, split.train).items()}
    clock = folder / "seconds.json"
    begun = time.monotonic()
    mace(
        "run_train",
        folder,
        **{"name": "mace", "model": "MACE", "seed": arguments.seed, "default_dtype": "float32"},
        **{"train_file": files["train"], "valid_file": files["validation"], "E0s": energies},
        **{"energy_key": "REF_energy", "forces_key": "REF_forces", "device": "cpu"},
        **{"num_channels": arguments.channels, "max_L": arguments.max_L, "num_interactions": 2},
        **{"correlation": 3, "max_ell": 3, "r_max": 5.0, "batch_size": 5, "valid_batch_size": 10},
        **{"lr": 0.01, "amsgrad": True, "ema": True, "ema_decay": 0.99, "weight_decay": 5e-7},
        **{"energy_weight": 27.0, "forces_weight": 1000.0, "max_num_epochs": arguments.epochs},
        **{"scheduler_patience": 10, "swa": True, "start_swa": round(0.8 * arguments.epochs)},
        **{"restart_latest": True, "num_workers": 0, "eval_interval": 5, "save_cpu": True},
    )
    before = json.loads(clock.read_text()) if clock.is_file() else 0.0
    seconds = before + time.monotonic() - begun
    clock.write_text(json.dumps(seconds))
    found: dict[str, object] = {"training_seconds": seconds}
    for key in ("test", "ood"):
        if key in files:
            said = folder / f"{key}-said.xyz"
            options = {"model": folder / "mace_stagetwo.model", "batch_size": 10, "device": "cpu"}
            paths = {"configs": files[key], "output": said, "default_dtype": "float32"}
            mace("eval_configs", folder, **options, **paths)
            found[key] = errors(said)
    kept = HERE / "mace.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    results[name] = found
    kept.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
