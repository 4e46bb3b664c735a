"""Writes the tables of README.md from results.json: what each network and recipe came to.

python experiments/accuracy/table.py
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
#: Column → metric and its factor to the unit of the table; of the test frames and of the others.
ERRORS = {
    "force MAE, meV/Å": ("force_mae", 1e3),
    "force RMSE, meV/Å": ("force_rmse", 1e3),
    "energy MAE, meV/atom": ("energy_mae_per_atom", 1e3),
}
TRUST = {
    "Spearman, atoms": ("spearman_atom", 1.0),
    "ROC-AUC, atoms": ("roc_auc_atom", 1.0),
    "in 80 % interval": ("coverage_80", 1.0),
}


def table(results: dict[str, dict], settings: list[str], columns: dict, ratio: bool) -> list[str]:
    heads = ["setting", "seeds", *columns, *(["OOD ratio"] * ratio)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in settings:
        found = results[name]
        cells = [f"`{name}`", str(found["force_mae"]["seeds"])]
        for metric, factor in columns.values():
            digits = 1 if metric.startswith("force") else 2
            values = (found[metric]["mean"], found[f"{metric}_ood"]["mean"])
            cells.append(" / ".join(f"{factor * value:.{digits}f}" for value in values))
        if ratio:
            cells.append(f"{found['ood_ratio']['mean']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def sets_table(results: dict[str, dict]) -> list[str]:
    """Of every data set but acetylacetone, a row for each network and recipe."""
    heads = [
        "data",
        "setting",
        "seeds",
        *ERRORS,
        "Spearman, atoms",
        "in 80 % interval",
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for data, settings in results.items():
        for name, found in settings.items():
            if data == "acac" or "frames=" in name:
                continue
            cells = [data, f"`{name}`", str(found["force_mae"]["seeds"])]
            for metric, factor in [*ERRORS.values(), ("spearman_atom", 1.0), ("coverage_80", 1.0)]:
                digits = 1 if metric.startswith("force") else 2
                values = [found[key]["mean"] for key in (metric, f"{metric}_ood") if key in found]
                cells.append(" / ".join(f"{factor * value:.{digits}f}" for value in values) or "–")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    everything = json.loads((HERE / "results.json").read_text())
    results = everything["acac"]
    whole = [name for name in results if "frames=" not in name]
    errors = sorted(
        (name for name in whole if not name.endswith("-latent")),
        key=lambda name: -results[name]["force_rmse"]["mean"],
    )
    trust = [name for name in whole if "ood_ratio" in results[name]]
    text = (HERE / "README.md").read_text()
    for mark, lines in (
        ("errors", table(results, errors, ERRORS, ratio=False)),
        ("trust", table(results, trust, TRUST, ratio=True)),
        ("sets", sets_table(everything)),
    ):
        begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    (HERE / "README.md").write_text(text)


if __name__ == "__main__":
    main()
