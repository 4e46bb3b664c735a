"""What the sources of kernels are put together of."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Sequence
from typing import Any

from eip.kernels.triton.expressions import Number, symbol

#: Arrays by name, each with its number of components.
Arrays = Sequence[tuple[str, int]]


def program(name: str, arguments: Sequence[str], sizes: Sequence[str], body: str) -> Any:
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


def indented(lines: Sequence[str], depth: int) -> str:
    return "\n".join("    " * depth + line for line in lines)


def names(arrays: Arrays) -> list[str]:
    return [name for name, _ in arrays]


def dotted(lines: Sequence[str]) -> list[str]:
    """The same, of how fast it changes."""
    return [line.replace(" =", "_dot =", 1) for line in lines]


def along(*groups: Sequence[Number]) -> dict[Number, Number]:
    """The symbols of how fast some change."""
    return {one: symbol(f"{one.content}_dot") for group in groups for one in group}


def named(name: str, numbers: Sequence[Number]) -> dict[str, Number]:
    return {f"{name}{k}": one for k, one in enumerate(numbers)}


# Arrays -----------------------------------------------------------------------------------------


def load(name: str, array: str, at: str, mask: str) -> str:
    return f"{name} = tl.load({array} + {at}, mask={mask}, other=0.0)"


def place(at: str, k: int, count: int, by_atom: bool) -> str:
    """Where the component k of so many is, of an atom whose places `places` has worked out."""
    if not by_atom or count == 1:
        return f"{k} * size + {at}" if k else at
    return f"{at}_{count} + {k} * F"


def places(at: str, atom: str, arrays: Arrays, by_atom: bool) -> list[str]:
    """Lines for where an atom's components begin: in planes, or ``by_atom`` behind each other."""
    counts = {count for _, count in arrays if count > 1} if by_atom else set()
    return [
        f"{at}_atom = {atom}",
        f"{at} = {at}_atom * F + c",
        *(f"{at}_{count} = {at}_atom * ({count} * F) + c" for count in sorted(counts)),
    ]


def components(prefix: str, arrays: Arrays, at: str, mask: str, by_atom: bool = False) -> list[str]:
    """``prefix0``, ``prefix1`` …: of all components of some arrays."""
    flat = [(array, k, count) for array, count in arrays for k in range(count)]
    return [
        load(f"{prefix}{n}", array, place(at, k, count, by_atom), mask)
        for n, (array, k, count) in enumerate(flat)
    ]


# Sums -------------------------------------------------------------------------------------------


def sum_names(count: int) -> list[str]:
    return [f"sum{k}" for k in range(count)]


def zeros(tiles: Sequence[str], like: str) -> str:
    return indented([f"{one} = tl.zeros([BE, BF], {like}.dtype.element_ty)" for one in tiles], 1)


def store(at: str, tile: str) -> str:
    return f"tl.store({at}, tl.sum({tile}, axis=0, keep_dims=True), mask=wide)"


def stores(arrays: Arrays, by_atom: bool = False) -> str:
    """``sum0``, ``sum1`` …, over the edges, to the own place in all components of some arrays."""
    flat = [(array, k, count) for array, count in arrays for k in range(count)]
    return indented(
        [
            store(f"{array} + {place('own', k, count, by_atom)}", f"sum{n}")
            for n, (array, k, count) in enumerate(flat)
        ],
        1,
    )


#: What `launch.launch` compiles a kernel for.
COMPILED = ("F: tl.constexpr", "BE: tl.constexpr", "BF: tl.constexpr")


@functools.cache
def probe() -> Any:
    """Puts a 2 into the first place of an array."""
    return program("probe", ["out"], [], "    tl.store(out, tl.load(out) + 2.0)")
