"""What a person sees of tables: all of it, however narrow the terminal is."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console
from rich.table import Table

from eip.cli import printing
from eip.verbs.comparison_tables import rich_tables

METHODS = ("tensor", "shallow_ensemble", "attached")
KEYS = (
    *("force_mae", "spearman_atom", "roc_auc_atom", "spearman_structure", "coverage_80"),
    *("ood_ratio", "ood_auc", "training_cost", "prediction_cost", "memory_mb"),
)


def shown(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    file = io.StringIO()
    monkeypatch.setattr(printing, "out", Console(file=file, width=width))
    printing.show(table)
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_figure_and_no_word_is_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {
        method: {
            key: {"mean": 1234.5678 + k + 7 * m, "std": 0.4321 + k, "seeds": 3.0}
            for k, key in enumerate(KEYS)
        }
        for m, method in enumerate(METHODS)
    }
    for table in rich_tables(figures):
        words = {
            word
            for column in table.columns
            for cell in (column.header, *column.cells)
            for word in str(cell).split()
        }
        said = shown(table, width, monkeypatch)
        assert "…" not in said and words <= set(said.split())


def test_a_table_is_as_wide_as_the_terminal_where_words_can_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table("key", "value", title="a title")
    table.add_row("repulsion below", "no distance of atoms: " + "the network alone is asked " * 5)
    table.add_row("figure", "12.345678")
    lines = shown(table, 50, monkeypatch).splitlines()
    assert max(map(len, lines)) == 50
    assert shown(Table("a", "b"), 50, monkeypatch).count("\n") == 4


def test_what_could_not_be_measured_is_not_told_as_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(printing, "out", Console(file=file, width=200))
    printing.show_metrics({"ood_ratio": math.nan, "ood_auc": 0.331}, "of frames without forces")
    said = " ".join(file.getvalue().split())
    assert "nan" not in said and "apart with an AUC of 0.33." in said
    printing.show_metrics({"ood_ratio": 0.75, "ood_auc": 0.9}, "")
    assert "σ grows 0.75 times as much as the error" in " ".join(file.getvalue().split())
