"""learning.html: a learning run on one page that opens anywhere, its candidates as pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors

from eip.active_learning.ledger import Candidate
from eip.active_learning.results import LearningResult
from eip.active_learning.tasks import TaskTime, lanes
from eip.files import write_whole
from eip.plots import Figure, gantt
from eip.verbs.learning_tables import COLUMNS, COST_COLUMNS, rows

#: Pictures on a page, the latest; more make a page that no browser likes.
_MOST = 400
#: Atoms of a picture, those around its middle.
_MOST_ATOMS = 250

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid #ddd; border-radius: 6px; padding: .5rem; width: 11rem; font-size: 12px; }
.card svg { width: 100%; height: 8rem; }
.labelled, .used { border-color: #009E73; }
.rejected { border-color: #D55E00; }
figure { margin: 1rem 0; overflow-x: auto; }
"""


def write_page(
    folder: Path,
    result: LearningResult,
    figures: Sequence[Figure],
    candidates: Sequence[Candidate],
    tasks: Sequence[TaskTime],
    costs: Sequence[Sequence[str]],
) -> None:
    """learning.html in the run's folder; nothing on it is fetched from elsewhere.

    Args:
        candidates: of the ledger.
        tasks: of the run.
        costs: see `eip.verbs.learning_tables.cost_rows`.
    """
    last = result.generations[-1]
    seconds = {task.name: task.seconds for task in tasks if task.kind == "label"}
    asked = [c for c in candidates if c.state != "proposed"]
    drawn = list(figures)
    if tasks:
        drawn.append(
            gantt(
                [task.kind for task in tasks],
                lanes(tasks),
                [task.begun for task in tasks],
                [task.seconds for task in tasks],
            )
        )
    title = f"Active learning: {escape(folder.absolute().name)}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>{_ended(result)}</p>",
        f"<p>{escape(last.open_verdict)}</p>" if last.open_verdict else "",
        "<h2>Generations</h2>",
        _table(COLUMNS, rows(result)),
        *(f"<figure>{_svg(figure)}</figure>" for figure in drawn),
        "<h2>What labels cost</h2>",
        _table(COST_COLUMNS, costs),
        f"<h2>Candidates</h2><p>{_shown(asked)}</p><div class='cards'>",
        *(_card(candidate, seconds) for candidate in asked[-_MOST:]),
        "</div></body></html>\n",
    ]
    write_whole(folder / "learning.html", "\n".join(part for part in parts if part))


def _ended(result: LearningResult) -> str:
    reason = escape(result.reason) or "it goes on"
    return f"Ended: {reason}. {result.labels} labels."


def _shown(candidates: Sequence[Candidate]) -> str:
    left = len(candidates) - _MOST
    text = "Those that were selected for a label, in the order of their generations."
    return text if left <= 0 else f"{text} The first {left} are left out here; ledger.db has them."


def _table(head: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = (
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in body
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _card(candidate: Candidate, seconds: dict[str, float]) -> str:
    sigma = "" if np.isnan(candidate.sigma) else f", σ {candidate.sigma:.3g} eV/Å"
    if candidate.checks:
        why = "drawn at random, to check"
    elif candidate.generation < 0:
        why = "rattled start"
    else:
        why = f"{candidate.origin}{sigma}"
        if candidate.cut is not None:
            why += f"; {candidate.cut}"
    fate: str = candidate.state
    if candidate.used_in >= 0:
        fate = f"trained on from generation {candidate.used_in}"
    if candidate.reason:
        fate += f": {candidate.reason}"
    cost = f"<br>{seconds[candidate.key]:.3g} s" if candidate.key in seconds else ""
    title = f"{candidate.atoms.get_chemical_formula()}, generation {max(candidate.generation, 0)}"
    return (
        f"<div class='card {candidate.state}' id='{candidate.key}'>{picture(candidate.atoms)}"
        f"<b>{escape(title)}</b><br>{escape(why)}<br>{escape(fate)}{cost}</div>"
    )


def picture(atoms: Atoms) -> str:
    """A structure as SVG, seen along z, atoms in their usual colours, the nearest in front."""
    positions = atoms.positions - atoms.positions.mean(axis=0)
    near = np.argsort(np.linalg.norm(positions, axis=1), kind="stable")[:_MOST_ATOMS]
    order = near[np.argsort(positions[near, 2], kind="stable")]
    radii = 0.75 * covalent_radii[atoms.numbers]
    wide = np.abs(positions[near, :2]).max(axis=0) + radii[near].max() + 0.2
    circles = []
    for i in order:
        red, green, blue = (round(255 * value) for value in jmol_colors[atoms.numbers[i]])
        x, y = positions[i, 0], -positions[i, 1]
        circles.append(
            f"<circle cx='{x:.2f}' cy='{y:.2f}' r='{radii[i]:.2f}' "
            f"fill='rgb({red},{green},{blue})'><title>{chemical_symbols[atoms.numbers[i]]} {i}"
            "</title></circle>"
        )
    box = f"{-wide[0]:.2f} {-wide[1]:.2f} {2 * wide[0]:.2f} {2 * wide[1]:.2f}"
    return (
        f"<svg viewBox='{box}' stroke='#333' stroke-width='.04' role='img'>{''.join(circles)}</svg>"
    )


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]
