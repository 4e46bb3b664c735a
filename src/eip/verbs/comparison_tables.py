"""Figures of a comparison: over seeds, as tables and as bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Column, Table

#: By label and key, {"mean", "std" (None of one seed), "seeds"}.
Figures = Mapping[str, Mapping[str, Mapping[str, float | None]]]


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and spread over seeds."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
    }


#: Columns of the table: heading, key, factor, digits.
_TABLE = (
    ("force MAE, meV/Å", "force_mae", 1000.0, 1),
    ("Spearman, atoms", "spearman_atom", 1.0, 3),
    ("ROC-AUC, atoms", "roc_auc_atom", 1.0, 3),
    ("Spearman, structures", "spearman_structure", 1.0, 3),
    ("in 80 % interval", "coverage_80", 1.0, 3),
)
_TABLE_OOD = (
    ("OOD ratio", "ood_ratio", 1.0, 2),
    ("ID/OOD AUC", "ood_auc", 1.0, 3),
)
_TABLE_COST = (
    ("training ×", "training_cost", 1.0, 2),
    ("prediction ×", "prediction_cost", 1.0, 2),
    ("memory, MB", "memory_mb", 1.0, 0),
)


def _rows(figures: Figures) -> tuple[list[str], list[list[str]]]:
    """Headings and cells; ID / OOD in one cell where both were measured."""
    has_ood = any("ood_ratio" in of for of in figures.values())
    columns = (*_TABLE, *(_TABLE_OOD if has_ood else ()), *_TABLE_COST)

    def cell(of: Mapping[str, Mapping[str, float | None]], key: str, by: float, n: int) -> str:
        found = of.get(key)
        mean = found["mean"] if found else None
        if found is None or mean is None or not np.isfinite(mean):
            return "–"
        spread = f" ± {found['std'] * by:.{n}f}" if found["std"] is not None else ""
        return f"{mean * by:.{n}f}{spread}"

    rows = []
    for label, of in figures.items():
        row = [label]
        for _, key, by, n in columns:
            both = [cell(of, key, by, n)]
            if f"{key}_ood" in of:
                both.append(cell(of, f"{key}_ood", by, n))
            row.append("–" if set(both) == {"–"} else " / ".join(both))
        rows.append(row)
    return ["method", *(heading for heading, *_ in columns)], rows


def markdown(figures: Figures) -> str:
    """The table as Markdown: ID / OOD, mean ± standard deviation over seeds."""
    headings, rows = _rows(figures)
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rich_tables(figures: Figures) -> list[Table]:
    """The same for a terminal of 80 columns: how good they are, then what they cost; OOD below."""
    headings, rows = _rows(figures)
    first = 1 + len(_TABLE)
    tables = []
    for title, columns in (
        ("methods on test frames", range(1, first)),
        ("out of distribution, and cost", range(first, len(headings))),
    ):
        method = Column(headings[0], min_width=max(map(len, figures)))  # a name is not cut
        table = Table(method, *(headings[k] for k in columns), title=title)
        for row in rows:
            table.add_row(row[0], *(row[k].replace(" / ", "\n") for k in columns))
        tables.append(table)
    return tables


def bars(figures: Figures) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Titles of bar charts, and in each label → value and spread."""
    wanted = (
        ("force MAE (meV/Å)", "force_mae", 1000.0),
        ("Spearman (atoms)", "spearman_atom", 1.0),
        ("ROC-AUC (atoms)", "roc_auc_atom", 1.0),
        ("training time / plain", "training_cost", 1.0),
        ("prediction time / plain", "prediction_cost", 1.0),
        ("OOD ratio", "ood_ratio", 1.0),
    )
    out: dict[str, dict[str, tuple[float, float | None]]] = {}
    for title, key, by in wanted:
        for label, of in figures.items():
            found = of.get(key)
            if found is None or found["mean"] is None or not np.isfinite(found["mean"]):
                continue
            spread = None if found["std"] is None else found["std"] * by
            out.setdefault(title, {})[label] = (found["mean"] * by, spread)
    return out
