"""What fine-tuning does to a potential others trained, and to its error bar.

    python experiments/backbones/finetune.py chgnet --data DIR --set mpf-TP --frames 60

Of frames with few atoms some are attached to (`eip attach`, with --finetune none, last, all), and
others, of elements that were attached to, are the test; they choose nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time

import ase.io
import numpy as np
from ase import Atoms

import eip

HERE = Path(__file__).parent
KEPT = ("force_mae", "energy_mae_per_atom", "spearman_atom", "roc_auc_atom", "coverage_80")


def drawn(path: Path, given: argparse.Namespace, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Frames to attach to, and others of the same elements to measure on."""
    found = [a for a in ase.io.read(path, ":") if len(a) <= given.atoms]
    order = np.random.default_rng(seed).permutation(len(found))
    attached = [found[i] for i in order[: given.frames]]
    known = {z for atoms in attached for z in atoms.numbers}
    rest = [found[i] for i in order[given.frames :] if set(found[i].numbers) <= known]
    return attached, rest[: given.tests]


def parser_of(description: str, tests: int, atoms: int, work: str) -> argparse.ArgumentParser:
    """Of the options that say which network and frames; with these defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("network")
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of MPtrj")
    parser.add_argument("--set", default="mpf-TP")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--tests", type=int, default=tests)
    parser.add_argument("--atoms", type=int, default=atoms)
    parser.add_argument("--work", type=Path, default=Path(work))
    return parser


def main() -> None:
    parser = parser_of(__doc__.splitlines()[0], tests=60, atoms=16, work="runs/backbones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", nargs="+", default=["none", "last", "all"])
    given = parser.parse_args()
    attached, tests = drawn(given.data / f"{given.set}.xyz", given, given.seed)
    given.work.mkdir(parents=True, exist_ok=True)
    files = given.work / "attached.xyz", given.work / "test.xyz"
    for path, frames in zip(files, (attached, tests), strict=True):
        ase.io.write(path, frames)
    results = HERE / "finetune.json"
    for layers in given.layers:
        name = f"{given.network}, {given.set}, frames={given.frames}, seed={given.seed}, {layers}"
        out, began = given.work / f"{layers}.eip", process_time()
        finetune = None if layers == "none" else layers
        eip.attach(given.network, files[0], out, finetune=finetune, progress=False, log=print)
        seconds = process_time() - began
        folder = given.work / f"evaluation-{layers}"
        metrics = eip.evaluate(out, files[1], folder, force=True, progress=False)
        done = json.loads(results.read_text()) if results.exists() else {}
        done[name] = {k: round(metrics[k], 4) for k in KEPT if np.isfinite(metrics[k])}
        done[name] |= {"test_frames": len(tests), "cpu_s": round(seconds)}
        results.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
        print(name, done[name], flush=True)


if __name__ == "__main__":
    main()
