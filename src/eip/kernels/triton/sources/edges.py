"""Sources of kernels that sum over each atom's neighbors what these say.

A program sums for one centre, a block of channels wide, and takes several of its edges at a time,
``BE``, which meet at the end: always in the same order, so that the same input gives the same bits.
Arrays are as in the C++ sources, but that an edge's numbers lie in planes (`edges.Listed`) and that
a table of filters is one chunk, ``[1, knots, paths, channels]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eip.kernels.triton import formulas
from eip.kernels.triton.expressions import Number, gradient, source, symbols, tangents, total
from eip.kernels.triton.sources.text import (
    COMPILED,
    along,
    components,
    dotted,
    indented,
    load,
    named,
    names,
    places,
    program,
    store,
    stores,
    sum_names,
    zeros,
)

#: Parts of an interval's edges of which the gradient of a table is summed apart: fixed, so that the
#: order of summation depends on nothing.
TABLE_PARTS = 8


@dataclass(frozen=True)
class Message:
    """What goes along an edge.

    Attributes:
        name: of its kernels.
        paths: filters.
        said, heard: arrays of what an atom says and hears, by name, with their components.
        by_atom: whether the components of an array lie behind each other at each atom,
            ``[atoms, components, channels]``; else in planes, ``[components, atoms, channels]``.
        formula: of an edge's direction, filters and the neighbor's numbers: what is heard.
    """

    name: str
    paths: int
    said: tuple[tuple[str, int], ...]
    heard: tuple[tuple[str, int], ...]
    by_atom: bool
    formula: Callable[[Sequence[Number], Sequence[Number], Sequence[Number]], list[Number]]

    def numbers(self, arrays: Sequence[tuple[str, int]]) -> int:
        return sum(count for _, count in arrays)

    def rates(self) -> list[tuple[str, int]]:
        """Of what is said, how fast it changes."""
        return [(f"{name}_dot", count) for name, count in self.said]

    def gradients(self) -> list[tuple[str, int]]:
        """In what is heard."""
        return [(f"g_{name}", count) for name, count in self.heard]

    def symbols(self) -> tuple[list[Number], list[Number], list[Number], list[Number]]:
        """Direction, filters, what is said, and the gradient in what is heard."""
        return (
            symbols("d", 3),
            symbols("w", self.paths),
            symbols("x", self.numbers(self.said)),
            symbols("g", self.numbers(self.heard)),
        )


_SAID = (("said", 3), ("v", 3), ("t", 5))
_HEARD = (("s", 1), ("v", 3), ("t", 5))

#: By paths, those of `eip.kernels.coupling`; that of `eip.kernels.messages`.
COUPLING = {
    3: Message("3", 3, _SAID[:1], _HEARD, False, lambda *numbers: formulas.couple(*numbers)),
    14: Message("14", 14, _SAID, _HEARD, False, lambda *numbers: formulas.couple(*numbers)),
}
PAINN = Message(
    *("painn", 3, (("said", 3), ("v", 3)), (("s", 1), ("v", 3)), True),
    lambda *numbers: formulas.pass_on(*numbers),
)

_LISTED = ("first", "slot", "neighbor", "knot", "numbers", "table")

_AT_CENTER = """
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    size, stride = atoms.to(tl.int64) * F, edges.to(tl.int64)
    begin, end = tl.load(first + i), tl.load(first + i + 1)
"""
_NEIGHBOR = "tl.load(neighbor + e, mask=on, other=0).to(tl.int64)"


def _edge(sign: int, tangent: bool, at: str = "e") -> list[str]:
    """Direction and spline weights of some edges, and how these change along ``dot``."""
    minus = "-" if sign < 0 else ""
    lines = [load(f"u{k}", "numbers", f"{k} * stride + {at}", "on") for k in range(3)]
    lines += [f"d{k} = {minus}u{k}" for k in range(3)]
    lines += [load(f"b{q}", "numbers", f"{4 + q} * stride + {at}", "on") for q in range(4)]
    if not tangent:
        return lines
    lines += [load(f"a{q}", "numbers", f"{8 + q} * stride + {at}", "on") for q in range(4)]
    lines += [
        f"distance = tl.load(numbers + 3 * stride + {at}, mask=on, other=1.0)",
        f"where = 3 * tl.load(slot + {at}, mask=on, other=0)",
        *(load(f"r{k}", "dot", f"where + {k}", "on") for k in range(3)),
        "along = u0 * r0 + u1 * r1 + u2 * r2",
        *(f"d{k}_dot = {minus}(r{k} - along * u{k}) / distance" for k in range(3)),
        *(f"b{q}_dot = along * a{q}" for q in range(4)),
    ]
    return lines


def _filters(paths: int, *kinds: tuple[str, str]) -> list[str]:
    """Filters as sums of four rows: values by the weights ``b``, say, and slopes by others."""
    lines = [f"row = tl.load(knot + e, mask=on, other=0) * ({paths} * F) + c"]
    for k in range(paths):
        rows = [f"(row + {q * paths + k} * F)" for q in range(4)]
        lines += [load(f"h{q}", "table", row, "on & wide") for q, row in enumerate(rows)]
        lines += [
            f"{name.format(k=k)} = " + " + ".join(f"{by.format(q=q)} * h{q}" for q in range(4))
            for name, by in kinds
        ]
    return lines


def _kinds(tangent: bool) -> list[tuple[str, str]]:
    return [("w{k}", "b{q}"), *([("w{k}_dot", "b{q}_dot")] if tangent else [])]


def _said(message: Message, tangent: bool, at: str, mask: str) -> list[str]:
    """What an atom says, and how fast it changes."""
    lines = components("x", message.said, at, mask, message.by_atom)
    if tangent:
        lines += dotted(components("x", message.rates(), at, mask, message.by_atom))
    return lines


def _of(message: Message, tangent: bool) -> list[str]:
    """The names of these arrays, and of the edges' rates of change."""
    return [*names(message.said), *([*names(message.rates()), "dot"] if tangent else [])]


@functools.cache
def sums(message: Message, tangent: bool) -> Any:
    """The sums over each atom's neighbors, or how fast they change."""
    d, w, x, g = message.symbols()
    out = message.formula(d, w, x)
    if tangent:
        out = tangents(out, along(d, w, x))
    heard = [(f"out_{name}", count) for name, count in message.heard]
    lines = [
        *_edge(1, tangent),
        *_filters(message.paths, *_kinds(tangent)),
        *places("j", _NEIGHBOR, message.said, message.by_atom),
        *_said(message, tangent, "j", "on & wide"),
    ]
    body = f"""{_AT_CENTER}
{indented(places("own", "i", heard, message.by_atom), 1)}
{zeros(sum_names(len(g)), heard[0][0])}
    for at in range(begin, end, BE):
        e = at + tl.arange(0, BE)[:, None]
        on = e < end
{indented(lines, 2)}
{source(named("y", out), 8)}
{indented([f"sum{k} += y{k}" for k in range(len(g))], 2)}
{stores(heard, message.by_atom)}
"""
    return program(
        f"sums_{message.name}{'_tangent' if tangent else ''}",
        [*_LISTED, *_of(message, tangent), *names(heard)],
        ["atoms", "edges", *COMPILED],
        body,
    )


@functools.cache
def gradients(message: Message, in_edges: bool, tangent: bool) -> Any:
    """From the gradient in what atoms hear that in what they say and, where ``in_edges``, in the
    edges' vectors, an edge's filed under its reverse; or how fast the former changes."""
    paths = message.paths
    d, w, x, g = message.symbols()
    in_all = gradient(formulas.dot(g, message.formula(d, w, x)), [*d, *w, *x])
    to_d, to_w, to_x = in_all[:3], in_all[3 : 3 + paths], in_all[3 + paths :]
    if tangent:
        to_x = tangents(to_x, along(d, w, x))
    kinds = _kinds(tangent)
    edge = _edge(-1, tangent)
    wanted = named("y", to_x)
    after: list[str] = []
    if in_edges:
        kinds.append(("z{k}", "a{q}"))
        edge += [load(f"a{q}", "numbers", f"{8 + q} * stride + e", "on") for q in range(4)]
        edge.append("inverse = 1.0 / tl.load(numbers + 3 * stride + e, mask=on, other=1.0)")
        slope = total(a * b for a, b in zip(to_w, symbols("z", paths), strict=True))
        wanted |= {"slope": slope, **named("to_d", to_d)}
        after = [
            # Of this edge: its direction is the other's with the sign changed.
            *(f"f{k} = -tl.sum(to_d{k}, axis=1, keep_dims=True)" for k in range(3)),
            "radial = tl.sum(slope, axis=1, keep_dims=True)",
            "radial -= inverse * (u0 * f0 + u1 * f1 + u2 * f2)",
            "where = 3 * (tl.program_id(1) * stride + tl.load(slot + e, mask=on, other=0))",
            *(
                f"tl.store(out_edges + where + {k}, radial * u{k} + inverse * f{k}, mask=on)"
                for k in range(3)
            ),
        ]
    out = [(f"out_{name}", count) for name, count in message.said]
    heard = message.gradients()
    body = f"""{_AT_CENTER}
{indented(places("own", "i", message.said, message.by_atom), 1)}
{indented(_said(message, tangent, "own", "wide"), 1)}
{zeros(sum_names(len(x)), out[0][0])}
    for at in range(begin, end, BE):
        e = at + tl.arange(0, BE)[:, None]
        on = e < end
{indented(edge, 2)}
{indented(_filters(paths, *kinds), 2)}
{indented(places("j", _NEIGHBOR, heard, message.by_atom), 2)}
{indented(components("g", heard, "j", "on & wide", message.by_atom), 2)}
{source(wanted, 8)}
{indented([f"sum{k} += y{k}" for k in range(len(x))] + after, 2)}
{stores(out, message.by_atom)}
"""
    endings = ("_edges" if in_edges else "") + ("_tangent" if tangent else "")
    arrays = [*_LISTED, *names(heard), *_of(message, tangent), *names(out)]
    return program(
        f"gradients_{message.name}{endings}",
        [*arrays, *(["out_edges"] if in_edges else [])],
        ["atoms", "edges", *COMPILED],
        body,
    )


@functools.cache
def table_gradient(message: Message, tangent: bool) -> Any:
    """The gradient in the table of filters, or how fast it changes; by intervals of the splines,
    each in `TABLE_PARTS` parts: ``[parts, intervals, 4, paths, F]``.

    A filter is linear in its table: what is summed does not hold the table.
    """
    paths = message.paths
    d, w, x, g = message.symbols()
    to_w = gradient(formulas.dot(g, message.formula(d, w, x)), w)
    wanted = named("y", to_w)
    if tangent:
        wanted |= named("y_dot", tangents(to_w, along(d, x)))
    heard = message.gradients()
    center = "tl.load(center + tl.load(slot + e, mask=on, other=0), mask=on, other=0)"
    edge = [
        "e = tl.load(order + at + tl.arange(0, BE)[:, None], mask=on, other=0)",
        *_edge(-1, tangent),
        *places("j", _NEIGHBOR, heard, message.by_atom),
        *places("own", center, message.said, message.by_atom),
        *components("g", heard, "j", "on & wide", message.by_atom),
        *_said(message, tangent, "own", "on & wide"),
    ]
    pairs = [(q, k) for q in range(4) for k in range(paths)]
    added = [
        f"sum{q}_{k} += b{q} * " + (f"y_dot{k} + b{q}_dot * y{k}" if tangent else f"y{k}")
        for q, k in pairs
    ]
    kept = [store(f"out + place + {q * paths + k} * F", f"sum{q}_{k}") for q, k in pairs]
    body = f"""
    part, interval = tl.program_id(0) % {TABLE_PARTS}, tl.program_id(0) // {TABLE_PARTS}
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    size, stride = atoms.to(tl.int64) * F, edges.to(tl.int64)
    start = tl.load(first + interval)
    count = tl.load(first + interval + 1) - start
    begin = start + count * part // {TABLE_PARTS}
    end = start + count * (part + 1) // {TABLE_PARTS}
{zeros([f"sum{q}_{k}" for q, k in pairs], "out")}
    for at in range(begin, end, BE):
        on = at + tl.arange(0, BE)[:, None] < end
{indented(edge, 2)}
{source(wanted, 8)}
{indented(added, 2)}
    place = (part * intervals + interval).to(tl.int64) * {4 * paths} * F + c
{indented(kept, 1)}
"""
    arrays = ["first", "order", "slot", "center", "neighbor", "numbers", *names(heard)]
    return program(
        f"table_gradient_{message.name}{'_tangent' if tangent else ''}",
        [*arrays, *_of(message, tangent), "out"],
        ["atoms", "edges", "intervals", *COMPILED],
        body,
    )
