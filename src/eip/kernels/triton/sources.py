"""Triton's source of the kernels, put together of the formulas; see `eip.kernels.triton`.

A program sums for one centre, a block of channels wide, and takes several of its edges at a time,
``BE``, which meet at the end: always in the same order, so that the same input gives the same bits.
Arrays are as in the C++ sources, but that an edge's numbers lie in planes (`edges.Listed`) and that
a table of filters is one chunk, ``[1, knots, paths, channels]``.
"""

from __future__ import annotations

import functools
import linecache
from collections.abc import Sequence
from typing import Any

from eip.kernels.triton.expressions import (
    Number,
    gradient,
    source,
    symbol,
    symbols,
    tangents,
    total,
)
from eip.kernels.triton.formulas import couple, dot, products

#: Parts of an interval's edges, and of an element's atoms, of which the gradients of weights are
#: summed apart: fixed, so that the order of summation depends on nothing.
TABLE_PARTS, WEIGHT_PARTS = 8, 64

_WEIGHTS = 27
#: Components of what an atom says, and of what it hears.
_SAID = (("said", 3), ("v", 3), ("t", 5))
_HEARD = (("s", 1), ("v", 3), ("t", 5))

_AT_CENTER = """
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    size, stride = atoms.to(tl.int64) * F, edges.to(tl.int64)
    own = i * F + c
    begin, end = tl.load(first + i), tl.load(first + i + 1)
"""


def _program(name: str, arguments: Sequence[str], sizes: Sequence[str], body: str) -> Any:
    """A kernel of Triton: arrays, then counts, then what it is compiled for."""
    import triton
    import triton.language as tl

    counts = [one for one in sizes if ":" not in one]
    text = f"def {name}({', '.join([*arguments, *sizes])}):\n{body.strip(chr(10))}\n"
    place = f"<eip.kernels.triton {name}>"
    # Triton reads a function's source, which is found here as it is for a function of a file.
    linecache.cache[place] = len(text), None, text.splitlines(keepends=True), place
    space: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(text, place, "exec"), space)
    # Neither is a kernel compiled anew for another number of edges.
    return triton.jit(space[name], do_not_specialize=counts)


def _load(name: str, array: str, at: str, mask: str) -> str:
    return f"{name} = tl.load({array} + {at}, mask={mask}, other=0.0)"


def _components(prefix: str, arrays: Sequence[tuple[str, int]], at: str, mask: str) -> list[str]:
    """``prefix0``, ``prefix1`` …: of all components of some arrays."""
    flat = [(array, k) for array, count in arrays for k in range(count)]
    return [
        _load(f"{prefix}{n}", array, f"{k} * size + {at}", mask)
        for n, (array, k) in enumerate(flat)
    ]


def _dotted(lines: Sequence[str]) -> list[str]:
    """The same, of how fast it changes."""
    return [line.replace(" =", "_dot =", 1) for line in lines]


def _said(first: bool, ending: str = "") -> list[tuple[str, int]]:
    return [(name + ending, count) for name, count in (_SAID[:1] if first else _SAID)]


def _heard(prefix: str) -> list[tuple[str, int]]:
    return [(f"{prefix}_{name}", count) for name, count in _HEARD]


def _names(arrays: Sequence[tuple[str, int]]) -> list[str]:
    return [name for name, _ in arrays]


def _indented(lines: Sequence[str], depth: int) -> str:
    return "\n".join("    " * depth + line for line in lines)


def _zeros(sums: Sequence[str], like: str) -> str:
    return _indented([f"{one} = tl.zeros([BE, BF], {like}.dtype.element_ty)" for one in sums], 1)


def _stores(arrays: Sequence[tuple[str, int]]) -> str:
    """``sum0``, ``sum1`` …, over the edges, to the own place in all components of some arrays."""
    flat = [(array, k) for array, count in arrays for k in range(count)]
    return _indented(
        [_store(f"{a} + {k} * size + own", f"sum{n}") for n, (a, k) in enumerate(flat)], 1
    )


def _store(place: str, tile: str) -> str:
    return f"tl.store({place}, tl.sum({tile}, axis=0, keep_dims=True), mask=wide)"


def _sums(count: int) -> list[str]:
    return [f"sum{k}" for k in range(count)]


def _edge(sign: int, tangent: bool, place: str = "e") -> list[str]:
    """Direction and spline weights of some edges, and how these change along ``dot``."""
    minus = "-" if sign < 0 else ""
    lines = [_load(f"u{k}", "numbers", f"{k} * stride + {place}", "on") for k in range(3)]
    lines += [f"d{k} = {minus}u{k}" for k in range(3)]
    lines += [_load(f"b{q}", "numbers", f"{4 + q} * stride + {place}", "on") for q in range(4)]
    if not tangent:
        return lines
    lines += [_load(f"a{q}", "numbers", f"{8 + q} * stride + {place}", "on") for q in range(4)]
    lines += [
        f"distance = tl.load(numbers + 3 * stride + {place}, mask=on, other=1.0)",
        f"where = 3 * tl.load(slot + {place}, mask=on, other=0)",
        *(_load(f"r{k}", "dot", f"where + {k}", "on") for k in range(3)),
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
        lines += [_load(f"h{q}", "table", row, "on & wide") for q, row in enumerate(rows)]
        lines += [
            f"{name.format(k=k)} = " + " + ".join(f"{by.format(q=q)} * h{q}" for q in range(4))
            for name, by in kinds
        ]
    return lines


def _couple(paths: int) -> tuple[list[Number], list[Number], list[Number], list[Number]]:
    """d, w, node and the gradient in what they become, as symbols."""
    return (
        symbols("d", 3),
        symbols("w", paths),
        symbols("x", 3 if paths == 3 else 11),
        symbols("g", 9),
    )


def _along(*groups: Sequence[Number]) -> dict[Number, Number]:
    return {one: symbol(f"{one.content}_dot") for group in groups for one in group}


def _named(name: str, numbers: Sequence[Number]) -> dict[str, Number]:
    return {f"{name}{k}": one for k, one in enumerate(numbers)}


@functools.cache
def sums(paths: int, tangent: bool) -> Any:
    """The sums over each atom's neighbors, or how fast they change."""
    first = paths == 3
    d, w, x, _ = _couple(paths)
    out = couple(d, w, x)
    if tangent:
        out = tangents(out, _along(d, w, x))
    kinds = [("w{k}", "b{q}"), *([("w{k}_dot", "b{q}_dot")] if tangent else [])]
    lines = [
        *_edge(1, tangent),
        *_filters(paths, *kinds),
        "j = tl.load(neighbor + e, mask=on, other=0).to(tl.int64) * F + c",
        *_components("x", _said(first), "j", "on & wide"),
    ]
    if tangent:
        lines += _dotted(_components("x", _said(first, "_dot"), "j", "on & wide"))
    body = f"""{_AT_CENTER}
{_zeros(_sums(9), "out_s")}
    for at in range(begin, end, BE):
        e = at + tl.arange(0, BE)[:, None]
        on = e < end
{_indented(lines, 2)}
{source(_named("y", out), 8)}
{_indented([f"sum{k} += y{k}" for k in range(9)], 2)}
{_stores(_heard("out"))}
"""
    arrays = ["first", "slot", "neighbor", "knot", "numbers", "table", *_names(_said(first))]
    arrays += [*_names(_said(first, "_dot")), "dot"] if tangent else []
    return _program(
        f"sums_{paths}{'_tangent' if tangent else ''}",
        [*arrays, *_names(_heard("out"))],
        ["atoms", "edges", *_COMPILED],
        body,
    )


_COMPILED = ("F: tl.constexpr", "BE: tl.constexpr", "BF: tl.constexpr")


@functools.cache
def gradients(paths: int, in_edges: bool, tangent: bool) -> Any:
    """From the gradient in what atoms hear that in what they say and, where ``in_edges``, in the
    edges' vectors, an edge's filed under its reverse; or how fast the former changes."""
    first = paths == 3
    d, w, x, g = _couple(paths)
    to_d, to_w, to_x = _split(gradient(dot(g, couple(d, w, x)), [*d, *w, *x]), 3, paths)
    if tangent:
        to_x = tangents(to_x, _along(d, w, x))
    kinds = [("w{k}", "b{q}"), *([("w{k}_dot", "b{q}_dot")] if tangent else [])]
    edge = _edge(-1, tangent)
    wanted = _named("y", to_x)
    after: list[str] = []
    if in_edges:
        kinds.append(("z{k}", "a{q}"))
        edge += [_load(f"a{q}", "numbers", f"{8 + q} * stride + e", "on") for q in range(4)]
        edge.append("inverse = 1.0 / tl.load(numbers + 3 * stride + e, mask=on, other=1.0)")
        slope = total(a * b for a, b in zip(to_w, symbols("z", paths), strict=True))
        wanted |= {"slope": slope, **_named("to_d", to_d)}
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
    own = _components("x", _said(first), "own", "wide")
    if tangent:
        own += _dotted(_components("x", _said(first, "_dot"), "own", "wide"))
    body = f"""{_AT_CENTER}
{_indented(own, 1)}
{_zeros(_sums(len(x)), "out_said")}
    for at in range(begin, end, BE):
        e = at + tl.arange(0, BE)[:, None]
        on = e < end
{_indented(edge, 2)}
{_indented(_filters(paths, *kinds), 2)}
        j = tl.load(neighbor + e, mask=on, other=0).to(tl.int64) * F + c
{_indented(_components("g", _heard("g"), "j", "on & wide"), 2)}
{source(wanted, 8)}
{_indented([f"sum{k} += y{k}" for k in range(len(x))] + after, 2)}
{_stores([(f"out_{a}", k) for a, k in _said(first)])}
"""
    arrays = ["first", "slot", "neighbor", "knot", "numbers", "table", *_names(_heard("g"))]
    arrays += _names(_said(first))
    arrays += [*_names(_said(first, "_dot")), "dot"] if tangent else []
    arrays += [f"out_{name}" for name in _names(_said(first))]
    endings = ("_edges" if in_edges else "") + ("_tangent" if tangent else "")
    return _program(
        f"gradients_{paths}{endings}",
        [*arrays, *(["out_edges"] if in_edges else [])],
        ["atoms", "edges", *_COMPILED],
        body,
    )


def _split(numbers: Sequence[Number], *sizes: int) -> list[list[Number]]:
    parts, at = [], 0
    for size in sizes:
        parts.append(list(numbers[at : at + size]))
        at += size
    return [*parts, list(numbers[at:])]


@functools.cache
def table_gradient(paths: int, tangent: bool) -> Any:
    """The gradient in the table of filters, or how fast it changes; by intervals of the splines,
    each in `TABLE_PARTS` parts: ``[parts, intervals, 4, paths, F]``.

    A filter is linear in its table: what is summed does not hold the table.
    """
    first = paths == 3
    d, w, x, g = _couple(paths)
    to_w = gradient(dot(g, couple(d, w, x)), w)
    wanted = _named("y", to_w)
    if tangent:
        wanted |= _named("y_dot", tangents(to_w, _along(d, x)))
    edge = [
        "e = tl.load(order + at + tl.arange(0, BE)[:, None], mask=on, other=0)",
        *_edge(-1, tangent),
        "j = tl.load(neighbor + e, mask=on, other=0).to(tl.int64) * F + c",
        "own = tl.load(center + tl.load(slot + e, mask=on, other=0), mask=on, other=0) * F + c",
        *_components("g", _heard("g"), "j", "on & wide"),
        *_components("x", _said(first), "own", "on & wide"),
    ]
    if tangent:
        edge += _dotted(_components("x", _said(first, "_dot"), "own", "on & wide"))
    pairs = [(q, k) for q in range(4) for k in range(paths)]
    sums = [
        f"sum{q}_{k} += b{q} * " + (f"y_dot{k} + b{q}_dot * y{k}" if tangent else f"y{k}")
        for q, k in pairs
    ]
    zeros = _zeros([f"sum{q}_{k}" for q, k in pairs], "out")
    stores = [_store(f"out + place + {q * paths + k} * F", f"sum{q}_{k}") for q, k in pairs]
    body = f"""
    part, interval = tl.program_id(0) % {TABLE_PARTS}, tl.program_id(0) // {TABLE_PARTS}
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    size, stride = atoms.to(tl.int64) * F, edges.to(tl.int64)
    start = tl.load(first + interval)
    count = tl.load(first + interval + 1) - start
    begin = start + count * part // {TABLE_PARTS}
    end = start + count * (part + 1) // {TABLE_PARTS}
{zeros}
    for at in range(begin, end, BE):
        on = at + tl.arange(0, BE)[:, None] < end
{_indented(edge, 2)}
{source(wanted, 8)}
{_indented(sums, 2)}
    place = (part * intervals + interval).to(tl.int64) * {4 * paths} * F + c
{_indented(stores, 1)}
"""
    arrays = ["first", "order", "slot", "center", "neighbor", "numbers", *_names(_heard("g"))]
    arrays += _names(_said(first))
    arrays += [*_names(_said(first, "_dot")), "dot"] if tangent else []
    return _program(
        f"table_gradient_{paths}{'_tangent' if tangent else ''}",
        [*arrays, "out"],
        ["atoms", "edges", "intervals", *_COMPILED],
        body,
    )


@functools.cache
def probe() -> Any:
    """Puts a 2 into the first place of an array."""
    return _program("probe", ["out"], [], "    tl.store(out, tl.load(out) + 2.0)")


# Products at an atom --------------------------------------------------------------------------

_TRIPLE = (("x", 1), ("u", 3), ("m", 5))


def _triple(ending: str = "") -> list[tuple[str, int]]:
    return [(name + ending, count) for name, count in _TRIPLE]


def _products() -> tuple[list[Number], list[Number], list[Number]]:
    return symbols("a", 9), symbols("c", _WEIGHTS), symbols("g", 9)


def _read(array: Sequence[tuple[str, int]], prefix: str, at: str) -> list[str]:
    return _components(prefix, array, at, "on")


@functools.cache
def products_of(back: bool, tangent: bool) -> Any:
    """The products of each atom, or with ``back`` from their gradient that in what is multiplied;
    or how fast either changes."""
    a, c, g = _products()
    out = products(a, c, symbol("inverse_square"))
    if back:
        out = gradient(dot(g, out), a)
    if tangent:
        out = tangents(out, {**_along(a), **{one: 0.0 * one for one in c}})
    lines = _read(_triple(), "a", "at")
    lines += _dotted(_read(_triple("_dot"), "a", "at")) if tangent else []
    lines += _read([("g_x", 1), ("g_u", 3), ("g_m", 5)], "g", "at") if back else []
    lines += [_load(f"c{k}", "weights", f"kind + {k} * F", "on") for k in range(_WEIGHTS)]
    stored = [(array, k) for array, count in _TRIPLE for k in range(count)]
    body = f"""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    size = atoms.to(tl.int64) * F
    on = at < size
    kind = tl.load(species + at // F, mask=on, other=0) * {_WEIGHTS} * F + at % F
{_indented(lines, 1)}
{source(_named("y", out), 4)}
{
        _indented(
            [
                f"tl.store(out_{a} + {k} * size + at, y{n}, mask=on)"
                for n, (a, k) in enumerate(stored)
            ],
            1,
        )
    }
"""
    arrays = ["species", "weights", *(["g_x", "g_u", "g_m"] if back else []), *_names(_TRIPLE)]
    arrays += _names(_triple("_dot")) if tangent else []
    return _program(
        f"products{'_back' if back else ''}{'_tangent' if tangent else ''}",
        [*arrays, "out_x", "out_u", "out_m"],
        ["atoms", "F: tl.constexpr", "BLOCK: tl.constexpr", "inverse_square: tl.constexpr"],
        body,
    )


@functools.cache
def weights_gradient(tangent: bool) -> Any:
    """The gradient in the products' weights, or how fast it changes; by elements, each in
    `WEIGHT_PARTS` parts: ``[parts, elements, 27, F]``. Atoms in the order of their elements."""
    a, c, g = _products()
    to_c = gradient(dot(g, products(a, c, symbol("inverse_square"))), c)
    if tangent:
        to_c = tangents(to_c, _along(a))
    lines = _read(_triple(), "a", "own")
    lines += _dotted(_read(_triple("_dot"), "a", "own")) if tangent else []
    lines += _read([("g_x", 1), ("g_u", 3), ("g_m", 5)], "g", "own")
    zeros = _zeros(_sums(_WEIGHTS), "out")
    stores = [_store(f"out + place + {k} * F", f"sum{k}") for k in range(_WEIGHTS)]
    body = f"""
    part, element = tl.program_id(0) % {WEIGHT_PARTS}, tl.program_id(0) // {WEIGHT_PARTS}
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    size = atoms.to(tl.int64) * F
    start = tl.load(first + element)
    count = tl.load(first + element + 1) - start
    begin = start + count * part // {WEIGHT_PARTS}
    end = start + count * (part + 1) // {WEIGHT_PARTS}
{zeros}
    for at in range(begin, end, BE):
        place = at + tl.arange(0, BE)[:, None]
        on = (place < end) & wide
        own = tl.load(order + place, mask=place < end, other=0) * F + c
{_indented(lines, 2)}
{source(_named("y", to_c), 8)}
{_indented([f"sum{k} += y{k}" for k in range(_WEIGHTS)], 2)}
    place = (part * elements + element).to(tl.int64) * {_WEIGHTS} * F + c
{_indented(stores, 1)}
"""
    arrays = ["first", "order", "g_x", "g_u", "g_m", *_names(_TRIPLE)]
    arrays += _names(_triple("_dot")) if tangent else []
    return _program(
        f"weights_gradient{'_tangent' if tangent else ''}",
        [*arrays, "out"],
        ["atoms", "elements", *_COMPILED, "inverse_square: tl.constexpr"],
        body,
    )
