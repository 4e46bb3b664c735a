"""Sources of kernels for what goes along an edge's vector, and back to positions and cells.

Positions and cells are float64 whatever a network computes in, as in the C++ sources.
"""

from __future__ import annotations

import functools
from typing import Any

from eip.kernels.triton.sources.text import indented, program


@functools.cache
def vectors() -> Any:
    """R_neighbor − R_center + shift · cell of each edge, rounded in the end."""
    along = [
        f"tl.store(out + 3 * e + {k}, tl.load(positions + 3 * j + {k}, mask=on, other=0.0)"
        f" - tl.load(positions + 3 * i + {k}, mask=on, other=0.0) + ("
        + " + ".join(
            f"s{a} * tl.load(cell + box + {3 * a + k}, mask=on, other=0.0)" for a in range(3)
        )
        + "), mask=on)"
        for k in range(3)
    ]
    body = f"""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    on = e < edges
    i = tl.load(centers + e, mask=on, other=0)
    j = tl.load(neighbors + e, mask=on, other=0)
    box = 9 * tl.load(frame + i, mask=on, other=0)
{indented(_shifts("e"), 1)}
{indented(along, 1)}
"""
    arrays = ["positions", "cell", "frame", "centers", "neighbors", "shifts", "out"]
    return program("edge_vectors", arrays, ["edges", "BLOCK: tl.constexpr"], body)


def _shifts(edge: str) -> list[str]:
    return [
        f"s{a} = tl.load(shifts + 3 * {edge} + {a}, mask=on, other=0.0).to(tl.float64)"
        for a in range(3)
    ]


@functools.cache
def transposed(with_cell: bool) -> Any:
    """From edges back to their two ends: an atom gathers from its own edges, less, and from those
    that end at it, ``order``; and, by its own edges, what goes to its cell, ``[atoms, 9]``.

    A program has some atoms, ``BA``, and takes ``BE`` of the edges of each at a time.
    """
    numbers = [f"x{k}" for k in range(3)]
    numbers += [f"h{a}{k}" for a in range(3) for k in range(3)] if with_cell else []
    own = [f"g{k} = tl.load(g + 3 * e + {k}, mask=on, other=0.0).to(tl.float64)" for k in range(3)]
    own += [f"x{k} -= g{k}" for k in range(3)]
    if with_cell:
        own += _shifts("e")
        own += [f"h{a}{k} += s{a} * g{k}" for a in range(3) for k in range(3)]
    others = [
        "e = tl.load(order + e, mask=on, other=0)",
        *(f"x{k} += tl.load(g + 3 * e + {k}, mask=on, other=0.0).to(tl.float64)" for k in range(3)),
    ]
    kept = [
        f"tl.store(out_x + 3 * i + {k}, tl.sum(x{k}, axis=1, keep_dims=True), mask=there)"
        for k in range(3)
    ]
    if with_cell:
        kept += [
            f"tl.store(out_h + 9 * i + {3 * a + k}, tl.sum(h{a}{k}, axis=1, keep_dims=True), "
            "mask=there)"
            for a in range(3)
            for k in range(3)
        ]

    def loop(first: str, lines: list[str]) -> str:
        return f"""
    begin = tl.load({first} + i, mask=there, other=0)
    end = tl.load({first} + i + 1, mask=there, other=0)
    for at in range(0, tl.max(end - begin), BE):
        e = begin + at + tl.arange(0, BE)[None, :]
        on = e < end
{indented(lines, 2)}"""

    body = f"""
    i = tl.program_id(0).to(tl.int64) * BA + tl.arange(0, BA)[:, None]
    there = i < atoms
{indented([f"{one} = tl.zeros([BA, BE], tl.float64)" for one in numbers], 1)}
{loop("first", own)}
{loop("first_of_others", others)}
{indented(kept, 1)}
"""
    arrays = ["g", "first", "first_of_others", "order", *(["shifts"] if with_cell else []), "out_x"]
    return program(
        f"edge_vectors_back{'_cell' if with_cell else ''}",
        [*arrays, *(["out_h"] if with_cell else [])],
        ["atoms", "BA: tl.constexpr", "BE: tl.constexpr"],
        body,
    )
