"""Sources of kernels that work at one atom: products, and the gradient of their weights."""

from __future__ import annotations

import functools
from typing import Any

from eip.kernels.triton import formulas
from eip.kernels.triton.expressions import Number, gradient, source, symbol, symbols, tangents
from eip.kernels.triton.sources.text import (
    COMPILED,
    Arrays,
    along,
    components,
    dotted,
    indented,
    load,
    named,
    names,
    program,
    store,
    sum_names,
    zeros,
)

#: Parts of an element's atoms of which the gradient of weights is summed apart: fixed, so that the
#: order of summation depends on nothing.
WEIGHT_PARTS = 64

_WEIGHTS = 27
_TRIPLE = (("x", 1), ("u", 3), ("m", 5))
_GRADIENTS = (("g_x", 1), ("g_u", 3), ("g_m", 5))


def _triple(ending: str = "") -> list[tuple[str, int]]:
    return [(name + ending, count) for name, count in _TRIPLE]


def _products() -> tuple[list[Number], list[Number], list[Number]]:
    return symbols("a", 9), symbols("c", _WEIGHTS), symbols("g", 9)


def _read(arrays: Arrays, prefix: str, at: str) -> list[str]:
    return components(prefix, arrays, at, "on")


@functools.cache
def products_of(back: bool, tangent: bool) -> Any:
    """The products of each atom, or with ``back`` from their gradient that in what is multiplied;
    or how fast either changes."""
    a, c, g = _products()
    out = formulas.products(a, c, symbol("inverse_square"))
    if back:
        out = gradient(formulas.dot(g, out), a)
    if tangent:
        out = tangents(out, {**along(a), **{one: 0.0 * one for one in c}})
    lines = _read(_triple(), "a", "at")
    lines += dotted(_read(_triple("_dot"), "a", "at")) if tangent else []
    lines += _read(_GRADIENTS, "g", "at") if back else []
    lines += [load(f"c{k}", "weights", f"kind + {k} * F", "on") for k in range(_WEIGHTS)]
    stored = [(array, k) for array, count in _TRIPLE for k in range(count)]
    body = f"""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    size = atoms.to(tl.int64) * F
    on = at < size
    kind = tl.load(species + at // F, mask=on, other=0) * {_WEIGHTS} * F + at % F
{indented(lines, 1)}
{source(named("y", out), 4)}
{
        indented(
            [
                f"tl.store(out_{a} + {k} * size + at, y{n}, mask=on)"
                for n, (a, k) in enumerate(stored)
            ],
            1,
        )
    }
"""
    arrays = ["species", "weights", *(names(_GRADIENTS) if back else []), *names(_TRIPLE)]
    arrays += names(_triple("_dot")) if tangent else []
    return program(
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
    to_c = gradient(formulas.dot(g, formulas.products(a, c, symbol("inverse_square"))), c)
    if tangent:
        to_c = tangents(to_c, along(a))
    lines = _read(_triple(), "a", "own")
    lines += dotted(_read(_triple("_dot"), "a", "own")) if tangent else []
    lines += _read(_GRADIENTS, "g", "own")
    stores = [store(f"out + place + {k} * F", f"sum{k}") for k in range(_WEIGHTS)]
    body = f"""
    part, element = tl.program_id(0) % {WEIGHT_PARTS}, tl.program_id(0) // {WEIGHT_PARTS}
    c = tl.program_id(1) * BF + tl.arange(0, BF)[None, :]
    wide = c < F
    size = atoms.to(tl.int64) * F
    start = tl.load(first + element)
    count = tl.load(first + element + 1) - start
    begin = start + count * part // {WEIGHT_PARTS}
    end = start + count * (part + 1) // {WEIGHT_PARTS}
{zeros(sum_names(_WEIGHTS), "out")}
    for at in range(begin, end, BE):
        place = at + tl.arange(0, BE)[:, None]
        on = (place < end) & wide
        own = tl.load(order + place, mask=place < end, other=0) * F + c
{indented(lines, 2)}
{source(named("y", to_c), 8)}
{indented([f"sum{k} += y{k}" for k in range(_WEIGHTS)], 2)}
    place = (part * elements + element).to(tl.int64) * {_WEIGHTS} * F + c
{indented(stores, 1)}
"""
    arrays = ["first", "order", *names(_GRADIENTS), *names(_TRIPLE)]
    arrays += names(_triple("_dot")) if tangent else []
    return program(
        f"weights_gradient{'_tangent' if tangent else ''}",
        [*arrays, "out"],
        ["atoms", "elements", *COMPILED, "inverse_square: tl.constexpr"],
        body,
    )
