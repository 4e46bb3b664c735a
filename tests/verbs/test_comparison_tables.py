"""Tables of a comparison: whole on a terminal, ID and OOD side by side in Markdown."""

from __future__ import annotations

import io

from rich.console import Console

from eip.verbs.comparison_tables import markdown, rich_tables, summary

KEYS = (
    "force_mae", "spearman_atom", "roc_auc_atom", "spearman_structure", "coverage_80",
    "training_cost", "prediction_cost", "memory_mb", "ood_ratio", "ood_auc", "force_mae_ood",
)  # fmt: skip
FIGURES = {
    method: {key: summary([0.1234, 0.2345]) for key in KEYS}
    for method in ("none", "shallow_ensemble", "llpr")
}


def test_no_name_and_no_number_is_cut_at_80_columns() -> None:
    console = Console(width=80, file=io.StringIO())
    for table in rich_tables(FIGURES):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and text.count("shallow_ensemble") == 2
    assert max(map(len, text.splitlines())) <= 80


def test_markdown_has_both_in_one_cell() -> None:
    assert "| 178.9 ± 78.6 / 178.9 ± 78.6 |" in markdown(FIGURES)
