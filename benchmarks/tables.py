"""The results of a section as a table for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from report import show as show_table
from rich.console import Console

Result = dict[str, Any]
Row = list[str]


def show(section: str, path: Path, console: Console) -> None:
    """Prints the tables of one section's file."""
    content = json.loads(path.read_text())
    columns, rows = TABLES[section]
    for platform in content["platforms"]:
        title = f"{section}, {platform['device']}, {platform['threads']} thread(s)"
        show_table(console, title, columns, rows(platform))


def _ms(result: Result) -> str:
    if "error" in result:
        return result["error"][:40]
    low, high = result["quartiles"]
    return f"{1e3 * result['median']:.4g}  ({1e3 * low:.4g}–{1e3 * high:.4g})"


def _times(value: Result | None) -> str:
    if value is None:
        return "–"
    low, high = value["range"]
    return f"{value['ratio']:.1f} ×  ({low:.1f}–{high:.1f})"


def _md_step(platform: Result) -> Iterator[Row]:
    for atoms, size in platform["sizes"].items():
        ratios = size["ratios"]
        for label, result in size["results"].items():
            found = ratios.get(label)
            if label == "eip reference model":
                found = ratios.get("reference path")
            yield [label, atoms, _ms(result), _times(found)]
        floor = f"{1e3 * size['floor_seconds']:.3g}"
        yield ["floor", atoms, floor, f"(ours: {size['over_floor']:.2f} × floor)"]


def _overhead(platform: Result) -> Iterator[Row]:
    for what, part in platform.items():
        if isinstance(part, dict) and "sigma_overhead" in part:
            udd = part.get("udd_over_md")
            yield [what, f"{part['sigma_overhead']:+.1%}", "" if udd is None else f"{udd:.2f} ×"]


def _compared(platform: Result) -> Iterator[Row]:
    for label, result in platform["results"].items():
        yield [label, _ms(result), _times(platform["ratios"].get(label))]


def _scaling(platform: Result) -> Iterator[Row]:
    for atoms, result in platform["results"].items():
        share = platform["seconds_per_atom"].get(atoms)
        if share is None:
            yield [atoms, _ms(result), "", ""]
        else:
            over = platform["over_smallest"][atoms]
            yield [atoms, _ms(result), f"{1e6 * share:.1f}", f"{over:.2f}"]


def _neighbor(platform: Result) -> Iterator[Row]:
    for atoms, size in platform["sizes"].items():
        yield [
            atoms,
            f"{1e3 * size['mean_seconds']:.3f}",
            f"{size['share']:.1%}",
            _ms(size["results"]["list built anew"]),
            _ms(size["results"]["calculator"]),
        ]


def _memory(platform: Result) -> Iterator[Row]:
    for name, found in platform["implementations"].items():
        for point in found["points"]:
            yield [
                name,
                f"{point['atoms']:,}",
                f"{point['total'] / 1e9:.3f}",
                f"{point['bytes_per_atom'] / 1e3:.1f}",
                "",
            ]
        if "atoms_in_budget" in found:
            how = "extrapolated" if found["extrapolated"] else "measured"
            per_atom = f"{found['bytes_per_further_atom'] / 1e3:.1f}"
            yield [name, "further", "", per_atom, f"{found['atoms_in_budget']:,.0f} ({how})"]


def _startup(platform: Result) -> Iterator[Row]:
    yield ["eip --help, wall", f"{platform['help_wall_seconds']:.2f}"]
    yield ["eip --help, CPU", f"{platform['help_cpu_seconds']:.2f}"]
    yield ["first prediction, kernels compiled", f"{platform['kernels_compiled']['first']:.2f}"]
    for one in platform["kernels_cached"]:
        yield ["first prediction, kernels cached", f"{one['first']:.2f}"]


def _accuracy(platform: Result) -> Iterator[Row]:
    for box in platform["boxes"]:
        for path in ("fast_float32", "reference_float32"):
            yield [
                path,
                str(box["atoms"]),
                f"{box[path]['forces_rms_error_over_rms']:.1e}",
                f"{box[path]['forces_largest_error_over_rms']:.1e}",
                f"{box[path]['sigma_largest_relative_error']:.1e}",
            ]


_COMPARED = (["implementation", "ms (quartiles)", "time / ours (rounds)"], _compared)
TABLES: dict[str, tuple[list[str], Callable[[Result], Iterator[Row]]]] = {
    "md_step": (["implementation", "atoms", "ms (quartiles)", "time / ours (rounds)"], _md_step),
    "overhead": (["what", "σ costs", "UDD / MD"], _overhead),
    "train_step": _COMPARED,
    "batch_inference": _COMPARED,
    "scaling": (["atoms", "ms (quartiles)", "µs an atom", "/ smallest"], _scaling),
    "neighbor": (
        ["atoms", "list and graph, mean ms", "share of a step", "built anew, ms", "step, ms"],
        _neighbor,
    ),
    "memory": (["implementation", "atoms", "GB", "kB an atom", "atoms in 24 GB"], _memory),
    "startup": (["what", "s"], _startup),
    "accuracy": (["path", "atoms", "forces, RMS", "forces, largest", "σ, largest"], _accuracy),
}
