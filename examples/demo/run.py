"""The whole road: train → evaluate → dynamics on reference data, then active learning from nothing.

Every step is a command that you can type yourself; it is printed before it runs. Everything comes
to lie in runs/demo, with the main figures in summary.json (keys: docs/metrics.md).

The last step is what eIP is for: from the geometry of one molecule, without any data, to a
potential that runs stable dynamics; GFN1-xTB is the reference method.

    python examples/demo/run.py                          # `make demo`, some minutes
    python examples/demo/run.py --epochs 2 --steps 20    # only to see that it works
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eip.files import json_text, write_whole
from eip.verbs.run_logs import plot_dynamics

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
TEST = [DATA / "ethanol_300K_test.xyz", DATA / "water_300K_test.xyz"]
OOD = [DATA / "ethanol_800K_test.xyz", DATA / "water_600K_test.xyz"]

#: Only to see that it works.
SHORT_LEARNING = [
    word
    for key, value in {
        "training.epochs": 2, "learn.initial": 8, "learn.labels": 4, "learn.generations": 2,
        "learn.length_ps": 0.02,
    }.items()
    for word in ("--set", f"{key}={value}")
]  # fmt: skip

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, help="in place of the config's")
    parser.add_argument("--steps", type=int, default=1000, help="of each of the two runs")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    start_afresh(out)

    began = time.monotonic()
    override = ["--set", f"run_dir={out.resolve()}"]
    if arguments.epochs is not None:
        override += ["--set", f"training.epochs={arguments.epochs}"]
    eip("info", DATA / "water_300K.xyz")
    eip("train", HERE / "config.yaml", *override)
    ood = [part for path in OOD for part in ("--ood", path)]
    eip("evaluate", out / "model.eip", *TEST, *ood, "--out", out / "evaluation")
    water = [out / "model.eip", DATA / "water_300K_test.xyz", "--steps", arguments.steps]
    water += ["--temperature", 300, "--every", 10]
    eip("md", *water, "--out", out / "md")
    eip("md", *water, "--udd", "--out", out / "udd")

    short = arguments.epochs is not None and arguments.epochs < 10
    eip("learn", HERE / "learn.yaml", "--set", f"run_dir={(out / 'learn').resolve()}",
        *(SHORT_LEARNING if short else ()))  # fmt: skip

    endings = {name: read_json(out / name / "summary.json")["ending"] for name in ("md", "udd")}
    plot_dynamics(
        {name.upper(): (out / name, ending) for name, ending in endings.items()},
        out / "dynamics.png",
    )

    summary = summarize(out, time.monotonic() - began)
    write_whole(out / "summary.json", json_text(summary))
    console.print(table(summary, out))


def start_afresh(out: Path) -> None:
    """Removes what an earlier demo left; nothing else."""
    if not out.exists():
        return
    if any(out.iterdir()) and not (out / "config.yaml").is_file():
        sys.exit(f"{out} holds something that is not the demo's; remove it or give another --out")
    shutil.rmtree(out)


def eip(*arguments: object) -> None:
    """Runs one command of the command line, and shows it first."""
    words = [str(a) for a in arguments]
    shown = [os.path.relpath(w) if os.path.isabs(w) else w for w in words]
    console.print(f"\n[bold]$ eip {' '.join(shown)}[/]", highlight=False, soft_wrap=True)
    # Matrices this small only lose by threads, and lose much where the cores have other work.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run([sys.executable, "-m", "eip", *words], env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def summarize(out: Path, seconds: float) -> dict[str, object]:
    metrics = read_json(out / "evaluation" / "metrics.json")
    keys = ("force_mae", "spearman_atom", "roc_auc_atom", "coverage_80", "ood_ratio")
    summary: dict[str, object] = {key: metrics[key] for key in keys}
    for name in ("md", "udd"):
        run = read_json(out / name / "summary.json")
        summary[name] = {key: run[key] for key in ("ending", "steps", "mean_uncertainty")}
    learned = read_json(out / "learn" / "learning.json")
    generations = learned["generations"]
    summary["generations"] = len(generations)
    summary["labels"] = learned["labels"]
    summary["stable_ps"] = [g["stable_ps"] for g in generations]
    summary["learning_force_mae"] = [g["metrics"]["force_mae"] for g in generations]
    summary["learning_ended"] = learned["reason"]
    summary["wall_seconds"] = round(seconds, 1)
    summary["_keys"] = {
        "force_mae": "mean |f_true - f_pred| of a force component on the test frames, eV/Å",
        "spearman_atom": "rank correlation of an atom's error and its uncertainty, -1 to 1",
        "roc_auc_atom": "how well the uncertainty finds the 20 % worst atoms, 0.5 (chance) to 1",
        "coverage_80": "share of force components inside their 80 % interval; 0.8 is right",
        "ood_ratio": "growth of uncertainty over growth of error on hot frames; 1 is right",
        "md, udd": "dynamics without and with the bias of UDD: how it ended, after how many "
        "steps, with which mean uncertainty in eV/Å",
        "generations": "of active learning, from one geometry and no data",
        "labels": "that it asked of the reference method, GFN1-xTB",
        "stable_ps": "length of the shortest run of MD in each generation, ps",
        "learning_force_mae": "its force error on 300 K frames, in each generation, eV/Å",
        "learning_ended": "why it stopped",
        "wall_seconds": "of the demo without its environment, s",
    }
    return summary


def read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def table(summary: dict[str, object], out: Path) -> Table:
    def number(key: str, factor: float = 1.0, unit: str = "") -> str:
        value = summary[key]
        return "–" if value is None else f"{value * factor:.3g}{unit}"

    md, udd, errors = summary["md"], summary["udd"], summary["learning_force_mae"]
    result = Table("what", "value", "how to read it", title="The demo in figures", show_lines=True)
    result.add_row(
        "force error on unseen 300 K frames",
        number("force_mae", 1000, " meV/Å"),
        "mean over force components; smaller is better",
    )
    result.add_row(
        "does σ rank the atoms by error?",
        number("spearman_atom"),
        "1: perfectly, 0: not at all",
    )
    result.add_row(
        "does σ find the worst atoms?",
        number("roc_auc_atom"),
        "1: all of them, 0.5: by chance only",
    )
    result.add_row(
        "is σ the right size?",
        number("coverage_80", 100, " %"),
        "share of errors inside the 80 % interval: 80 % is right",
    )
    result.add_row(
        "does σ notice unfamiliar (hot) frames?",
        number("ood_ratio"),
        "growth of σ over growth of the error: 1 is right, less is overconfident",
    )
    for name, run, words in (
        ("dynamics", md, "water at 300 K"),
        ("uncertainty-driven dynamics", udd, "the same, pushed to where σ is large"),
    ):
        result.add_row(
            name,
            f"{run['ending']} after {run['steps']} steps",
            f"{words}; mean σ {run['mean_uncertainty']:.3g} eV/Å",
        )
    result.add_row(
        "active learning from one geometry",
        f"{summary['labels']} labels, {summary['generations']} generations",
        f"force error at 300 K {' → '.join(f'{1000 * e:.0f}' for e in errors)} meV/Å; MD stable "
        f"for {summary['stable_ps'][-1]:.3g} ps; {summary['learning_ended']}",
    )
    result.add_row("time", number("wall_seconds", 1 / 60, " min"), f"everything is in {out}")
    return result


if __name__ == "__main__":
    main()
